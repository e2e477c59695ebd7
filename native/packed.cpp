// The kinds of blocks in GGUF files (ggml's names), embeddings' lookups in them, and products of a few rows.
#include "packed.h"

#include <algorithm>
#include <vector>

using namespace kameleon;

namespace {

float half_at(const uint8_t* p) {
    uint16_t bits;
    std::memcpy(&bits, p, sizeof bits);
    return widen(fp16{bits});
}

// Each kind: SIZE numbers in BYTES bytes, and of those LANES numbers from number i on, a multiple of LANES. `d` is a scale,
// `m` a minimum, `q` small whole numbers.

// Numbers i … of a block of 32: the lower halves of 16 bytes, then the upper halves.
inline ints halves(const uint8_t* q, int i) { return i < 16 ? bytes(q + i) & 15 : bytes(q + i - 16) >> 4; }

// The fifth bits of 32 numbers lie in one word.
inline ints fifths(const uint8_t* word, int i) {
    int32_t bits;
    std::memcpy(&bits, word, sizeof bits);
    return ((bits >> i) - ints{} >> lane_numbers() & 1) << 4;
}

struct Q4_0Block {
    static constexpr int64_t SIZE = 32, BYTES = 18;
    static vec numbers(const uint8_t* in, int i) { return half_at(in) * floats(halves(in + 2, i) - 8); }
};

struct Q4_1Block {
    static constexpr int64_t SIZE = 32, BYTES = 20;
    static vec numbers(const uint8_t* in, int i) { return half_at(in) * floats(halves(in + 4, i)) + half_at(in + 2); }
};

struct Q5_0Block {
    static constexpr int64_t SIZE = 32, BYTES = 22;
    static vec numbers(const uint8_t* in, int i) {
        return half_at(in) * floats((halves(in + 6, i) | fifths(in + 2, i)) - 16);
    }
};

struct Q5_1Block {
    static constexpr int64_t SIZE = 32, BYTES = 24;
    static vec numbers(const uint8_t* in, int i) {
        return half_at(in) * floats(halves(in + 8, i) | fifths(in + 4, i)) + half_at(in + 2);
    }
};

struct Q8_0Block {
    static constexpr int64_t SIZE = 32, BYTES = 34;
    static vec numbers(const uint8_t* in, int i) { return half_at(in) * floats(signed_bytes(in + 2 + i)); }
};

struct Q2_KBlock {  // 16 groups of 16: scale and minimum of 4 bits each
    static constexpr int64_t SIZE = 256, BYTES = 84;
    static vec numbers(const uint8_t* in, int i) {
        const int group = i / 16, scale = in[group];
        const ints q = bytes(in + 16 + i / 128 * 32 + i % 32) >> i % 128 / 32 * 2 & 3;
        return half_at(in + 80) * float(scale & 15) * floats(q) - half_at(in + 82) * float(scale >> 4);
    }
};

struct Q3_KBlock {  // 16 groups of 16: a scale of 6 bits; the numbers' third bits lie apart
    static constexpr int64_t SIZE = 256, BYTES = 110;
    static vec numbers(const uint8_t* in, int i) {
        const uint8_t* scales = in + 96;
        const int group = i / 16, low = group < 8 ? scales[group] & 15 : scales[group - 8] >> 4;
        const int scale = (low | (scales[8 + group % 4] >> (group / 4 * 2) & 3) << 4) - 32;
        const ints q = bytes(in + 32 + i / 128 * 32 + i % 32) >> i % 128 / 32 * 2 & 3;
        const ints third = (bytes(in + i % 32) >> i / 32 & 1) << 2;
        return half_at(in + 108) * float(scale) * floats(q + third - 4);
    }
};

// Of 8 groups of 32, as Q4_K and Q5_K keep them: d and m, and in 12 bytes 6-bit factors of both.
struct Scales {
    float scale, least;
    Scales(const uint8_t* in, int group) {
        const uint8_t *a = in + 4 + group % 4, *b = a + 4, *c = a + 8;
        scale = half_at(in) * float(group < 4 ? *a & 63 : (*c & 15) | *a >> 6 << 4);
        least = half_at(in + 2) * float(group < 4 ? *b & 63 : *c >> 4 | *b >> 6 << 4);
    }
};

struct Q4_KBlock {
    static constexpr int64_t SIZE = 256, BYTES = 144;
    static vec numbers(const uint8_t* in, int i) {
        const Scales at(in, i / 32);
        return at.scale * floats(bytes(in + 16 + i / 64 * 32 + i % 32) >> i % 64 / 32 * 4 & 15) - at.least;
    }
};

struct Q5_KBlock {
    static constexpr int64_t SIZE = 256, BYTES = 176;
    static vec numbers(const uint8_t* in, int i) {
        const Scales at(in, i / 32);
        const ints low = bytes(in + 48 + i / 64 * 32 + i % 32) >> i % 64 / 32 * 4 & 15;
        return at.scale * floats(low | (bytes(in + 16 + i % 32) >> i / 32 & 1) << 4) - at.least;
    }
};

struct Q6_KBlock {  // 16 groups of 16: a signed scale of 8 bits; the numbers' upper two bits lie apart
    static constexpr int64_t SIZE = 256, BYTES = 210;
    static vec numbers(const uint8_t* in, int i) {
        const ints low = bytes(in + i / 128 * 64 + i % 64) >> i % 128 / 64 * 4 & 15;
        const ints high = bytes(in + 128 + i / 128 * 32 + i % 32) >> i % 128 / 32 * 2 & 3;
        return half_at(in + 208) * float(int8_t(in[192 + i / 16])) * floats((low | high << 4) - 32);
    }
};

template <class Block, class T>
void blocks(const uint8_t* row, int64_t from, int64_t count, T* out) {
    const uint8_t* in = row + from / Block::SIZE * Block::BYTES;
    for (const T* end = out + count; out < end; out += Block::SIZE, in += Block::BYTES)
#pragma GCC unroll 64
        for (int i = 0; i < Block::SIZE; i += 2 * LANES)
            store(out + i, Block::numbers(in, i), Block::numbers(in, i + LANES));
}

template <class From, class T>
void plain(const uint8_t* row, int64_t from, int64_t count, T* out) {
    const From* in = reinterpret_cast<const From*>(row) + from;
    for (int64_t i = 0; i < count; i++) out[i] = convert<T>(in[i]);
}

// Normal-float numbers (Dettmers et al., 2023, arXiv:2305.14314, appendix E): 16 values in blocks of 64, as Kameleon
// stores them. A row is one fp32 scale, then for each block a byte that scales it again and 32 bytes with numbers i and
// i + 32 in their lower and upper halves. The order of the two multiplications is part of the format.
constexpr float NF4_VALUES[16] = {
    -1.0f,        -0.69619280f, -0.52507305f, -0.39491749f, -0.28444138f, -0.18477343f, -0.09105004f, 0.0f,
    0.07958030f,  0.16093020f,  0.24611230f,  0.33791524f,  0.44070983f,  0.56261700f,  0.72295684f,  1.0f,
};

template <class T>
void nf4(const uint8_t* row, int64_t from, int64_t count, T* out) {
    constexpr int64_t SIZE = 64, BYTES = 33;
    float scale;
    std::memcpy(&scale, row, sizeof scale);
    const uint8_t* in = row + sizeof scale + from / SIZE * BYTES;
    for (const T* end = out + count; out < end; out += SIZE, in += BYTES) {
        const float largest = scale * float(in[0]);
        const auto numbers = [&](int i) {
            return largest * of_16(NF4_VALUES, i < 32 ? bytes(in + 1 + i) & 15 : bytes(in + 1 + i - 32) >> 4);
        };
#pragma GCC unroll 16
        for (int i = 0; i < SIZE; i += 2 * LANES) store(out + i, numbers(i), numbers(i + LANES));
    }
}

template <class Block>
constexpr Kind kind{Block::SIZE, Block::BYTES, blocks<Block, float>, blocks<Block, bf16>};
template <class T>
constexpr Kind plain_kind{1, sizeof(T), plain<T, float>, plain<T, bf16>};

// Lines of at most RUN numbers from `first` on, each a whole number of blocks.
template <class Use>
void each_run(const Kind& kind, const uint8_t* row, int64_t first, int64_t count, const Use& use) {
    alignas(64) float line[RUN];
    for (int64_t at = 0; at < count; at += RUN) {
        const int64_t run = std::min(RUN, count - at);
        kind.unpack(row, first + at, run, line);
        use(at, run, line);
    }
}

template <class T>
void unpack(const Stored* in, const int64_t* ids, int64_t rows, int64_t first, int64_t columns, T* out) {
    const Kind kind = kind_of(in->type);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++) {
        const uint8_t* row = in->data + stored_row(ids ? ids[i] : i, in->half) * in->row_bytes;
        kind.unpack(row, first, columns, out + i * columns);
    }
}

constexpr int64_t CHUNK = 16;  // rows of the matrix that one thread takes at a time

// Each row of the matrix is unpacked once, run by run, and multiplied with all rows of x while it is in registers' reach.
template <class T>
void few_rows(const Stored* in, const T* x, int64_t x_row, int64_t rows, int64_t columns, int64_t size, T* y,
              int64_t y_row) {
    const Kind kind = kind_of(in->type);
    std::vector<float> wide(size_t(rows * columns));
    for (int64_t i = 0; i < rows; i++)
        for (int64_t p = 0; p < columns; p++) wide[size_t(i * columns + p)] = widen(x[i * x_row + p]);
#pragma omp parallel for schedule(static, CHUNK)
    for (int64_t j = 0; j < size; j++) {
        vec sums[MAX_FEW_ROWS] = {};
        float rest[MAX_FEW_ROWS] = {};
        const uint8_t* row = in->data + stored_row(j, in->half) * in->row_bytes;
        each_run(kind, row, 0, columns, [&](int64_t at, int64_t run, const float* line) {
            for (int64_t i = 0; i < rows; i++) {
                const float* left = wide.data() + i * columns + at;
                vec sum = sums[i];
                int64_t p = 0;
                for (; p + LANES <= run; p += LANES) sum += load(left + p) * load(line + p);
                sums[i] = sum;
                for (; p < run; p++) rest[i] += left[p] * line[p];
            }
        });
        for (int64_t i = 0; i < rows; i++) {
            float total = rest[i];
            for (int lane = 0; lane < LANES; lane++) total += sums[i][lane];
            y[i * y_row + j] = narrow<T>(total);
        }
    }
}

}  // namespace

namespace kameleon {

Kind kind_of(int64_t type) {
    switch (type) {
        case PACKED_BF16: return plain_kind<bf16>;
        case PACKED_F16: return plain_kind<fp16>;
        case Q4_0: return kind<Q4_0Block>;
        case Q4_1: return kind<Q4_1Block>;
        case Q5_0: return kind<Q5_0Block>;
        case Q5_1: return kind<Q5_1Block>;
        case Q8_0: return kind<Q8_0Block>;
        case Q2_K: return kind<Q2_KBlock>;
        case Q3_K: return kind<Q3_KBlock>;
        case Q4_K: return kind<Q4_KBlock>;
        case Q5_K: return kind<Q5_KBlock>;
        case Q6_K: return kind<Q6_KBlock>;
        case NF4: return {64, 33, nf4<float>, nf4<bf16>};
        default: return plain_kind<float>;
    }
}

}  // namespace kameleon

void kameleon_unpack(const Stored* in, const int64_t* ids, int64_t rows, int64_t first, int64_t columns,
                     int64_t out_type, void* out) {
    FOR_TYPE(out_type, unpack(in, ids, rows, first, columns, (T*)out));
}

void kameleon_few_rows(const Stored* in, int64_t type, const void* x, int64_t x_row, int64_t rows, int64_t columns,
                       int64_t size, void* y, int64_t y_row) {
    FOR_TYPE(type, few_rows(in, (const T*)x, x_row, rows, columns, size, (T*)y, y_row));
}
