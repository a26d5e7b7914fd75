//! [`Width`]: how many bits a stored code has, whether or not [`Bits`] knows the number.

use std::fmt;

use gptq_core::Bits;

use crate::Error;

/// Width of a stored code: 2 to 8 bits.
///
/// Solvers and kernels know the four widths of [`Bits`]; files of some formats also have codes of 5,
/// 6 and 7. Those are read as 8-bit ones by one law: **the middles of both ranges meet**. Adding
/// `2⁷ − 2^(b−1)` to every code and every zero point leaves their difference, and so every weight,
/// as it was; a symmetric layer stays symmetric.
///
/// ```
/// use gptq_core::Bits;
/// use gptq_pack::Width;
///
/// assert_eq!(Width::from(Bits::B4).bits(), Bits::B4);
/// let five = Width::try_from(5)?;
/// assert_eq!((five.bits(), five.offset()), (Bits::B8, 112));
/// # Ok::<(), gptq_pack::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Width(u8);

impl Width {
    /// The width in bits.
    pub const fn get(self) -> u32 {
        self.0 as u32
    }

    /// The largest code, `2^b - 1`.
    pub const fn maxq(self) -> u8 {
        ((1u32 << self.0) - 1) as u8
    }

    /// The zero point of a symmetric layer, `2^(b-1)`.
    pub const fn middle(self) -> u8 {
        1 << (self.0 - 1)
    }

    /// The narrowest width of a solver that holds the codes.
    pub const fn bits(self) -> Bits {
        match self.0 {
            2 => Bits::B2,
            3 => Bits::B3,
            4 => Bits::B4,
            _ => Bits::B8,
        }
    }

    /// What to add to stored codes and zero points to make them those of [`bits`](Self::bits).
    pub const fn offset(self) -> u8 {
        match self.0 {
            5..=7 => 128 - self.middle(),
            _ => 0,
        }
    }
}

impl From<Bits> for Width {
    fn from(bits: Bits) -> Self {
        Self(bits.get() as u8)
    }
}

impl TryFrom<u32> for Width {
    type Error = Error;

    fn try_from(bits: u32) -> Result<Self, Error> {
        match bits {
            2..=8 => Ok(Self(bits as u8)),
            _ => Err(Error::UnsupportedWidth { bits }),
        }
    }
}

impl PartialEq<Bits> for Width {
    fn eq(&self, bits: &Bits) -> bool {
        self.get() == bits.get()
    }
}

impl fmt::Display for Width {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
