// What every kernel shares: vector width of this build, loads and stores of fp32 and bf16, exp.
//
// The same sources are compiled once per CPU level (see build.py); the width follows from the compiler's flags.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

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

inline vec load(const float* p) {
    vec v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
inline void store(float* p, vec v) { std::memcpy(p, &v, sizeof v); }
inline vec splat(float x) { return x - vec{}; }  // x − 0 is x, also for −0

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

// e^x to about 2 units in the last place, without branches so that loops over it become vectors.
// x is clamped to what fp32 can hold; NaN stays NaN.
inline float fast_exp(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    const float magic = 12582912.0f;  // 1.5 · 2^23: adding it rounds to a whole number in the low bits
    float shifted = x * 1.44269504088896341f + magic;
    float n = shifted - magic;
    float r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t exponent;
    std::memcpy(&exponent, &shifted, sizeof exponent);
    uint32_t bits;
    std::memcpy(&bits, &p, sizeof bits);
    bits += uint32_t(exponent) << 23;  // the magic number's own bits leave at the top
    std::memcpy(&p, &bits, sizeof p);
    return p;
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
    float* take(int64_t floats) {
        if (floats > size_) {
            std::free(data_);
            data_ = static_cast<float*>(std::aligned_alloc(64, size_t(ceil_div(floats, 16)) * 64));
            size_ = floats;
        }
        return data_;
    }

  private:
    float* data_ = nullptr;
    int64_t size_ = 0;
};

}  // namespace kameleon
