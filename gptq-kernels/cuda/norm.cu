// Normalisations of rows, in segments. A block is a segment.
#include "common.cuh"

// Entry c of a row is multiplied by weight[c mod weights] and has bias[c mod biases] added.
template <bool LAYER>
__device__ void norm(const float* x, const float* weight, const float* bias, float* out,
                     u32 columns, u32 segment, u32 weights, u32 biases, float eps) {
    const u64 begin = u64(blockIdx.y) * columns + blockIdx.x * segment;
    float mean = 0;
    if (LAYER) {
        float sum = 0;
        for (u32 i = threadIdx.x; i < segment; i += blockDim.x) sum += x[begin + i];
        mean = block_sum(sum) / segment;
    }
    float square = 0;
    for (u32 i = threadIdx.x; i < segment; i += blockDim.x) {
        float d = x[begin + i] - mean;
        square += d * d;
    }
    float factor = 1.0f / sqrtf(block_sum(square) / segment + eps);
    for (u32 i = threadIdx.x; i < segment; i += blockDim.x) {
        u32 column = blockIdx.x * segment + i;
        float y = (x[begin + i] - mean) * factor;
        if (weight) y *= weight[column % weights];
        if (bias) y += bias[column % biases];
        out[begin + i] = y;
    }
}

KERNEL norm_rms(const float* x, const float* weight, const float* bias, float* out, u32 columns,
                u32 segment, u32 weights, u32 biases, float eps) {
    norm<false>(x, weight, bias, out, columns, segment, weights, biases, eps);
}
KERNEL norm_layer(const float* x, const float* weight, const float* bias, float* out, u32 columns,
                  u32 segment, u32 weights, u32 biases, float eps) {
    norm<true>(x, weight, bias, out, columns, segment, weights, biases, eps);
}
