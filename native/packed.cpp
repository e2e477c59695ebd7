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

// Each kind: SIZE numbers in BYTES bytes. `d` is a scale, `m` a minimum, `q` a small whole number.

struct Q4_0Block {
    static constexpr int64_t SIZE = 32, BYTES = 18;
    static void unpack(const uint8_t* in, float* out) {
        const float d = half_at(in);
        for (int i = 0; i < 16; i++) out[i] = d * float(int(in[2 + i] & 15) - 8);
        for (int i = 0; i < 16; i++) out[16 + i] = d * float(int(in[2 + i] >> 4) - 8);
    }
};

struct Q4_1Block {
    static constexpr int64_t SIZE = 32, BYTES = 20;
    static void unpack(const uint8_t* in, float* out) {
        const float d = half_at(in), m = half_at(in + 2);
        for (int i = 0; i < 16; i++) out[i] = d * float(in[4 + i] & 15) + m;
        for (int i = 0; i < 16; i++) out[16 + i] = d * float(in[4 + i] >> 4) + m;
    }
};

// The fifth bits of 32 numbers lie in one word.
inline int fifth(uint32_t word, int i) { return int(word >> i & 1) << 4; }

struct Q5_0Block {
    static constexpr int64_t SIZE = 32, BYTES = 22;
    static void unpack(const uint8_t* in, float* out) {
        const float d = half_at(in);
        uint32_t high;
        std::memcpy(&high, in + 2, sizeof high);
        for (int i = 0; i < 16; i++) out[i] = d * float((int(in[6 + i] & 15) | fifth(high, i)) - 16);
        for (int i = 0; i < 16; i++) out[16 + i] = d * float((int(in[6 + i] >> 4) | fifth(high, 16 + i)) - 16);
    }
};

struct Q5_1Block {
    static constexpr int64_t SIZE = 32, BYTES = 24;
    static void unpack(const uint8_t* in, float* out) {
        const float d = half_at(in), m = half_at(in + 2);
        uint32_t high;
        std::memcpy(&high, in + 4, sizeof high);
        for (int i = 0; i < 16; i++) out[i] = d * float(int(in[8 + i] & 15) | fifth(high, i)) + m;
        for (int i = 0; i < 16; i++) out[16 + i] = d * float(int(in[8 + i] >> 4) | fifth(high, 16 + i)) + m;
    }
};

struct Q8_0Block {
    static constexpr int64_t SIZE = 32, BYTES = 34;
    static void unpack(const uint8_t* in, float* out) {
        const float d = half_at(in);
        for (int i = 0; i < 32; i++) out[i] = d * float(int8_t(in[2 + i]));
    }
};

struct Q2_KBlock {  // 16 groups of 16: scale and minimum of 4 bits each
    static constexpr int64_t SIZE = 256, BYTES = 84;
    static void unpack(const uint8_t* in, float* out) {
        const uint8_t *scales = in, *quants = in + 16;
        const float d = half_at(in + 80), m = half_at(in + 82);
        for (int group = 0; group < 16; group++) {
            const uint8_t* q = quants + group / 8 * 32 + group % 2 * 16;
            const int shift = group % 8 / 2 * 2;
            const float scale = d * float(scales[group] & 15), least = m * float(scales[group] >> 4);
            for (int i = 0; i < 16; i++) out[group * 16 + i] = scale * float(q[i] >> shift & 3) - least;
        }
    }
};

struct Q3_KBlock {  // 16 groups of 16: a scale of 6 bits; the numbers' third bits lie apart
    static constexpr int64_t SIZE = 256, BYTES = 110;
    static void unpack(const uint8_t* in, float* out) {
        const uint8_t *high = in, *quants = in + 32, *scales = in + 96;
        const float d = half_at(in + 108);
        for (int group = 0; group < 16; group++) {
            const int low = group < 8 ? scales[group] & 15 : scales[group - 8] >> 4;
            const float scale = d * float((low | (scales[8 + group % 4] >> (group / 4 * 2) & 3) << 4) - 32);
            const uint8_t *q = quants + group / 8 * 32 + group % 2 * 16, *h = high + group % 2 * 16;
            const int shift = group % 8 / 2 * 2, bit = group / 2;
            for (int i = 0; i < 16; i++)
                out[group * 16 + i] = scale * float(int(q[i] >> shift & 3) + (int(h[i] >> bit & 1) << 2) - 4);
        }
    }
};

// The 6-bit scales and minima of 8 groups of 32, as Q4_K and Q5_K keep them in 12 bytes.
void scale_and_minimum(const uint8_t* packed, int group, float* scale, float* minimum) {
    const uint8_t *a = packed + group % 4, *b = a + 4, *c = a + 8;
    *scale = float(group < 4 ? *a & 63 : (*c & 15) | *a >> 6 << 4);
    *minimum = float(group < 4 ? *b & 63 : *c >> 4 | *b >> 6 << 4);
}

struct Q4_KBlock {
    static constexpr int64_t SIZE = 256, BYTES = 144;
    static void unpack(const uint8_t* in, float* out) {
        const float d = half_at(in), m = half_at(in + 2);
        for (int group = 0; group < 8; group++) {
            float scale, least;
            scale_and_minimum(in + 4, group, &scale, &least);
            scale *= d;
            least *= m;
            const uint8_t* q = in + 16 + group / 2 * 32;
            const int shift = group % 2 * 4;
            for (int i = 0; i < 32; i++) out[group * 32 + i] = scale * float(q[i] >> shift & 15) - least;
        }
    }
};

struct Q5_KBlock {
    static constexpr int64_t SIZE = 256, BYTES = 176;
    static void unpack(const uint8_t* in, float* out) {
        const float d = half_at(in), m = half_at(in + 2);
        const uint8_t* high = in + 16;
        for (int group = 0; group < 8; group++) {
            float scale, least;
            scale_and_minimum(in + 4, group, &scale, &least);
            scale *= d;
            least *= m;
            const uint8_t* q = in + 48 + group / 2 * 32;
            const int shift = group % 2 * 4;
            for (int i = 0; i < 32; i++)
                out[group * 32 + i] = scale * float((q[i] >> shift & 15) | (high[i] >> group & 1) << 4) - least;
        }
    }
};

struct Q6_KBlock {  // 16 groups of 16: a signed scale of 8 bits; the numbers' upper two bits lie apart
    static constexpr int64_t SIZE = 256, BYTES = 210;
    static void unpack(const uint8_t* in, float* out) {
        const float d = half_at(in + 208);
        for (int pair = 0; pair < 8; pair++) {  // of groups: loops of 32 become vectors
            const int half = pair / 4, quarter = pair % 4;
            const uint8_t *low = in + half * 64 + quarter % 2 * 32, *high = in + 128 + half * 32;
            const uint8_t* scales = in + 192 + pair * 2;
            const int low_shift = quarter / 2 * 4, high_shift = quarter * 2;
            const float first = d * float(int8_t(scales[0])), second = d * float(int8_t(scales[1]));
            for (int i = 0; i < 32; i++)
                out[pair * 32 + i] = (i < 16 ? first : second) *
                                     float(int((low[i] >> low_shift & 15) | (high[i] >> high_shift & 3) << 4) - 32);
        }
    }
};

template <class Block>
void blocks(const uint8_t* row, int64_t from, int64_t count, float* out) {
    const uint8_t* in = row + from / Block::SIZE * Block::BYTES;
    for (int64_t i = 0; i < count; i += Block::SIZE, in += Block::BYTES) Block::unpack(in, out + i);
}

template <class T>
void plain(const uint8_t* row, int64_t from, int64_t count, float* out) {
    const T* in = reinterpret_cast<const T*>(row) + from;
    for (int64_t i = 0; i < count; i++) out[i] = widen(in[i]);
}

// Normal-float numbers (Dettmers et al., 2023, arXiv:2305.14314, appendix E): 16 values in blocks of 64, as Kameleon
// stores them. A row is one fp32 scale, then for each block a byte that scales it again and 32 bytes with numbers i and
// i + 32 in their lower and upper halves. The order of the two multiplications is part of the format.
constexpr float NF4_VALUES[16] = {
    -1.0f,        -0.69619280f, -0.52507305f, -0.39491749f, -0.28444138f, -0.18477343f, -0.09105004f, 0.0f,
    0.07958030f,  0.16093020f,  0.24611230f,  0.33791524f,  0.44070983f,  0.56261700f,  0.72295684f,  1.0f,
};

void nf4(const uint8_t* row, int64_t from, int64_t count, float* out) {
    constexpr int64_t SIZE = 64, BYTES = 33;
    float scale;
    std::memcpy(&scale, row, sizeof scale);
    const uint8_t* in = row + sizeof scale + from / SIZE * BYTES;
    for (int64_t at = 0; at < count; at += SIZE, in += BYTES) {
        const float largest = scale * float(in[0]);
        for (int i = 0; i < 32; i++) out[at + i] = largest * NF4_VALUES[in[1 + i] & 15];
        for (int i = 0; i < 32; i++) out[at + 32 + i] = largest * NF4_VALUES[in[1 + i] >> 4];
    }
}

template <class Block>
constexpr Kind kind{Block::SIZE, Block::BYTES, blocks<Block>};

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
        each_run(kind, row, first, columns, [&](int64_t at, int64_t run, const float* line) {
            for (int64_t j = 0; j < run; j++) out[i * columns + at + j] = narrow<T>(line[j]);
        });
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
        case PACKED_BF16: return {1, 2, plain<bf16>};
        case PACKED_F16: return {1, 2, plain<fp16>};
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
        case NF4: return {64, 33, nf4};
        default: return {1, 4, plain<float>};
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
