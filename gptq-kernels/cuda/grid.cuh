// What a lane knows of a group: scales of its outputs, twice in a word, and what brings codes as
// `raw_pair` gives them to code − zero. With two offsets at most that is two numbers for each
// output, and one sum for each pair instead of two. All are whole numbers or halves of such that
// both types hold, so nothing is rounded.
#pragma once

#include "codes.cuh"

template <u32 BITS, bool ASYM, class T, u32 OUTPUTS = 8> struct Grid {
    static constexpr bool WIDE = BITS > T::MANTISSA;  // codes go by way of f32
    static constexpr u32 MOST = FITTING<BITS, T>;
    static constexpr u32 FIT = MOST < 2 * BITS ? MOST : 2 * BITS;
    static constexpr u32 OFFSETS = WIDE ? 1 : FIT / BITS;
    u32 scale[OUTPUTS], down[ASYM ? OUTPUTS * OFFSETS : 1];

    static __device__ u32 down_to(u32 offset, float zero) {
        float d = -T::BASE / float(1 << offset) - zero;
        return T::pair(d, d);
    }

    // Two outputs in a word.
    __device__ void set(const u32 (&scales)[OUTPUTS / 2], const u32 (&zeros)[OUTPUTS / 2]) {
#pragma unroll
        for (u32 j = 0; j < OUTPUTS; j++) {
            scale[j] = j % 2 ? twice_high(scales[j / 2]) : twice_low(scales[j / 2]);
            if constexpr (ASYM) {
                u32 zero = j % 2 ? twice_high(zeros[j / 2]) : twice_low(zeros[j / 2]);
#pragma unroll
                for (u32 o = 0; o < OFFSETS; o++)
                    down[j * OFFSETS + o] = WIDE ? zero : sub<T>(down_to(o * BITS, 0), zero);
            }
        }
    }

    // Pair `i` of (code − zero) · scale, the very numbers of `weight_pair`: of output i / 2.
    template <u32 WORDS> __device__ u32 weight(const u32 (&words)[WORDS], u32 i) const {
        if constexpr (WIDE) {
            return weight_pair<BITS, ASYM, T>(words, i, scale[i / 2], ASYM ? down[i / 2] : 0);
        } else {
            u32 offset;
            u32 raw = raw_pair<BITS, T, FIT>(words, i, offset);
            float unit = 1.0f / float(1 << offset);
            u32 to = ASYM ? down[ASYM ? i / 2 * OFFSETS + offset / BITS : 0]
                          : down_to(offset, float(1 << (BITS - 1)));
            return mul<T>(T::fma(raw, T::pair(unit, unit), to), scale[i / 2]);
        }
    }
};
