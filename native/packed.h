// Stored matrices: rows of blocks as GGUF files hold them, unpacked to fp32 a few hundred numbers at a time.
//
// Every product of a block's scale with a quantised number is exact in fp32 (11 bits of an fp16 scale, at most 7 of a
// sub-scale and 5 of the number), so the result has the same bits however a compiler orders or fuses the operations.
#pragma once

#include "api.h"
#include "simd.h"

namespace kameleon {

constexpr int64_t RUN = 256;  // a whole number of blocks of every kind

// How a type of api.h is unpacked: in blocks of `block` numbers, each `bytes` long.
struct Kind {
    int64_t block, bytes;
    void (*wide)(const uint8_t* row, int64_t from, int64_t count, float* out);
    void (*rounded)(const uint8_t* row, int64_t from, int64_t count, bf16* out);

    // `count` numbers of a stored row from number `from` on; both are whole numbers of blocks.
    void unpack(const uint8_t* row, int64_t from, int64_t count, float* out) const { wide(row, from, count, out); }
    void unpack(const uint8_t* row, int64_t from, int64_t count, bf16* out) const { rounded(row, from, count, out); }
};
Kind kind_of(int64_t type);

inline bool is_packed(int64_t type) { return type >= FIRST_PACKED; }

// Where row `row` of the matrix is stored. llama.cpp keeps the two numbers that a rotary embedding turns together next
// to each other, `half` pairs a head; 0: the rows are in order.
inline int64_t stored_row(int64_t row, int64_t half) {
    if (!half) return row;
    const int64_t head = row / (2 * half), in = row % (2 * half);
    return head * 2 * half + 2 * (in % half) + in / half;
}

}  // namespace kameleon
