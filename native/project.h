// Products of a few hundred rows at most with frozen matrices where they lie, as generation needs them.
//
// Each number of the result is one dot product along k, in vectors, folded at the end: the same operations in the same order
// whatever other rows there are, so that a request gets the same bits alone and in any batch.
#pragma once

#include <algorithm>

#include "packed.h"

namespace kameleon {

constexpr int64_t COLUMNS = 32;  // of the result, one thread's task
constexpr int64_t ROWS = 48;     // of the result at a time
constexpr int64_t AHEAD = 8;     // lines that are asked for while those before them are multiplied

// out[r · out_row + c] = u_r · w_c over k numbers, for R rows and C (4 or 8) lines. Rows of u are zero up to a whole vector.
// Meanwhile `fetched` lines from w[C] on are fetched, so that reading them and multiplying these go on together.
template <class T, int R, int C>
inline void dot_tile(const T* u, int64_t u_row, const T* const* w, int64_t k, float* out, int64_t out_row,
                     const T* const* ahead, int64_t fetched) {
    typedef Lines<T> E;
    constexpr int64_t WIDTH = LANES * E::STEP;
    vec sum[R][C] = {};
    int64_t p = 0;
    for (; p + WIDTH <= k; p += WIDTH) {
        typename E::Lanes right[C];
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) right[c] = E::load(w[c] + p);
        for (int64_t i = 0; i < fetched; i++) __builtin_prefetch(ahead[i] + p, 0, 2);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const typename E::Lanes left = E::load(u + r * u_row + p);
#pragma GCC unroll 8
            for (int c = 0; c < C; c++) sum[r][c] = E::add_product(sum[r][c], left, right[c]);
        }
    }
    if (p < k) {
        alignas(64) T rest[WIDTH];
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) {
            std::fill(rest, rest + WIDTH, T{});
            std::copy(w[c] + p, w[c] + k, rest);
            const typename E::Lanes right = E::load(rest);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) sum[r][c] = E::add_product(sum[r][c], E::load(u + r * u_row + p), right);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
        for (int c = 0; c < C; c += 4) {
            vec total = fold<2>(fold<1>(sum[r][c], sum[r][c + 1]), fold<1>(sum[r][c + 2], sum[r][c + 3]));
            if constexpr (LANES > 4) total = fold<4>(total, total);
            if constexpr (LANES > 8) total = fold<8>(total, total);
            std::memcpy(out + r * out_row + c, &total, 4 * sizeof(float));
        }
}

// All of `rows` rows with `columns` lines. w[columns … columns + AHEAD) are this thread's next lines; they are prefetched
// if `near`. A tile may reach beyond the last column, so out has room for whole tiles.
template <class T>
inline void dot_block(const T* u, int64_t u_row, int64_t rows, const T* const* w, int64_t columns, bool near, int64_t k,
                      float* out, int64_t out_row) {
    const int64_t groups = ceil_div(rows, 6);
    for (int64_t c = 0; c < columns; c += 4) {
        for (int64_t g = 0, row = 0; g < groups; g++) {
            const int64_t count = rows / groups + (g < rows % groups);
            const T* left = u + row * u_row;
            float* to = out + row * out_row + c;
            // Each group of rows fetches its part of the lines that follow.
            const int64_t from = AHEAD / 2 * g / groups, fetched = near ? AHEAD / 2 * (g + 1) / groups - from : 0;
            const T* const* ahead = w + c + AHEAD + from;
            switch (count) {
                case 1:
                    if (c % 8 == 0 && c + 4 < columns)
                        dot_tile<T, 1, 8>(left, u_row, w + c, k, to, out_row, ahead, 2 * fetched);
                    else if (c % 8 == 0)
                        dot_tile<T, 1, 4>(left, u_row, w + c, k, to, out_row, ahead, fetched);
                    break;
                case 2: dot_tile<T, 2, 4>(left, u_row, w + c, k, to, out_row, ahead, fetched); break;
                case 3: dot_tile<T, 3, 4>(left, u_row, w + c, k, to, out_row, ahead, fetched); break;
                case 4: dot_tile<T, 4, 4>(left, u_row, w + c, k, to, out_row, ahead, fetched); break;
                case 5: dot_tile<T, 5, 4>(left, u_row, w + c, k, to, out_row, ahead, fetched); break;
                default: dot_tile<T, 6, 4>(left, u_row, w + c, k, to, out_row, ahead, fetched);
            }
            row += count;
        }
    }
}
// Where a row of a weight is stored, and how.
inline const uint8_t* find(const Weight& w, int64_t row, int64_t* type) {
    const Part* part = w.parts;
    for (; row >= part->rows; part++) row -= part->rows;
    *type = part->stored.type;
    return part->stored.data + stored_row(row, part->stored.half) * part->stored.row_bytes;
}

// Rows first … first + columns of a weight as lines of type T, where they lie or unpacked into `room` [columns, in], and the
// AHEAD lines behind the last whole AHEAD of them. Returns whether all lie there, so that fetching the next ones is of use.
template <class T>
bool lines(const Weight& w, int64_t first, int64_t columns, T* room, const T** out) {
    constexpr int64_t SAME = std::is_same_v<T, float> ? int64_t(PACKED_F32) : int64_t(PACKED_BF16);
    bool near = true;
    int64_t type;
    for (int64_t i = 0; i < columns; i++) {
        const uint8_t* stored = find(w, first + i, &type);
        if (type == SAME) {
            out[i] = reinterpret_cast<const T*>(stored);
            continue;
        }
        near = false;
        const Kind kind = kind_of(type);
        const uint8_t* next = find(w, std::min(first + i + AHEAD, w.out - 1), &type);
        for (int64_t byte = 0; byte < w.in / kind.block * kind.bytes; byte += 64) __builtin_prefetch(next + byte, 0, 2);
        kind.unpack(stored, 0, w.in, room + i * w.in);
        out[i] = room + i * w.in;
    }
    for (int64_t i = columns; i < ceil_div(columns, AHEAD) * AHEAD + AHEAD; i++)
        out[i] = near ? reinterpret_cast<const T*>(find(w, std::min(first + i, w.out - 1), &type)) : out[columns - 1];
    return near;
}

// Rows u [tokens, u_row ≥ in, zero up to whole vectors] that a projection multiplies, with the side paths' h [tokens, h_row].
template <class T>
struct Left {
    const T* u;
    int64_t u_row, tokens;
    const SideRun* runs;
    int64_t count, which;  // runs, and which of their sides (layer · 4 + projection)
    T* h;
    int64_t h_row;

    const Side& side(int64_t run) const { return runs[run].sides[which]; }
};

// h = u Aᵀ for every run; called by all threads of a team, which go on together.
template <class T>
void side_hidden(const Left<T>& left, int64_t in) {
    int64_t most = 0, longest = 0;
    for (int64_t run = 0; run < left.count; run++) {
        most = std::max(most, left.side(run).rank);
        longest = std::max(longest, left.runs[run].stop - left.runs[run].start);
    }
    if (!most) return;
    // Line `at` of a run's A, and behind the last one those of the next run.
    const auto line = [&](int64_t run, int64_t at) {
        while (run + 1 < left.count && at >= left.side(run).rank) at -= left.side(run++).rank;
        return static_cast<const T*>(left.side(run).a) + std::min(at, left.side(run).rank) * in;
    };
#pragma omp for schedule(guided) collapse(3)
    for (int64_t run = 0; run < left.count; run++)
        for (int64_t before = 0; before < longest; before += ROWS)
            for (int64_t first = 0; first < most; first += AHEAD) {
                const int64_t rank = left.side(run).rank, row = left.runs[run].start + before;
                const int64_t rows = std::min(ROWS, left.runs[run].stop - row), columns = std::min(AHEAD, rank - first);
                if (rows <= 0 || columns <= 0) continue;
                const T* a[2 * AHEAD];
                for (int64_t i = 0; i < 2 * AHEAD; i++) a[i] = line(run, first + i);
                for (int64_t i = columns; i < AHEAD; i++) a[i] = a[columns - 1];
                float sums[ROWS * AHEAD];
                dot_block(left.u + row * left.u_row, left.u_row, rows, a, columns, true, in, sums, AHEAD);
                for (int64_t i = 0; i < rows; i++) {
                    T* h = left.h + (row + i) * left.h_row + first;
                    for (int64_t c = 0; c < columns; c++) h[c] = narrow<T>(sums[i * AHEAD + c]);
                    if (first + columns == rank && rank % Lines<T>::STEP) h[columns] = T{};
                }
            }
}

// sums[i, column − first] += scaling · h B for the columns first … last of a branch, R rows at a time.
template <class T, int R>
inline void add_branch(const BranchB& branch, const T* h, int64_t h_row, int64_t first, int64_t last, float* sums,
                       int64_t sums_row) {
    typedef Lines<T> E;
    const int64_t steps = ceil_div(branch.rank, E::STEP), group = steps * B_COLUMNS * E::STEP;
    for (int64_t at = (first - branch.start) / B_COLUMNS * B_COLUMNS; branch.start + at < last; at += LANES) {
        const T* b = static_cast<const T*>(branch.b) + at / B_COLUMNS * group + at % B_COLUMNS * E::STEP;
        vec sum[R] = {};
        for (int64_t p = 0; p < steps; p++, b += B_COLUMNS * E::STEP) {
            const typename E::Lanes right = E::load(b);
            __builtin_prefetch(b + COLUMNS / B_COLUMNS * group, 0, 2);  // of this thread's next columns
#pragma GCC unroll 4
            for (int r = 0; r < R; r++)
                sum[r] = E::add_product(sum[r], E::splat(h + r * h_row + p * E::STEP), right);
        }
        const int64_t column = branch.start + at - first;
        for (int r = 0; r < R; r++) {
            float* to = sums + r * sums_row + column;
            if (column >= 0 && column + LANES <= last - first)
                store(to, load(to) + branch.scaling * sum[r]);
            else
                for (int64_t i = std::max<int64_t>(0, -column); i < std::min<int64_t>(LANES, last - first - column); i++)
                    to[i] += branch.scaling * sum[r][i];
        }
    }
}

template <class T>
void add_sides(const Left<T>& left, int64_t row, int64_t rows, int64_t first, int64_t columns, float* sums) {
    for (int64_t run = 0; run < left.count; run++) {
        const int64_t from = std::max(row, left.runs[run].start), to = std::min(row + rows, left.runs[run].stop);
        const Side& side = left.side(run);
        if (from >= to || !side.a) continue;
        for (const BranchB* branch = side.branches; branch < side.branches + side.count; branch++) {
            const int64_t start = std::max(first, branch->start), stop = std::min(first + columns, branch->stop);
            if (start >= stop) continue;
            for (int64_t i = from; i < to;) {
                const T* h = left.h + i * left.h_row + branch->first_rank;
                float* at = sums + (i - row) * COLUMNS + (start - first);
                if (to - i >= 4) {
                    add_branch<T, 4>(*branch, h, left.h_row, start, stop, at, COLUMNS);
                    i += 4;
                } else {
                    add_branch<T, 1>(*branch, h, left.h_row, start, stop, at, COLUMNS);
                    i++;
                }
            }
        }
    }
}

// y = u Wᵀ + side paths + residual, summed in fp32 and rounded once; y may be the residual. By all threads of a team.
template <class T, class Out>
void project(const Left<T>& left, const Weight& w, const Out* residual, Out* y) {
    static thread_local Workspace kept;
    alignas(64) float sums[ROWS * COLUMNS];
    const T* line[COLUMNS + AHEAD];
    T* room = kept.take<T>(COLUMNS * w.in);
    // Lines for one block of rows are unpacked a few at a time: they stay in the first-level cache.
    const int64_t at_once = left.tokens > ROWS ? COLUMNS : AHEAD;
    bool near = false;
    side_hidden(left, w.in);
#pragma omp for schedule(guided)
    for (int64_t first = 0; first < w.out; first += COLUMNS) {
        const int64_t columns = std::min(COLUMNS, w.out - first);
        for (int64_t row = 0; row < left.tokens; row += ROWS) {
            const int64_t rows = std::min(ROWS, left.tokens - row);
            for (int64_t at = 0; at < columns; at += at_once) {
                const int64_t count = std::min(at_once, columns - at);
                if (row == 0) near = lines(w, first + at, count, room, line);
                dot_block(left.u + row * left.u_row, left.u_row, rows, line, count, near, w.in, sums + at, COLUMNS);
            }
            add_sides(left, row, rows, first, columns, sums);
            for (int64_t i = 0; i < rows; i++) {
                const int64_t at = (row + i) * w.out + first;
                for (int64_t c = 0; c < columns; c++)
                    y[at + c] = narrow<Out>(sums[i * COLUMNS + c] + (residual ? widen(residual[at + c]) : 0.0f));
            }
        }
    }
}

}  // namespace kameleon
