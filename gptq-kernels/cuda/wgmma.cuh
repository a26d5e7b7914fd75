// Products of warpgroups: four warps multiply 64 × 16 weights in registers by 16 inputs of many
// tokens in shared memory, while they do something else. Hopper only.
#pragma once

#include "common.cuh"

// What was written to these registers before is there for the products that follow.
__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// All but the last `N` groups are done.
template <int N> __device__ void wait_for_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
// What this thread wrote to shared memory is there for products, which read it in their own way.
__device__ inline void show_to_products() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Where products find tokens: rows of 128 bytes, one after the other, in which sixteen bytes number
// i of row r lie at place i ^ (r mod 8). Begins at a multiple of 1024.
struct Rows {
    u32 low;

    __device__ explicit Rows(u32 address) {
        constexpr u32 UNUSED = 1 << 16;
        low = UNUSED | (address & 0x3ffff) >> 4;
    }
    // Some bytes further: a step of 16 inputs is 32.
    __device__ u64 after(u32 bytes) const {
        constexpr u32 SWIZZLED = 1 << 30, EIGHT_ROWS = 1024 / 16;
        u64 rows;
        asm("mov.b64 %0, {%1, %2};" : "=l"(rows) : "r"(low + bytes / 16), "r"(SWIZZLED | EIGHT_ROWS));
        return rows;
    }
};

// c += a · b, or c = a · b if `anew`, for 8 · NB tokens. A lane's a is that of mma.m16n8k16 for its
// warp's sixteen rows; so is its c, for each eight of tokens.
template <class T, u32 NB> struct Products;

#define FOUR(C, B) "+f"(C[B][0]), "+f"(C[B][1]), "+f"(C[B][2]), "+f"(C[B][3])
#define SIXTEEN(C, B) FOUR(C, B), FOUR(C, B + 1), FOUR(C, B + 2), FOUR(C, B + 3)
#define PRODUCTS_64(T, NAME)                                                                       \
    template <> struct Products<T, 8> {                                                            \
        static __device__ void add(float (&c)[8][4], const u32 (&a)[4], u64 b, bool anew) {        \
            asm volatile(                                                                          \
                "{ .reg .pred p; setp.eq.u32 p, %37, 0; "                                          \
                "wgmma.mma_async.sync.aligned.m64n64k16.f32." NAME "." NAME " {"                   \
                "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "           \
                "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"   \
                "}, {%32, %33, %34, %35}, %36, p, 1, 1, 0; }"                                      \
                : SIXTEEN(c, 0), SIXTEEN(c, 4)                                                     \
                : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(u32(anew)));             \
        }                                                                                          \
    }
#define PRODUCTS_128(T, NAME)                                                                      \
    template <> struct Products<T, 16> {                                                           \
        static __device__ void add(float (&c)[16][4], const u32 (&a)[4], u64 b, bool anew) {       \
            asm volatile(                                                                          \
                "{ .reg .pred p; setp.eq.u32 p, %69, 0; "                                          \
                "wgmma.mma_async.sync.aligned.m64n128k16.f32." NAME "." NAME " {"                  \
                "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "           \
                "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
                "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
                "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"   \
                "}, {%64, %65, %66, %67}, %68, p, 1, 1, 0; }"                                      \
                : SIXTEEN(c, 0), SIXTEEN(c, 4), SIXTEEN(c, 8), SIXTEEN(c, 12)                      \
                : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(u32(anew)));             \
        }                                                                                          \
    }
PRODUCTS_64(F16, "f16");
PRODUCTS_64(BF16, "bf16");
PRODUCTS_128(F16, "f16");
PRODUCTS_128(BF16, "bf16");
