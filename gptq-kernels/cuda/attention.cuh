// What attention is asked for.
#pragma once

#include "common.cuh"

enum Window : u32 { FULL, SLIDING, CHUNKED };

struct Attention {
    const float* q;      // [texts · length][heads · head_dim]
    const float* k;      // [at least texts · keys][kv_heads · head_dim]
    const float* v;      // [the same][kv_heads · value_dim]
    const float* bias;   // [heads][bias_columns] on scores, or none
    const float* sinks;  // [heads], or none
    float* out;          // [texts · length][heads · value_dim]
    u16* halves;         // the same, if wanted
    float* partials;     // [query][head][share][2 + value_dim]
    u32* counters;       // [query][head], zero
    u32 heads, kv_heads, head_dim, value_dim, length, bias_columns;
    u32 window, window_size;
    float scale, softcap; // no cap: 0
    u32 kind;            // of halves
    u32 kept;            // what keys and values are: f32, or halves of this kind
};

__device__ u32 first_key(u32 window, u32 size, u32 position) {
    switch (window) {
    case SLIDING: return position - min(position, size - 1);
    case CHUNKED: return position / size * size;
    default: return 0;
    }
}

// Numbers of keys or values: one, or four neighbours. With `HALVES` they are such, of either kind.
template <bool HALVES> __device__ float kept_at(const float* x, u64 at, u32 kept) {
    if (!HALVES) return x[at];
    const u32 half = reinterpret_cast<const u16*>(x)[at];
    return kept == AS_F16 ? F16::low(half) : BF16::low(half);
}
template <bool HALVES> __device__ float4 four_kept_at(const float* x, u64 at, u32 kept) {
    if (!HALVES) return *reinterpret_cast<const float4*>(x + at);
    const uint2 w = *reinterpret_cast<const uint2*>(reinterpret_cast<const u16*>(x) + at);
    const bool f16 = kept == AS_F16;
    return {f16 ? F16::low(w.x) : BF16::low(w.x), f16 ? F16::high(w.x) : BF16::high(w.x),
            f16 ? F16::low(w.y) : BF16::low(w.y), f16 ? F16::high(w.y) : BF16::high(w.y)};
}

// The largest, and the sum, of the four lanes that have a row of a product.
__device__ inline float row_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffff, x, 2));
}
__device__ inline float row_sum(float x) {
    x += __shfl_xor_sync(0xffffffff, x, 1);
    return x + __shfl_xor_sync(0xffffffff, x, 2);
}

// Scores of a lane's two rows become weights, and what these rows had before shrinks to them: sums
// over keys in pieces, each piece with the largest score so far.
template <u32 KEYS, u32 CHANNELS>
__device__ void weigh(float (&scores)[KEYS][4], float (&out)[CHANNELS][4], float (&top)[2], float (&mass)[2]) {
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        float highest = top[half], sum = 0;
#pragma unroll
        for (u32 n = 0; n < KEYS; n++)
            highest = fmaxf(highest, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
        highest = row_max(highest);
        // A row may have seen nothing yet.
        const float from = highest == -INFINITE ? 0.0f : highest;
        const float shrink = expf(top[half] - from);
#pragma unroll
        for (u32 n = 0; n < KEYS; n++)
#pragma unroll
            for (u32 r = 2 * half; r < 2 * half + 2; r++) {
                scores[n][r] = expf(scores[n][r] - from);
                sum += scores[n][r];
            }
        mass[half] = mass[half] * shrink + row_sum(sum);
        top[half] = highest;
#pragma unroll
        for (u32 n = 0; n < CHANNELS; n++) out[n][2 * half] *= shrink, out[n][2 * half + 1] *= shrink;
    }
}

// The score of a key, from the product with the query: what all kernels do with it.
__device__ inline float score_of(const Attention& a, float dot, u32 head, u32 key) {
    float score = dot * a.scale;
    if (a.softcap > 0) score = a.softcap * tanhf(score / a.softcap);
    if (a.bias) score += a.bias[u64(head) * a.bias_columns + key];
    return score;
}
