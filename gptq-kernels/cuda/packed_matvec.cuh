// y = x · Wᵀ + bias with packed W for one or two tokens.
//
// There is one weight to read for every product or two, so all is about reading: a lane loads its
// codes from memory into registers, several tiles ahead, and no warp waits for another until its
// sums are complete. A ring in shared memory would bring nothing, because no one else reads them.
// Products are the tensor cores', although most of their columns go to waste: they take halves as
// they come out of the codes and sum up in f32, for which plain instructions would need two for
// each code. What is left is about two instructions for each, nearly all of them unpacking.
//
// A block has one column of tiles, 64 outputs, and a part of its depth; its warps take one stage of
// eight tiles after the other. What they have is added in the order of the warps; what blocks have,
// in the order of the blocks, by the one that comes last.
#pragma once

#include "grid.cuh"
#include "job.cuh"

constexpr u32 WARPS = THREADS / WARP;
constexpr u32 TOKENS = 2;

template <u32 BITS>
__device__ void stream(u32 (&words)[BITS], const u32* tile, u64 policy, bool there) {
    if constexpr (BITS == 2) stream2(words, tile, policy, there);
#pragma unroll
    for (u32 w = 0; w < BITS && BITS == 3; w++)
        stream1(words[w], tile + word_at<BITS>(w, 0), policy, there);
#pragma unroll
    for (u32 w = 0; w < BITS && BITS >= 4; w += 4)
        stream4(words + w, tile + word_at<BITS>(w, 0), policy, there);
}

// With `WHOLE`, no group ends within a stage.
template <u32 BITS, bool ASYM, class T, bool WHOLE> __device__ void packed_matvec(const Job& job) {
    // Tiles of a warp that are on their way, as registers allow.
    constexpr u32 AHEAD = BITS < 8 ? 8 : 2;
    let_next_begin();
    extern __shared__ __align__(128) char shared[];
    __shared__ float parts[WARPS][TOKENS][64];
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const u32 column = blockIdx.x, part = blockIdx.y, many = gridDim.y;
    const u32 begin = begin_of(job, part), end = begin_of(job, part + 1);
    const u32 l = linear_of(job, column);
    const Linear& linear = job.linears[l];
    const u32 n = place_in(job, l, column);

    u32 stage = begin + warp;
    const u64 policy = once(), step = u64(linear.k_step) * (WARP * BITS);
    const u32* codes = tile_at<BITS>(linear, n, stage * 8) + word_at<BITS>(0, lane);
    u32 words[AHEAD][BITS] = {};
#pragma unroll
    for (u32 i = 0; i < AHEAD; i++) stream(words[i], codes + i * step, policy, stage < end);

    // The group of the stage's first tile, and how far in that group the tile is.
    u32 group = stage * 8 / job.tiles_per_group, tile = stage * 8 % job.tiles_per_group;
    const u32 hop_groups = WARPS * 8 / job.tiles_per_group, hop_tiles = WARPS * 8 % job.tiles_per_group;
    const u64 row = u64(linear.n_tiles) * 8;
    const u64 own = u64(n) * 8 + lane / 4;
    uint4 scales = {}, zeros = {};
    // Holes at the end have no group of their own.
    auto look = [&](u32 group) {
        u64 at = min(group, job.groups - 1) * row + own;
        scales = __ldg(reinterpret_cast<const uint4*>(linear.scales) + at);
        if (ASYM) zeros = __ldg(reinterpret_cast<const uint4*>(linear.zeros) + at);
    };
    if (stage < end) look(group);

    // Weights are on their way while those who write x end: as many as registers hold, and some more,
    // so that memory has something to do until x is here.
    constexpr u32 STAGE_BYTES = 8 * WARP * BITS * 4, MORE = (128 << 10) / STAGE_BYTES;
    const u32 first = begin + WARPS;
    if (threadIdx.x == 0 && first < end && linear.k_step == 1)
        prefetch(tile_at<BITS>(linear, n, first * 8), min(end - first, MORE) * STAGE_BYTES);
    wait_for_those_before();
    const u32 pitch = (end - begin) * 2 * DEPTH + 16;  // bytes, off the banks
    for (u32 t = 0; t < job.tokens; t++)
        for (u32 i = threadIdx.x; i < (end - begin) * (DEPTH / 8); i += THREADS)
            copy_async(shared_address(shared) + t * pitch + i * 16,
                       job.x + (u64(t) * job.k_tiles * 16 + begin * DEPTH + i * 8));
    commit_copies();
    wait_for_copies<0>();
    __syncthreads();

    // The eight columns that tensor cores want are the one or two tokens, over and over.
    u32 x = shared_address(shared) + lane % 8 % job.tokens * pitch + warp * 2 * DEPTH + lane / 8 * 16;
    float sums[4][4] = {};
    Grid<BITS, ASYM, T> grid;
    for (; stage < end; stage += WARPS) {
        const bool more = stage + WARPS < end;
        const u32* next = codes + WARPS * 8 * step;
        u32 loaded = group, change = 0, both[4];
        const u32 to_change = job.tiles_per_group - tile;
        group += hop_groups;
        if ((tile += hop_tiles) >= job.tiles_per_group) {
            tile -= job.tiles_per_group;
            group++;
        }
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            // Where a group begins; then the next one is loaded, or the first of the stage to come.
            if (WHOLE ? i == 0 : i == change) {
                const u32 s[4] = {scales.x, scales.y, scales.z, scales.w};
                const u32 z[4] = {zeros.x, zeros.y, zeros.z, zeros.w};
                grid.set(s, z);
                change = i == 0 ? to_change : change + job.tiles_per_group;
                if (!WHOLE && change < 8) look(++loaded);
                else if (more) look(group);
            }
            if (i % 2 == 0) load_matrices(both, x + i * 32);
#pragma unroll
            for (u32 q = 0; q < 4; q++) {
                // Outputs g + 16q and g + 16q + 8.
                const u32(&w)[BITS] = words[i % AHEAD];
                u32 weights[4] = {grid.weight(w, 4 * q), grid.weight(w, 4 * q + 2),
                                  grid.weight(w, 4 * q + 1), grid.weight(w, 4 * q + 3)};
                T::mma(sums[q], weights, both[i % 2 * 2], both[i % 2 * 2 + 1]);
            }
            const u32 later = i + AHEAD;
            stream(words[i % AHEAD], later < 8 ? codes + later * step : next + (later - 8) * step,
                   policy, later < 8 || more);
            // The assembler would put all loads at the end of the stage, just before they are needed.
            __syncwarp();
        }
        codes = next;
        x += WARPS * 2 * DEPTH;
    }

    if (lane % 4 == 0)
#pragma unroll
        for (u32 i = 0; i < 16; i++)
            parts[warp][i % 2][i / 4 * 16 + i % 4 / 2 * 8 + lane / 4] = sums[i / 4][i % 4];
    __syncthreads();
    const u32 token = threadIdx.x / 64, output = n * 64 + threadIdx.x % 64;
    const bool mine = token < job.tokens;
    float sum = 0;
    if (mine)
        for (u32 w = 0; w < WARPS; w++) sum += parts[w][token][threadIdx.x % 64];
    // [columns][blocks of a column][TOKENS][64]
    float* partials = job.partials + u64(column) * many * (TOKENS * 64) + threadIdx.x;
    if (mine && many > 1) partials[part * (TOKENS * 64)] = sum;
    if (!last_of(job.counters + column, many) || !mine) return;
    if (many > 1) {
        sum = 0;
        for (u32 p = 0; p < many; p++) sum += load_fresh(partials + p * (TOKENS * 64));
    }
    write_sum(linear, token, output, sum);
}

#define PACKED_MATVEC(BITS, HOW, ASYM, T, NAME)                                                    \
    KERNEL __launch_bounds__(THREADS, 2)                                                           \
        packed_matvec_##BITS##_##HOW##_##NAME##_whole(const __grid_constant__ Job job) {           \
        packed_matvec<BITS, ASYM, T, true>(job);                                                   \
    }                                                                                              \
    KERNEL __launch_bounds__(THREADS, 2)                                                           \
        packed_matvec_##BITS##_##HOW##_##NAME##_any(const __grid_constant__ Job job) {             \
        packed_matvec<BITS, ASYM, T, false>(job);                                                  \
    }
