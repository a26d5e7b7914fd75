// How a product's work is cut: a stage is 128 inputs of one column of tiles. All stages of all
// columns, one after the other, go to blocks in equal shares, so that every multiprocessor reads as
// much as any other. So most columns are cut: blocks leave their parts of the sums in memory, and
// packed_sums.cu adds them, in the order of the blocks. The last block of a column would take as long for
// that as all of them for the product.
#pragma once

#include "job.cuh"

// A stage, and what is known of it without dividing: whose it is, the group of its first tile, and
// how far in that group the tile is.
struct Place {
    u32 column, stage, linear, group, tile;
};

struct Stages {
    const Job& job;
    const u32 many; // of one column

    __device__ explicit Stages(const Job& job) : job(job), many(job.k_tiles / 8) {}

    __device__ u32 columns() const {
        u32 columns = 0;
        for (u32 l = 0; l < MOST_LINEARS; l++)
            if (job.linears[l].codes) columns = job.linears[l].columns_end;
        return columns;
    }
    __device__ Place place_of(u32 unit) const {
        Place at = {unit / many, unit % many, 0, 0, 0};
        at.linear = linear_of(job, at.column);
        at.group = at.stage * 8 / job.tiles_per_group;
        at.tile = at.stage * 8 % job.tiles_per_group;
        return at;
    }
    __device__ void advance(Place& at) const {
        if (++at.stage == many) {
            at.stage = at.group = at.tile = 0;
            at.column++;
            while (at.linear < MOST_LINEARS - 1 &&
                   at.column >= job.linears[at.linear].columns_end)
                at.linear++;
            return;
        }
        for (at.tile += 8; at.tile >= job.tiles_per_group; at.tile -= job.tiles_per_group) at.group++;
    }
    // Whether all tiles of the stage are of one group.
    __device__ bool is_of_one_group(const Place& at) const {
        return at.tile + 7 < job.tiles_per_group;
    }
    // Groups after the stage's first one until this tile of it. Holes at the end have no group of
    // their own.
    __device__ u32 row_of(const Place& at, u32 depth) const {
        if (at.tile + depth < job.tiles_per_group) return 0;
        u32 group = at.group + (at.tile + depth) / job.tiles_per_group;
        return min(group, job.groups - 1) - min(at.group, job.groups - 1);
    }
    // Which block has a unit.
    __device__ u32 owner(u32 unit) const {
        u32 larger = job.rest * (job.share + 1);
        return unit < larger ? unit / (job.share + 1) : job.rest + (unit - larger) / job.share;
    }
    __device__ u32 blocks() const { return (columns() * many - job.rest) / job.share; }
    __device__ u32 first_owner(u32 column) const { return owner(column * many); }
    __device__ u32 last_owner(u32 column) const { return owner(column * many + many - 1); }
};

// A column's sums, for 8 · NB tokens: number i of a lane, of 16 · NB, in the order of products.
template <u32 NB, u32 WIDE> struct Sums {
    static constexpr u32 COUNT = 16 * NB * WARP * WIDE;

    static __device__ u32 place(u32 i, u32 wide, u32 lane) { return (i * WIDE + wide) * WARP + lane; }
    static __device__ u32 token(u32 i, u32 lane) { return i / 4 % NB * 8 + lane % 4 * 2 + i % 2; }
    static __device__ u32 output(u32 i, u32 lane) { return i / (4 * NB) * 16 + i % 4 / 2 * 8 + lane / 4; }

    // Where a block leaves its part of a column: with each step along the stages, it is the next block
    // or the next column or neither. [rows of blocks][blocks + columns][COUNT]
    static __device__ float* part(const Stages& stages, u32 row, u32 block, u32 column) {
        return stages.job.partials + (u64(row) * (stages.blocks() + stages.columns()) + block + column) * COUNT;
    }
};

// f(i) for i below `MANY`, by all threads. Unrolled, and with a remainder that changes nothing but
// tells the compiler how few threads there are: then most of what f computes from i is a constant.
template <u32 MANY, class F> __device__ void each_of(F f) {
#pragma unroll
    for (u32 j = 0; j < MANY; j += THREADS) {
        const u32 i = j + threadIdx.x % THREADS;
        if (MANY % THREADS == 0 || i < MANY) f(i);
    }
}

// Tokens of a stage come to shared memory: a thread has sixteen bytes of one token, and the same of
// every sixteenth one after it.
constexpr u32 CHUNKS = DEPTH / 8, STRIDE = THREADS / CHUNKS;
struct TokenPlace {
    u32 row, chunk;
    const u16* from;  // of stage 0

    __device__ TokenPlace(const Job& job, const u16* x)
        : row(threadIdx.x % THREADS / CHUNKS), chunk(threadIdx.x % CHUNKS),
          from(x + u64(row) * job.k_tiles * 16 + chunk * 8) {}
};
template <u32 ROWS, u32 ROW_BYTES>
__device__ void fetch_tokens(const Job& job, const TokenPlace& place, u32 stage, u32 tokens, u32 to) {
    const u64 step = u64(job.k_tiles) * 16 * STRIDE;
    const u16* from = place.from + stage * DEPTH;
#pragma unroll
    for (u32 j = 0; j < ROWS; j += STRIDE) {
        if (ROWS % STRIDE == 0 || place.row < ROWS)
            copy_async(to + j * ROW_BYTES, from, place.row + j < tokens);
        from += step;
    }
}

// Codes of a stage come to shared memory, [WIDE][8 tiles][32 · BITS words]. Where no tile is, zeros come.
template <u32 BITS, u32 WIDE>
__device__ void fetch_codes(const Stages& stages, const Place& at, u32 to) {
    const Linear& linear = stages.job.linears[at.linear];
    const u32 first_n = place_in(stages.job, at.linear, at.column) * WIDE;
    constexpr u32 COLUMN = 64 * BITS; // chunks of one column of a stage
    each_of<WIDE * COLUMN>([&](u32 i) {
        u32 n = first_n + i / COLUMN, tile = i % COLUMN / (8 * BITS), chunk = i % (8 * BITS);
        const u32* from = tile_at<BITS>(linear, n, at.stage * 8 + tile) + chunk * 4;
        copy_async(to + i * 16, from, n < linear.n_tiles);
    });
}
// Scales, [8][WIDE][64] halves with a row for each group, and zeros behind them.
template <bool ASYM, u32 WIDE>
__device__ void fetch_grids(const Stages& stages, const Place& at, u32 to) {
    const Job& job = stages.job;
    const Linear& linear = job.linears[at.linear];
    const u32 first_n = place_in(job, at.linear, at.column) * WIDE;
    const u32 first = min(at.group, job.groups - 1), rows = stages.row_of(at, 7) + 1;
    for (u32 i = threadIdx.x; i < rows * WIDE * 8; i += THREADS) {
        u32 row = i / (WIDE * 8), n = first_n + i / 8 % WIDE;
        u64 from = (u64(first + row) * linear.n_tiles + n) * 64 + i % 8 * 8;
        copy_async(to + i * 16, linear.scales + from, n < linear.n_tiles);
        if (ASYM) copy_async(to + 8 * WIDE * 128 + i * 16, linear.zeros + from, n < linear.n_tiles);
    }
}
template <u32 BITS, bool ASYM, u32 WIDE>
constexpr u32 WEIGHT_BYTES = WIDE * 8 * 128 * BITS + (ASYM ? 2 : 1) * 8 * WIDE * 128;

// All stages of this block, one after the other, each in a slot of a ring in shared memory. Their
// copies are begun `AHEAD` stages before; those of the first weights before the kernels that write x
// have ended. When a slot is filled again, all warps have begun to multiply the stage `STAGES` −
// `AHEAD` behind the one that it had. `arrived` runs in every thread when its copies are there; when
// all are, `first` begins to multiply, most of the new copies are begun, and `multiply` goes on. They
// are told whether the column begins there for this block, and whether it ends.
template <u32 STAGES, u32 AHEAD, class Grids, class Codes, class Tokens, class Arrived, class First,
          class Multiply>
__device__ void for_each_stage(const Stages& stages, Grids grids, Codes codes, Tokens tokens,
                               Arrived arrived, First first, Multiply multiply) {
    const u32 begin = begin_of(stages.job, blockIdx.x);
    const u32 units = begin_of(stages.job, blockIdx.x + 1) - begin;
    Place now = stages.place_of(begin), next = now;
    u32 stage = now.stage, slot = 0, free = 0;
    auto turn = [](u32& slot) { slot = slot + 1 == STAGES ? 0 : slot + 1; };
    auto turn_stage = [&] { stage = stage + 1 == stages.many ? 0 : stage + 1; };
    for (u32 i = 0; i < AHEAD && i < units; i++) {
        grids(next, i);
        codes(next, i);
        stages.advance(next);
        turn(free);
    }
    wait_for_those_before();
    for (u32 i = 0; i < AHEAD; i++) {
        if (i < units) {
            tokens(stage, i);
            turn_stage();
        }
        commit_copies();
    }
    for (u32 unit = 0; unit < units; unit++) {
        wait_for_copies<AHEAD - 1>();
        arrived();
        __syncthreads();
        const bool more = unit + AHEAD < units;
        if (more) grids(next, free);
        first(now, slot, now.stage == 0 || unit == 0);
        if (more) {
            codes(next, free);
            tokens(stage, free);
        }
        commit_copies();
        multiply(now, slot, now.stage == stages.many - 1 || unit + 1 == units);
        if (more) {
            stages.advance(next);
            turn_stage();
            turn(free);
        }
        stages.advance(now);
        turn(slot);
    }
}
