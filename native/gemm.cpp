// Matrix products in fp32: C = Σ over terms of A · B, for frozen weights, for side paths, for both in one pass.
//
// B is cut into panels of NR columns and a few hundred rows, unpacked (and widened from bf16) into a small buffer and
// multiplied at once; a large weight never exists a second time as a whole. Each element of C is summed by one thread in one
// order, which depends neither on the number of threads nor on the other rows of the batch.
#include <algorithm>
#include <vector>

#include "api.h"
#include "tile.h"

using namespace kameleon;

namespace {

constexpr int64_t DEPTH = 640;         // rows of a panel
constexpr int64_t WIDTH = 2048;        // columns unpacked at a time
constexpr int64_t UNPACKED = 2 << 20;  // floats unpacked at a time: they stay in the last-level cache
constexpr int64_t ROW_BLOCK = 8 * MR;  // rows of A that stay in the second-level cache
constexpr int64_t PANEL_GROUP = 8;     // panels that one task multiplies them with

// Some rows of one term's B: what is unpacked as one panel per NR columns.
struct Piece {
    const Term* term;
    int64_t from, depth;
    int64_t place;  // of its first panel among the unpacked ones
};

// panel[p · NR + j] = scale · B(p, j), zero beyond the last column.
template <class T>
void unpack(const Term& term, int64_t from, int64_t depth, int64_t column, int64_t columns, float* panel) {
    const T* b = static_cast<const T*>(term.b) + from * term.b_row + column * term.b_col;
    const float scale = term.scale;
    if (columns < NR) std::fill(panel, panel + depth * NR, 0.0f);
    if (term.b_col == 1 && columns == NR) {
        for (int64_t p = 0; p < depth; p++) {
            const T* row = b + p * term.b_row;
            for (int j = 0; j < NR; j++) panel[p * NR + j] = scale * widen(row[j]);
        }
    } else if (term.b_row == 1 && columns == NR) {
        const int64_t stride = term.b_col;
        for (int64_t p = 0; p < depth; p++)
            for (int j = 0; j < NR; j++) panel[p * NR + j] = scale * widen(b[j * stride + p]);
    } else {
        for (int64_t p = 0; p < depth; p++)
            for (int64_t j = 0; j < columns; j++) panel[p * NR + j] = scale * widen(b[p * term.b_row + j * term.b_col]);
    }
}

}  // namespace

void kameleon_gemm(const Term* terms, int64_t count, int64_t m, int64_t n, float* c, int64_t c_row, int64_t accumulate) {
    static thread_local Workspace kept;
    const int64_t width = std::min(WIDTH, ceil_div(n, NR) * NR);
    // All terms cut into pieces, and the pieces into batches that are unpacked together. While a block of C is in the
    // cache, all pieces of a batch are added to it: a side path of low rank costs no second pass over C.
    std::vector<std::vector<Piece>> batches(1);
    int64_t place = 0;
    for (int64_t t = 0; t < count; t++) {
        const int64_t steps = std::max<int64_t>(1, ceil_div(terms[t].k, DEPTH)), even = ceil_div(terms[t].k, steps);
        for (int64_t from = 0; from < terms[t].k; from += even) {
            const int64_t depth = std::min(even, terms[t].k - from);
            if (place && place + depth * width > UNPACKED) {
                batches.emplace_back();
                place = 0;
            }
            batches.back().push_back({&terms[t], from, depth, place});
            place += depth * width;
        }
    }
    float* panels = kept.take(std::max(UNPACKED, DEPTH * width));
#pragma omp parallel
    for (int64_t left = 0; left < n; left += width)
        for (size_t batch = 0; batch < batches.size(); batch++) {
            const std::vector<Piece>& pieces = batches[batch];
            const int64_t columns = std::min(width, n - left), panel_count = ceil_div(columns, NR);
#pragma omp for schedule(static) collapse(2)
            for (size_t piece = 0; piece < pieces.size(); piece++)
                for (int64_t j = 0; j < panel_count; j++) {
                    const auto& [term, from, depth, at] = pieces[piece];
                    (term->b_type ? unpack<bf16> : unpack<float>)(*term, from, depth, left + j * NR,
                                                                  std::min<int64_t>(NR, columns - j * NR),
                                                                  panels + at + j * depth * NR);
                }
#pragma omp for schedule(dynamic) collapse(2)
            for (int64_t i = 0; i < m; i += ROW_BLOCK)
                for (int64_t j = 0; j < panel_count; j += PANEL_GROUP) {
                    bool add = accumulate || batch;
                    for (const auto& [term, from, depth, at] : pieces) {
                        const float* a = term->a + i * term->a_row + from * term->a_col;
                        (term->a_col == 1 ? block<true> : block<false>)(
                            std::min(ROW_BLOCK, m - i), std::min(PANEL_GROUP * NR, columns - j * NR), depth, a,
                            term->a_row, term->a_col, panels + at + j * depth * NR, NR, depth * NR,
                            c + i * c_row + left + j * NR, c_row, add);
                        add = true;
                    }
                }
        }
}
