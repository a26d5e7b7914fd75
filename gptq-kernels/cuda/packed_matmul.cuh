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
    constexpr u32 PART = 16 * NB * WARP * WIDE;
    // [rows of blocks][blocks][2][PART]
    float* partials = job.partials + u64(blockIdx.y) * gridDim.x * 2 * PART;
    u32* counters = job.counters + blockIdx.y * stages.columns();

    auto weights = [&](const Place& at, u32 slot) {
        fetch_weights<BITS, ASYM, WIDE>(stages, at, shared_address(shared) + slot * S::BYTES + S::X);
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
        const u32 codes = base + S::X + wide * 8 * 128 * BITS;
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
            load_words<BITS>(words, codes + depth * 128 * BITS, lane);
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

    // Warps of one column add up, sixteen outputs at a time; the first of them keeps the sum.
    auto reduce = [&] {
        float* others = reinterpret_cast<float*>(shared + STAGES * S::BYTES) + wide * WARP + lane;
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            __syncthreads();
            if (deep > 0)
#pragma unroll
                for (u32 r = 0; r < 4 * NB; r++)
                    others[((deep - 1) * 4 * NB + r) * WARP * WIDE] = sums[i][r / 4][r % 4];
            __syncthreads();
            if (deep == 0)
                for (u32 other = 1; other < DEEP; other++)
#pragma unroll
                    for (u32 r = 0; r < 4 * NB; r++)
                        sums[i][r / 4][r % 4] += others[((other - 1) * 4 * NB + r) * WARP * WIDE];
        }
    };

    // Whose number i of a thread's sums is, by sixteen outputs, eight tokens, and the four of a lane.
    auto token_of = [&](u32 i) { return i / 4 % NB * 8 + lane % 4 * 2 + i % 2; };
    auto write = [&](const Place& at, u32 i, float sum) {
        const u32 tile = place_in(job, at.linear, at.column) * WIDE + wide;
        const u32 output = tile * 64 + lane / 4 + i / (4 * NB) * 16 + i % 4 / 2 * 8;
        write_sum(job.linears[at.linear], first_token + token_of(i), output, sum);
    };
    auto part_of = [&](u32 block, u32 column) {
        return stages.part_of(partials, block, column, PART) + wide * WARP + lane;
    };

    auto finish = [&](const Place& at) {
        reduce();
        const u32 column = at.column;
        const u32 first = stages.owner(column * stages.many);
        const u32 last = stages.owner(column * stages.many + stages.many - 1);
        if (deep == 0) {
            float* part = part_of(blockIdx.x, column);
#pragma unroll
            for (u32 i = 0; i < 16 * NB; i++)
                if (token_of(i) < tokens)
                    part[i * WARP * WIDE] = sums[i / (4 * NB)][i / 4 % NB][i % 4];
        }
        if (last_of(counters + column, last - first + 1)) {
            // Warps that had shares of the depth share the sums now.
            for (u32 i = deep; i < 16 * NB; i += DEEP) {
                if (token_of(i) >= tokens) continue;
                float sum = 0;
                for (u32 block = first; block <= last; block += 4) {
                    // Four on their way at a time, added in their order.
                    float parts[4];
#pragma unroll
                    for (u32 q = 0; q < 4; q++)
                        parts[q] = block + q <= last
                                       ? load_fresh(part_of(block + q, column) + i * WARP * WIDE)
                                       : 0.0f;
#pragma unroll
                    for (u32 q = 0; q < 4; q++) sum += parts[q];
                }
                write(at, i, sum);
            }
        }
        clear();
    };

    for_each_stage<STAGES, STAGES - 1>(
        stages, weights, give_tokens, [] {},
        [&](const Place& at, u32 slot, bool, bool last) {
            multiply(at, slot);
            if (last) finish(at);
        });
}

#define PACKED_MATMUL(BITS, HOW, ASYM, T, NAME, NB, WIDE, STAGES, BLOCKS)                          \
    KERNEL __launch_bounds__(THREADS, BLOCKS)                                                      \
        packed_matmul_##BITS##_##HOW##_##NAME##_##NB(const __grid_constant__ Job job) {            \
        packed_matmul<BITS, ASYM, T, NB, WIDE, STAGES>(job);                                       \
    }
