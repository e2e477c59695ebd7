// Causal attention inside each segment of a packed batch, grouped-query, in blocks with an online softmax
// (Milakov and Gimelshein, 2018, arXiv:1805.02867; Dao et al., 2022, arXiv:2205.14135).
//
// Forward keeps the log-sum-exp of each row; backward computes the blocks of scores again. A segment's sequence is its
// parent and itself; each token sees those of the sequence up to itself that its window reaches. Scores are fp32; where the
// CPU multiplies bf16, a bf16 batch's weights go into the next product as bf16. No result depends on the number of
// threads: each sum is made by one thread in one order.
#include <algorithm>
#include <vector>

#include "api.h"
#include "tile.h"

using namespace kameleon;

namespace {

constexpr int64_t QUERIES = 48, KEYS = 192;  // a block of scores; whole numbers of MR, NR and steps at every CPU level

// A part of a sequence: the parent's tokens, or the segment's own. Its first one stands at position `before`.
struct Span {
    int64_t segment, length, before;
};

// Where the heads of a tensor [tokens, heads, head_dim] lie in the forms that products take (E: `Ones` or `Twos`), each
// head_dim padded to whole vectors of a tile, each segment to whole steps:
//   rows    numbers [heads, rows, padded], a left side;
//   steps   cells [heads, rows / STEP, padded], a right side with tokens along k;
//   panels  cells [heads, panels, padded / STEP, NR], a right side with head_dim along k.
template <class E>
struct Layout {
    typedef typename E::Number Number;
    typedef typename E::Cell Cell;
    const Attention& in;
    int64_t group, padded;                       // query heads per key head
    std::vector<int64_t> token, row, panel;      // first token, row and key panel of each segment
    std::vector<int64_t> seen;                   // keys that segments before this one see, together
    int64_t tokens = 0, rows = 0, panels = 0, all_seen = 0;

    explicit Layout(const Attention& a)
        : in(a), group(a.heads / a.kv_heads), padded(ceil_div(a.head_dim, NR) * NR) {
        for (int64_t i = 0; i < a.segments; i++) {
            token.push_back(tokens);
            row.push_back(rows);
            panel.push_back(panels);
            seen.push_back(all_seen);
            tokens += a.lengths[i];
            rows += ceil_div(a.lengths[i], E::STEP) * E::STEP;
            panels += ceil_div(a.lengths[i], NR);
            all_seen += a.lengths[i] + (a.parents[i] < 0 ? 0 : a.lengths[a.parents[i]]);
        }
    }

    // Sizes of one head, in the forms above.
    int64_t row_size() const { return rows * padded; }
    int64_t step_size() const { return rows / E::STEP * padded; }
    int64_t panel_size() const { return panels * padded / E::STEP * NR; }

    const Number* rows_at(const Number* x, int64_t head, int64_t segment, int64_t from) const {
        return x + head * row_size() + (row[segment] + from) * padded;
    }
    const Cell* steps_at(const Cell* x, int64_t head, int64_t segment, int64_t from) const {
        return x + head * step_size() + (row[segment] + from) / E::STEP * padded;
    }
    const Cell* panels_at(const Cell* x, int64_t head, int64_t segment, int64_t from) const {
        return x + head * panel_size() + (panel[segment] + from / NR) * (padded / E::STEP) * NR;
    }

    std::vector<Span> spans(int64_t segment) const {
        std::vector<Span> out;
        int64_t before = 0;
        if (const int64_t parent = in.parents[segment]; parent >= 0) {
            out.push_back({parent, in.lengths[parent], 0});
            before = in.lengths[parent];
        }
        out.push_back({segment, in.lengths[segment], before});
        return out;
    }
};

// A tensor's heads in those of the three forms that are asked for (not null).
template <class E, class T>
void lay_out(const T* x, int64_t stride, int64_t heads, const Layout<E>& at, typename E::Number* rows,
             typename E::Cell* steps, typename E::Cell* panels) {
    typedef typename E::Number Number;
    const int64_t size = at.in.head_dim, padded = at.padded;
    std::vector<float> lines(size_t(NR * padded));
    std::vector<typename E::Cell> cells(size_t(NR * padded / E::STEP));
#pragma omp for schedule(static) collapse(2)
    for (int64_t head = 0; head < heads; head++)
        for (int64_t i = 0; i < at.in.segments; i++)
            for (int64_t from = 0; from < at.in.lengths[i]; from += NR) {
                const int64_t count = std::min<int64_t>(NR, at.in.lengths[i] - from);
                for (int64_t j = 0; j < NR; j++) {
                    const T* in = x + (at.token[i] + from + j) * stride + head * size;
                    float* line = lines.data() + j * padded;
                    if (j < count)
                        for (int64_t d = 0; d < size; d++) line[d] = widen(in[d]);
                    else
                        std::fill(line, line + size, 0.0f);
                    if (rows && j < count) {
                        auto* to = const_cast<Number*>(at.rows_at(rows, head, i, from + j));
                        for (int64_t d = 0; d < size; d++) to[d] = j < count ? narrow<Number>(line[d]) : Number{};
                        std::fill(to + size, to + padded, Number{});
                    }
                }
                if (steps)
                    for (int64_t j = 0; j < count; j += E::STEP)
                        E::across(lines.data() + j * padded, lines.data() + (j + E::STEP - 1) * padded, padded,
                                  const_cast<typename E::Cell*>(at.steps_at(steps, head, i, from + j)));
                if (panels) {
                    for (int64_t j = 0; j < NR; j++)
                        E::along(lines.data() + j * padded, padded / E::STEP, cells.data() + j * padded / E::STEP);
                    transpose_to_panel(cells.data(), padded / E::STEP, padded / E::STEP,
                                       const_cast<typename E::Cell*>(at.panels_at(panels, head, i, from)));
                }
            }
}

// scores[rows, ≥ keys] = left · keysᵀ
template <class E>
void multiply_keys(const typename E::Number* left, int64_t rows, const typename E::Cell* panels, int64_t keys,
                   int64_t padded, float* scores) {
    const int64_t steps = padded / E::STEP;
    block<E, true>(rows, ceil_div(keys, NR) * NR, steps, left, padded, panels, NR, steps * NR, scores, KEYS, false);
}

// Which of `keys` keys, the first at position `first_key`, the query at `position` sees: [from, to).
struct Shown {
    int64_t from, to;
};
Shown shown(const Attention& in, int64_t position, int64_t first_key, int64_t keys) {
    const int64_t end = position + 1 - first_key;
    return {std::clamp<int64_t>(end - in.window, 0, keys), std::clamp<int64_t>(end, 0, keys)};
}

// Puts `value` in place of the scores of keys that are not seen.
void hide(float* scores, Shown see, int64_t keys, float value) {
    std::fill(scores, scores + see.from, value);
    std::fill(scores + see.to, scores + keys, value);
}

template <class E, class T>
void forward(const Attention& in, const T* q, const T* k, const T* v, T* out, float* log_sum_exp) {
    typedef typename E::Number Number;
    typedef typename E::Cell Cell;
    const Layout<E> at(in);
    const int64_t padded = at.padded;
    const float scale = 1.0f / std::sqrt(float(in.head_dim));
    static thread_local Workspace kept_rows, kept_cells;
    auto* queries = kept_rows.take<Number>(in.heads * at.row_size());
    auto* key_panels = kept_cells.take<Cell>(in.kv_heads * (at.panel_size() + at.step_size()));
    Cell* values = key_panels + in.kv_heads * at.panel_size();

    struct Task {
        int64_t segment, head, first;
    };
    std::vector<Task> tasks;
    for (int64_t i = 0; i < in.segments; i++)
        for (int64_t first = (ceil_div(in.lengths[i], QUERIES) - 1) * QUERIES; first >= 0; first -= QUERIES)
            for (int64_t head = 0; head < in.heads; head++) tasks.push_back({i, head, first});

#pragma omp parallel
    {
        lay_out<E>(q, in.stride, in.heads, at, queries, nullptr, nullptr);
        lay_out<E>(k, in.stride, in.kv_heads, at, nullptr, nullptr, key_panels);
        lay_out<E>(v, in.stride, in.kv_heads, at, nullptr, values, nullptr);

        alignas(64) float scores[QUERIES * KEYS];
        alignas(64) Cell weights[QUERIES * KEYS / E::STEP];
        std::vector<float> sums(size_t(QUERIES * padded));
#pragma omp for schedule(dynamic)
        for (size_t task = 0; task < tasks.size(); task++) {
            const auto [segment, head, first] = tasks[task];
            const int64_t kv_head = head / at.group, rows = std::min(QUERIES, in.lengths[segment] - first);
            const Number* query = at.rows_at(queries, head, segment, first);
            float top[QUERIES], sum_of[QUERIES];
            std::fill(top, top + rows, -INFINITY);
            std::fill(sum_of, sum_of + rows, 0.0f);
            std::fill(sums.begin(), sums.end(), 0.0f);
            const std::vector<Span> spans = at.spans(segment);
            const int64_t position = spans.back().before + first;  // of the first query
            for (const Span& span : spans) {
                const int64_t limit = std::min(span.length, position + rows - span.before);
                const int64_t reached = std::max<int64_t>(0, position + 1 - in.window - span.before);
                for (int64_t from = reached / NR * NR; from < limit; from += KEYS) {
                    const int64_t count = std::min(KEYS, limit - from);
                    const int64_t whole = ceil_div(count, NR) * NR;
                    multiply_keys<E>(query, rows, at.panels_at(key_panels, kv_head, span.segment, from), count, padded,
                                     scores);
                    for (int64_t row = 0; row < rows; row++) {
                        float *score = scores + row * KEYS, *sum = sums.data() + row * padded;
                        const Shown see = shown(in, position + row, span.before + from, count);
                        hide(score, see, whole, -INFINITY);
                        if (see.from < see.to) {
                            vec most = load(score), added{};
                            for (int64_t j = LANES; j < whole; j += LANES) most = larger(most, load(score + j));
                            const float highest = std::max(top[row], scale * over_lanes(most, larger));
                            for (int64_t j = 0; j < whole; j += LANES)
                                store(score + j, fast_exp(scale * load(score + j) - highest));
                            hide(score, see, whole, 0.0f);
                            for (int64_t j = 0; j < whole; j += LANES) added += load(score + j);
                            const float shrink = fast_exp(top[row] - highest);
                            if (shrink != 1.0f)
                                for (int64_t d = 0; d < padded; d++) sum[d] *= shrink;
                            sum_of[row] = sum_of[row] * shrink + over_lanes(added, total);
                            top[row] = highest;
                        } else {
                            std::fill(score, score + whole, 0.0f);
                        }
                        E::along(score, whole / E::STEP, weights + row * KEYS / E::STEP);
                    }
                    block<E, true>(rows, padded, ceil_div(count, E::STEP), reinterpret_cast<const Number*>(weights), KEYS,
                                   at.steps_at(values, kv_head, span.segment, from), padded, NR, sums.data(), padded,
                                   true);
                }
            }
            for (int64_t row = 0; row < rows; row++) {
                const int64_t token = at.token[segment] + first + row;
                T* to = out + (token * in.heads + head) * in.head_dim;
                const float* sum = sums.data() + row * padded;
                for (int64_t d = 0; d < in.head_dim; d++) to[d] = narrow<T>(sum[d] / sum_of[row]);
                log_sum_exp[head * at.tokens + token] = top[row] + std::log(sum_of[row]);
            }
        }
    }
}

template <class E, class T>
void backward(const Attention& in, const T* q, const T* k, const T* v, const T* out, const float* log_sum_exp,
              const T* d_out, T* dq, T* dk, T* dv) {
    typedef typename E::Number Number;
    typedef typename E::Cell Cell;
    const Layout<E> at(in);
    const int64_t padded = at.padded;
    const float scale = 1.0f / std::sqrt(float(in.head_dim));
    static thread_local Workspace kept_rows, kept_cells, kept_sums;
    auto* queries = kept_rows.take<Number>(2 * in.heads * at.row_size());
    Number* d_outs = queries + in.heads * at.row_size();
    const int64_t query_steps_size = in.heads * at.step_size(), key_panels_size = in.kv_heads * at.panel_size();
    auto* query_steps = kept_cells.take<Cell>(2 * query_steps_size + 2 * key_panels_size + in.kv_heads * at.step_size());
    Cell* d_out_steps = query_steps + query_steps_size;
    Cell* key_panels = d_out_steps + query_steps_size;
    Cell* value_panels = key_panels + key_panels_size;
    Cell* key_steps = value_panels + key_panels_size;
    auto* d_queries = kept_sums.take<float>(in.heads * (at.tokens + 2 * at.all_seen) * padded);
    // Each head of a segment has its own gradient for every key it sees; they are added up at the end.
    float* d_keys = d_queries + in.heads * at.tokens * padded;
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
        lay_out<E>(q, in.stride, in.heads, at, queries, query_steps, nullptr);
        lay_out<E>(d_out, in.heads * in.head_dim, in.heads, at, d_outs, d_out_steps, nullptr);
        lay_out<E>(k, in.stride, in.kv_heads, at, nullptr, key_steps, key_panels);
        lay_out<E>(v, in.stride, in.kv_heads, at, nullptr, nullptr, value_panels);

        alignas(64) float weights[(QUERIES + 1) * KEYS];           // P of one block, a row of zeros behind it
        alignas(64) float d_weights[(QUERIES + 1) * KEYS];         // dP, then dS
        alignas(64) Cell weight_steps[QUERIES * KEYS / E::STEP];   // P with queries along k
        alignas(64) Cell d_weight_steps[QUERIES * KEYS / E::STEP]; // dS likewise
        alignas(64) Cell d_weight_rows[QUERIES * KEYS / E::STEP];  // dS with keys along k
        std::vector<float> inner;                     // Σ dO · O of each query
#pragma omp for schedule(dynamic)
        for (size_t task = 0; task < order.size() * size_t(in.heads); task++) {
            const int64_t segment = order[task / size_t(in.heads)], head = int64_t(task % size_t(in.heads));
            const int64_t kv_head = head / at.group, length = in.lengths[segment], start = at.token[segment];
            const float* lse = log_sum_exp + head * at.tokens + start;
            float* d_query = d_queries + (head * at.tokens + start) * padded;
            std::fill(d_query, d_query + length * padded, 0.0f);
            inner.resize(size_t(length));
            for (int64_t row = 0; row < length; row++) {
                const int64_t at_row = ((start + row) * in.heads + head) * in.head_dim;
                float sum = 0;
#pragma omp simd reduction(+ : sum)
                for (int64_t d = 0; d < in.head_dim; d++) sum += widen(out[at_row + d]) * widen(d_out[at_row + d]);
                inner[size_t(row)] = sum;
            }
            const std::vector<Span> spans = at.spans(segment);
            const int64_t own = spans.back().before;  // position of the segment's first token
            for (const Span& span : spans)
                for (int64_t from = 0; from < span.length; from += KEYS) {
                    const int64_t all = std::min(KEYS, span.length - from);
                    const int64_t place = (head * at.all_seen + at.seen[segment] + span.before + from) * padded;
                    std::fill(d_keys + place, d_keys + place + all * padded, 0.0f);
                    std::fill(d_values + place, d_values + place + all * padded, 0.0f);
                    const int64_t first_key = span.before + from;  // its position
                    const int64_t last = std::min(length, first_key + all - 1 + in.window - own);
                    for (int64_t first = std::max<int64_t>(0, first_key - own); first < last; first += QUERIES) {
                        const int64_t rows = std::min(QUERIES, last - first);
                        const int64_t count = std::min(all, own + first + rows - first_key);
                        const int64_t whole = ceil_div(count, NR) * NR, steps = ceil_div(rows, E::STEP);
                        multiply_keys<E>(at.rows_at(queries, head, segment, first), rows,
                                         at.panels_at(key_panels, kv_head, span.segment, from), count, padded, weights);
                        multiply_keys<E>(at.rows_at(d_outs, head, segment, first), rows,
                                         at.panels_at(value_panels, kv_head, span.segment, from), count, padded,
                                         d_weights);
                        for (int64_t row = 0; row < rows; row++) {
                            float *p = weights + row * KEYS, *dp = d_weights + row * KEYS;
                            const Shown see = shown(in, own + first + row, first_key, count);
                            const float total = lse[first + row], mean = inner[size_t(first + row)];
                            for (int64_t j = 0; j < whole; j += LANES) {
                                const vec weight = fast_exp(scale * load(p + j) - total);
                                store(p + j, weight);
                                store(dp + j, scale * weight * (load(dp + j) - mean));
                            }
                            for (float* scores : {p, dp}) hide(scores, see, whole, 0.0f);
                            E::along(dp, whole / E::STEP, d_weight_rows + row * KEYS / E::STEP);
                        }
                        std::fill(weights + rows * KEYS, weights + rows * KEYS + whole, 0.0f);
                        std::fill(d_weights + rows * KEYS, d_weights + rows * KEYS + whole, 0.0f);
                        for (int64_t step = 0; step < steps; step++) {
                            const int64_t one = step * E::STEP * KEYS, other = one + (E::STEP - 1) * KEYS;
                            E::across(weights + one, weights + other, whole, weight_steps + step * KEYS);
                            E::across(d_weights + one, d_weights + other, whole, d_weight_steps + step * KEYS);
                        }
                        const auto numbers = [](const Cell* cells) { return reinterpret_cast<const Number*>(cells); };
                        block<E, false>(count, padded, steps, numbers(weight_steps), KEYS * E::STEP,
                                        at.steps_at(d_out_steps, head, segment, first), padded, NR, d_values + place,
                                        padded, true);
                        block<E, false>(count, padded, steps, numbers(d_weight_steps), KEYS * E::STEP,
                                        at.steps_at(query_steps, head, segment, first), padded, NR, d_keys + place,
                                        padded, true);
                        block<E, true>(rows, padded, ceil_div(count, E::STEP), numbers(d_weight_rows), KEYS,
                                       at.steps_at(key_steps, kv_head, span.segment, from), padded, NR,
                                       d_query + first * padded, padded, true);
                    }
                }
        }

#pragma omp for schedule(static) collapse(2)
        for (int64_t head = 0; head < in.heads; head++)
            for (int64_t token = 0; token < at.tokens; token++) {
                const float* from = d_queries + (head * at.tokens + token) * padded;
                T* to = dq + token * in.stride + head * in.head_dim;
                for (int64_t d = 0; d < in.head_dim; d++) to[d] = narrow<T>(from[d]);
            }
        std::vector<float> k_room(size_t(in.head_dim)), v_room(size_t(in.head_dim));
        float *sum_k = k_room.data(), *sum_v = v_room.data();
#pragma omp for schedule(dynamic) collapse(2)
        for (int64_t segment = 0; segment < in.segments; segment++)
            for (int64_t kv_head = 0; kv_head < in.kv_heads; kv_head++)
                for (int64_t row = 0; row < in.lengths[segment]; row++) {
                    std::fill(sum_k, sum_k + in.head_dim, 0.0f);
                    std::fill(sum_v, sum_v + in.head_dim, 0.0f);
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
                    const int64_t to = (at.token[segment] + row) * in.stride + kv_head * in.head_dim;
                    for (int64_t d = 0; d < in.head_dim; d++) {
                        dk[to + d] = narrow<T>(sum_k[d]);
                        dv[to + d] = narrow<T>(sum_v[d]);
                    }
                }
    }
}

}  // namespace

// Steps of products for a batch of T.
template <class T>
using Steps = std::conditional_t<std::is_same_v<T, bf16>, Bf16Steps, Ones>;

void kameleon_attention(int64_t type, const Attention* in, const void* q, const void* k, const void* v, void* out,
                        float* log_sum_exp) {
    FOR_TYPE(type, forward<Steps<T>>(*in, (const T*)q, (const T*)k, (const T*)v, (T*)out, log_sum_exp));
}

void kameleon_attention_back(int64_t type, const Attention* in, const void* q, const void* k, const void* v,
                             const void* out, const float* log_sum_exp, const void* d_out, void* dq, void* dk,
                             void* dv) {
    FOR_TYPE(type, backward<Steps<T>>(*in, (const T*)q, (const T*)k, (const T*)v, (const T*)out, log_sum_exp,
                                      (const T*)d_out, (T*)dq, (T*)dk, (T*)dv));
}
