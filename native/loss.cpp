// Softmax cross-entropy of a chunk of logits, loss and gradient together, and AdamW.
#include <algorithm>
#include <cstring>
#include <vector>

#include "api.h"
#include "simd.h"

using namespace kameleon;

namespace {

constexpr int64_t PIECE = 1024;  // numbers of a row at a time, from logits to gradient

template <class T, class G>
void cross_entropy(T* logits, const int64_t* labels, int64_t rows, int64_t vocab, bool gradient, double* losses) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        T* at = logits + row * vocab;
        float top = -INFINITY, sum = 0;
#pragma omp simd reduction(max : top)
        for (int64_t i = 0; i < vocab; i++) top = widen(at[i]) > top ? widen(at[i]) : top;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < vocab; i++) sum += fast_exp(widen(at[i]) - top);
        const float total = top + std::log(sum);
        const int64_t label = labels[row];
        losses[row] = double(total) - double(widen(at[label]));
        for (int64_t from = 0; gradient && from < vocab; from += PIECE) {
            // Whole pieces are read before they are written: a narrower gradient lies over logits already used.
            const int64_t count = std::min(PIECE, vocab - from);
            float wide[PIECE];
            G narrowed[PIECE];
#pragma omp simd
            for (int64_t i = 0; i < count; i++) wide[i] = fast_exp(widen(at[from + i]) - total);
            if (label >= from && label < from + count) wide[label - from] -= 1.0f;
#pragma omp simd
            for (int64_t i = 0; i < count; i++) narrowed[i] = narrow<G>(wide[i]);
            std::memcpy(reinterpret_cast<char*>(at) + from * int64_t(sizeof(G)), narrowed, size_t(count) * sizeof(G));
        }
    }
}

constexpr int64_t BLOCK = 1 << 14;  // sums are taken block by block, so that they do not depend on threads

double norm(const float* x, int64_t size) {
    std::vector<double> squares(size_t(ceil_div(size, BLOCK)), 0.0);
#pragma omp parallel for schedule(static)
    for (int64_t from = 0; from < size; from += BLOCK) {
        const int64_t until = from + BLOCK < size ? from + BLOCK : size;
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = from; i < until; i++) sum += double(x[i]) * double(x[i]);
        squares[size_t(from / BLOCK)] = sum;
    }
    double sum = 0;
    for (double one : squares) sum += one;
    return std::sqrt(sum);
}

}  // namespace

void kameleon_cross_entropy(int64_t type, void* logits, const int64_t* labels, int64_t rows, int64_t vocab,
                            int64_t gradient, int64_t gradient_type, double* losses) {
    const auto wide = [&](auto number) {
        cross_entropy<float, decltype(number)>((float*)logits, labels, rows, vocab, bool(gradient), losses);
    };
    if (type)
        cross_entropy<bf16, bf16>((bf16*)logits, labels, rows, vocab, bool(gradient), losses);
    else
        gradient_type ? wide(bf16{}) : wide(0.0f);
}

double kameleon_adamw(float* parameters, const float* gradients, float* mean, float* square, int64_t size,
                      double divisor, double clip_norm, double learning_rate, double beta1, double beta2, double eps,
                      double weight_decay, int64_t step) {
    const double length = norm(gradients, size) / divisor;
    if (!std::isfinite(length)) return length;
    const float scale = float((length > clip_norm ? clip_norm / length : 1.0) / divisor);
    const float keep = float(1.0 - learning_rate * weight_decay), b1 = float(beta1), b2 = float(beta2);
    const float rate = float(learning_rate / (1.0 - std::pow(beta1, double(step))));
    const float unbias = float(1.0 / std::sqrt(1.0 - std::pow(beta2, double(step)))), tiny = float(eps);
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < size; i++) {
        const float g = gradients[i] * scale;
        mean[i] = b1 * mean[i] + (1.0f - b1) * g;
        square[i] = b2 * square[i] + (1.0f - b2) * g * g;
        parameters[i] = parameters[i] * keep - rate * mean[i] / (std::sqrt(square[i]) * unbias + tiny);
    }
    return length;
}
