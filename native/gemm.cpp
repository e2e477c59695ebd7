// Matrix products, summed in fp32: C = Σ over terms of A · B, for frozen weights, for side paths, for both in one pass.
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
constexpr int64_t SUMMED = 768;        // rows of panels summed in registers before C is touched
constexpr int64_t ROW_BLOCK = 8 * MR;  // rows of A that stay in the second-level cache
constexpr int64_t PANEL_GROUP = 8;     // panels that one task multiplies them with

// Some rows of one term's B: what is unpacked as one panel per NR columns.
struct Piece {
    const Term* term;
    int64_t from, depth;
    int64_t place;  // of its first panel among the unpacked ones
};

// panel[p · NR + j] = scale · B(p, j) for `columns` columns from `column` of B, zero in the others.
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

// The same for a panel whose first column is `left` of C; a term may cover only some of its columns.
void unpack_panel(const Piece& piece, int64_t left, float* panel) {
    const Term& term = *piece.term;
    const int64_t first = std::max(left, term.first_column), last = std::min(left + NR, term.last_column);
    const auto copy = term.b_type ? unpack<bf16> : unpack<float>;
    if (first == left) {
        copy(term, piece.from, piece.depth, first - term.first_column, last - first, panel);
        return;
    }
    float shifted[NR];
    copy(term, piece.from, piece.depth, first - term.first_column, last - first, panel);
    for (int64_t p = 0; p < piece.depth; p++) {
        std::fill(shifted, shifted + NR, 0.0f);
        std::copy(panel + p * NR, panel + p * NR + (last - first), shifted + (first - left));
        std::copy(shifted, shifted + NR, panel + p * NR);
    }
}

bool covers(const Term& term, int64_t left) { return term.first_column < left + NR && left < term.last_column; }

// `rows` rows of A from `row`, for the pieces from `first` to `last`: widened into `wide` where they are bf16.
void left_sides(const Piece* first, const Piece* last, int64_t row, int64_t rows, float* wide, Slice* slices) {
    for (; first != last; first++, slices++) {
        const Term& term = *first->term;
        const int64_t at = row * term.a_row + first->from * term.a_col;
        if (!term.a_type) {
            *slices = {static_cast<const float*>(term.a) + at, term.a_row, term.a_col, nullptr, NR, first->depth};
            continue;
        }
        const bf16* a = static_cast<const bf16*>(term.a) + at;
        *slices = {wide, first->depth, 1, nullptr, NR, first->depth};
        for (int64_t i = 0; i < rows; i++)
            for (int64_t p = 0; p < first->depth; p++) *wide++ = widen(a[i * term.a_row + p * term.a_col]);
    }
}

// A block of C as fp32 and back. Nothing is read of a C that is not added to.
void load_block(const bf16* c, int64_t c_row, int64_t rows, int64_t columns, float* wide, int64_t wide_row) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) wide[i * wide_row + j] = widen(c[i * c_row + j]);
}
void store_block(const float* wide, int64_t wide_row, int64_t rows, int64_t columns, bf16* c, int64_t c_row) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) c[i * c_row + j] = narrow<bf16>(wide[i * wide_row + j]);
}

// All terms cut into pieces, and the pieces into batches that are unpacked together.
std::vector<std::vector<Piece>> cut(const Term* terms, int64_t count, int64_t width) {
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
    return batches;
}

// What one thread multiplies at a time: ROW_BLOCK rows with PANEL_GROUP panels, all pieces of a batch.
struct Block {
    int64_t row, rows, left, columns;
};

// Pieces are summed in registers, a few at a time: a side path of low rank costs no second pass over C.
void multiply(const std::vector<Piece>& pieces, const Block& at, int64_t strip, const float* panels, float* wide,
              std::vector<Slice>& slices, float* c, int64_t c_row, bool add) {
    slices.resize(2 * pieces.size());
    for (const Piece *first = pieces.data(), *end = first + pieces.size(), *last = first; first != end; first = last) {
        bool dense = true;
        for (int64_t depth = 0; last != end; last++)
            if ((depth += last->depth) > SUMMED && last != first) break;
        Slice *all = slices.data(), *used = all + pieces.size();
        left_sides(first, last, at.row, at.rows, wide, all);
        for (const Piece* one = first; one != last; one++) dense = dense && all[one - first].a_col == 1;
        for (int64_t left = at.left; left < at.left + at.columns; left += NR) {
            int count = 0;
            for (const Piece* one = first; one != last; one++)
                if (covers(*one->term, left)) {
                    used[count] = all[one - first];
                    used[count++].b = panels + one->place + (left - strip) * one->depth;
                }
            if (count || !add)
                (dense ? column<true> : column<false>)(used, count, at.rows, c + (left - at.left), c_row,
                                                       int(std::min<int64_t>(NR, at.left + at.columns - left)), add);
        }
        add = true;
    }
}

}  // namespace

void kameleon_gemm(const Term* terms, int64_t count, int64_t m, int64_t n, int64_t c_type, void* c, int64_t c_row,
                   int64_t accumulate) {
    static thread_local Workspace kept, kept_sums;
    const int64_t width = std::min(WIDTH, ceil_div(n, NR) * NR);
    const auto batches = cut(terms, count, width);
    float* panels = kept.take(std::max(UNPACKED, DEPTH * width));
    // A bf16 C is rounded once: it is summed as a block of a task, or, if that takes several batches, as a whole.
    bf16* rounded = c_type ? static_cast<bf16*>(c) : nullptr;
    const bool whole = rounded && batches.size() > 1;
    float* sums = whole ? kept_sums.take(m * n) : static_cast<float*>(c);
    const int64_t sums_row = whole ? n : c_row;
#pragma omp parallel
    {
        std::vector<Slice> slices;
        std::vector<float> wide(size_t(ROW_BLOCK * (SUMMED + DEPTH)));
        std::vector<float> local(size_t(ROW_BLOCK * PANEL_GROUP * NR));
        for (int64_t strip = 0; strip < n; strip += width)
            for (size_t batch = 0; batch < batches.size(); batch++) {
                const std::vector<Piece>& pieces = batches[batch];
                const int64_t until = std::min(strip + width, n), panel_count = ceil_div(until - strip, NR);
                const bool first = batch == 0, last = batch + 1 == batches.size();
#pragma omp for schedule(static) collapse(2)
                for (size_t piece = 0; piece < pieces.size(); piece++)
                    for (int64_t j = 0; j < panel_count; j++)
                        if (const Piece& one = pieces[piece]; covers(*one.term, strip + j * NR))
                            unpack_panel(one, strip + j * NR, panels + one.place + j * one.depth * NR);
#pragma omp for schedule(dynamic) collapse(2)
                for (int64_t row = 0; row < m; row += ROW_BLOCK)
                    for (int64_t left = strip; left < until; left += PANEL_GROUP * NR) {
                        const Block at{row, std::min(ROW_BLOCK, m - row), left, std::min(PANEL_GROUP * NR, until - left)};
                        float* sum = sums + row * sums_row + left;
                        int64_t sum_row = sums_row;
                        bf16* out = rounded ? rounded + row * c_row + left : nullptr;
                        if (rounded && !whole) {
                            sum = local.data();
                            sum_row = PANEL_GROUP * NR;
                        }
                        if (rounded && first && accumulate) load_block(out, c_row, at.rows, at.columns, sum, sum_row);
                        multiply(pieces, at, strip, panels, wide.data(), slices, sum, sum_row, accumulate || !first);
                        if (rounded && last) store_block(sum, sum_row, at.rows, at.columns, out, c_row);
                    }
            }
    }
}
