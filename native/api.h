// The C interface that Python calls through ctypes. Types: 0 is fp32, 1 is bf16. All counts and strides are in elements.
#pragma once

#include <cstdint>

extern "C" {

// One summand scale · A[m, k] · B[k, last − first] of a product, with any strides, for those columns of C.
struct Term {
    const void* a;
    int64_t a_row, a_col, a_type;
    const void* b;
    int64_t b_row, b_col, b_type;
    int64_t k, first_column, last_column;
    float scale;
};

// C[m, n] = Σ terms, added to what C holds if `accumulate`.
void kameleon_gemm(const Term* terms, int64_t count, int64_t m, int64_t n, int64_t c_type, void* c, int64_t c_row,
                   int64_t accumulate);

// y = weight · x / sqrt(mean(x²) + eps), each row of `size`.
void kameleon_rms_norm(int64_t type, const void* x, const void* weight, float eps, int64_t rows, int64_t size,
                       void* y);
void kameleon_rms_norm_back(int64_t type, const void* x, const void* weight, float eps, const void* dy, int64_t rows,
                            int64_t size, void* dx);

// Turns the pairs (x[i], x[i + half]) of the first `heads` heads of each token in place; direction 1 or −1.
// cos and sin [tokens, half] are fp32.
void kameleon_rope(int64_t type, void* x, const float* cos, const float* sin, float direction, int64_t tokens,
                   int64_t stride, int64_t heads, int64_t half);

// y = silu(gate) · up, gate and up side by side in rows of 2 · size.
void kameleon_swiglu(int64_t type, const void* gate_up, int64_t rows, int64_t size, void* y);
void kameleon_swiglu_back(int64_t type, const void* gate_up, const void* dy, int64_t rows, int64_t size,
                          void* d_gate_up);

// Cross-entropy of logits [rows, vocab] in place: returns Σ logsumexp − logits[label]; with `gradient`, the logits
// become softmax − onehot(label).
double kameleon_cross_entropy(int64_t type, void* logits, const int64_t* labels, int64_t rows, int64_t vocab,
                              int64_t gradient);

// One AdamW step (Loshchilov and Hutter, 2019) on a flat fp32 vector: gradients are first divided by `divisor`, then
// scaled down to `clip_norm` if their norm is larger. Returns the norm before clipping; nothing moves if it is not finite.
double kameleon_adamw(float* parameters, const float* gradients, float* mean, float* square, int64_t size,
                      double divisor, double clip_norm, double learning_rate, double beta1, double beta2, double eps,
                      double weight_decay, int64_t step);

// Shapes of one attention call. q, k and v lie in rows of `stride` elements a token (one buffer may hold all three), each
// head's head_dim (at most 512) next to each other; gradients lie alike. `out` and `d_out` are [tokens, heads, head_dim],
// log_sum_exp [heads, tokens] fp32. lengths and parents: per segment; a parent comes earlier, −1 is none.
struct Attention {
    int64_t segments;
    const int64_t *lengths, *parents;
    int64_t heads, kv_heads, head_dim, stride;
};

void kameleon_attention(int64_t type, const Attention* in, const void* q, const void* k, const void* v, void* out,
                        float* log_sum_exp);
void kameleon_attention_back(int64_t type, const Attention* in, const void* q, const void* k, const void* v,
                             const void* out, const float* log_sum_exp, const void* d_out, void* dq, void* dk,
                             void* dv);

// Blocks freed by this process stay with it (glibc): fetching fresh pages from the system in every step costs more
// than the kernels save.
void kameleon_keep_memory();
}
