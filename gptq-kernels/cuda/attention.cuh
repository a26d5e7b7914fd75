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
    u32 unused;
};

__device__ u32 first_key(u32 window, u32 size, u32 position) {
    switch (window) {
    case SLIDING: return position - min(position, size - 1);
    case CHUNKED: return position / size * size;
    default: return 0;
    }
}

// The score of a key, from the product with the query: what all kernels do with it.
__device__ inline float score_of(const Attention& a, float dot, u32 head, u32 key) {
    float score = dot * a.scale;
    if (a.softcap > 0) score = a.softcap * tanhf(score / a.softcap);
    if (a.bias) score += a.bias[u64(head) * a.bias_columns + key];
    return score;
}
