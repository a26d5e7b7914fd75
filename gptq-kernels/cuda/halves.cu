// Activations as the products want them: halves, in the order of the weights' columns.
#include "common.cuh"

// to[t][k] = from[t][index[k]], or zero where the index is no input's.
// Without an index, column k is input k. A thread is a pair of columns.

template <class T>
__device__ void halve(const float* from, const u32* index, u32* to, u32 inputs, u32 k) {
    begin();
    u32 pair = blockIdx.x * blockDim.x + threadIdx.x, token = blockIdx.y;
    if (2 * pair >= k) return;
    float x[2];
    for (u32 i = 0; i < 2; i++) {
        u32 column = index ? index[2 * pair + i] : 2 * pair + i;
        x[i] = column < inputs ? from[u64(token) * inputs + column] : 0.0f;
    }
    to[(u64(token) * k) / 2 + pair] = T::pair(x[0], x[1]);
}

KERNEL halve_f16(const float* from, const u32* index, u32* to, u32 inputs, u32 k) {
    halve<F16>(from, index, to, inputs, k);
}
KERNEL halve_bf16(const float* from, const u32* index, u32* to, u32 inputs, u32 k) {
    halve<BF16>(from, index, to, inputs, k);
}

// The other way, for weights that someone wants to see: to[r][index[k]] = from[r][k] · factor.
template <class T>
__device__ void widen(const u32* from, const u32* index, float* to, u32 inputs, u32 k, float factor) {
    begin();
    u32 pair = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
    if (2 * pair >= k) return;
    u32 word = from[(u64(row) * k) / 2 + pair];
    for (u32 i = 0; i < 2; i++) {
        u32 column = index ? index[2 * pair + i] : 2 * pair + i;
        float x = i == 0 ? T::low(word) : T::high(word);
        if (column < inputs) to[u64(row) * inputs + column] = x * factor;
    }
}

KERNEL widen_f16(const u32* from, const u32* index, float* to, u32 inputs, u32 k, float factor) {
    widen<F16>(from, index, to, inputs, k, factor);
}
KERNEL widen_bf16(const u32* from, const u32* index, float* to, u32 inputs, u32 k, float factor) {
    widen<BF16>(from, index, to, inputs, k, factor);
}
