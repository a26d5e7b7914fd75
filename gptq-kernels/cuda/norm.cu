// Normalisations of rows, in segments. A block is a segment.
#include "common.cuh"

// Entry c of a row is multiplied by weight[c mod weights] and has bias[c mod biases] added. If there
// are terms, x += terms comes first.
template <bool LAYER>
__device__ void norm(float* x, const float* terms, const float* weight, const float* bias,
                     float* out, u16* halves, u32 kind, u32 columns, u32 segment, u32 weights,
                     u32 biases, float eps) {
    begin();
    const u64 from = u64(blockIdx.y) * columns + blockIdx.x * segment;
    float mean = 0;
    if (terms)
        for (u32 i = threadIdx.x; i < segment; i += blockDim.x) x[from + i] += terms[from + i];
    // From here on, a thread reads what it wrote itself.
    if (LAYER) {
        float sum = 0;
        for (u32 i = threadIdx.x; i < segment; i += blockDim.x) sum += x[from + i];
        mean = block_sum(sum) / segment;
    }
    float square = 0;
    for (u32 i = threadIdx.x; i < segment; i += blockDim.x) {
        float d = x[from + i] - mean;
        square += d * d;
    }
    float factor = 1.0f / sqrtf(block_sum(square) / segment + eps);
    for (u32 i = threadIdx.x; i < segment; i += blockDim.x) {
        u32 column = blockIdx.x * segment + i;
        float y = (x[from + i] - mean) * factor;
        if (weight) y *= weight[column % weights];
        if (bias) y += bias[column % biases];
        out[from + i] = y;
        store_half(halves, from + i, y, kind);
    }
}

#define NORM(NAME, LAYER)                                                                          \
    KERNEL __launch_bounds__(1024)                                                                 \
        NAME(float* x, const float* terms, const float* weight, const float* bias, float* out,     \
             u16* halves, u32 kind, u32 columns, u32 segment, u32 weights, u32 biases,             \
             float eps) {                                                                          \
        norm<LAYER>(x, terms, weight, bias, out, halves, kind, columns, segment, weights, biases,  \
                    eps);                                                                          \
    }

NORM(norm_rms, false)
NORM(norm_layer, true)
