// From packed codes to numbers. A lane's 32 codes of a tile of 16 × 64 lie in `BITS` words: pair i
// of a word at bits i · BITS and 16 + i · BITS, so that one mask and one magic number make two
// halves of it. Of 3 bits the last pair is spread over the top bits of the three words.
#pragma once

#include "common.cuh"

template <u32 BITS> struct Pairs {
    static constexpr u32 PER_WORD = 16 / BITS;
    static constexpr u32 MASK = ((1 << BITS) - 1) * 0x00010001;
};

// Where word `w` of a lane is in its tile: words that one instruction loads lie together. Three are
// loaded one by one, each beside those of other lanes.
template <u32 BITS> __device__ u32 word_at(u32 w, u32 lane) {
    constexpr u32 RUN = BITS == 3 ? 1 : BITS < 4 ? BITS : 4;
    return (w / RUN * WARP + lane) * RUN + w % RUN;
}

// Bits below a leading one in which whole codes fit.
template <u32 BITS, class T> constexpr u32 FITTING = ((T::MANTISSA - BITS) / BITS + 1) * BITS;

// Pair `i` of 16, as halves of BASE + code · 2^offset, with the offset below `FIT`.
template <u32 BITS, class T, u32 FIT = FITTING<BITS, T>, u32 WORDS>
__device__ u32 raw_pair(const u32 (&words)[WORDS], u32 i, u32& offset) {
    if constexpr (BITS == 3)
        if (i == 15) {
            offset = 0;
            u32 low = (words[0] >> 15) & 0x00010001, middle = (words[1] >> 14) & 0x00020002;
            return low | middle | and_or(words[2] >> 13, 0x00040004, T::MAGIC);
        }
    u32 at = i % Pairs<BITS>::PER_WORD * BITS;
    offset = at % FIT;
    u32 word = words[i / Pairs<BITS>::PER_WORD] >> (at - offset);
    return and_or(word, Pairs<BITS>::MASK << offset, T::MAGIC);
}

// Pair `i` of (code − zero) · scale. Code minus zero is exact; the product is rounded once.
// Without `ASYM`, zero is the middle, and no one looks at `zero`.
template <u32 BITS, bool ASYM, class T, u32 WORDS>
__device__ u32 weight_pair(const u32 (&words)[WORDS], u32 i, u32 scale, u32 zero) {
    if constexpr (BITS > T::MANTISSA) {
        // Eight bits and the leading one do not fit bf16: by way of f32, exact up to the product.
        // A byte below 2^23, in one instruction.
        auto above = [&](u32 byte) {
            return __uint_as_float(__byte_perm(words[i / 2], 0x4b000000, 0x7540 + byte));
        };
        float z = 8388608.0f + (ASYM ? T::low(zero) : float(1 << (BITS - 1)));
        float low = above(i % 2) - z, high = above(i % 2 + 2) - z;
        return T::pair(low * T::low(scale), high * T::low(scale));
    } else {
        u32 offset;
        u32 raw = raw_pair<BITS, T>(words, i, offset);
        float unit = 1.0f / float(1 << offset);
        float down = -T::BASE * unit - (ASYM ? 0.0f : float(1 << (BITS - 1)));
        u32 centred = T::fma(raw, T::pair(unit, unit), T::pair(down, down));
        if (ASYM) centred = sub<T>(centred, zero);
        return mul<T>(centred, scale);
    }
}
