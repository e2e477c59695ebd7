// The micro-tile: C[rows ≤ MR, NR] (+)= Σ A[rows, k] · B[k, NR] over a few slices, everything in registers.
#pragma once

#include <algorithm>

#include "simd.h"

namespace kameleon {

// A's element (i, p) is a[i · a_row + p · a_col]; B's row p starts at b + p · b_row and has NR readable floats.
struct Slice {
    const float* a;
    int64_t a_row, a_col;
    const float* b;
    int64_t b_row;
    int64_t k;
};

// Only `cols` columns of C are read and written. UNIT: every a_col is 1.
template <int ROWS, bool UNIT>
inline void tile_rows(const Slice* slices, int count, int64_t row, float* c, int64_t c_row, int cols, bool accumulate) {
    vec sum[ROWS][NV] = {};
    for (int s = 0; s < count; s++) {
        const Slice& in = slices[s];
        const int64_t a_row = in.a_row, a_col = in.a_col, b_row = in.b_row;
        const float *a = in.a + row * a_row, *b = in.b;
        for (int64_t p = 0; p < in.k; p++) {
            vec right[NV];
#pragma GCC unroll 4
            for (int v = 0; v < NV; v++) right[v] = load(b + p * b_row + v * LANES);
            const float* at = a + (UNIT ? p : p * a_col);
#pragma GCC unroll 12
            for (int i = 0; i < ROWS; i++) {
                vec left = splat(at[i * a_row]);
#pragma GCC unroll 4
                for (int v = 0; v < NV; v++) sum[i][v] += left * right[v];
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
template <bool UNIT>
inline void column(const Slice* slices, int count, int64_t m, float* c, int64_t c_row, int cols, bool accumulate) {
    for (int64_t row = 0; row < m; row += MR) {
        float* at = c + row * c_row;
        switch (std::min<int64_t>(MR, m - row)) {
#define CASE(N) \
    case N: tile_rows<(N <= MR ? N : 1), UNIT>(slices, count, row, at, c_row, cols, accumulate); break;
            CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#undef CASE
        }
    }
}

// C[m, n] (+)= A[m, k] · B[k, n] for a block that fits the caches, by one thread. Panel j of NR columns of B starts at
// b + j · b_panel, its rows `b_row` apart.
template <bool UNIT>
inline void block(int64_t m, int64_t n, int64_t k, const float* a, int64_t a_row, int64_t a_col, const float* b,
                  int64_t b_row, int64_t b_panel, float* c, int64_t c_row, bool accumulate) {
    for (int64_t j = 0; j < n; j += NR) {
        const Slice slice{a, a_row, a_col, b + j / NR * b_panel, b_row, k};
        column<UNIT>(&slice, 1, m, c + j, c_row, int(std::min<int64_t>(NR, n - j)), accumulate);
    }
}

}  // namespace kameleon
