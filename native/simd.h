// What every kernel shares: vector width of this build, loads and stores of fp32 and bf16, exp.
//
// The same sources are compiled once per CPU level (see build.py); the width follows from the compiler's flags.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>
#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace kameleon {

// A micro-tile of the matrix product is MR rows by NV vectors: as many accumulators as fit the registers.
#if defined(__AVX512F__)
constexpr int LANES = 16, MR = 12, NV = 2;
#elif defined(__AVX2__)
constexpr int LANES = 8, MR = 6, NV = 2;
#elif defined(__aarch64__)
constexpr int LANES = 4, MR = 6, NV = 4;
#else
constexpr int LANES = 4, MR = 3, NV = 4;
#endif
constexpr int NR = LANES * NV;

typedef float vec __attribute__((vector_size(LANES * sizeof(float))));
typedef uint32_t vec_bits __attribute__((vector_size(LANES * sizeof(float))));

inline vec load(const float* p) {
    vec v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
inline void store(float* p, vec v) { std::memcpy(p, &v, sizeof v); }
inline vec splat(float x) { return x - vec{}; }  // x − 0 is x, also for −0

// `of` over all lanes, far ones first.
template <int APART, int... LANE>
inline vec swapped(vec v, std::integer_sequence<int, LANE...>) {
    return __builtin_shufflevector(v, v, (LANE ^ APART)...);
}
template <int APART = LANES / 2, class Of>
inline float over_lanes(vec v, Of of) {
    if constexpr (APART == 0)
        return v[0];
    else
        return over_lanes<APART / 2>(of(v, swapped<APART>(v, std::make_integer_sequence<int, LANES>())), of);
}
inline vec larger(vec a, vec b) { return a > b ? a : b; }
inline vec total(vec a, vec b) { return a + b; }

// bf16 is the upper half of an fp32.
struct bf16 {
    uint16_t bits;
};

inline float widen(float x) { return x; }
inline float widen(bf16 x) {
    uint32_t bits = uint32_t(x.bits) << 16;
    float wide;
    std::memcpy(&wide, &bits, sizeof wide);
    return wide;
}

// fp16: 5 bits of exponent, 10 of fraction. Shifted into fp32's places the exponent is 112 too small; subnormal numbers
// come out right because the multiplication is exact.
struct fp16 {
    uint16_t bits;
};
inline float widen(fp16 x) {
#ifdef __F16C__
    return _cvtsh_ss(x.bits);
#else
    const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, rest = uint32_t(x.bits & 0x7fff);
    uint32_t bits = rest << 13;
    float wide;
    std::memcpy(&wide, &bits, sizeof wide);
    wide *= 0x1p112f;
    std::memcpy(&bits, &wide, sizeof bits);
    bits |= rest >= 0x7c00 ? 0x7f800000u | sign : sign;  // infinity and NaN
    std::memcpy(&wide, &bits, sizeof wide);
    return wide;
#endif
}

template <class T>
inline T narrow(float x);
template <>
inline float narrow<float>(float x) {
    return x;
}
template <>
inline bf16 narrow<bf16>(float x) {  // to nearest, ties to even, as torch rounds; NaN stays NaN
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return bf16{uint16_t(x == x ? rounded : 0x7fc0)};
}

template <class To, class From>
inline To convert(From x) {
    if constexpr (std::is_same_v<To, From>)
        return x;
    else
        return narrow<To>(widen(x));
}

// Small whole numbers, LANES of them, from bytes.
typedef int32_t ints __attribute__((vector_size(LANES * sizeof(int32_t))));

inline vec floats(ints x) { return __builtin_convertvector(x, vec); }
#if defined(__AVX512F__)
inline ints bytes(const uint8_t* p) { return (ints)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)); }
inline ints signed_bytes(const uint8_t* p) { return (ints)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)); }
#elif defined(__AVX2__)
inline ints bytes(const uint8_t* p) { return (ints)_mm256_cvtepu8_epi32(_mm_loadu_si64(p)); }
inline ints signed_bytes(const uint8_t* p) { return (ints)_mm256_cvtepi8_epi32(_mm_loadu_si64(p)); }
#else
inline ints bytes(const uint8_t* p) { return ints{p[0], p[1], p[2], p[3]}; }
inline ints signed_bytes(const uint8_t* p) { return ints{int8_t(p[0]), int8_t(p[1]), int8_t(p[2]), int8_t(p[3])}; }
#endif
inline ints lane_numbers() {
    ints numbers;
    for (int lane = 0; lane < LANES; lane++) numbers[lane] = lane;
    return numbers;
}

// table[i] for each lane, i from 0 to 15.
inline vec of_16(const float* table, ints i) {
#if defined(__AVX512F__)
    return (vec)_mm512_permutexvar_ps((__m512i)i, _mm512_loadu_ps(table));
#elif defined(__AVX2__)
    const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), (__m256i)i);
    const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), (__m256i)i);
    return (vec)_mm256_blendv_ps(low, high, (__m256)(i << 28));  // by the sign: i ≥ 8
#else
    vec found;
    for (int lane = 0; lane < LANES; lane++) found[lane] = table[i[lane]];
    return found;
#endif
}

// Two vectors of numbers, rounded if need be.
inline void store(float* p, vec first, vec second) {
    store(p, first);
    store(p + LANES, second);
}
#ifdef __AVX512BF16__
inline void store(bf16* p, vec first, vec second) {
    _mm512_storeu_si512(p, (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first));
}
#else
inline vec_bits narrow_lanes(vec x) {  // as `narrow`
    const vec_bits bits = (vec_bits)x;
    return x == x ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : vec_bits{} + 0x7fc0;
}
inline void store(bf16* p, vec first, vec second) {
    const vec_bits low = narrow_lanes(first), high = narrow_lanes(second);
#if defined(__AVX512F__)
    _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16((__m512i)low));
    _mm256_storeu_si256((__m256i*)p + 1, _mm512_cvtepi32_epi16((__m512i)high));
#elif defined(__AVX2__)
    const __m256i both = _mm256_packus_epi32((__m256i)low, (__m256i)high);  // halves of both by turns
    _mm256_storeu_si256((__m256i*)p, _mm256_permute4x64_epi64(both, 0xd8));
#else
    for (int lane = 0; lane < LANES; lane++) {
        p[lane].bits = uint16_t(low[lane]);
        p[LANES + lane].bits = uint16_t(high[lane]);
    }
#endif
}
#endif

template <class V>
using BitsOf = std::conditional_t<std::is_same_v<V, vec>, vec_bits, uint32_t>;

// e^x to about 2 units in the last place, of a float or of each lane of a vec, without branches so that loops over it become
// vectors. x is clamped to what fp32 can hold; NaN stays NaN. A call of it would keep the loop around it scalar.
template <class V>
__attribute__((always_inline)) inline V fast_exp(V x) {
    const V least = V{} - 87.0f, most = V{} + 88.0f;
    x = x < least ? least : x;
    x = x > most ? most : x;
    const float magic = 12582912.0f;  // 1.5 · 2^23: adding it rounds to a whole number in the low bits
    V shifted = x * 1.44269504088896341f + magic;
    V n = shifted - magic;
    V r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    V p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    BitsOf<V> exponent, bits;
    std::memcpy(&exponent, &shifted, sizeof exponent);
    std::memcpy(&bits, &p, sizeof bits);
    bits += exponent << 23;  // the magic number's own bits leave at the top
    std::memcpy(&p, &bits, sizeof p);
    return p;
}

// What the inner loop of a product takes at once along k, four bytes wide: one fp32 number, or, where the CPU has units
// for them, two bf16 numbers. `Number` is what a left side holds, `Cell` what a panel of a right side holds.
struct Ones {
    typedef float Number;
    typedef float Cell;
    typedef vec Lanes;
    static constexpr int64_t STEP = 1;

    // Cells of two lines side by side (the second is not looked at), and of one line whose numbers follow each other.
    // Whole vectors are read and written. Lines are fp32, or already numbers.
    static void across(const float* first, const float*, int64_t count, Cell* out) { along(first, count, out); }
    static void along(const float* line, int64_t count, Cell* out) {
        for (int64_t i = 0; i < count; i += LANES) store(out + i, kameleon::load(line + i));
    }
    static Lanes load(const Cell* p) { return kameleon::load(p); }
    static Lanes splat(const Number* p) { return kameleon::splat(*p); }
    static vec add_product(vec sum, Lanes left, Lanes right) { return sum + left * right; }
};

#ifdef __AVX512BF16__
struct Twos {
    typedef bf16 Number;
    typedef uint32_t Cell;  // the earlier number in the lower half
    typedef __m512i Lanes;
    static constexpr int64_t STEP = 2;

    static void across(const float* first, const float* second, int64_t count, Cell* out) {
        for (int64_t i = 0; i < count; i += LANES) {
            const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)kameleon::load(first + i)));
            const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)kameleon::load(second + i)));
            _mm512_storeu_si512(out + i, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
        }
    }
    static void across(const bf16* first, const bf16* second, int64_t count, Cell* out) {
        for (int64_t i = 0; i < count; i += LANES) {
            const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(first + i)));
            const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(second + i)));
            _mm512_storeu_si512(out + i, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
        }
    }
    static void along(const float* line, int64_t count, Cell* out) {
        for (int64_t i = 0; i < count; i += LANES) {
            const vec first = kameleon::load(line + 2 * i), second = kameleon::load(line + 2 * i + LANES);
            _mm512_storeu_si512(out + i, (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first));
        }
    }
    static Lanes load(const Cell* p) { return _mm512_loadu_si512(p); }
    static Lanes splat(const Number* p) {
        int both;
        std::memcpy(&both, p, sizeof both);
        return _mm512_set1_epi32(both);
    }
    static vec add_product(vec sum, Lanes left, Lanes right) {
        return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)left, (__m512bh)right);
    }
};
typedef Twos Bf16Steps;  // how products of bf16 are computed at this CPU level
#else
typedef Ones Bf16Steps;
#endif

// Products whose two sides both lie in memory in their own type, as in generation: a lane is one fp32 number, or a pair of
// neighbouring bf16 numbers, multiplied pair by pair and added up in fp32.
template <class T>
struct Lines : Ones {};

#ifdef __AVX512BF16__
template <>
struct Lines<bf16> : Twos {
    static Lanes load(const bf16* p) { return _mm512_loadu_si512(p); }
};
#else
template <>
struct Lines<bf16> {
    typedef uint32_t Lanes __attribute__((vector_size(LANES * sizeof(uint32_t))));
    static constexpr int64_t STEP = 2;

    static Lanes load(const bf16* p) {
        Lanes v;
        std::memcpy(&v, p, sizeof v);
        return v;
    }
    static Lanes splat(const bf16* p) {
        uint32_t both;
        std::memcpy(&both, p, sizeof both);
        return both - Lanes{};
    }
    static vec add_product(vec sum, Lanes left, Lanes right) {
        const Lanes high = Lanes{} + 0xffff0000u;
        sum += (vec)(left << 16) * (vec)(right << 16);
        return sum + (vec)(left & high) * (vec)(right & high);
    }
};
#endif

// A square of LANES rows turned: pairs of rows exchange halves, quarters, … (Eklundh, 1972).
template <int APART, int... LANE>
inline void exchange(vec& a, vec& b, std::integer_sequence<int, LANE...>) {
    const vec low = __builtin_shufflevector(a, b, (LANE & APART ? LANES + LANE - APART : LANE)...);
    b = __builtin_shufflevector(a, b, (LANE & APART ? LANES + LANE : LANE + APART)...);
    a = low;
}
// Sums of neighbouring lanes: where lane & APART is zero those of a, elsewhere those of b.
template <int APART>
inline vec fold(vec a, vec b) {
    exchange<APART>(a, b, std::make_integer_sequence<int, LANES>());
    return a + b;
}
template <int APART = 1>
inline void turn(vec* rows) {
    if constexpr (APART < LANES) {
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
            if (!(i & APART)) exchange<APART>(rows[i], rows[i + APART], std::make_integer_sequence<int, LANES>());
        turn<2 * APART>(rows);
    }
}

// out[p · NR + j] = in[j · in_row + p] for p < count and j < NR: columns of a right side become a panel.
template <class Cell>
inline void transpose_to_panel(const Cell* in, int64_t in_row, int64_t count, Cell* out) {
    static_assert(sizeof(Cell) == sizeof(float));
    int64_t p = 0;
    for (; p + LANES <= count; p += LANES)
        for (int64_t j = 0; j < NR; j += LANES) {
            vec rows[LANES];
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++) std::memcpy(&rows[i], in + (j + i) * in_row + p, sizeof(vec));
            turn(rows);
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++) std::memcpy(out + (p + i) * NR + j, &rows[i], sizeof(vec));
        }
    for (; p < count; p++)
        for (int64_t j = 0; j < NR; j++) out[p * NR + j] = in[j * in_row + p];
}

// Runs `call` with T as the element type that Python named (see api.h).
#define FOR_TYPE(type, call) \
    do {                     \
        if (type) {          \
            using T = bf16;  \
            call;            \
        } else {             \
            using T = float; \
            call;            \
        }                    \
    } while (0)

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Memory that grows and is kept from call to call: kernels run thousands of times on the same sizes.
class Workspace {
  public:
    ~Workspace() { std::free(data_); }
    template <class T>
    T* take(int64_t count) {
        const int64_t bytes = count * int64_t(sizeof(T));
        if (bytes > bytes_) {
            std::free(data_);
            data_ = std::aligned_alloc(64, size_t(ceil_div(bytes, 64)) * 64);
            bytes_ = bytes;
        }
        return static_cast<T*>(data_);
    }

  private:
    void* data_ = nullptr;
    int64_t bytes_ = 0;
};

}  // namespace kameleon
