// The micro-tile: C[rows ≤ MR, NR] (+)= A[rows, k] · B[k, NR], everything in registers.
#pragma once

#include <algorithm>

#include "simd.h"

namespace kameleon {

// A's element (i, p) is a[i · a_row + p · a_col]; B's row p starts at b + p · b_row and has NR readable floats.
// Only `cols` columns of C are read and written.
template <int ROWS, bool UNIT>
inline void tile_rows(int64_t k, const float* a, int64_t a_row, int64_t a_col, const float* b, int64_t b_row, float* c,
                      int64_t c_row, int cols, bool accumulate) {
    vec sum[ROWS][NV] = {};
    for (int64_t p = 0; p < k; p++) {
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

template <bool UNIT>
inline void tile(int rows, int64_t k, const float* a, int64_t a_row, int64_t a_col, const float* b, int64_t b_row,
                 float* c, int64_t c_row, int cols, bool accumulate) {
    switch (rows) {
#define CASE(N) \
    case N: return tile_rows<(N <= MR ? N : 1), UNIT>(k, a, a_row, a_col, b, b_row, c, c_row, cols, accumulate);
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#undef CASE
    }
}

// C[m, n] (+)= A[m, k] · B[k, n] for a block that fits the caches, by one thread. B is read in place: rows of
// `b_row` floats, padded to a whole number of NR columns.
template <bool UNIT>
inline void block(int64_t m, int64_t n, int64_t k, const float* a, int64_t a_row, int64_t a_col, const float* b,
                  int64_t b_row, int64_t b_panel, float* c, int64_t c_row, bool accumulate) {
    for (int64_t j = 0; j < n; j += NR)
        for (int64_t i = 0; i < m; i += MR)
            tile<UNIT>(int(std::min<int64_t>(MR, m - i)), k, a + i * a_row, a_row, a_col, b + j / NR * b_panel, b_row,
                       c + i * c_row + j, c_row, int(std::min<int64_t>(NR, n - j)), accumulate);
}

}  // namespace kameleon
