// Causal attention inside each segment of a packed batch, grouped-query, in blocks with an online softmax
// (Milakov and Gimelshein, 2018, arXiv:1805.02867; Dao et al., 2022, arXiv:2205.14135).
//
// Forward keeps the log-sum-exp of each row; backward computes the blocks of scores again. A segment sees its parent
// (whole) and itself (causally). No result depends on the number of threads: each sum is made by one thread in one order.
#include <algorithm>
#include <vector>

#include "api.h"
#include "tile.h"

using namespace kameleon;

namespace {

constexpr int64_t QUERIES = 48, KEYS = 96;  // a block of scores; whole numbers of MR and NR at every vector width

// The keys that a segment sees: all of its parent's, then its own up to the query.
struct Span {
    int64_t segment, length, before;  // `before`: keys seen in earlier spans
    bool causal;
};

struct Layout {
    const Attention& in;
    int64_t group, padded;              // query heads per key head; head_dim padded to whole vectors of a tile
    std::vector<int64_t> start, panel;  // first token and first key panel of each segment
    std::vector<int64_t> seen;          // keys that segments before this one see, together
    int64_t tokens = 0, panels = 0, all_seen = 0;

    explicit Layout(const Attention& a)
        : in(a), group(a.heads / a.kv_heads), padded(ceil_div(a.head_dim, NR) * NR) {
        for (int64_t i = 0; i < a.segments; i++) {
            start.push_back(tokens);
            panel.push_back(panels);
            seen.push_back(all_seen);
            tokens += a.lengths[i];
            panels += ceil_div(a.lengths[i], NR);
            all_seen += a.lengths[i] + (a.parents[i] < 0 ? 0 : a.lengths[a.parents[i]]);
        }
    }

    std::vector<Span> spans(int64_t segment) const {
        std::vector<Span> out;
        int64_t before = 0;
        if (const int64_t parent = in.parents[segment]; parent >= 0) {
            out.push_back({parent, in.lengths[parent], 0, false});
            before = in.lengths[parent];
        }
        out.push_back({segment, in.lengths[segment], before, true});
        return out;
    }
};

// One head of a tensor [tokens, heads, head_dim] as fp32 rows of `padded`, times `scale`.
template <class T>
void copy_heads(const T* x, int64_t stride, int64_t heads, const Layout& at, float scale, float* out) {
    const int64_t size = at.in.head_dim;
#pragma omp for schedule(static) collapse(2)
    for (int64_t head = 0; head < heads; head++)
        for (int64_t token = 0; token < at.tokens; token++) {
            const T* row = x + token * stride + head * size;
            float* to = out + (head * at.tokens + token) * at.padded;
            for (int64_t d = 0; d < size; d++) to[d] = scale * widen(row[d]);
            for (int64_t d = size; d < at.padded; d++) to[d] = 0;
        }
}

// Rows of `copy_heads` turned into panels [padded, NR], a segment's last one filled with zeros.
void transpose_heads(const float* rows, int64_t heads, const Layout& at, float* out) {
#pragma omp for schedule(static) collapse(2)
    for (int64_t head = 0; head < heads; head++)
        for (int64_t i = 0; i < at.in.segments; i++)
            for (int64_t from = 0; from < at.in.lengths[i]; from += NR) {
                const float* row = rows + (head * at.tokens + at.start[i] + from) * at.padded;
                float* to = out + (head * at.panels + at.panel[i] + from / NR) * at.padded * NR;
                const int64_t count = std::min<int64_t>(NR, at.in.lengths[i] - from);
                for (int64_t d = 0; d < at.padded; d++)
                    for (int64_t j = 0; j < NR; j++) to[d * NR + j] = j < count ? row[j * at.padded + d] : 0;
            }
}

// scores[rows, ≥ keys] = queries · keysᵀ
void multiply_keys(const float* queries, int64_t rows, const float* key_panels, int64_t keys, int64_t padded,
                   float* scores) {
    block<true>(rows, ceil_div(keys, NR) * NR, padded, queries, padded, 1, key_panels, NR, padded * NR, scores, KEYS,
                false);
}

// How many of the `keys` keys from `first_key` the query at `position` of the same segment sees.
int64_t visible(const Span& span, int64_t position, int64_t first_key, int64_t keys) {
    return span.causal ? std::clamp<int64_t>(position + 1 - first_key, 0, keys) : keys;
}

template <class T>
void forward(const Attention& in, const T* q, const T* k, const T* v, T* out, float* log_sum_exp) {
    const Layout at(in);
    const int64_t padded = at.padded, plane = at.tokens * padded;
    static thread_local Workspace kept;
    float* queries = kept.take(plane * (in.heads + 2 * in.kv_heads) + in.kv_heads * at.panels * padded * NR);
    float* keys = queries + plane * in.heads;
    float* values = keys + plane * in.kv_heads;
    float* key_panels = values + plane * in.kv_heads;

    struct Task {
        int64_t segment, head, first;
    };
    std::vector<Task> tasks;
    for (int64_t i = 0; i < in.segments; i++)
        for (int64_t first = (ceil_div(in.lengths[i], QUERIES) - 1) * QUERIES; first >= 0; first -= QUERIES)
            for (int64_t head = 0; head < in.heads; head++) tasks.push_back({i, head, first});

#pragma omp parallel
    {
        copy_heads(q, in.stride, in.heads, at, 1.0f / std::sqrt(float(in.head_dim)), queries);
        copy_heads(k, in.stride, in.kv_heads, at, 1.0f, keys);
        copy_heads(v, in.stride, in.kv_heads, at, 1.0f, values);
        transpose_heads(keys, in.kv_heads, at, key_panels);

        alignas(64) float scores[QUERIES * KEYS];
        std::vector<float> sums(size_t(QUERIES * padded));
#pragma omp for schedule(dynamic)
        for (size_t task = 0; task < tasks.size(); task++) {
            const auto [segment, head, first] = tasks[task];
            const int64_t kv_head = head / at.group, rows = std::min(QUERIES, in.lengths[segment] - first);
            const float* query = queries + head * plane + (at.start[segment] + first) * padded;
            float top[QUERIES], total[QUERIES];
            std::fill(top, top + rows, -INFINITY);
            std::fill(total, total + rows, 0.0f);
            std::fill(sums.begin(), sums.end(), 0.0f);
            for (const Span& span : at.spans(segment)) {
                const int64_t limit = span.causal ? first + rows : span.length;
                for (int64_t from = 0; from < limit; from += KEYS) {
                    const int64_t count = std::min(KEYS, limit - from);
                    const int64_t panel = kv_head * at.panels + at.panel[span.segment] + from / NR;
                    multiply_keys(query, rows, key_panels + panel * padded * NR, count, padded, scores);
                    for (int64_t row = 0; row < rows; row++) {
                        float *score = scores + row * KEYS, *sum = sums.data() + row * padded;
                        const int64_t shown = visible(span, first + row, from, count);
                        float highest = top[row], added = 0;
#pragma omp simd reduction(max : highest)
                        for (int64_t j = 0; j < shown; j++) highest = std::max(highest, score[j]);
                        const float shrink = fast_exp(top[row] - highest);
#pragma omp simd reduction(+ : added)
                        for (int64_t j = 0; j < shown; j++) {
                            score[j] = fast_exp(score[j] - highest);
                            added += score[j];
                        }
                        for (int64_t j = shown; j < count; j++) score[j] = 0;
                        if (shrink != 1.0f)
                            for (int64_t d = 0; d < padded; d++) sum[d] *= shrink;
                        total[row] = total[row] * shrink + added;
                        top[row] = highest;
                    }
                    const float* value = values + kv_head * plane + (at.start[span.segment] + from) * padded;
                    block<true>(rows, padded, count, scores, KEYS, 1, value, padded, NR, sums.data(), padded, true);
                }
            }
            for (int64_t row = 0; row < rows; row++) {
                const int64_t token = at.start[segment] + first + row;
                T* to = out + (token * in.heads + head) * in.head_dim;
                const float* sum = sums.data() + row * padded;
                for (int64_t d = 0; d < in.head_dim; d++) to[d] = narrow<T>(sum[d] / total[row]);
                log_sum_exp[head * at.tokens + token] = top[row] + std::log(total[row]);
            }
        }
    }
}

template <class T>
void backward(const Attention& in, const T* q, const T* k, const T* v, const T* out, const float* log_sum_exp,
              const T* d_out, T* dq, T* dk, T* dv) {
    const Layout at(in);
    const int64_t padded = at.padded, plane = at.tokens * padded, panels = at.panels * padded * NR;
    const float scale = 1.0f / std::sqrt(float(in.head_dim));
    static thread_local Workspace kept;
    float* queries = kept.take(plane * (3 * in.heads + 2 * in.kv_heads) + 2 * in.kv_heads * panels +
                               2 * in.heads * at.all_seen * padded);
    float* d_outs = queries + plane * in.heads;
    float* d_queries = d_outs + plane * in.heads;
    float* keys = d_queries + plane * in.heads;
    float* values = keys + plane * in.kv_heads;
    float* key_panels = values + plane * in.kv_heads;
    float* value_panels = key_panels + in.kv_heads * panels;
    // Each head of a segment has its own gradient for every key it sees; they are added up at the end.
    float* d_keys = value_panels + in.kv_heads * panels;
    float* d_values = d_keys + in.heads * at.all_seen * padded;

    std::vector<std::vector<int64_t>> children(size_t(in.segments));
    for (int64_t i = 0; i < in.segments; i++)
        if (in.parents[i] >= 0) children[size_t(in.parents[i])].push_back(i);
    std::vector<int64_t> order;  // longest first, so that no thread ends up alone with a long one
    for (int64_t i = 0; i < in.segments; i++)
        if (in.lengths[i]) order.push_back(i);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return in.lengths[a] > in.lengths[b]; });

#pragma omp parallel
    {
        copy_heads(q, in.stride, in.heads, at, scale, queries);
        copy_heads(d_out, in.heads * in.head_dim, in.heads, at, 1.0f, d_outs);
        copy_heads(k, in.stride, in.kv_heads, at, 1.0f, keys);
        copy_heads(v, in.stride, in.kv_heads, at, 1.0f, values);
        transpose_heads(keys, in.kv_heads, at, key_panels);
        transpose_heads(values, in.kv_heads, at, value_panels);

        alignas(64) float weights[QUERIES * KEYS];    // P, then dS
        alignas(64) float d_weights[QUERIES * KEYS];  // dP
        std::vector<float> inner;                     // Σ dO · O of each query
#pragma omp for schedule(dynamic)
        for (size_t task = 0; task < order.size() * size_t(in.heads); task++) {
            const int64_t segment = order[task / size_t(in.heads)], head = int64_t(task % size_t(in.heads));
            const int64_t kv_head = head / at.group, length = in.lengths[segment], start = at.start[segment];
            const float *query = queries + head * plane + start * padded, *d_o = d_outs + head * plane + start * padded;
            const float* lse = log_sum_exp + head * at.tokens + start;
            float* d_query = d_queries + head * plane + start * padded;
            std::fill(d_query, d_query + length * padded, 0.0f);
            inner.resize(size_t(length));
            for (int64_t row = 0; row < length; row++) {
                const T* o = out + ((start + row) * in.heads + head) * in.head_dim;
                float sum = 0;
                for (int64_t d = 0; d < in.head_dim; d++) sum += widen(o[d]) * d_o[row * padded + d];
                inner[size_t(row)] = sum;
            }
            for (const Span& span : at.spans(segment))
                for (int64_t from = 0; from < span.length; from += KEYS) {
                    const int64_t all = std::min(KEYS, span.length - from);
                    const int64_t panel = (kv_head * at.panels + at.panel[span.segment] + from / NR) * padded * NR;
                    const float* key = keys + kv_head * plane + (at.start[span.segment] + from) * padded;
                    const int64_t place = (head * at.all_seen + at.seen[segment] + span.before + from) * padded;
                    std::fill(d_keys + place, d_keys + place + all * padded, 0.0f);
                    std::fill(d_values + place, d_values + place + all * padded, 0.0f);
                    for (int64_t first = span.causal ? from : 0; first < length; first += QUERIES) {
                        const int64_t rows = std::min(QUERIES, length - first);
                        const int64_t count = span.causal ? std::min(all, first + rows - from) : all;
                        multiply_keys(query + first * padded, rows, key_panels + panel, count, padded, weights);
                        multiply_keys(d_o + first * padded, rows, value_panels + panel, count, padded, d_weights);
                        for (int64_t row = 0; row < rows; row++) {
                            float *p = weights + row * KEYS, *dp = d_weights + row * KEYS;
                            const int64_t shown = visible(span, first + row, from, count);
                            const float total = lse[first + row], mean = inner[size_t(first + row)];
#pragma omp simd
                            for (int64_t j = 0; j < shown; j++) {
                                p[j] = fast_exp(p[j] - total);
                                dp[j] = p[j] * (dp[j] - mean);
                            }
                            for (int64_t j = shown; j < count; j++) p[j] = dp[j] = 0;
                        }
                        block<false>(count, padded, rows, weights, 1, KEYS, d_o + first * padded, padded, NR,
                                     d_values + place, padded, true);
                        block<false>(count, padded, rows, d_weights, 1, KEYS, query + first * padded, padded, NR,
                                     d_keys + place, padded, true);
                        block<true>(rows, padded, count, d_weights, KEYS, 1, key, padded, NR,
                                    d_query + first * padded, padded, true);
                    }
                }
        }

#pragma omp for schedule(static) collapse(2)
        for (int64_t head = 0; head < in.heads; head++)
            for (int64_t token = 0; token < at.tokens; token++) {
                const float* from = d_queries + head * plane + token * padded;
                T* to = dq + token * in.stride + head * in.head_dim;
                for (int64_t d = 0; d < in.head_dim; d++) to[d] = narrow<T>(scale * from[d]);
            }
#pragma omp for schedule(dynamic) collapse(2)
        for (int64_t segment = 0; segment < in.segments; segment++)
            for (int64_t kv_head = 0; kv_head < in.kv_heads; kv_head++)
                for (int64_t row = 0; row < in.lengths[segment]; row++) {
                    float sum_k[512] = {}, sum_v[512] = {};
                    auto add = [&](int64_t of, int64_t key) {
                        for (int64_t head = kv_head * at.group; head < (kv_head + 1) * at.group; head++) {
                            const int64_t place = (head * at.all_seen + at.seen[of] + key) * padded;
#pragma omp simd
                            for (int64_t d = 0; d < in.head_dim; d++) {
                                sum_k[d] += d_keys[place + d];
                                sum_v[d] += d_values[place + d];
                            }
                        }
                    };
                    add(segment, at.spans(segment).back().before + row);
                    for (int64_t child : children[size_t(segment)])
                        if (in.lengths[child]) add(child, row);
                    const int64_t to = (at.start[segment] + row) * in.stride + kv_head * in.head_dim;
                    for (int64_t d = 0; d < in.head_dim; d++) {
                        dk[to + d] = narrow<T>(sum_k[d]);
                        dv[to + d] = narrow<T>(sum_v[d]);
                    }
                }
    }
}

}  // namespace

void kameleon_attention(int64_t type, const Attention* in, const void* q, const void* k, const void* v, void* out,
                        float* log_sum_exp) {
    FOR_TYPE(type, forward(*in, (const T*)q, (const T*)k, (const T*)v, (T*)out, log_sum_exp));
}

void kameleon_attention_back(int64_t type, const Attention* in, const void* q, const void* k, const void* v,
                             const void* out, const float* log_sum_exp, const void* d_out, void* dq, void* dk,
                             void* dv) {
    FOR_TYPE(type, backward(*in, (const T*)q, (const T*)k, (const T*)v, (const T*)out, log_sum_exp, (const T*)d_out,
                            (T*)dq, (T*)dk, (T*)dv));
}
