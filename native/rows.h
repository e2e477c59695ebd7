// What treats each row of a packed batch by itself, for one row: see rows.cpp.
#pragma once

#include "api.h"
#include "simd.h"

namespace kameleon {

template <class T>
inline float inverse_rms(const T* x, int64_t size, float eps) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < size; i++) sum += widen(x[i]) * widen(x[i]);
    return 1.0f / std::sqrt(sum / float(size) + eps);
}

template <class From, class To>
inline void rms_norm_row(const From* in, const float* weight, float eps, int64_t size, To* out) {
    const float scale = inverse_rms(in, size, eps);
#pragma omp simd
    for (int64_t i = 0; i < size; i++) out[i] = narrow<To>(widen(in[i]) * scale * weight[i]);
}

// `heads` heads of one token, with the token's cos and sin.
template <class T>
inline void rope_row(T* x, const float* cos, const float* sin, float direction, int64_t heads, int64_t half) {
    for (int64_t head = 0; head < heads; head++) {
        T *first = x + head * 2 * half, *second = first + half;
#pragma omp simd
        for (int64_t i = 0; i < half; i++) {
            const float a = widen(first[i]), b = widen(second[i]), turn = direction * sin[i];
            first[i] = narrow<T>(a * cos[i] - b * turn);
            second[i] = narrow<T>(b * cos[i] + a * turn);
        }
    }
}

// Both activations are g · sigmoid(z(g)) for a z of their own.
struct Silu {
    static float z(float g) { return g; }
    static float slope(float) { return 1.0f; }
};
struct GeluTanh {  // 0.5 · g · (1 + tanh(u)) = g · sigmoid(2u), u = sqrt(2/π) · (g + 0.044715 · g³)
    static float z(float g) { return 1.59576912160573f * (g + 0.044715f * g * g * g); }
    static float slope(float g) { return 1.59576912160573f * (1.0f + 0.134145f * g * g); }
};

template <class Of>
inline float sigmoid(float g) {
    return 1.0f / (1.0f + fast_exp(-Of::z(g)));
}

template <class Of, class T>
inline void gated_row(const T* gate, int64_t size, T* out) {
    const T* up = gate + size;
#pragma omp simd
    for (int64_t i = 0; i < size; i++) {
        const float g = widen(gate[i]);
        out[i] = narrow<T>(g * sigmoid<Of>(g) * widen(up[i]));
    }
}

}  // namespace kameleon
