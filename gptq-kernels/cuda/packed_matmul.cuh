// y = x · Wᵀ + bias with packed W, for up to 4 linears of one input.
//
// Weights are the left factor of the tensor cores' product, so that tokens come in eights. A tile
// is 16 inputs × 64 outputs: lane (g, t) holds, for every output g + 8j, the codes of inputs 2t,
// 2t + 1, 2t + 8 and 2t + 9, which is what four products want of it. Stages wait in a ring in
// shared memory while their copies arrive.
#pragma once

#include "grid.cuh"
#include "stages.cuh"

// The words of a lane.
template <u32 BITS> __device__ void load_words(u32 (&words)[BITS], u32 tile, u32 lane) {
    if constexpr (BITS == 2) {
        load_shared(words, tile + 4 * word_at<BITS>(0, lane));
    } else if constexpr (BITS == 3) {
#pragma unroll
        for (u32 w = 0; w < BITS; w++) load_shared(words[w], tile + 4 * word_at<BITS>(w, lane));
    } else {
#pragma unroll
        for (u32 w = 0; w < BITS; w += 4) {
            u32 four[4];
            load_shared(four, tile + 4 * word_at<BITS>(w, lane));
#pragma unroll
            for (u32 i = 0; i < 4; i++) words[w + i] = four[i];
        }
    }
}

constexpr u32 PITCH = 2 * DEPTH + 16;     // bytes of a row of x in shared memory, off the banks

// What a stage takes of shared memory.
template <u32 BITS, bool ASYM, u32 NB, u32 WIDE> struct Stage {
    static constexpr u32 X = 8 * NB * PITCH;
    static constexpr u32 CODES = WIDE * 8 * 128 * BITS;
    static constexpr u32 BYTES = X + WEIGHT_BYTES<BITS, ASYM, WIDE>;
};
// Behind the stages: what warps of one column add up, 4 · NB · 32 · WIDE · (8 / WIDE − 1) numbers.

template <u32 BITS, bool ASYM, class T, u32 NB, u32 WIDE, u32 STAGES>
__device__ void packed_matmul(const Job& job) {
    using S = Stage<BITS, ASYM, NB, WIDE>;
    constexpr u32 DEEP = 8 / WIDE;        // warps that share a column
    let_next_begin();
    extern __shared__ __align__(128) char shared[];
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const u32 wide = warp % WIDE, deep = warp / WIDE;
    const Stages stages(job);
    // More tokens are another row of blocks.
    const u32 first_token = blockIdx.y * 8 * NB;
    const u16* x = job.x + u64(first_token) * job.k_tiles * 16;
    const u32 tokens = min(job.tokens - first_token, 8 * NB);

    auto codes = [&](const Place& at, u32 slot) {
        fetch_codes<BITS, WIDE>(stages, at, shared_address(shared) + slot * S::BYTES + S::X);
    };
    auto grids = [&](const Place& at, u32 slot) {
        fetch_grids<ASYM, WIDE>(stages, at, shared_address(shared) + slot * S::BYTES + S::X + S::CODES);
    };
    const TokenPlace place(job, x);
    const u32 own = shared_address(shared) + place.row * PITCH + place.chunk * 16;
    auto give_tokens = [&](u32 stage, u32 slot) {
        fetch_tokens<8 * NB, PITCH>(job, place, stage, tokens, own + slot * S::BYTES);
    };

    float sums[4][NB][4];
    auto clear = [&] {
#pragma unroll
        for (u32 i = 0; i < 4; i++)
#pragma unroll
            for (u32 b = 0; b < NB; b++)
#pragma unroll
                for (u32 r = 0; r < 4; r++) sums[i][b][r] = 0;
    };
    clear();

    auto multiply = [&](const Place& at, u32 slot) {
        const u32 base = shared_address(shared) + slot * S::BYTES;
        const u32 own_codes = base + S::X + wide * 8 * 128 * BITS;
        const u32 scales = base + S::X + S::CODES + (wide * 8 + lane / 4) * 16;
        const u32 tokens_of = base + lane % 8 * PITCH + lane / 8 % 2 * 16;
        const bool one_group = stages.is_of_one_group(at);
        Grid<BITS, ASYM, T> grid;
#pragma unroll
        for (u32 i = 0; i < 8; i += DEEP) {
            const u32 depth = i + deep;
            if (i == 0 || !one_group) {
                const u32 from = scales + stages.row_of(at, depth) * WIDE * 128;
                u32 s[4], z[4] = {};
                load_shared(s, from);
                if (ASYM) load_shared(z, from + 8 * WIDE * 128);
                grid.set(s, z);
            }
            u32 words[BITS];
            load_words<BITS>(words, own_codes + depth * 128 * BITS, lane);
            u32 weights[4][4];
#pragma unroll
            for (u32 q = 0; q < 4; q++) {
                // Outputs g + 16q and g + 16q + 8.
                weights[q][0] = grid.weight(words, 4 * q);
                weights[q][2] = grid.weight(words, 4 * q + 1);
                weights[q][1] = grid.weight(words, 4 * q + 2);
                weights[q][3] = grid.weight(words, 4 * q + 3);
            }
#pragma unroll
            for (u32 b = 0; b < NB; b++) {
                u32 x0, x1;
                load_matrices(x0, x1, tokens_of + depth * 32 + b * 8 * PITCH);
#pragma unroll
                for (u32 q = 0; q < 4; q++) T::mma(sums[q][b], weights[q], x0, x1);
            }
        }
    };

    // Warps of one column add up, sixteen outputs at a time, and the first of them leaves the sum.
    auto finish = [&](const Place& at) {
        using Of = Sums<NB, WIDE>;
        float* others = reinterpret_cast<float*>(shared + STAGES * S::BYTES) + wide * WARP + lane;
        float* part = Of::part(stages, blockIdx.y, blockIdx.x, at.column) + Of::place(0, wide, lane);
        const int left = tokens - Of::token(0, lane);
#pragma unroll
        for (u32 q = 0; q < 4; q++) {
            __syncthreads();
            if (deep > 0)
#pragma unroll
                for (u32 r = 0; r < 4 * NB; r++)
                    others[((deep - 1) * 4 * NB + r) * WARP * WIDE] = sums[q][r / 4][r % 4];
            __syncthreads();
            if (deep == 0)
#pragma unroll
                for (u32 r = 0; r < 4 * NB; r++) {
                    const u32 i = q * 4 * NB + r;
                    float sum = sums[q][r / 4][r % 4];
                    for (u32 other = 1; other < DEEP; other++)
                        sum += others[((other - 1) * 4 * NB + r) * WARP * WIDE];
                    if (int(Of::token(i, 0)) < left) part[Of::place(i, 0, 0)] = sum;
                }
        }
        clear();
    };

    for_each_stage<STAGES, STAGES - 1>(
        stages, grids, codes, give_tokens, [] {}, [](const Place&, u32, bool) {},
        [&](const Place& at, u32 slot, bool ends) {
            multiply(at, slot);
            if (ends) finish(at);
        });
}

#define PACKED_MATMUL(BITS, HOW, ASYM, T, NAME, NB, WIDE, STAGES, BLOCKS)                          \
    KERNEL __launch_bounds__(THREADS, BLOCKS)                                                      \
        packed_matmul_##BITS##_##HOW##_##NAME##_##NB(const __grid_constant__ Job job) {            \
        packed_matmul<BITS, ASYM, T, NB, WIDE, STAGES>(job);                                       \
    }
