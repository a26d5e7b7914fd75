// Products with weights that are not packed.
#include "common.cuh"

// out[t][n] = Σ x[t][k] · w[n][k] + bias[n], with x and w in halves, for up to 8 tokens of a block
// row. A warp is an output: it reads its row of w once, 16 bytes a lane. k is a multiple of 8.
constexpr u32 TOKENS = 8;

template <class T>
__device__ void dense_matvec(const u32* x, const u32* w, const float* bias, float* out, u32 tokens,
                             u32 outputs, u32 k) {
    let_next_begin();
    const u32 lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
    const u32 n = blockIdx.x * warps + threadIdx.x / WARP;
    // The weights of a block are on their way while those who write x end.
    constexpr u32 MOST = 256 << 10;
    if (threadIdx.x == 0 && blockIdx.y == 0)
        prefetch(w + u64(n) * (k / 2), min(min(warps, outputs - n) * k * 2, MOST));
    wait_for_those_before();
    const u32 first = blockIdx.y * TOKENS, many = min(tokens - first, TOKENS);
    if (n >= outputs) return;
    float sums[TOKENS] = {};
    const uint4* row = reinterpret_cast<const uint4*>(w) + u64(n) * (k / 8);
    const uint4* rows = reinterpret_cast<const uint4*>(x) + u64(first) * (k / 8);
#pragma unroll 4
    for (u32 i = lane; i < k / 8; i += WARP) {
        uint4 weights = __ldg(row + i);
        float a[8] = {T::low(weights.x), T::high(weights.x), T::low(weights.y), T::high(weights.y),
                      T::low(weights.z), T::high(weights.z), T::low(weights.w), T::high(weights.w)};
#pragma unroll
        for (u32 t = 0; t < TOKENS; t++) {
            if (t >= many) break;
            uint4 b = rows[u64(t) * (k / 8) + i];
            sums[t] += a[0] * T::low(b.x) + a[1] * T::high(b.x) + a[2] * T::low(b.y) +
                       a[3] * T::high(b.y) + a[4] * T::low(b.z) + a[5] * T::high(b.z) +
                       a[6] * T::low(b.w) + a[7] * T::high(b.w);
        }
    }
#pragma unroll
    for (u32 t = 0; t < TOKENS; t++) {
        if (t >= many) break;
        float sum = warp_sum(sums[t]);
        if (lane == 0) out[u64(first + t) * outputs + n] = sum + (bias ? bias[n] : 0.0f);
    }
}

KERNEL dense_matvec_f16(const u32* x, const u32* w, const float* bias, float* out, u32 tokens,
                        u32 outputs, u32 k) {
    dense_matvec<F16>(x, w, bias, out, tokens, outputs, k);
}
KERNEL dense_matvec_bf16(const u32* x, const u32* w, const float* bias, float* out, u32 tokens,
                         u32 outputs, u32 k) {
    dense_matvec<BF16>(x, w, bias, out, tokens, outputs, k);
}

// The plain product of f32 matrices of any strides: c[m][n] = old · c + Σ a(m, k) · b(n, k) + bias[n].
// Blocks of 64 × 64, 16 deep; a thread has 4 × 4.
constexpr u32 TILE = 64, DEEP = 16;

KERNEL __launch_bounds__(256)
matmul(const float* a, u32 a_row, u32 a_step, const float* b, u32 b_row, u32 b_step,
       const float* bias, float* c, u32 rows, u32 columns, u32 depth, float old) {
    begin();
    __shared__ float as[DEEP][TILE + 4], bs[DEEP][TILE + 4];
    const u32 m0 = blockIdx.y * TILE, n0 = blockIdx.x * TILE;
    const u32 tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    float sums[4][4] = {};
    for (u32 k0 = 0; k0 < depth; k0 += DEEP) {
        for (u32 i = threadIdx.x; i < TILE * DEEP; i += 256) {
            // Neighbours in memory are neighbours in time.
            u32 am = a_step == 1 ? i / DEEP : i % TILE, ak = a_step == 1 ? i % DEEP : i / TILE;
            u32 bn = b_step == 1 ? i / DEEP : i % TILE, bk = b_step == 1 ? i % DEEP : i / TILE;
            bool a_in = m0 + am < rows && k0 + ak < depth, b_in = n0 + bn < columns && k0 + bk < depth;
            as[ak][am] = a_in ? a[u64(m0 + am) * a_row + u64(k0 + ak) * a_step] : 0.0f;
            bs[bk][bn] = b_in ? b[u64(n0 + bn) * b_row + u64(k0 + bk) * b_step] : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (u32 k = 0; k < DEEP; k++)
#pragma unroll
            for (u32 i = 0; i < 4; i++)
#pragma unroll
                for (u32 j = 0; j < 4; j++) sums[i][j] += as[k][ty * 4 + i] * bs[k][tx * 4 + j];
        __syncthreads();
    }
#pragma unroll
    for (u32 i = 0; i < 4; i++)
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
            u32 m = m0 + ty * 4 + i, n = n0 + tx * 4 + j;
            if (m >= rows || n >= columns) continue;
            float* at = c + u64(m) * columns + n;
            float sum = sums[i][j] + (bias ? bias[n] : 0.0f);
            *at = old == 0.0f ? sum : old * *at + sum;
        }
}
