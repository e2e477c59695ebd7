// Matrix products, summed in fp32: C = Σ over terms of A · B, for frozen weights, for side paths, for both in one pass.
//
// B is cut into panels of NR columns and a few hundred rows, unpacked (from bf16 or from quantised blocks) into a small
// buffer and multiplied at once; a large weight never exists a second time as a whole. Where the CPU multiplies bf16, panels
// for a bf16 A hold bf16 too, else fp32. Each element of C is summed by one thread in one order, which depends neither on
// the number of threads nor on the other rows of the batch.
#include <algorithm>
#include <vector>

#include "api.h"
#include "packed.h"
#include "tile.h"

using namespace kameleon;

namespace {

// Lengths along k are in steps of one or two rows of B (see `Ones` and `Twos`).
constexpr int64_t DEPTH = 640;         // steps of a panel
constexpr int64_t WIDTH = 2048;        // columns unpacked at a time
constexpr int64_t UNPACKED = 2 << 20;  // cells unpacked at a time: they stay in the last-level cache
constexpr int64_t SUMMED = 768;        // steps summed in registers before C is touched
constexpr int64_t ROW_BLOCK = 8 * MR;  // rows of A that stay in the second-level cache
constexpr int64_t PANEL_GROUP = 8;     // panels that one task multiplies them with

// Some rows of one term's B: what is unpacked as one panel per NR columns.
template <class E>
struct Piece {
    const Term* term;
    int64_t from, depth;
    bool follow;    // in every A steps follow each other (see tile.h); else rows do, in copies of A
    bool in_place;  // A is read where it lies
    int64_t right;  // of its first panel among the unpacked ones
    int64_t left;   // of its first tile among the copied ones

    int64_t steps() const { return ceil_div(depth, E::STEP); }
    int64_t panel(int64_t columns) const { return right + columns * steps(); }
    // Numbers of a copied tile and, if steps follow each other, of a row of it: an odd number of cache lines, so that rows
    // do not fall into the same sets.
    int64_t tile() const { return follow ? MR * row_size() : MR * E::STEP * steps(); }
    int64_t row_size() const {
        constexpr int64_t LINE = 64 / sizeof(typename E::Number);
        return (ceil_div(steps() * E::STEP, LINE) | 1) * LINE;
    }

    Slice<E> slice(int64_t row, const typename E::Number* copies) const {
        if (!in_place)
            return {copies + left + row / MR * tile(), tile(), follow ? row_size() : MR * E::STEP, nullptr, NR, steps()};
        const auto* a = static_cast<const typename E::Number*>(term->a) + row * term->a_row + from;
        return {a, MR * term->a_row, term->a_row, nullptr, NR, steps()};
    }
};

// scale · numbers from … from + count of a line of B, which is a row of it or a column, and may be stored in blocks.
struct Line {
    const Term& term;
    const bool is_row = term.b_col == 1;

    void read(int64_t line, int64_t from, int64_t count, float* out) const {
        if (is_packed(term.b_type)) {
            const uint8_t* row = static_cast<const uint8_t*>(term.b) + stored_row(line, term.half) * term.b_row;
            kind_of(term.b_type).unpack(row, from, count, out);
            if (term.scale != 1)
                for (int64_t i = 0; i < count; i++) out[i] *= term.scale;
        } else {
            FOR_TYPE(term.b_type, read_plain((const T*)term.b, line, from, count, out));
        }
    }

    // Ask for the bytes of such a read that comes soon: a few short stretches of many rows are beyond what the CPU foresees.
    void fetch(int64_t line, int64_t from, int64_t count) const {
        if (!is_packed(term.b_type)) return;
        const Kind kind = kind_of(term.b_type);
        const uint8_t* at = static_cast<const uint8_t*>(term.b) + stored_row(line, term.half) * term.b_row;
        at += from / kind.block * kind.bytes;
        for (int64_t byte = 0; byte < count / kind.block * kind.bytes; byte += 64) __builtin_prefetch(at + byte);
    }

    template <class T>
    void read_plain(const T* b, int64_t line, int64_t from, int64_t count, float* out) const {
        const int64_t apart = is_row ? term.b_col : term.b_row;
        b += line * (is_row ? term.b_row : term.b_col) + from * apart;
        if (apart == 1)
            for (int64_t i = 0; i < count; i++) out[i] = term.scale * widen(b[i]);
        else
            for (int64_t i = 0; i < count; i++) out[i] = term.scale * widen(b[i * apart]);
    }
};

// Whether B's numbers are multiplied as they are stored: nothing is unpacked, they are only laid out.
template <class E>
bool holds_cells(const Term& term) {
    return term.b_type == (sizeof(typename E::Number) == 2 ? BF16 : FP32) && term.scale == 1;
}

// Panel j of a piece holds scale · B(p, column) at cell [p / STEP · NR + column − left], zero where the term has no such row
// or column. Memory is read in its own order: a row-major B fills all panels row by row, a column-major B one panel at a
// time.
template <class E>
void unpack_rows(const Piece<E>& piece, int64_t first_row, int64_t last_row, int64_t strip, int64_t until,
                 typename E::Cell* panels) {
    const Term& term = *piece.term;
    const Line rows{term};
    alignas(64) float lines[2][RUN];
    // A few panels at a time, all rows of each: rows of many panels lie in as many pages, and in the same cache sets.
    for (int64_t at = strip; at < until; at += RUN)
        for (int64_t p = first_row; p < last_row; p += E::STEP) {
            const int64_t run = std::min(RUN, until - at);
            const int64_t from = std::max(at, term.first_column), end = std::min(at + run, term.last_column);
            if (holds_cells<E>(term) && p + E::STEP <= piece.depth && from == at && end == at + run && run % NR == 0) {
                const auto* row = static_cast<const typename E::Number*>(term.b) + (piece.from + p) * term.b_row +
                                  (at - term.first_column);
                for (int64_t j = 0; j < run; j += NR)
                    E::across(row + j, row + (E::STEP - 1) * term.b_row + j, NR,
                              panels + piece.panel(at + j - strip) + p / E::STEP * NR);
                continue;
            }
            for (int64_t s = 0; s < E::STEP; s++) {
                const bool held = p + s < piece.depth && from < end;
                if (!held || from > at || end < at + run) std::fill(lines[s], lines[s] + ceil_div(run, NR) * NR, 0.0f);
                if (held) rows.read(piece.from + p + s, from - term.first_column, end - from, lines[s] + (from - at));
            }
            for (int64_t j = 0; j < run; j += NR)
                E::across(lines[0] + j, lines[1] + j, NR, panels + piece.panel(at + j - strip) + p / E::STEP * NR);
        }
}

constexpr int64_t AHEAD = 8;  // stored rows

template <class E>
void unpack_columns(const Piece<E>& piece, int64_t left, typename E::Cell* panel) {
    const Term& term = *piece.term;
    const Line columns{term};
    const bool whole = term.first_column <= left && left + NR <= term.last_column && piece.depth % E::STEP == 0;
    if (holds_cells<E>(term) && whole && term.b_row == 1 && term.b_col % E::STEP == 0) {
        const auto* first = static_cast<const typename E::Number*>(term.b) + (left - term.first_column) * term.b_col;
        transpose_to_panel(reinterpret_cast<const typename E::Cell*>(first + piece.from), term.b_col / E::STEP,
                           piece.steps(), panel);
        return;
    }
    alignas(64) float line[RUN];
    alignas(64) typename E::Cell cells[NR][RUN / E::STEP];
    for (int64_t near = 0; near < piece.depth; near += RUN) {
        const int64_t run = std::min(RUN, piece.depth - near), steps = ceil_div(run, E::STEP);
        for (int64_t j = 0; j < NR; j++) {
            const int64_t column = left + j - term.first_column;
            if (column < 0 || term.last_column <= left + j) {
                std::fill(cells[j], cells[j] + steps, typename E::Cell(0));
                continue;
            }
            if (column + AHEAD < term.last_column - term.first_column) columns.fetch(column + AHEAD, piece.from + near, run);
            columns.read(column, piece.from + near, run, line);
            if (run < steps * E::STEP) line[run] = 0;
            E::along(line, steps, cells[j]);
        }
        transpose_to_panel(cells[0], RUN / E::STEP, steps, panel + near / E::STEP * NR);
    }
}

constexpr int64_t UNIT_ROWS = 32;

// What one thread prepares at a time: of a right side some rows of all panels, or one panel; of a left side one block.
template <class E>
struct Unit {
    const Piece<E>* piece;
    int64_t at;
    bool is_left;
};

template <class E>
std::vector<Unit<E>> units(const std::vector<Piece<E>>& pieces, int64_t strip, int64_t until, int64_t m) {
    std::vector<Unit<E>> all;
    for (const Piece<E>& piece : pieces) {
        const bool by_rows = piece.term->b_col == 1;
        const int64_t from = by_rows ? 0 : strip, end = by_rows ? piece.depth : until;
        for (int64_t at = from; at < end; at += by_rows ? UNIT_ROWS : NR) all.push_back({&piece, at, false});
        for (int64_t row = 0; !piece.in_place && row < m; row += ROW_BLOCK) all.push_back({&piece, row, true});
    }
    return all;
}

// Whether the inner loop can read A where it lies: numbers of its type, steps that follow each other, and rows that do not
// all fall into the same few sets of the first-level cache.
template <class E>
bool readable(const Term& term) {
    const int64_t size = sizeof(typename E::Number);
    return (term.a_type == BF16) == (size == 2) && term.a_col == 1 && term.k % E::STEP == 0 &&
           term.a_row * size % 1024 != 0;
}

// Rows from `row` of A in tiles of MR: [tile][row][step] if its steps follow each other, else [tile][step][row]; zero beyond
// the last row of B.
template <class T, class E>
void copy_left(const Piece<E>& piece, int64_t row, int64_t rows, typename E::Number* copies) {
    typedef typename E::Number Number;
    const Term& term = *piece.term;
    for (int64_t first = row; first < row + rows; first += MR) {
        Number* to = copies + piece.left + first / MR * piece.tile();
        const T* a = static_cast<const T*>(term.a) + first * term.a_row + piece.from * term.a_col;
        const int64_t count = std::min<int64_t>(MR, row + rows - first), end = piece.steps() * E::STEP;
        if (piece.follow) {
            for (int64_t i = 0; i < count; i++, a += term.a_row, to += piece.row_size()) {
                for (int64_t p = 0; p < piece.depth; p++) to[p] = convert<Number>(a[p]);
                std::fill(to + piece.depth, to + end, Number{});
            }
            continue;
        }
        for (int64_t p = 0; p < end; p += E::STEP, to += MR * E::STEP)
            for (int64_t i = 0; i < count; i++)
                for (int64_t s = 0; s < E::STEP; s++)
                    to[i * E::STEP + s] = p + s < piece.depth
                                              ? convert<Number>(a[i * term.a_row + (p + s) * term.a_col])
                                              : Number{};
    }
}

bool covers(const Term& term, int64_t left) { return term.first_column < left + NR && left < term.last_column; }

// A block of numbers as fp32 and back.
template <class From, class To>
void copy_block(const From* from, int64_t from_row, int64_t rows, int64_t columns, To* to, int64_t to_row) {
    if constexpr (sizeof(To) < sizeof(float)) {
        if (columns == NR) {
            for (int64_t i = 0; i < rows; i++)
                for (int64_t j = 0; j < NR; j += 2 * LANES)
                    store(to + i * to_row + j, load(from + i * from_row + j), load(from + i * from_row + j + LANES));
            return;
        }
    }
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) to[i * to_row + j] = convert<To>(from[i * from_row + j]);
}

// All terms cut into pieces, and the pieces into batches that are prepared together. Only steps that lie alike are summed
// together.
template <class E>
std::vector<std::vector<Piece<E>>> cut(const Term* terms, int64_t count, int64_t m, int64_t width) {
    std::vector<std::vector<Piece<E>>> batches(1);
    const bool follow = std::all_of(terms, terms + count, [](const Term& term) { return term.a_col == 1; });
    int64_t right = 0, left = 0;
    for (int64_t t = 0; t < count; t++) {
        // Even steps; where k runs along stored rows, of whole blocks.
        const int64_t block = std::max(E::STEP, terms[t].b_col == 1 ? 1 : kind_of(terms[t].b_type).block);
        const int64_t parts = std::max<int64_t>(1, ceil_div(terms[t].k, DEPTH * E::STEP / block * block));
        const int64_t even = ceil_div(ceil_div(terms[t].k, parts), block) * block;
        for (int64_t from = 0; from < terms[t].k; from += even) {
            Piece<E> piece{&terms[t], from, std::min(even, terms[t].k - from), follow,
                           follow && readable<E>(terms[t]), 0, 0};
            if (right && right + piece.steps() * width > UNPACKED) {
                batches.emplace_back();
                right = left = 0;
            }
            piece.right = right;
            piece.left = left;
            batches.back().push_back(piece);
            right += piece.steps() * width;
            if (!piece.in_place) left += ceil_div(m, MR) * piece.tile();
        }
    }
    return batches;
}

// What C is and what its sums begin with: nothing (null), or a matrix of its size, C itself perhaps.
struct Result {
    int64_t type;
    void* c;
    int64_t c_row, start_type;
    const void* start;
    int64_t start_row;
    float* sums;  // of a bf16 C [m, columns] that several batches add up to: it is rounded once
    int64_t columns;

    // Where fp32 sums of C's cells from (row, left) on are kept, `local` if only while they are multiplied.
    float* sum_at(int64_t row, int64_t left, float* local) const {
        if (type == FP32) return static_cast<float*>(c) + row * c_row + left;
        return sums ? sums + row * columns + left : local;
    }
    int64_t sum_row() const { return type == FP32 ? c_row : sums ? columns : NR; }
};

// Pieces whose panels for columns strip … until, and copied left sides, are there together.
template <class E>
struct Batch {
    const std::vector<Piece<E>>& pieces;
    int64_t strip, until;
    bool first, last;  // of those that add up to C
    typename E::Cell* panels;
    typename E::Number* copies;
};

template <class E>
void prepare(const Unit<E>& unit, const Batch<E>& batch, int64_t m) {
    const Piece<E>& piece = *unit.piece;
    if (unit.is_left) {
        FOR_TYPE(piece.term->a_type, (copy_left<T>(piece, unit.at, std::min(ROW_BLOCK, m - unit.at), batch.copies)));
    } else if (piece.term->b_col == 1) {
        const int64_t last = std::min(unit.at + UNIT_ROWS, piece.depth);
        unpack_rows(piece, unit.at, last, batch.strip, batch.until, batch.panels);
    } else {
        unpack_columns(piece, unit.at, batch.panels + piece.panel(unit.at - batch.strip));
    }
}

// C's rows `row`…, NR columns from `left` on: pieces are summed in registers, a few at a time, so a side path of low rank
// costs no second pass over C.
template <class E>
void multiply(const Batch<E>& batch, const Result& result, int64_t row, int64_t rows, int64_t left,
              std::vector<Slice<E>>& slices) {
    alignas(64) float local[ROW_BLOCK * NR];
    float* sum = result.sum_at(row, left, local);
    const int64_t sum_row = result.sum_row(), columns = std::min<int64_t>(NR, batch.until - left);
    bool add = !batch.first;
    if (batch.first && result.start) {
        add = true;
        if (result.type != FP32 || result.start != result.c)
            FOR_TYPE(result.start_type, copy_block(static_cast<const T*>(result.start) + row * result.start_row + left,
                                                   result.start_row, rows, columns, sum, sum_row));
    }
    if (batch.pieces.empty() && !add)  // B has no rows: zeros
        column<E, true>(slices.data(), 0, rows, sum, sum_row, int(columns), false);
    for (const Piece<E> *first = batch.pieces.data(), *end = first + batch.pieces.size(), *last; first != end;
         first = last) {
        int64_t steps = first->steps();
        for (last = first + 1; last != end && (steps += last->steps()) <= SUMMED;) last++;
        int count = 0;
        for (const Piece<E>* one = first; one != last; one++)
            if (covers(*one->term, left)) {
                slices[count] = one->slice(row, batch.copies);
                slices[count++].b = batch.panels + one->panel(left - batch.strip);
            }
        if (count || !add)
            (first->follow ? column<E, true> : column<E, false>)(slices.data(), count, rows, sum, sum_row, int(columns),
                                                                 add);
        add = true;
    }
    if (batch.last && result.type != FP32)
        copy_block(sum, sum_row, rows, columns, static_cast<bf16*>(result.c) + row * result.c_row + left, result.c_row);
}

template <class E>
void gemm(const Term* terms, int64_t count, int64_t m, int64_t n, Result result) {
    static thread_local Workspace kept, kept_copies, kept_sums;
    const int64_t width = std::min(WIDTH, ceil_div(n, NR) * NR);
    const auto batches = cut<E>(terms, count, m, width);
    int64_t copied = 0;
    for (const auto& pieces : batches)
        for (const Piece<E>& piece : pieces)
            if (!piece.in_place) copied = std::max(copied, piece.left + ceil_div(m, MR) * piece.tile());
    auto* copies = kept_copies.take<typename E::Number>(copied);
    auto* panels = kept.take<typename E::Cell>(std::max(UNPACKED, DEPTH * width));
    if (result.type == BF16 && batches.size() > 1) result.sums = kept_sums.take<float>(m * n);
#pragma omp parallel
    {
        std::vector<Slice<E>> slices;
        for (int64_t strip = 0; strip < n; strip += width)
            for (const std::vector<Piece<E>>& pieces : batches) {
                const Batch<E> batch{pieces, strip, std::min(strip + width, n), &pieces == &batches.front(),
                                     &pieces == &batches.back(), panels, copies};
                const std::vector<Unit<E>> work = units(pieces, strip, batch.until, m);
                slices.resize(pieces.size());
#pragma omp for schedule(dynamic)
                for (size_t unit = 0; unit < work.size(); unit++) prepare(work[unit], batch, m);
#pragma omp for schedule(dynamic) collapse(2)
                for (int64_t row = 0; row < m; row += ROW_BLOCK)
                    for (int64_t group = strip; group < batch.until; group += PANEL_GROUP * NR)
                        for (int64_t left = group; left < std::min(group + PANEL_GROUP * NR, batch.until); left += NR)
                            multiply(batch, result, row, std::min(ROW_BLOCK, m - row), left, slices);
            }
    }
}

}  // namespace

void kameleon_gemm(const Term* terms, int64_t count, int64_t m, int64_t n, int64_t c_type, void* c, int64_t c_row,
                   int64_t start_type, const void* start, int64_t start_row) {
    const auto run = count && terms[0].a_type == BF16 ? gemm<Bf16Steps> : gemm<Ones>;
    run(terms, count, m, n, {c_type, c, c_row, start_type, start, start_row, nullptr, n});
}
