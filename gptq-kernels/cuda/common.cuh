// Words, pairs of half-precision numbers, and the few instructions that C++ has no name for.
// No header of the toolkit is needed, so NVRTC alone compiles these files.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define KERNEL extern "C" __global__ void

// Kernels of a step are short, and between them a GPU would be idle. So from Hopper on a kernel begins
// while those before it still run. It says when the one after it may begin, as far as there is room,
// and it waits before it reads what others wrote, or writes anything.
__device__ inline void let_next_begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ inline void wait_for_those_before() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// For those that have nothing to do before.
__device__ inline void begin() {
    let_next_begin();
    wait_for_those_before();
}

constexpr u32 WARP = 32;
#define INFINITE __int_as_float(0x7f800000)

// A pair of numbers in one word, the first in the low half. `MANTISSA` is how many bits of a code
// fit below the leading one of `MAGIC`, whose value is `BASE`.
struct F16 {
    static constexpr u32 MANTISSA = 10;
    static constexpr u32 MAGIC = 0x64006400;
    static constexpr float BASE = 1024;

    static __device__ u32 pair(float low, float high) {
        u32 r;
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
        return r;
    }
    static __device__ float low(u32 a) {
        float r;
        asm("{ .reg .f16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, l; }" : "=f"(r) : "r"(a));
        return r;
    }
    static __device__ float high(u32 a) {
        float r;
        asm("{ .reg .f16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, h; }" : "=f"(r) : "r"(a));
        return r;
    }
    static __device__ u32 fma(u32 a, u32 b, u32 c) {
        u32 r;
        asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
        return r;
    }
    // c += a · b: a is 16 × 16 by rows, b is 16 × 8 by columns.
    static __device__ void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
            "{%8, %9}, {%0, %1, %2, %3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
};

struct BF16 {
    static constexpr u32 MANTISSA = 7;
    static constexpr u32 MAGIC = 0x43004300;
    static constexpr float BASE = 128;

    static __device__ u32 pair(float low, float high) {
        u32 r;
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
        return r;
    }
    static __device__ float low(u32 a) { return __uint_as_float(a << 16); }
    static __device__ float high(u32 a) { return __uint_as_float(a & 0xffff0000); }
    static __device__ u32 fma(u32 a, u32 b, u32 c) {
        u32 r;
        asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
        return r;
    }
    static __device__ void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, "
            "%7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
};

// A number in halves, for the product that comes next, if one does.
enum Kind : u32 { NONE, AS_F16, AS_BF16 };

__device__ inline void store_half(u16* to, u64 at, float x, u32 kind) {
    if (kind != NONE) to[at] = u16(kind == AS_F16 ? F16::pair(x, x) : BF16::pair(x, x));
}

// A number of a cache, in f32 or in halves.
__device__ inline void keep(float* target, u64 at, float x, u32 kept) {
    if (kept == NONE)
        target[at] = x;
    else
        store_half(reinterpret_cast<u16*>(target), at, x, kept);
}

// a − b. Fused with one, because bf16 has no other subtraction before sm_90; it rounds once.
template <class T> __device__ u32 sub(u32 a, u32 b) {
    return T::fma(b, T::pair(-1, -1), a);
}

// a · b. The sum with −0 changes nothing.
template <class T> __device__ u32 mul(u32 a, u32 b) {
    return T::fma(a, b, 0x80008000);
}

// (a & mask) | bits, in one instruction, which the compiler does not find where both are constants.
__device__ inline u32 and_or(u32 a, u32 mask, u32 bits) {
    u32 r;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(r) : "r"(a), "r"(mask), "r"(bits));
    return r;
}

// One half of a word, twice.
__device__ inline u32 twice_low(u32 a) { return __byte_perm(a, a, 0x1010); }
__device__ inline u32 twice_high(u32 a) { return __byte_perm(a, a, 0x3232); }

__device__ inline u32 shared_address(const void* p) {
    return static_cast<u32>(__cvta_generic_to_shared(p));
}

// Sixteen bytes go to shared memory while threads do something else; past the first cache, because
// each is read once. Zeros go there if `there` is false, and nothing is read.
__device__ inline void copy_async(u32 shared, const void* global, bool there = true) {
    u32 bytes = there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(bytes)
                 : "memory");
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// All but the last `N` groups have arrived.
template <int N> __device__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Two 8 × 8 matrices of half-precision numbers, a row at each address of lanes 0 to 15.
__device__ inline void load_matrices(u32& r0, u32& r1, u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r0), "=r"(r1)
                 : "r"(address)
                 : "memory");
}

// Four of them, a row at each lane's address.
__device__ inline void load_matrices(u32 (&r)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// A word, or two or four neighbours.
__device__ inline void load_shared(u32& r, u32 address) {
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(r) : "r"(address) : "memory");
}
__device__ inline void load_shared(u32 (&r)[2], u32 address) {
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(address) : "memory");
}
__device__ inline void load_shared(u32 (&r)[4], u32 address) {
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// Words that are read once: past the first cache, and the first to leave the second.
__device__ inline u64 once() {
    u64 policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}
// So many bytes, a multiple of 16, come to the second cache, and no one waits for them.
__device__ inline void prefetch(const void* from, u32 bytes) {
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
#endif
}
// They stay as they are if nothing is `there`. Not by way of the constant cache's loads: those move
// across a barrier of the warp, and where a load is issued is up to us.
#define STREAM "ld.global.L1::no_allocate.L2::cache_hint"
__device__ inline void stream4(u32* r, const u32* from, u64 policy, bool there) {
    asm volatile("{ .reg .pred p; setp.ne.u32 p, %6, 0; @p " STREAM
                 ".v4.u32 {%0, %1, %2, %3}, [%4], %5; }"
                 : "+r"(r[0]), "+r"(r[1]), "+r"(r[2]), "+r"(r[3])
                 : "l"(from), "l"(policy), "r"(u32(there)));
}
__device__ inline void stream2(u32* r, const u32* from, u64 policy, bool there) {
    asm volatile("{ .reg .pred p; setp.ne.u32 p, %4, 0; @p " STREAM ".v2.u32 {%0, %1}, [%2], %3; }"
                 : "+r"(r[0]), "+r"(r[1])
                 : "l"(from), "l"(policy), "r"(u32(there)));
}
__device__ inline void stream1(u32& r, const u32* from, u64 policy, bool there) {
    asm volatile("{ .reg .pred p; setp.ne.u32 p, %3, 0; @p " STREAM ".u32 %0, [%1], %2; }"
                 : "+r"(r)
                 : "l"(from), "l"(policy), "r"(u32(there)));
}

// What other blocks wrote: past the first cache, which does not see it.
__device__ inline float load_fresh(const float* p) {
    float r;
    asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(r) : "l"(p) : "memory");
    return r;
}

// Whether this block is the last of `many` that come here. What they wrote before is visible to it
// then. The counter is left at zero for the next launch.
__device__ inline bool last_of(u32* counter, u32 many) {
    __shared__ u32 arrived;
    __syncthreads();
    if (many == 1) return true;
    if (threadIdx.x == 0) {
        // One thread answers for all: what they wrote before the barrier is released with its own,
        // and what others released is theirs after the next one.
        asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(arrived) : "l"(counter) : "memory");
        if (arrived == many - 1) *counter = 0;
    }
    __syncthreads();
    bool last = arrived == many - 1;
    __syncthreads();
    return last;
}

// f(place, x) for a row of numbers, by all threads of a block: many are on their way at a time,
// because one block alone waits long for each.
template <u32 RUN, class F> __device__ void for_each_of_row(const float* row, u32 columns, F f) {
    for (u32 base = threadIdx.x; base < columns; base += RUN * blockDim.x) {
        float run[RUN];
#pragma unroll
        for (u32 j = 0; j < RUN; j++) {
            const u32 i = base + j * blockDim.x;
            run[j] = i < columns ? row[i] : 0.0f;
        }
#pragma unroll
        for (u32 j = 0; j < RUN; j++) {
            const u32 i = base + j * blockDim.x;
            if (i < columns) f(i, run[j]);
        }
    }
}

__device__ inline float warp_sum(float x) {
    for (u32 step = WARP / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffff, x, step);
    return x;
}

__device__ inline float warp_max(float x) {
    for (u32 step = WARP / 2; step > 0; step /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, step));
    return x;
}

// The sum of all threads' x, for all of them.
__device__ inline float block_sum(float x) {
    __shared__ float sums[WARP];
    u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    x = warp_sum(x);
    __syncthreads();
    if (lane == 0) sums[warp] = x;
    __syncthreads();
    float all = 0;
    for (u32 w = 0; w < blockDim.x / WARP; w++) all += sums[w];
    return all;
}
