// One place of every row, drawn by its softmax. A block is a row.
//
// What top_k keeps, what top_p keeps, and what is drawn of it are the same question: how far does
// one go in the order of falling logits, equal ones by place, until a count or a mass is passed.
// Nothing is sorted for it. The order is cut into bins, the bin where it happens is cut again, and so
// on until few are in it. Masses are whole numbers, so that sums do not depend on who comes first.
#include "common.cuh"

constexpr u32 THREADS = 1024;
constexpr u32 BINS = THREADS;
// Places of a row are less than 2²⁴, so that its mass, in units of which the largest logit's weight
// has 2⁴⁰, fits.
constexpr u32 PLACE_BITS = 24;
constexpr float UNITS = 1099511627776.0f;
// What one thread each compares with all the others.
constexpr u32 FEW = 256;

struct Row {
    const float* x;
    u32 columns;
    float temperature, top;

    // f(place, logit) for all of them. A NaN counts as −∞, and the sum makes one number of both zeros.
    template <class F> __device__ void each(F f) const {
        for_each_of_row<8>(x, columns, [&](u32 i, float x) { f(i, x == x ? x + 0.0f : -INFINITE); });
    }
    __device__ u64 weight(float logit) const {
        const float share = logit == top ? 1.0f : expf((logit - top) / temperature);
        return __float2ull_rn(share * UNITS);
    }
    // The first cut, by distance: where logits are dense, threads rarely meet.
    __device__ u32 step(float logit) const {
        return logit == top ? 0 : min(__float2uint_rz((top - logit) * 32.0f), BINS - 1);
    }
    // The order, exactly.
    __device__ static u64 rank(u32 place, float logit) {
        const u32 bits = __float_as_uint(logit);
        return u64(bits >> 31 ? bits : ~bits & 0x7fffffff) << PLACE_BITS | place;
    }
};

// The part of the order that is cut next: one step of it, and there what begins alike.
struct Range {
    u32 cuts = 0, step = 0, open = 32 + PLACE_BITS;
    u64 begin = 0;

    __device__ bool has(const Row& row, u32 place, float logit) const {
        return row.step(logit) == step && Row::rank(place, logit) >> open == begin;
    }
    __device__ u32 digit(u32 place, float logit) const {
        return u32(Row::rank(place, logit) >> (open - 8)) & 255;
    }
    __device__ void cut(u32 bin) {
        if (cuts++ == 0) {
            step = bin;
        } else {
            open -= 8;
            begin = begin << 8 | bin;
        }
    }
};

struct Bins {
    u32 counts[BINS], low[BINS], high[BINS];

    __device__ void clear() { counts[threadIdx.x] = low[threadIdx.x] = high[threadIdx.x] = 0; }
    // Sums of 64 bits in shared memory would be loops.
    __device__ void add(u32 bin, u64 mass) {
        atomicAdd(&counts[bin], 1);
        if (mass == 0) return;
        const u32 old = atomicAdd(&low[bin], u32(mass));
        const u32 rest = u32(mass >> 32) + (old > ~u32(mass));
        if (rest > 0) atomicAdd(&high[bin], rest);
    }
    __device__ u64 mass() const { return u64(high[threadIdx.x]) << 32 | low[threadIdx.x]; }
};

// The sum of the x of all threads up to this one, and of all.
__device__ u64 sum_up_to(u64 x, u64& all) {
    __shared__ u64 sums[WARP];
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    for (u32 step = 1; step < WARP; step *= 2) {
        const u64 before = __shfl_up_sync(0xffffffff, x, step);
        if (lane >= step) x += before;
    }
    __syncthreads();
    if (lane == WARP - 1) sums[warp] = x;
    __syncthreads();
    all = 0;
    for (u32 w = 0; w < WARP; w++) {
        if (w < warp) x += sums[w];
        all += sums[w];
    }
    return x;
}

__device__ float largest(float x) {
    __shared__ float tops[WARP];
    x = warp_max(x);
    if (threadIdx.x % WARP == 0) tops[threadIdx.x / WARP] = x;
    __syncthreads();
    return warp_max(tops[threadIdx.x % WARP]);
}

// uniform[row] and top_p are parts of 2⁶⁴; 0 is no top_p.
KERNEL __launch_bounds__(THREADS, 1)
draw(const float* x, const u64* uniform, u32* out, u32 columns, float temperature, u32 top_k,
     u64 top_p) {
    begin();
    __shared__ Bins first, narrower;
    __shared__ u64 ranks[FEW], weights[FEW], left_then, mass_then;
    __shared__ u32 bin_then, count_then, few, place_then;
    Row row = {x + u64(blockIdx.x) * columns, columns, temperature, -INFINITE};
    float top = -INFINITE;
    row.each([&](u32, float logit) { top = fmaxf(top, logit); });
    row.top = largest(top);
    if (row.top == -INFINITE) {
        if (threadIdx.x == 0) out[blockIdx.x] = 0;
        return;
    }
    first.clear();
    __syncthreads();
    row.each([&](u32, float logit) { first.add(row.step(logit), row.weight(logit)); });
    __syncthreads();

    // Of all, then of what the first, and then the second question leaves.
    u64 mass;
    sum_up_to(first.mass(), mass);
    enum Question : u32 { TOP_K, TOP_P, DRAWN };
    for (u32 question = TOP_K; question <= DRAWN; question++) {
        if (question == TOP_K && (top_k == 0 || top_k >= columns)) continue;
        if (question == TOP_P && top_p == 0) continue;
        // One goes as far as the first with which there is more than this. To reach a mass is to
        // exceed what is one unit less, where it is whole.
        u64 left = question == TOP_K   ? top_k - 1
                   : question == TOP_P ? __umul64hi(top_p, mass) - (top_p * mass == 0)
                                       : __umul64hi(uniform[blockIdx.x], mass);
        const bool by_count = question == TOP_K;
        u64 before = 0; // mass of what comes before the range
        Range range;
        do {
            Bins& bins = range.cuts == 0 ? first : narrower;
            if (range.cuts > 0) {
                narrower.clear();
                __syncthreads();
                row.each([&](u32 place, float logit) {
                    if (range.has(row, place, logit))
                        narrower.add(range.digit(place, logit), row.weight(logit));
                });
                __syncthreads();
            }
            const u64 own = bins.mass(), count = bins.counts[threadIdx.x];
            u64 all;
            const u64 masses = sum_up_to(own, all);
            const u64 end = by_count ? sum_up_to(count, all) : masses;
            const u64 begin = end - (by_count ? count : own);
            if (begin <= left && left < end) {
                bin_then = threadIdx.x;
                count_then = u32(count);
                left_then = left - begin;
                mass_then = masses - own;
            }
            __syncthreads();
            range.cut(bin_then);
            left = left_then;
            before += mass_then;
        } while (count_then > FEW);

        // Those who stand before each, and the one with whom it is passed.
        if (threadIdx.x == 0) few = 0;
        __syncthreads();
        row.each([&](u32 place, float logit) {
            if (!range.has(row, place, logit)) return;
            const u32 at = atomicAdd(&few, 1);
            ranks[at] = Row::rank(place, logit);
            weights[at] = row.weight(logit);
        });
        __syncthreads();
        if (threadIdx.x < few) {
            const u64 rank = ranks[threadIdx.x], own = weights[threadIdx.x];
            u64 count = 0, masses = 0;
            for (u32 i = 0; i < few; i++)
                if (ranks[i] < rank) count++, masses += weights[i];
            const u64 begin = by_count ? count : masses;
            if (begin <= left && left < begin + (by_count ? 1 : own)) {
                mass_then = before + masses + own;
                place_then = u32(rank) & ((1 << PLACE_BITS) - 1);
            }
        }
        __syncthreads();
        mass = mass_then;
    }
    if (threadIdx.x == 0) out[blockIdx.x] = place_then;
}
