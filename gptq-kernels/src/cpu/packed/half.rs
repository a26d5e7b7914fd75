//! 16-bit numbers as f32, exactly, as arithmetic the compiler can vectorise.

/// How 16 or 32 bits stand for a number.
pub(crate) trait Element: Copy + Send + Sync {
    fn widen(self) -> f32;
}

/// The upper half of an f32.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bf16(pub(crate) u16);

/// Half precision, finite.
#[derive(Clone, Copy, Debug)]
pub(crate) struct F16(pub(crate) u16);

impl Element for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Element for Bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }
}

impl Element for F16 {
    /// The exponents differ by 112; a product brings subnormal numbers along.
    #[inline(always)]
    fn widen(self) -> f32 {
        let bits = u32::from(self.0);
        let size = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
        f32::from_bits(size.to_bits() | (bits & 0x8000) << 16)
    }
}
