// The C interface that Python calls through ctypes. Numbers are fp32 or bf16; stored matrices also of the types from
// FIRST_PACKED on, by ggml's names. Counts and strides are in elements, of stored matrices in bytes.
#pragma once

#include <cstdint>

extern "C" {

// Raise it with every change of a signature or of a structure's fields, here and in ops/native/abi.py.
constexpr int64_t ABI_VERSION = 2;

// "name=number;…": the version, the size of each structure, the code of each type, the constants.
const char* kameleon_abi(void);

enum Type {
    FP32, BF16,
    FIRST_PACKED,
    PACKED_F32 = FIRST_PACKED, PACKED_BF16, PACKED_F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K,
    NF4
};

// One summand scale · A[m, k] · B[k, last − first] of a product, with any strides, for those columns of C. Of a packed B
// b_row is the bytes of a stored row, and b_col says what such a row is: 1 a row of B, 0 a column; `half` as in Stored.
struct Term {
    const void* a;
    int64_t a_row, a_col, a_type;
    const void* b;
    int64_t b_row, b_col, b_type;
    int64_t k, first_column, last_column, half;
    float scale;
};

// A matrix as a file holds it: rows of `row_bytes`, reordered inside heads if `half` (see packed.h).
struct Stored {
    const uint8_t* data;
    int64_t type, row_bytes, half;
};

// Numbers first … first + columns (whole blocks) of the rows `ids` (null: the first `rows`) to out [rows, columns].
void kameleon_unpack(const Stored* in, const int64_t* ids, int64_t rows, int64_t first, int64_t columns,
                     int64_t out_type, void* out);

// y [rows, size] = x [rows, columns] · Wᵀ for at most MAX_FEW_ROWS rows, x and y of type `type`: W [size, columns] is
// read once and never unpacked as a whole.
constexpr int64_t MAX_FEW_ROWS = 8;
void kameleon_few_rows(const Stored* in, int64_t type, const void* x, int64_t x_row, int64_t rows, int64_t columns,
                       int64_t size, void* y, int64_t y_row);

// C[m, n] = start + Σ terms; `start` [m, n] may be C itself, or null for zeros.
void kameleon_gemm(const Term* terms, int64_t count, int64_t m, int64_t n, int64_t c_type, void* c, int64_t c_row,
                   int64_t start_type, const void* start, int64_t start_row);

// y = weight · x / sqrt(mean(x²) + eps), each row of `size`; the weight is fp32, x and dx of `type`, y and dy of `y_type`.
void kameleon_rms_norm(int64_t type, const void* x, const float* weight, float eps, int64_t rows, int64_t size,
                       int64_t y_type, void* y);
void kameleon_rms_norm_back(int64_t type, const void* x, const float* weight, float eps, int64_t y_type, const void* dy,
                            int64_t rows, int64_t size, void* dx);

// Turns the pairs (x[i], x[i + half]) of the first `heads` heads of each token in place; direction 1 or −1.
// cos and sin [tokens, half] are fp32.
void kameleon_rope(int64_t type, void* x, const float* cos, const float* sin, float direction, int64_t tokens,
                   int64_t stride, int64_t heads, int64_t half);

// y = activation(gate) · up, gate and up side by side in rows of 2 · size.
enum Activation { SILU, GELU_TANH };
void kameleon_gated(int64_t type, int64_t activation, const void* gate_up, int64_t rows, int64_t size, void* y);
void kameleon_gated_back(int64_t type, int64_t activation, const void* gate_up, const void* dy, int64_t rows,
                         int64_t size, void* d_gate_up);

// Cross-entropy of logits [rows, vocab]: losses[row] = logsumexp − logits[label]. With `gradient`, each row becomes
// softmax − onehot(label) in `gradient_type`, no wider than the logits, from where the row begins.
void kameleon_cross_entropy(int64_t type, void* logits, const int64_t* labels, int64_t rows, int64_t vocab,
                            int64_t gradient, int64_t gradient_type, double* losses);

// One AdamW step (Loshchilov and Hutter, 2019) on a flat fp32 vector: gradients are first divided by `divisor`, then
// scaled down to `clip_norm` if their norm is larger. Returns the norm before clipping; nothing moves if it is not finite.
double kameleon_adamw(float* parameters, const float* gradients, float* mean, float* square, int64_t size,
                      double divisor, double clip_norm, double learning_rate, double beta1, double beta2, double eps,
                      double weight_decay, int64_t step);

// Shapes of one attention call. q, k and v lie in rows of `stride` elements a token (one buffer may hold all three), each
// head's head_dim next to each other; gradients lie alike. `out` and `d_out` are [tokens, heads, head_dim],
// log_sum_exp [heads, tokens] fp32. lengths and parents: per segment; a parent comes earlier, −1 is none. Each token sees
// the last `window` tokens of its sequence, itself and its parent's included.
struct Attention {
    int64_t segments;
    const int64_t *lengths, *parents;
    int64_t heads, kv_heads, head_dim, stride, window;
};

void kameleon_attention(int64_t type, const Attention* in, const void* q, const void* k, const void* v, void* out,
                        float* log_sum_exp);
void kameleon_attention_back(int64_t type, const Attention* in, const void* q, const void* k, const void* v,
                             const void* out, const float* log_sum_exp, const void* d_out, void* dq, void* dk,
                             void* dv);

// Generation: no gradients, and a row's result does not depend on the other rows, to the bit. All numbers of a call are of
// one type, but for norms, which are fp32, and frozen matrices, which are stored in any.

// Frozen matrices [rows, in] that share their input, stacked along the output.
struct Part {
    Stored stored;
    int64_t rows;
};
struct Weight {
    const Part* parts;
    int64_t count, in, out;
};

// y [rows, out] fp32 = x Wᵀ, x in rows of w->in.
void kameleon_project(int64_t type, const Weight* w, const void* x, int64_t rows, float* y);

// One adapter's factors for one joined projection: h = u Aᵀ, then y[:, start … stop] += scaling · h[:, first_rank …] Bᵀ.
// A [rank, in]. B of a branch [(stop − start) / B_COLUMNS, rank / step, B_COLUMNS, step], step two for bf16, with zeros where
// a rank or a number of columns is not whole: what a few columns need lies together.
constexpr int64_t B_COLUMNS = 16;
struct BranchB {
    const void* b;
    int64_t first_rank, rank, start, stop;
    float scaling;
};
// B [out, rank] of a branch as `BranchB` wants it. In one thread: it is called beside a running pass.
void kameleon_place_b(int64_t type, const float* b, int64_t out, int64_t rank, void* cells);

struct Side {
    const void* a;  // null: this projection has no side path
    const BranchB* branches;
    int64_t rank, count;
};

// Tokens start … stop go through one adapter, whose sides are [layers, 4]: qkv, o, gate_up, down.
struct SideRun {
    int64_t start, stop;
    const Side* sides;
};

// One decoder layer. A part that a family does not have is null. Biases are of the pass's type.
struct Layer {
    const float* input_norm;
    Weight qkv;
    const void* qkv_bias;
    const float *q_norm, *k_norm;
    Weight o;
    const void* o_bias;
    const float *o_norm, *mlp_norm;
    Weight gate_up;
    const void* gate_up_bias;
    Weight down;
    const void* down_bias;
    const float* down_norm;
    int64_t window;  // of attention, in tokens
    int64_t rope;    // which of the pass's rotations
};
struct Stack {
    const Layer* layers;
    int64_t count, hidden, heads, kv_heads, head_dim, intermediate, activation;
    float eps;
};

// Keys and values of one layer, in pages of PAGE_TOKENS: keys [pages, kv_heads, head_dim / step, PAGE_TOKENS, step], values
// [pages, kv_heads, PAGE_TOKENS / step, head_dim, step]. Segment i goes on after offsets[i] tokens, whose pages are
// tables[i · table_width …].
constexpr int64_t PAGE_TOKENS = 16;
struct Pages {
    int64_t segments;
    const int64_t *lengths, *offsets, *tables;
    int64_t table_width, heads, kv_heads, head_dim, window;
    void *keys, *values;
};

// Stores the new keys and values of qkv [tokens, (heads + 2 · kv_heads) · head_dim], then attention over all that each
// token sees, to out [tokens, heads · head_dim].
void kameleon_attention_paged(int64_t type, const Pages* in, const void* qkv, void* out);

// x [tokens, hidden] through all layers in place. cos[r] and sin[r] [tokens, head_dim / 2] are rotation r; `pages` holds the
// first layer's, each next one's lies `layer_bytes` further on.
struct Pass {
    int64_t tokens, runs;
    const SideRun* run;
    const float *const *cos, *const *sin;
    Pages pages;
    int64_t layer_bytes;
};
void kameleon_layers(int64_t type, const Stack* stack, const Pass* pass, void* x);

// Freed blocks of less than `up_to_bytes` (at most 32 MiB) stay with this process (glibc): fetching fresh pages from the
// system in every step costs more than the kernels save. Larger ones go back at once and leave no holes.
void kameleon_keep_memory(int64_t up_to_bytes);

// The calling thread's parallel regions, torch's among them, have `count` threads from now on; other threads keep theirs.
void kameleon_use_threads(int64_t count);

// Blocks that are kept go back to the system now.
void kameleon_give_back_memory(void);

// Zeroes `bytes` of malloc's memory. Linux gets the whole pages back, and hands out zeros for each when it is next written to.
void kameleon_clear(void* at, int64_t bytes);
}
