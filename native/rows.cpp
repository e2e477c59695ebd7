// Operators that treat each row of a packed batch by itself: RMSNorm, rotary embedding, the gated activations.
//
// Values are read in their own type, computed in fp32 and rounded once when they are written.
#include "rows.h"

using namespace kameleon;

namespace {

template <class X, class Y>
void rms_norm(const X* x, const float* weight, float eps, int64_t rows, int64_t size, Y* y) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++) rms_norm_row(x + row * size, weight, eps, size, y + row * size);
}

// With n = x · scale and g = dy · weight: dx = scale · (g − n · mean(g · n)).
template <class X, class Y>
void rms_norm_back(const X* x, const float* weight, float eps, const Y* dy, int64_t rows, int64_t size, X* dx) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const X* in = x + row * size;
        const Y* grad = dy + row * size;
        X* out = dx + row * size;
        const float scale = inverse_rms(in, size, eps);
        float shift = 0;
#pragma omp simd reduction(+ : shift)
        for (int64_t i = 0; i < size; i++) shift += widen(grad[i]) * weight[i] * widen(in[i]);
        shift *= scale * scale / float(size);
#pragma omp simd
        for (int64_t i = 0; i < size; i++)
            out[i] = narrow<X>(scale * (widen(grad[i]) * weight[i] - widen(in[i]) * shift));
    }
}

template <class T>
void rope(T* x, const float* cos, const float* sin, float direction, int64_t tokens, int64_t stride, int64_t heads,
          int64_t half) {
#pragma omp parallel for schedule(static)
    for (int64_t token = 0; token < tokens; token++)
        rope_row(x + token * stride, cos + token * half, sin + token * half, direction, heads, half);
}

template <class Of, class T>
void gated(const T* gate_up, int64_t rows, int64_t size, T* y) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++) gated_row<Of>(gate_up + row * 2 * size, size, y + row * size);
}

template <class Of, class T>
void gated_back(const T* gate_up, const T* dy, int64_t rows, int64_t size, T* d_gate_up) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const T *gate = gate_up + row * 2 * size, *up = gate + size, *grad = dy + row * size;
        T *d_gate = d_gate_up + row * 2 * size, *d_up = d_gate + size;
#pragma omp simd
        for (int64_t i = 0; i < size; i++) {
            const float g = widen(gate[i]), d = widen(grad[i]), s = sigmoid<Of>(g);
            d_gate[i] = narrow<T>(d * widen(up[i]) * s * (1.0f + g * (1.0f - s) * Of::slope(g)));
            d_up[i] = narrow<T>(d * g * s);
        }
    }
}

}  // namespace

void kameleon_rms_norm(int64_t type, const void* x, const float* weight, float eps, int64_t rows, int64_t size,
                       int64_t y_type, void* y) {
    const auto from = [&](const auto* in) { FOR_TYPE(y_type, rms_norm(in, weight, eps, rows, size, (T*)y)); };
    FOR_TYPE(type, from((const T*)x));
}

void kameleon_rms_norm_back(int64_t type, const void* x, const float* weight, float eps, int64_t y_type, const void* dy,
                            int64_t rows, int64_t size, void* dx) {
    const auto to = [&](const auto* in, auto* out) {
        FOR_TYPE(y_type, rms_norm_back(in, weight, eps, (const T*)dy, rows, size, out));
    };
    FOR_TYPE(type, to((const T*)x, (T*)dx));
}

void kameleon_rope(int64_t type, void* x, const float* cos, const float* sin, float direction, int64_t tokens,
                   int64_t stride, int64_t heads, int64_t half) {
    FOR_TYPE(type, rope((T*)x, cos, sin, direction, tokens, stride, heads, half));
}

void kameleon_gated(int64_t type, int64_t activation, const void* gate_up, int64_t rows, int64_t size, void* y) {
    if (activation == GELU_TANH)
        FOR_TYPE(type, (gated<GeluTanh>((const T*)gate_up, rows, size, (T*)y)));
    else
        FOR_TYPE(type, (gated<Silu>((const T*)gate_up, rows, size, (T*)y)));
}

void kameleon_gated_back(int64_t type, int64_t activation, const void* gate_up, const void* dy, int64_t rows,
                         int64_t size, void* d_gate_up) {
    if (activation == GELU_TANH)
        FOR_TYPE(type, (gated_back<GeluTanh>((const T*)gate_up, (const T*)dy, rows, size, (T*)d_gate_up)));
    else
        FOR_TYPE(type, (gated_back<Silu>((const T*)gate_up, (const T*)dy, rows, size, (T*)d_gate_up)));
}
