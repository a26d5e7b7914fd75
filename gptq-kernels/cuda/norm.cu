// Normalisations of rows, in segments. A block is a segment.
#include "common.cuh"

// Numbers of a segment that a thread keeps in registers; others it reads again, having written them
// itself.
constexpr u32 KEPT = 8;

// f(j, i) for those that this thread keeps, and f(KEPT, i) for its others.
template <class F> __device__ void each(u32 segment, F f) {
#pragma unroll
    for (u32 j = 0; j < KEPT; j++) {
        const u32 i = threadIdx.x + j * blockDim.x;
        if (i < segment) f(j, i);
    }
    for (u32 i = threadIdx.x + KEPT * blockDim.x; i < segment; i += blockDim.x) f(KEPT, i);
}

// Entry c of a row is multiplied by weight[c mod weights] and has bias[c mod biases] added. If there
// are terms, x += terms comes first.
template <bool LAYER>
__device__ void norm(float* x, const float* terms, const float* weight, const float* bias,
                     float* out, u16* halves, u32 kind, u32 columns, u32 segment, u32 weights,
                     u32 biases, float eps) {
    begin();
    const u32 first = blockIdx.x * segment;
    const u64 from = u64(blockIdx.y) * columns + first;
    auto at = [](const float* of, u32 column, u32 many) {
        return of[column < many ? column : column % many];
    };
    // All loads come before the first store, which might be to the same place for all that the
    // compiler knows.
    float kept[KEPT], added[KEPT], scale[KEPT];
    each(segment, [&](u32 j, u32 i) {
        if (j == KEPT) return;
        kept[j] = x[from + i];
        added[j] = terms ? terms[from + i] : 0.0f;
        scale[j] = weight ? at(weight, first + i, weights) : 1.0f;
    });
    if (terms)
        each(segment, [&](u32 j, u32 i) {
            if (j == KEPT) {
                x[from + i] += terms[from + i];
            } else {
                kept[j] += added[j];
                x[from + i] = kept[j];
            }
        });
    auto own = [&](u32 j, u32 i) { return j == KEPT ? x[from + i] : kept[j]; };
    float mean = 0, sum = 0, square = 0;
    if (LAYER) {
        each(segment, [&](u32 j, u32 i) { sum += own(j, i); });
        mean = block_sum(sum) / segment;
    }
    each(segment, [&](u32 j, u32 i) { square += (own(j, i) - mean) * (own(j, i) - mean); });
    const float factor = 1.0f / sqrtf(block_sum(square) / segment + eps);
    each(segment, [&](u32 j, u32 i) {
        float y = (own(j, i) - mean) * factor;
        if (weight) y *= j == KEPT ? at(weight, first + i, weights) : scale[j];
        if (bias) y += at(bias, first + i, biases);
        out[from + i] = y;
        store_half(halves, from + i, y, kind);
    });
}

#define NORM(NAME, LAYER)                                                                          \
    KERNEL __launch_bounds__(1024, 1)                                                              \
        NAME(float* x, const float* terms, const float* weight, const float* bias, float* out,     \
             u16* halves, u32 kind, u32 columns, u32 segment, u32 weights, u32 biases,             \
             float eps) {                                                                          \
        norm<LAYER>(x, terms, weight, bias, out, halves, kind, columns, segment, weights, biases,  \
                    eps);                                                                          \
    }

NORM(norm_rms, false)
NORM(norm_layer, true)
