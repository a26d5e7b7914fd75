// Packed weights as a matrix of halves, for products with so many tokens that unpacking them over
// and over would cost more. The very numbers that the packed product multiplies.
#include "codes.cuh"

// to is [outputs][k_tiles · 16]. A warp is a tile of 16 inputs × 64 outputs; the steps are those of
// job.cuh.
template <u32 BITS, class T>
__device__ void dequantize(const u32* codes, const u16* scales, const u16* zeros, u32* to,
                           u32 outputs, u32 n_tiles, u32 k_tiles, u32 tiles_per_group, u32 groups,
                           u32 n_step, u32 k_step) {
    const u32 lane = threadIdx.x % WARP;
    const u32 k = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, n = blockIdx.y;
    if (k >= k_tiles) return;
    const u32* tile = codes + (u64(n) * n_step + u64(k) * k_step) * (WARP * BITS);
    u32 words[BITS];
#pragma unroll
    for (u32 w = 0; w < BITS; w++) words[w] = tile[word_at<BITS>(w, lane)];
    const u32 group = min(k / tiles_per_group, groups - 1);
    const u64 at = (u64(group) * n_tiles + n) * 64 + lane / 4 * 8;
#pragma unroll
    for (u32 j = 0; j < 8; j++) {
        u32 output = n * 64 + lane / 4 + 8 * j;
        u32 scale = scales[at + j] * 0x00010001;
        // Without zeros it is the middle: a whole number, which both kinds of halves hold.
        u32 zero = zeros ? zeros[at + j] * 0x00010001 : T::pair(1 << (BITS - 1), 1 << (BITS - 1));
#pragma unroll
        for (u32 h = 0; h < 2; h++) {
            u32 pair = weight_pair<BITS, true, T>(words, 2 * j + h, scale, zero);
            if (output < outputs) to[(u64(output) * k_tiles * 16 + k * 16 + h * 8) / 2 + lane % 4] = pair;
        }
    }
}

#define DEQUANTIZE(BITS, T, NAME)                                                                  \
    KERNEL dequantize_##BITS##_##NAME(const u32* codes, const u16* scales, const u16* zeros,       \
                                      u32* to, u32 outputs, u32 n_tiles, u32 k_tiles,              \
                                      u32 tiles_per_group, u32 groups, u32 n_step, u32 k_step) {   \
        dequantize<BITS, T>(codes, scales, zeros, to, outputs, n_tiles, k_tiles, tiles_per_group,  \
                            groups, n_step, k_step);                                               \
    }

DEQUANTIZE(2, F16, f16)
DEQUANTIZE(2, BF16, bf16)
DEQUANTIZE(3, F16, f16)
DEQUANTIZE(3, BF16, bf16)
DEQUANTIZE(4, F16, f16)
DEQUANTIZE(4, BF16, bf16)
DEQUANTIZE(8, F16, f16)
DEQUANTIZE(8, BF16, bf16)
