// The micro-tile: C[rows ≤ MR, NR] (+)= Σ A[rows, k] · B[k, NR] over a few slices, everything in registers.
#pragma once

#include <algorithm>

#include "simd.h"

namespace kameleon {

// Steps of k (see `Ones`, `Twos`): B's NR cells of step p begin at b + p · b_row. A lies in tiles of MR rows, `a_tile` apart.
// In a tile either the steps follow each other and rows are `a_apart` apart, or rows follow each other and steps are.
template <class E>
struct Slice {
    const typename E::Number* a;
    int64_t a_tile, a_apart;
    const typename E::Cell* b;
    int64_t b_row;
    int64_t steps;
};

// Only `cols` columns of C are read and written. STEPS_FOLLOW: in every A. Not inlined: inside a large function the compiler
// no longer keeps the sums in registers.
template <class E, int ROWS, bool STEPS_FOLLOW>
__attribute__((noinline)) void tile_rows(const Slice<E>* slices, int count, int64_t row, float* c, int64_t c_row, int cols,
                      bool accumulate) {
    vec sum[ROWS][NV];
#pragma GCC unroll 12
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) sum[i][v] = vec{};
    for (int s = 0; s < count; s++) {
        const Slice<E>& in = slices[s];
        const int64_t a_row = STEPS_FOLLOW ? in.a_apart : E::STEP, a_step = STEPS_FOLLOW ? E::STEP : in.a_apart;
        const int64_t b_row = in.b_row;
        const typename E::Number* a = in.a + row / MR * in.a_tile;
        const typename E::Cell* b = in.b;
        for (int64_t p = 0; p < in.steps; p++) {
            typename E::Lanes right[NV];
#pragma GCC unroll 4
            for (int v = 0; v < NV; v++) right[v] = E::load(b + p * b_row + v * LANES);
            const typename E::Number* at = a + p * a_step;
#pragma GCC unroll 12
            for (int i = 0; i < ROWS; i++) {
                const typename E::Lanes left = E::splat(at + i * a_row);
#pragma GCC unroll 4
                for (int v = 0; v < NV; v++) sum[i][v] = E::add_product(sum[i][v], left, right[v]);
            }
        }
    }
    if (cols == NR) {
#pragma GCC unroll 12
        for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
            for (int v = 0; v < NV; v++) {
                float* at = c + i * c_row + v * LANES;
                store(at, accumulate ? load(at) + sum[i][v] : sum[i][v]);
            }
        return;
    }
    for (int i = 0; i < ROWS; i++) {
        float line[NR];
        for (int v = 0; v < NV; v++) store(line + v * LANES, sum[i][v]);
        for (int j = 0; j < cols; j++) c[i * c_row + j] = accumulate ? c[i * c_row + j] + line[j] : line[j];
    }
}

// Rows `row`… of C[m, ≤ NR] (+)= Σ slices, tile by tile.
template <class E, bool STEPS_FOLLOW>
inline void column(const Slice<E>* slices, int count, int64_t m, float* c, int64_t c_row, int cols, bool accumulate) {
    for (int64_t row = 0; row < m; row += MR) {
        float* at = c + row * c_row;
        switch (std::min<int64_t>(MR, m - row)) {
#define CASE(N) \
    case N: tile_rows<E, (N <= MR ? N : 1), STEPS_FOLLOW>(slices, count, row, at, c_row, cols, accumulate); break;
            CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#undef CASE
        }
    }
}

// C[m, n] (+)= A · B over `steps` steps, for a block that fits the caches, by one thread. A's rows are `a_apart` apart, or
// its steps are; panel j of NR columns of B starts at b + j · b_panel, its steps `b_row` apart.
template <class E, bool STEPS_FOLLOW>
inline void block(int64_t m, int64_t n, int64_t steps, const typename E::Number* a, int64_t a_apart,
                  const typename E::Cell* b, int64_t b_row, int64_t b_panel, float* c, int64_t c_row, bool accumulate) {
    for (int64_t j = 0; j < n; j += NR) {
        const Slice<E> slice{a, MR * (STEPS_FOLLOW ? a_apart : E::STEP), a_apart, b + j / NR * b_panel, b_row, steps};
        column<E, STEPS_FOLLOW>(&slice, 1, m, c + j, c_row, int(std::min<int64_t>(NR, n - j)), accumulate);
    }
}

}  // namespace kameleon
