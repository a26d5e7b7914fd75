// The product of packed_matmul.cuh for more than 16 tokens, with Hopper's products of warpgroups:
// mma.sync reaches some 60 % of what its tensor cores can do, too little to keep up with memory at
// 64 tokens.
//
// A block has four tiles side by side, 256 outputs. Both of its warpgroups have all four, a warp one
// of them, and of each of its groups of lanes one half of the outputs. The 64 rows of a product are
// sixteen outputs of each of the four tiles, so a lane finds its weights in the words that are its
// own in any case. While products are under way, the weights of the next sixteen inputs are unpacked.
#pragma once

#include "grid.cuh"
#include "stages.cuh"
#include "wgmma.cuh"

template <u32 BITS, bool ASYM, class T, u32 NB, u32 STAGES>
__device__ void packed_wgmma(const Job& job) {
    constexpr u32 WIDE = 4, WORDS = BITS / 2;
    constexpr u32 HALF = 8 * NB * 128;    // bytes of 64 inputs of all tokens
    constexpr u32 BYTES = 2 * HALF + WEIGHT_BYTES<BITS, ASYM, WIDE>;
    static_assert(BYTES % 1024 == 0 && STAGES > 2, "rows of x begin at multiples of 1024 bytes");
    let_next_begin();
    extern __shared__ __align__(128) char shared[];
    const u32 ring = (shared_address(shared) + 1023) / 1024 * 1024;
    const u32 lane = threadIdx.x % WARP, wide = threadIdx.x / WARP % WIDE;
    // Outputs 0 to 31 of the tile, or 32 to 63: not the same for all lanes of a warp, so that the
    // words that they load are in all banks.
    const u32 half = threadIdx.x / WARP / WIDE ^ lane / 8 % 2;
    const Stages stages(job);
    const u32 first_token = blockIdx.y * 8 * NB;
    const u16* x = job.x + u64(first_token) * job.k_tiles * 16;
    const u32 tokens = min(job.tokens - first_token, 8 * NB);

    auto codes = [&](const Place& at, u32 slot) {
        fetch_codes<BITS, WIDE>(stages, at, ring + slot * BYTES + 2 * HALF);
    };
    auto grids = [&](const Place& at, u32 slot) {
        fetch_grids<ASYM, WIDE>(stages, at, ring + slot * BYTES + 2 * HALF + WIDE * 8 * 128 * BITS);
    };
    // Rows of 128 bytes as products want them; that holds for each eighth row alike.
    const TokenPlace place(job, x);
    const u32 own = ring + place.chunk / 8 * HALF + place.row * 128 + (place.chunk % 8 ^ place.row % 8) * 16;
    auto give_tokens = [&](u32 stage, u32 slot) {
        fetch_tokens<8 * NB, 128>(job, place, stage, tokens, own + slot * BYTES);
    };

    // Sixteen outputs of each tile, and the next sixteen.
    float sums[2][NB][4] = {};

    Grid<BITS, ASYM, T, 4> grid;
    u32 words[WORDS];
    // The products of one depth of a stage. Its words were loaded at the depth before, but for the
    // first, so that nothing has to be waited for behind the products.
    auto multiply = [&](const Place& at, u32 slot, u32 depth, bool anew) {
        const u32 base = ring + slot * BYTES;
        const u32 own_codes = base + 2 * HALF + wide * 8 * 128 * BITS + 4 * word_at<BITS>(half * WORDS, lane);
        const u32 scales = base + 2 * HALF + WIDE * 8 * 128 * BITS + (wide * 8 + lane / 4) * 16 + half * 8;
        if (depth == 0 || !stages.is_of_one_group(at)) {
            const u32 from = scales + stages.row_of(at, depth) * WIDE * 128;
            u32 s[2], z[2] = {};
            load_shared(s, from);
            if (ASYM) load_shared(z, from + 8 * WIDE * 128);
            grid.set(s, z);
        }
        if (depth == 0) load_shared(words, own_codes);
        u32 weights[2][4];
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            weights[i][0] = grid.weight(words, 4 * i);
            weights[i][2] = grid.weight(words, 4 * i + 1);
            weights[i][1] = grid.weight(words, 4 * i + 2);
            weights[i][3] = grid.weight(words, 4 * i + 3);
        }
        const u64 rows = Rows(base).after(depth / 4 * HALF + depth % 4 * 32);
        begin_products();
#pragma unroll
        for (u32 i = 0; i < 2; i++) Products<T, NB>::add(sums[i], weights[i], rows, anew && depth == 0);
        commit_products();
        if (depth < 7) load_shared(words, own_codes + (depth + 1) * 128 * BITS);
        // The registers of the weights before these are free.
        wait_for_products<1>();
    };

    auto finish = [&](const Place& at) {
        wait_for_products<0>();
        using Of = Sums<NB, WIDE>;
        const u32 first = half * 8 * NB;
        const int left = tokens - Of::token(0, lane);
        float* part = Of::part(stages, blockIdx.y, blockIdx.x, at.column) + Of::place(first, wide, lane);
#pragma unroll
        for (u32 i = 0; i < 8 * NB; i++)
            if (int(Of::token(i, 0)) < left)
                part[Of::place(i, 0, 0)] = sums[i / (4 * NB)][i / 4 % NB][i % 4];
    };

    for_each_stage<STAGES, STAGES - 2>(
        stages, grids, codes, give_tokens, [] { show_to_products(); },
        [&](const Place& at, u32 slot, bool begins) { multiply(at, slot, 0, begins); },
        [&](const Place& at, u32 slot, bool ends) {
#pragma unroll
            for (u32 depth = 1; depth < 8; depth++) multiply(at, slot, depth, false);
            if (ends) finish(at);
        });
    wait_for_products<0>();
}

#define PACKED_WGMMA(BITS, HOW, ASYM, T, NAME, NB, STAGES)                                         \
    KERNEL __launch_bounds__(THREADS, 1)                                                           \
        packed_wgmma_##BITS##_##HOW##_##NAME##_##NB(const __grid_constant__ Job job) {             \
        packed_wgmma<BITS, ASYM, T, NB, STAGES>(job);                                              \
    }
