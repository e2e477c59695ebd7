// An adapter's factors laid out for generation.
#include "packed.h"

using namespace kameleon;

namespace {

constexpr int64_t RANKS = 64;  // of B_COLUMNS rows at a time, so that both orders of them lie in the first-level cache

template <class T>
void place_b(const float* b, int64_t out, int64_t rank, T* cells) {
    constexpr int64_t STEP = Lines<T>::STEP;
    const int64_t steps = ceil_div(rank, STEP);
    struct Cell {
        T numbers[STEP];
    };
    alignas(64) T rows[B_COLUMNS][RANKS];
    for (int64_t row = 0; row < out; row += B_COLUMNS, cells += steps * B_COLUMNS * STEP)
        for (int64_t first = 0; first < rank; first += RANKS) {
            const int64_t count = std::min(RANKS, rank - first), there = std::min(B_COLUMNS, out - row);
            if (there < B_COLUMNS || count % STEP) std::fill(&rows[0][0], &rows[0][0] + B_COLUMNS * RANKS, T{});
            for (int64_t i = 0; i < there; i++) {
                const float* in = b + (row + i) * rank + first;
                for (int64_t k = 0; k < count; k++) rows[i][k] = narrow<T>(in[k]);
            }
            Cell* to = reinterpret_cast<Cell*>(cells + first * B_COLUMNS);
            for (int64_t step = 0; step < ceil_div(count, STEP); step++)
                for (int64_t i = 0; i < B_COLUMNS; i++)
                    std::memcpy(to++, &rows[i][step * STEP], sizeof(Cell));
        }
}

}  // namespace

void kameleon_place_b(int64_t type, const float* b, int64_t out, int64_t rank, void* cells) {
    FOR_TYPE(type, place_b(b, out, rank, (T*)cells));
}
