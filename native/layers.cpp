// The layers of a decoder in one call, for generation: a step of small products would otherwise cost more in calls than in
// reading the weights. One team of threads goes through all layers; each stage ends in a barrier.
//
// Values are rounded where the operators one by one round them (see model/blocks.py).
#include <vector>

#include "paged.h"
#include "project.h"
#include "rows.h"

using namespace kameleon;

namespace {

// Memory of a pass: u before a product, padded to whole vectors; qkv, also what attention gives; gate and up; a product
// that is normed before it is added.
template <class T>
struct Room {
    T *u, *qkv, *mixed, *gate_up, *gated, *part, *h;
    int64_t u_row, mixed_row, gated_row, h_row;
};

template <class T>
int64_t whole(int64_t size) {
    constexpr int64_t WIDTH = LANES * Lines<T>::STEP;
    return ceil_div(size, WIDTH) * WIDTH;
}

template <class T>
void norm_rows(const T* x, const float* weight, float eps, int64_t rows, int64_t size, T* out, int64_t out_row) {
#pragma omp for schedule(static)
    for (int64_t i = 0; i < rows; i++) {
        rms_norm_row(x + i * size, weight, eps, size, out + i * out_row);
        std::fill(out + i * out_row + size, out + (i + 1) * out_row, T{});
    }
}

template <class T>
void add_bias_row(const T* bias, int64_t size, T* row) {
    for (int64_t i = 0; i < size; i++) row[i] = narrow<T>(widen(row[i]) + widen(bias[i]));
}

// Each row += bias, if there is one.
template <class T>
void add_bias(const void* bias, int64_t rows, int64_t size, T* x) {
    if (!bias) return;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < rows; i++) add_bias_row(static_cast<const T*>(bias), size, x + i * size);
}

// x += norm(the projection of `left`), or the projection alone.
template <class T>
void add_projection(const Left<T>& left, const Weight& w, const void* bias, const float* norm, float eps, T* part,
                    T* x) {
    if (!norm) {
        project(left, w, x, x);
        add_bias(bias, left.tokens, w.out, x);
        return;
    }
    project<T, T>(left, w, nullptr, part);
    add_bias(bias, left.tokens, w.out, part);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < left.tokens; i++) {
        T *from = part + i * w.out, *to = x + i * w.out;
        rms_norm_row(from, norm, eps, w.out, from);
        for (int64_t j = 0; j < w.out; j++) to[j] = narrow<T>(widen(to[j]) + widen(from[j]));
    }
}

// q, k and v of one token: biases, norms of heads, rotation; then k and v into their page.
template <class T>
void finish_qkv(const Stack& stack, const Layer& layer, const Pass& pass, const Pages& pages, int64_t token,
                const Place& place, T* qkv) {
    const int64_t size = stack.head_dim, both = stack.heads + stack.kv_heads, half = size / 2;
    if (layer.qkv_bias) add_bias_row(static_cast<const T*>(layer.qkv_bias), (both + stack.kv_heads) * size, qkv);
    if (layer.q_norm)
        for (int64_t head = 0; head < both; head++) {
            T* at = qkv + head * size;
            rms_norm_row(at, head < stack.heads ? layer.q_norm : layer.k_norm, stack.eps, size, at);
        }
    rope_row(qkv, pass.cos[layer.rope] + token * half, pass.sin[layer.rope] + token * half, 1.0f, both, half);
    keep_token(pages, place, qkv);
}

std::vector<int64_t> starts_of(const Pages& pages) {
    std::vector<int64_t> starts;
    int64_t at = 0;
    for (int64_t i = 0; i < pages.segments; i++) {
        starts.push_back(at);
        at += pages.lengths[i];
    }
    return starts;
}

std::vector<Place> places_of(const Pages& pages) {
    std::vector<Place> places;
    for (int64_t i = 0; i < pages.segments; i++)
        for (int64_t j = 0; j < pages.lengths[i]; j++) places.push_back({i, pages.offsets[i] + j});
    return places;
}

template <class T>
void run_layer(const Stack& stack, int64_t number, const Pass& pass, const Pages& pages, const int64_t* starts,
               const Place* places, const Room<T>& room, T* x) {
    const Layer& layer = stack.layers[number];
    const int64_t tokens = pass.tokens, mixed = stack.heads * stack.head_dim, wide = stack.intermediate;
    const auto left = [&](const T* u, int64_t u_row, int64_t which) {
        return Left<T>{u, u_row, tokens, pass.run, pass.runs, 4 * number + which, room.h, room.h_row};
    };
    norm_rows(x, layer.input_norm, stack.eps, tokens, stack.hidden, room.u, room.u_row);
    project<T, T>(left(room.u, room.u_row, 0), layer.qkv, nullptr, room.qkv);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < tokens; i++)
        finish_qkv(stack, layer, pass, pages, i, places[i], room.qkv + i * layer.qkv.out);
    attend_all(pages, starts, room.qkv, room.mixed);
    const T* attended = room.mixed;
    if (room.mixed_row != mixed) {  // heads of an odd size: rows are padded for the product
        T* padded = room.gated;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < tokens; i++) {
            std::copy(room.mixed + i * mixed, room.mixed + (i + 1) * mixed, padded + i * room.mixed_row);
            std::fill(padded + i * room.mixed_row + mixed, padded + (i + 1) * room.mixed_row, T{});
        }
        attended = padded;
    }
    add_projection(left(attended, room.mixed_row, 1), layer.o, layer.o_bias, layer.o_norm, stack.eps, room.part, x);
    norm_rows(x, layer.mlp_norm, stack.eps, tokens, stack.hidden, room.u, room.u_row);
    project<T, T>(left(room.u, room.u_row, 2), layer.gate_up, nullptr, room.gate_up);
    add_bias(layer.gate_up_bias, tokens, 2 * wide, room.gate_up);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < tokens; i++) {
        T* to = room.gated + i * room.gated_row;
        const T* gate = room.gate_up + i * 2 * wide;
        stack.activation == GELU_TANH ? gated_row<GeluTanh>(gate, wide, to) : gated_row<Silu>(gate, wide, to);
        std::fill(to + wide, to + room.gated_row, T{});
    }
    add_projection(left(room.gated, room.gated_row, 3), layer.down, layer.down_bias, layer.down_norm, stack.eps, room.part, x);
}

template <class T>
void layers(const Stack& stack, const Pass& pass, T* x) {
    static thread_local Workspace kept[7];
    const int64_t tokens = pass.tokens, mixed = stack.heads * stack.head_dim;
    int64_t rank = 0;
    for (int64_t run = 0; run < pass.runs; run++)
        for (int64_t i = 0; i < 4 * stack.count; i++) rank = std::max(rank, pass.run[run].sides[i].rank);
    Room<T> room;
    room.u_row = whole<T>(stack.hidden);
    room.mixed_row = whole<T>(mixed);
    room.gated_row = whole<T>(stack.intermediate);
    room.h_row = ceil_div(rank, 2) * 2;
    room.u = kept[0].take<T>(tokens * room.u_row);
    room.qkv = kept[1].take<T>(tokens * (stack.heads + 2 * stack.kv_heads) * stack.head_dim);
    room.mixed = kept[2].take<T>(tokens * mixed);
    room.gate_up = kept[3].take<T>(tokens * 2 * stack.intermediate);
    room.gated = kept[4].take<T>(tokens * std::max(room.gated_row, room.mixed_row));
    room.part = kept[5].take<T>(tokens * stack.hidden);
    room.h = kept[6].take<T>(tokens * room.h_row);
    const std::vector<int64_t> starts = starts_of(pass.pages);
    const std::vector<Place> places = places_of(pass.pages);
#pragma omp parallel
    for (int64_t i = 0; i < stack.count; i++) {
        Pages pages = pass.pages;
        pages.window = stack.layers[i].window;
        pages.keys = static_cast<uint8_t*>(pages.keys) + i * pass.layer_bytes;
        pages.values = static_cast<uint8_t*>(pages.values) + i * pass.layer_bytes;
        run_layer(stack, i, pass, pages, starts.data(), places.data(), room, x);
    }
}

template <class T>
void project_rows(const Weight& w, const T* x, int64_t rows, float* y) {
    static thread_local Workspace kept;
    const int64_t row_size = whole<T>(w.in);
    T* u = kept.take<T>(rows * row_size);
    for (int64_t i = 0; i < rows; i++) {
        std::copy(x + i * w.in, x + (i + 1) * w.in, u + i * row_size);
        std::fill(u + i * row_size + w.in, u + (i + 1) * row_size, T{});
    }
    const Left<T> left{u, row_size, rows, nullptr, 0, 0, nullptr, 0};
#pragma omp parallel
    project<T, float>(left, w, nullptr, y);
}

template <class T>
void attention_paged(const Pages& pages, const T* qkv, T* out) {
    const std::vector<int64_t> starts = starts_of(pages);
    const std::vector<Place> places = places_of(pages);
    const int64_t stride = (pages.heads + 2 * pages.kv_heads) * pages.head_dim;
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (size_t i = 0; i < places.size(); i++) keep_token(pages, places[i], qkv + int64_t(i) * stride);
        attend_all(pages, starts.data(), qkv, out);
    }
}

}  // namespace

void kameleon_layers(int64_t type, const Stack* stack, const Pass* pass, void* x) {
    FOR_TYPE(type, layers(*stack, *pass, (T*)x));
}

void kameleon_project(int64_t type, const Weight* w, const void* x, int64_t rows, float* y) {
    FOR_TYPE(type, project_rows(*w, (const T*)x, rows, y));
}

void kameleon_attention_paged(int64_t type, const Pages* in, const void* qkv, void* out) {
    FOR_TYPE(type, attention_paged(*in, (const T*)qkv, (T*)out));
}
