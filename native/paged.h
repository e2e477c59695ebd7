// Attention of new tokens over keys and values in pages, with an online softmax (see attention.cpp).
//
// Keys are taken in blocks that begin at whole multiples of KEY_BLOCK, so that a query's sums do not depend on which other
// queries are computed beside it.
#pragma once

#include <algorithm>

#include "api.h"
#include "simd.h"

namespace kameleon {

constexpr int64_t KEY_BLOCK = 4 * PAGE_TOKENS;
constexpr int64_t PAGE_VECTORS = PAGE_TOKENS / LANES;
constexpr int64_t QUERY_ROWS = 48;  // query heads of one key head, of neighbouring tokens, in one task

// A page's keys and values of one head.
template <class T>
struct PageHead {
    const T *keys, *values;
};

// scores[r · KEY_BLOCK + key] = q_r · k for the keys of PAGES pages.
template <class T, int R, int PAGES>
inline void score_pages(const T* const* q, const T* const* keys, int64_t head_dim, float* scores) {
    typedef Lines<T> E;
    constexpr int V = PAGES * PAGE_VECTORS;
    vec sum[R][V] = {};
    for (int64_t p = 0; p < head_dim; p += E::STEP) {
        typename E::Lanes right[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; v++)
            right[v] = E::load(keys[v / PAGE_VECTORS] + p * PAGE_TOKENS + v % PAGE_VECTORS * LANES * E::STEP);
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) {
            const typename E::Lanes left = E::splat(q[r] + p);
#pragma GCC unroll 8
            for (int v = 0; v < V; v++) sum[r][v] = E::add_product(sum[r][v], left, right[v]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) store(scores + r * KEY_BLOCK + v * LANES, sum[r][v]);
}

// sums[r · sums_row + d] += Σ over the keys of some pages of weights_r · v.
template <class T, int R, int V>
inline void add_values(const T* weights, const PageHead<T>* pages, int64_t count, int64_t head_dim, int64_t d,
                       float* sums, int64_t sums_row) {
    typedef Lines<T> E;
    vec sum[R][V];
#pragma GCC unroll 6
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) sum[r][v] = load(sums + r * sums_row + d + v * LANES);
    for (int64_t page = 0; page < count; page++) {
        const T* values = pages[page].values + d * E::STEP;
        for (int64_t key = 0; key < PAGE_TOKENS; key += E::STEP) {
            typename E::Lanes right[V];
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) right[v] = E::load(values + key * head_dim + v * LANES * E::STEP);
#pragma GCC unroll 6
            for (int r = 0; r < R; r++) {
                const typename E::Lanes left = E::splat(weights + r * KEY_BLOCK + page * PAGE_TOKENS + key);
#pragma GCC unroll 4
                for (int v = 0; v < V; v++) sum[r][v] = E::add_product(sum[r][v], left, right[v]);
            }
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) store(sums + r * sums_row + d + v * LANES, sum[r][v]);
}

// What one task works on: query heads of one key head of neighbouring tokens, and its own memory.
template <class T>
struct Queries {
    const T* q[QUERY_ROWS];
    int64_t position[QUERY_ROWS];
    T* out[QUERY_ROWS];
    int64_t rows = 0;
    alignas(64) float scores[QUERY_ROWS * KEY_BLOCK];
    alignas(64) T weights[QUERY_ROWS * KEY_BLOCK];
    float top[QUERY_ROWS], total[QUERY_ROWS];
};

template <class T, int R>
inline void score_rows(Queries<T>& at, int64_t row, const PageHead<T>* pages, int64_t count, int64_t head_dim) {
    constexpr int PAGES = LANES < PAGE_TOKENS ? 2 : 4;  // as many as fit the registers
    for (int64_t page = 0; page < count; page += PAGES) {
        const T* keys[PAGES];
        for (int i = 0; i < PAGES; i++) keys[i] = pages[std::min(page + i, count - 1)].keys;
        score_pages<T, R, PAGES>(at.q + row, keys, head_dim, at.scores + row * KEY_BLOCK + page * PAGE_TOKENS);
    }
}

template <class T, int R>
inline void value_rows(const Queries<T>& at, int64_t row, const PageHead<T>* pages, int64_t count, int64_t head_dim,
                       float* sums, int64_t sums_row) {
    const T* weights = at.weights + row * KEY_BLOCK;
    int64_t d = 0;
    for (; d + 4 * LANES <= head_dim; d += 4 * LANES)
        add_values<T, R, 4>(weights, pages, count, head_dim, d, sums + row * sums_row, sums_row);
    for (; d < head_dim; d += LANES)
        add_values<T, R, 1>(weights, pages, count, head_dim, d, sums + row * sums_row, sums_row);
}

#define FOR_ROWS(count, call)                           \
    switch (count) {                                    \
        case 1: { constexpr int R = 1; call; } break;   \
        case 2: { constexpr int R = 2; call; } break;   \
        case 3: { constexpr int R = 3; call; } break;   \
        case 4: { constexpr int R = 4; call; } break;   \
        case 5: { constexpr int R = 5; call; } break;   \
        default: { constexpr int R = 6; call; }         \
    }

// The weights of one row for the block of keys from `from` on, of which `whole` are in pages; sums shrink where a higher
// score comes. What the row does not see weighs nothing.
template <class T>
inline void weigh(Queries<T>& at, int64_t row, int64_t from, int64_t whole, int64_t window, float scale, float* sums,
                  int64_t head_dim) {
    const int64_t end = at.position[row] + 1 - from;
    const int64_t first = std::clamp<int64_t>(end - window, 0, whole), last = std::clamp<int64_t>(end, 0, whole);
    float* score = at.scores + row * KEY_BLOCK;
    T* weight = at.weights + row * KEY_BLOCK;
    if (first >= last) {
        std::fill(weight, weight + whole, T{});
        return;
    }
    const auto seen = [&](int64_t key) {  // scores of LANES keys, −∞ where they are not seen
        const ints keys = int32_t(key) + lane_numbers();
        return keys >= int32_t(first) & keys < int32_t(last) ? scale * load(score + key) : vec{} - INFINITY;
    };
    vec best = splat(at.top[row]);
    for (int64_t key = 0; key < whole; key += LANES) best = larger(best, seen(key));
    const float highest = over_lanes(best, larger), shrink = fast_exp(at.top[row] - highest);
    const auto weigh_keys = [&](int64_t key) {
        const vec one = seen(key);
        return one == -INFINITY ? vec{} : fast_exp(one - highest);
    };
    vec added = {};
    for (int64_t key = 0; key < whole; key += 2 * LANES) {
        const vec one = weigh_keys(key), other = weigh_keys(key + LANES);
        store(weight + key, one, other);
        added += one + other;
    }
    const float sum = over_lanes(added, total);
    if (shrink != 1.0f)
        for (int64_t d = 0; d < head_dim; d++) sums[d] *= shrink;
    at.total[row] = at.total[row] * shrink + sum;
    at.top[row] = highest;
}

template <class T>
void attend(const Pages& in, const int64_t* table, int64_t kv_head, Queries<T>& at, float* sums, int64_t sums_row) {
    const float scale = 1.0f / std::sqrt(float(in.head_dim));
    const int64_t head_size = in.head_dim * PAGE_TOKENS;
    std::fill(at.top, at.top + at.rows, -INFINITY);
    std::fill(at.total, at.total + at.rows, 0.0f);
    std::fill(sums, sums + at.rows * sums_row, 0.0f);
    const int64_t limit = at.position[at.rows - 1] + 1;
    const int64_t reached = std::max<int64_t>(0, at.position[0] + 1 - in.window);
    for (int64_t from = reached / KEY_BLOCK * KEY_BLOCK; from < limit; from += KEY_BLOCK) {
        PageHead<T> pages[KEY_BLOCK / PAGE_TOKENS];
        const int64_t count = ceil_div(std::min(KEY_BLOCK, limit - from), PAGE_TOKENS);
        for (int64_t i = 0; i < count; i++) {
            const int64_t page = (table[from / PAGE_TOKENS + i] * in.kv_heads + kv_head) * head_size;
            pages[i] = {static_cast<const T*>(in.keys) + page, static_cast<const T*>(in.values) + page};
        }
        for (int64_t row = 0; row < at.rows; row += 6)
            FOR_ROWS(at.rows - row, (score_rows<T, R>(at, row, pages, count, in.head_dim)))
        for (int64_t row = 0; row < at.rows; row++)
            weigh(at, row, from, count * PAGE_TOKENS, in.window, scale, sums + row * sums_row, in.head_dim);
        for (int64_t row = 0; row < at.rows; row += 6)
            FOR_ROWS(at.rows - row, (value_rows<T, R>(at, row, pages, count, in.head_dim, sums, sums_row)))
    }
    for (int64_t row = 0; row < at.rows; row++)
        for (int64_t d = 0; d < in.head_dim; d++)
            at.out[row][d] = narrow<T>(sums[row * sums_row + d] / at.total[row]);
}

// A new token's k and v into its page.
template <class T>
inline void keep(const Pages& in, int64_t page, int64_t place, const T* k, const T* v) {
    constexpr int64_t STEP = Lines<T>::STEP;
    for (int64_t head = 0; head < in.kv_heads; head++, k += in.head_dim, v += in.head_dim) {
        T* keys = static_cast<T*>(in.keys) + (page * in.kv_heads + head) * in.head_dim * PAGE_TOKENS;
        T* values = static_cast<T*>(in.values) + (page * in.kv_heads + head) * in.head_dim * PAGE_TOKENS;
        for (int64_t d = 0; d < in.head_dim; d++) {
            keys[(d / STEP * PAGE_TOKENS + place) * STEP + d % STEP] = k[d];
            values[(place / STEP * in.head_dim + d) * STEP + place % STEP] = v[d];
        }
    }
}

// Which segment each token belongs to, and its position; made once a pass.
struct Place {
    int64_t segment, position;
};

// Zeroes a page's values behind a place.
template <class T>
void clear_behind(const Pages& in, int64_t page, int64_t place) {
    constexpr int64_t STEP = Lines<T>::STEP;
    for (int64_t head = 0; head < in.kv_heads; head++) {
        T* values = static_cast<T*>(in.values) + (page * in.kv_heads + head) * in.head_dim * PAGE_TOKENS;
        for (int64_t other = place + 1; other < PAGE_TOKENS; other++)
            for (int64_t d = 0; d < in.head_dim; d++)
                values[(other / STEP * in.head_dim + d) * STEP + other % STEP] = T{};
    }
}

template <class T>
void keep_token(const Pages& in, const Place& at, const T* qkv) {
    const int64_t page = in.tables[at.segment * in.table_width + at.position / PAGE_TOKENS];
    const int64_t place = at.position % PAGE_TOKENS, offset = in.offsets[at.segment];
    const T* k = qkv + in.heads * in.head_dim;
    keep(in, page, place, k, k + in.kv_heads * in.head_dim);
    // Zero the rest of a page that this pass begins: a stale NaN times a weight of 0 is still NaN.
    if (at.position == offset + in.lengths[at.segment] - 1 && at.position - place >= offset)
        clear_behind<T>(in, page, place);
}

// Attention of all tokens, whose keys and values are kept; by all threads of a team.
template <class T>
void attend_all(const Pages& in, const int64_t* starts, const T* qkv, T* out) {
    static thread_local Workspace kept;
    static thread_local Queries<T> at;
    const int64_t group = in.heads / in.kv_heads, size = in.head_dim;
    const int64_t stride = (in.heads + 2 * in.kv_heads) * size, padded = ceil_div(size, LANES) * LANES;
    const int64_t at_once = std::max<int64_t>(1, QUERY_ROWS / group);
    float* sums = kept.take<float>(QUERY_ROWS * padded);
    int64_t longest = 0;
    for (int64_t i = 0; i < in.segments; i++) longest = std::max(longest, in.lengths[i]);
#pragma omp for schedule(dynamic) collapse(3)
    for (int64_t segment = 0; segment < in.segments; segment++)
        for (int64_t first = 0; first < longest; first += at_once)
            for (int64_t head = 0; head < in.kv_heads; head++) {
                const int64_t last = std::min(first + at_once, in.lengths[segment]);
                // More query heads to a key head than fit are taken in turns.
                for (int64_t shift = 0; first < last && shift < group; shift += QUERY_ROWS) {
                    at.rows = 0;
                    for (int64_t token = first; token < last; token++)
                        for (int64_t i = shift; i < std::min(group, shift + QUERY_ROWS); i++, at.rows++) {
                            const int64_t place = starts[segment] + token;
                            at.q[at.rows] = qkv + place * stride + (head * group + i) * size;
                            at.out[at.rows] = out + (place * in.heads + head * group + i) * size;
                            at.position[at.rows] = in.offsets[segment] + token;
                        }
                    attend(in, in.tables + segment * in.table_width, head, at, sums, padded);
                }
            }
}

}  // namespace kameleon
