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

// Panel j of a piece holds scale · B(p, column) at [p · NR + column − left], zero where the term has no column. There are
// two ways through B, so that memory is read in the order in which it lies: rows of all panels, or one panel's columns.
template <class T>
void unpack_rows(const Piece& piece, int64_t first_row, int64_t last_row, int64_t strip, int64_t until, float* panels) {
    const Term& term = *piece.term;
    for (int64_t p = first_row; p < last_row; p++) {
        const T* row = static_cast<const T*>(term.b) + (piece.from + p) * term.b_row - term.first_column;
        for (int64_t left = strip; left < until; left += NR) {
            float* to = panels + piece.place + (left - strip) * piece.depth + p * NR;
            if (term.first_column <= left && left + NR <= term.last_column) {
                for (int64_t j = 0; j < NR; j++) to[j] = term.scale * widen(row[left + j]);
                continue;
            }
            for (int64_t j = left; j < left + NR; j++)
                to[j - left] = term.first_column <= j && j < term.last_column ? term.scale * widen(row[j]) : 0;
        }
    }
}

template <class T>
void unpack_columns(const Piece& piece, int64_t left, float* panel) {
    const Term& term = *piece.term;
    constexpr int64_t NEAR = 128;  // rows of a panel that stay in the first-level cache
    for (int64_t near = 0; near < piece.depth; near += NEAR)
        for (int64_t j = left; j < left + NR; j++) {
            const int64_t until = std::min(near + NEAR, piece.depth);
            float* to = panel + (j - left);
            if (j < term.first_column || term.last_column <= j) {
                for (int64_t p = near; p < until; p++) to[p * NR] = 0;
                continue;
            }
            const T* b = static_cast<const T*>(term.b) + piece.from * term.b_row + (j - term.first_column) * term.b_col;
            for (int64_t p = near; p < until; p++) to[p * NR] = term.scale * widen(b[p * term.b_row]);
        }
}

constexpr int64_t UNIT_ROWS = 32;

// What one thread unpacks at a time: some rows of all panels, or one panel.
struct Unit {
    const Piece* piece;
    int64_t at;
};

std::vector<Unit> units(const std::vector<Piece>& pieces, int64_t strip, int64_t until) {
    std::vector<Unit> all;
    for (const Piece& piece : pieces) {
        const bool by_rows = piece.term->b_col == 1;
        const int64_t from = by_rows ? 0 : strip, end = by_rows ? piece.depth : until;
        for (int64_t at = from; at < end; at += by_rows ? UNIT_ROWS : NR) all.push_back({&piece, at});
    }
    return all;
}

void unpack(const Unit& unit, int64_t strip, int64_t until, float* panels) {
    const Piece& piece = *unit.piece;
    if (piece.term->b_col == 1) {
        const auto run = piece.term->b_type ? unpack_rows<bf16> : unpack_rows<float>;
        run(piece, unit.at, std::min(unit.at + UNIT_ROWS, piece.depth), strip, until, panels);
    } else {
        const auto run = piece.term->b_type ? unpack_columns<bf16> : unpack_columns<float>;
        run(piece, unit.at, panels + piece.place + (unit.at - strip) * piece.depth);
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
                const int64_t until = std::min(strip + width, n);
                const bool first = batch == 0, last = batch + 1 == batches.size();
                const std::vector<Unit> work = units(pieces, strip, until);
#pragma omp for schedule(static)
                for (size_t unit = 0; unit < work.size(); unit++) unpack(work[unit], strip, until, panels);
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
