//! The two kinds of halves.

use ::half::{bf16, f16};

/// What factors of products are rounded to on a GPU. Sums are f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Half {
    /// 11 significant bits, at most 65504. For models whose own type it is, and for f32.
    #[default]
    F16,
    /// 8 significant bits, and the range of f32. For models whose own type it is.
    Bf16,
}

impl Half {
    /// The usual name.
    pub fn name(self) -> &'static str {
        self.choose("f16", "bf16")
    }

    /// What goes with it.
    pub(super) fn choose<T>(self, f16: T, bf16: T) -> T {
        match self {
            Half::F16 => f16,
            Half::Bf16 => bf16,
        }
    }

    /// Its number in kernels, where 0 is f32.
    pub(super) fn kind(self) -> u32 {
        self.choose(1, 2)
    }

    pub(super) fn bits(self, x: f32) -> u16 {
        match self {
            Half::F16 => f16::from_f32(x).to_bits(),
            Half::Bf16 => bf16::from_f32(x).to_bits(),
        }
    }
}
