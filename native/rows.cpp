// Operators that treat each row of a packed batch by itself: RMSNorm, rotary embedding, the gated activations.
//
// Values are read in their own type, computed in fp32 and rounded once when they are written.
#include "api.h"
#include "simd.h"

using namespace kameleon;

namespace {

template <class T>
float inverse_rms(const T* x, int64_t size, float eps) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < size; i++) sum += widen(x[i]) * widen(x[i]);
    return 1.0f / std::sqrt(sum / float(size) + eps);
}

template <class T>
void rms_norm(const T* x, const T* weight, float eps, int64_t rows, int64_t size, T* y) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const T* in = x + row * size;
        T* out = y + row * size;
        const float scale = inverse_rms(in, size, eps);
#pragma omp simd
        for (int64_t i = 0; i < size; i++) out[i] = narrow<T>(widen(in[i]) * scale * widen(weight[i]));
    }
}

// With n = x · scale and g = dy · weight: dx = scale · (g − n · mean(g · n)).
template <class T>
void rms_norm_back(const T* x, const T* weight, float eps, const T* dy, int64_t rows, int64_t size, T* dx) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const T *in = x + row * size, *grad = dy + row * size;
        T* out = dx + row * size;
        const float scale = inverse_rms(in, size, eps);
        float shift = 0;
#pragma omp simd reduction(+ : shift)
        for (int64_t i = 0; i < size; i++) shift += widen(grad[i]) * widen(weight[i]) * widen(in[i]);
        shift *= scale * scale / float(size);
#pragma omp simd
        for (int64_t i = 0; i < size; i++)
            out[i] = narrow<T>(scale * (widen(grad[i]) * widen(weight[i]) - widen(in[i]) * shift));
    }
}

template <class T>
void rope(T* x, const float* cos, const float* sin, float direction, int64_t tokens, int64_t stride, int64_t heads,
          int64_t half) {
#pragma omp parallel for schedule(static)
    for (int64_t token = 0; token < tokens; token++) {
        const float *c = cos + token * half, *s = sin + token * half;
        for (int64_t head = 0; head < heads; head++) {
            T *first = x + token * stride + head * 2 * half, *second = first + half;
#pragma omp simd
            for (int64_t i = 0; i < half; i++) {
                const float a = widen(first[i]), b = widen(second[i]), turn = direction * s[i];
                first[i] = narrow<T>(a * c[i] - b * turn);
                second[i] = narrow<T>(b * c[i] + a * turn);
            }
        }
    }
}

template <class T>
void swiglu(const T* gate_up, int64_t rows, int64_t size, T* y) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const T *gate = gate_up + row * 2 * size, *up = gate + size;
        T* out = y + row * size;
#pragma omp simd
        for (int64_t i = 0; i < size; i++) {
            const float g = widen(gate[i]);
            out[i] = narrow<T>(g / (1.0f + fast_exp(-g)) * widen(up[i]));
        }
    }
}

template <class T>
void swiglu_back(const T* gate_up, const T* dy, int64_t rows, int64_t size, T* d_gate_up) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const T *gate = gate_up + row * 2 * size, *up = gate + size, *grad = dy + row * size;
        T *d_gate = d_gate_up + row * 2 * size, *d_up = d_gate + size;
#pragma omp simd
        for (int64_t i = 0; i < size; i++) {
            const float g = widen(gate[i]), d = widen(grad[i]), s = 1.0f / (1.0f + fast_exp(-g));
            d_gate[i] = narrow<T>(d * widen(up[i]) * s * (1.0f + g * (1.0f - s)));
            d_up[i] = narrow<T>(d * g * s);
        }
    }
}

}  // namespace

void kameleon_rms_norm(int64_t type, const void* x, const void* weight, float eps, int64_t rows, int64_t size,
                       void* y) {
    FOR_TYPE(type, rms_norm((const T*)x, (const T*)weight, eps, rows, size, (T*)y));
}

void kameleon_rms_norm_back(int64_t type, const void* x, const void* weight, float eps, const void* dy, int64_t rows,
                            int64_t size, void* dx) {
    FOR_TYPE(type, rms_norm_back((const T*)x, (const T*)weight, eps, (const T*)dy, rows, size, (T*)dx));
}

void kameleon_rope(int64_t type, void* x, const float* cos, const float* sin, float direction, int64_t tokens,
                   int64_t stride, int64_t heads, int64_t half) {
    FOR_TYPE(type, rope((T*)x, cos, sin, direction, tokens, stride, heads, half));
}

void kameleon_swiglu(int64_t type, const void* gate_up, int64_t rows, int64_t size, void* y) {
    FOR_TYPE(type, swiglu((const T*)gate_up, rows, size, (T*)y));
}

void kameleon_swiglu_back(int64_t type, const void* gate_up, const void* dy, int64_t rows, int64_t size,
                          void* d_gate_up) {
    FOR_TYPE(type, swiglu_back((const T*)gate_up, (const T*)dy, rows, size, (T*)d_gate_up));
}
