// Tensor cores, asynchronous copies and the half types, through inline assembly alone.

typedef unsigned int u32;
typedef unsigned short u16;

static __device__ __forceinline__ u32 shared_address(const void* at) {
    return (u32)__cvta_generic_to_shared(at);
}

static __device__ __forceinline__ void copy16(u32 to, const void* from, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes)
                 : "memory");
}

#define COMMIT() asm volatile("cp.async.commit_group;" ::: "memory")
#define WAIT(n) asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory")

// C (16 x 8) = A (16 x k, rows) B (k x 8, rows of B), k a multiple of 16, half or bfloat.
// A goes by ldmatrix, B by its transposed form; two stages are under way.
template <bool BF16>
static __device__ __forceinline__ void product(const u16* a, const u16* b, float* c, int k) {
    __shared__ __align__(16) u16 left[2][16 * 16];
    __shared__ __align__(16) u16 right[2][16 * 8];
    int lane = threadIdx.x;
    float sum[4] = {0, 0, 0, 0};
    int steps = k / 16;
    auto fetch = [&](int step) {
        if (step < steps) {
            u16* l = left[step & 1];
            u16* r = right[step & 1];
            int row = lane / 2, half = lane % 2;
            copy16(shared_address(l + row * 16 + half * 8), a + row * k + step * 16 + half * 8, 16);
            if (lane < 16) copy16(shared_address(r + lane * 8), b + (step * 16 + lane) * 8, 16);
        }
        COMMIT();
    };
    fetch(0);
    for (int step = 0; step < steps; step++) {
        fetch(step + 1);
        WAIT(1);
        __syncwarp();
        u32 x[4], y[2];
        u32 from = shared_address(&left[step & 1][(lane % 16) * 16 + (lane / 16) * 8]);
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"(from));
        from = shared_address(&right[step & 1][(lane % 16) * 8]);
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                     : "=r"(y[0]), "=r"(y[1]) : "r"(from));
        if (BF16) {
            asm volatile(
                "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
                "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y[0]), "r"(y[1]));
        } else {
            asm volatile(
                "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, "
                "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y[0]), "r"(y[1]));
        }
        __syncwarp();
    }
    int g = lane / 4, t = lane % 4;
    c[g * 8 + 2 * t] = sum[0];
    c[g * 8 + 2 * t + 1] = sum[1];
    c[(g + 8) * 8 + 2 * t] = sum[2];
    c[(g + 8) * 8 + 2 * t + 1] = sum[3];
}

extern "C" __global__ void product_f16(const u16* a, const u16* b, float* c, int k) {
    product<false>(a, b, c, k);
}

extern "C" __global__ void product_bf16(const u16* a, const u16* b, float* c, int k) {
    product<true>(a, b, c, k);
}

// C (16 x 8) = A (16 x 32, rows) B^T (8 x 32, rows), bytes.
extern "C" __global__ void product_s8(const u32* a, const u32* b, int* c) {
    int lane = threadIdx.x, g = lane / 4, t = lane % 4;
    int s[4] = {1, 2, 3, 4};
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, "
        "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(s[0]), "+r"(s[1]), "+r"(s[2]), "+r"(s[3])
        : "r"(a[g * 8 + t]), "r"(a[(g + 8) * 8 + t]), "r"(a[g * 8 + t + 4]),
          "r"(a[(g + 8) * 8 + t + 4]), "r"(b[g * 8 + t]), "r"(b[g * 8 + t + 4]));
    c[g * 8 + 2 * t] = s[0];
    c[g * 8 + 2 * t + 1] = s[1];
    c[(g + 8) * 8 + 2 * t] = s[2];
    c[(g + 8) * 8 + 2 * t + 1] = s[3];
}

// Eight 4-bit codes to eight halves, as marlin does: (code - zero) * scale.
extern "C" __global__ void dequantize(const u32* codes, u16 scale, u16 zero, u32* out) {
    u32 q = codes[threadIdx.x];
    u32 s = scale | (u32)scale << 16;
    u32 z = (u32)(zero | 0x6400) * 0x10001u;
    for (int i = 0; i < 4; i++) {
        u32 h;
        asm("lop3.b32 %0, %1, 0x000f000f, 0x64006400, 0xea;" : "=r"(h) : "r"(q >> (4 * i)));
        asm("sub.f16x2 %0, %0, %1;" : "+r"(h) : "r"(z));
        asm("mul.f16x2 %0, %0, %1;" : "+r"(h) : "r"(s));
        u32 p;
        asm("prmt.b32 %0, %1, %1, 0x1032;" : "=r"(p) : "r"(h));
        out[8 * threadIdx.x + 2 * i] = h;
        out[8 * threadIdx.x + 2 * i + 1] = p;
    }
}

extern "C" __global__ void halves(const float* x, u32* out) {
    float a = x[threadIdx.x], b = x[(threadIdx.x + 1) % 32], c = x[(threadIdx.x + 2) % 32];
    u32* o = out + 6 * threadIdx.x;
    u16 h, k, m;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(a));
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(k) : "f"(b));
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(m) : "f"(c));
    o[0] = h;
    asm("{ .reg .b16 t; fma.rn.f16 t, %1, %2, %3; mov.b16 %0, t; }" : "=h"(h) : "h"(h), "h"(k), "h"(m));
    o[1] = h;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(o[2]) : "f"(a), "f"(b));
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(o[3]) : "f"(a), "f"(b));
    u32 one = 0x3c003c00;
    asm("fma.rn.f16x2 %0, %1, %1, %2;" : "=r"(o[4]) : "r"(o[3]), "r"(one));
    asm("{ .reg .b16 lo, hi; .reg .f32 f; mov.b32 {lo, hi}, %1; cvt.f32.f16 f, hi; mov.b32 %0, f; }"
        : "=r"(o[5]) : "r"(o[3]));
}
