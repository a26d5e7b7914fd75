// Functions of one number, rotations, and sums.
#include "common.cuh"

enum Function : u32 { SCALE, CLAMP, SOFT_CAP, SILU, GELU, GELU_TANH, RELU };

__device__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// Comparisons instead of fminf and fmaxf, which would hide a NaN.
__device__ float clamp(float x, float c) { return x > c ? c : x < -c ? -c : x; }

__device__ float value(u32 function, float c, float x) {
    switch (function) {
    case SCALE: return c * x;
    case CLAMP: return clamp(x, c);
    case SOFT_CAP: return c * tanhf(x / c);
    case SILU: return x * sigmoid(x);
    case GELU: return x * 0.5f * erfcf(-x * 0.70710678118654752f);
    case GELU_TANH: {
        // (1 + tanh u) / 2 is a sigmoid, which does not cancel where it is small.
        float inner = 0.79788456080286536f * (x + 0.044715f * x * x * x);
        return x * sigmoid(2.0f * inner);
    }
    default: return x < 0.0f ? 0.0f : x;
    }
}

__device__ u64 place() { return u64(blockIdx.x) * blockDim.x + threadIdx.x; }

KERNEL apply(float* x, u64 many, u32 function, float c) {
    begin();
    u64 i = place();
    if (i < many) x[i] = value(function, c, x[i]);
}

KERNEL gated(const float* gate, const float* up, float* out, u16* halves, u32 kind, u64 many,
             u32 function, float c) {
    begin();
    u64 i = place();
    if (i >= many) return;
    float y = value(function, c, gate[i]) * up[i];
    out[i] = y;
    store_half(halves, i, y, kind);
}

KERNEL gated_clamped(const float* gate, const float* up, float* out, u16* halves, u32 kind,
                     u64 many, float limit, float alpha) {
    begin();
    u64 i = place();
    if (i >= many) return;
    float g = gate[i] > limit ? limit : gate[i];
    float y = (clamp(up[i], limit) + 1.0f) * g * sigmoid(alpha * g);
    out[i] = y;
    store_half(halves, i, y, kind);
}

KERNEL add(float* x, const float* y, u64 many) {
    begin();
    u64 i = place();
    if (i < many) x[i] += y[i];
}

KERNEL add_to_rows(float* x, const float* y, u64 many, u32 columns) {
    begin();
    u64 i = place();
    if (i < many) x[i] += y[i % columns];
}

KERNEL subtract(const float* x, const float* y, float* out, u64 many) {
    begin();
    u64 i = place();
    if (i < many) out[i] = x[i] - y[i];
}

KERNEL scale_rows(float* x, const float* factors, u64 many, u32 columns) {
    begin();
    u64 i = place();
    if (i < many) x[i] *= factors[i / columns];
}

// Pairs of channels of every head turn by an angle of the token's.
struct Angles {
    const float *cosines, *sines;  // [tokens][half]
    u32 head, offset, half, interleaved;
};

struct Turned {
    u64 first, second;  // where they are in their matrix
    float a, b;
};

__device__ Turned turn(const Angles& of, float* x, u64 pair_of_all, u32 columns) {
    u32 pair = pair_of_all % of.half;
    u64 segment = pair_of_all / of.half;
    u64 token = segment / (columns / of.head);
    u64 base = segment * of.head + of.offset;
    u64 first = base + (of.interleaved ? 2 * pair : pair);
    u64 second = of.interleaved ? first + 1 : first + of.half;
    float a = x[first], b = x[second];
    float c = of.cosines[token * of.half + pair], s = of.sines[token * of.half + pair];
    return {first, second, x[first] = a * c - b * s, x[second] = b * c + a * s};
}

// In one matrix, or in two of the same tokens: queries and keys. A thread is a pair.
KERNEL rope(float* x, u64 many, u32 columns, float* also, u64 also_many, u32 also_columns,
            const float* cosines, const float* sines, u32 head, u32 offset, u32 half,
            u32 interleaved) {
    begin();
    u64 i = place();
    const bool second = i >= many;
    if (second && (i -= many) >= also_many) return;
    const Angles angles = {cosines, sines, head, offset, half, interleaved};
    turn(angles, second ? also : x, i, second ? also_columns : columns);
}

// The same where all channels turn, and the last matrix are keys that come to stand in their cache
// from row *at on, and values in theirs. The places are read on the device, because they are others
// for every token while the launch stays the same.
KERNEL rope_and_keep(float* x, u64 many, u32 columns, float* also, u64 also_many, u32 also_columns,
                     const float* cosines, const float* sines, u32 head, u32 offset, u32 half,
                     u32 interleaved, float* keys, const u32* at, u32 kept, float* values,
                     const u32* values_at, const float* rows, u64 values_many, u32 values_columns,
                     u32 values_kept) {
    begin();
    u64 i = place();
    const bool second = i >= many;
    if (second && (i -= many) >= also_many) {
        if ((i -= also_many) < values_many)
            keep(values, u64(*values_at) * values_columns + i, rows[i], values_kept);
        return;
    }
    const Angles angles = {cosines, sines, head, offset, half, interleaved};
    const u32 of = second ? also_columns : columns;
    const Turned turned = turn(angles, second ? also : x, i, of);
    if (second != also_many > 0) return;
    keep(keys, u64(*at) * of + turned.first, turned.a, kept);
    keep(keys, u64(*at) * of + turned.second, turned.b, kept);
}
