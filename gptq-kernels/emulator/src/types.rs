//! The types an instruction names.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ty {
    B8,
    B16,
    B32,
    B64,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    F32,
    F64,
    Tf32,
    Pred,
}

impl Ty {
    /// The type of a name without its dot.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "b8" => Self::B8,
            "b16" => Self::B16,
            "b32" => Self::B32,
            "b64" => Self::B64,
            "u8" => Self::U8,
            "u16" => Self::U16,
            "u32" => Self::U32,
            "u64" => Self::U64,
            "s8" => Self::S8,
            "s16" => Self::S16,
            "s32" => Self::S32,
            "s64" => Self::S64,
            "f16" => Self::F16,
            "f16x2" => Self::F16x2,
            "bf16" => Self::Bf16,
            "bf16x2" => Self::Bf16x2,
            "f32" => Self::F32,
            "f64" => Self::F64,
            "tf32" => Self::Tf32,
            "pred" => Self::Pred,
            _ => return None,
        })
    }

    /// Bytes of one value.
    pub(crate) fn size(self) -> usize {
        match self {
            Self::B8 | Self::U8 | Self::S8 | Self::Pred => 1,
            Self::B16 | Self::U16 | Self::S16 | Self::F16 | Self::Bf16 => 2,
            Self::B64 | Self::U64 | Self::S64 | Self::F64 => 8,
            _ => 4,
        }
    }

    pub(crate) fn bits(self) -> u32 {
        8 * self.size() as u32
    }

    pub(crate) fn is_signed(self) -> bool {
        matches!(self, Self::S8 | Self::S16 | Self::S32 | Self::S64)
    }

    pub(crate) fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::Bf16 | Self::F32 | Self::F64 | Self::Tf32)
    }

    /// Keeps the bits of one value, with its sign extended if it has one.
    pub(crate) fn extend(self, raw: u64) -> u64 {
        match self {
            Self::S8 => raw as i8 as u64,
            Self::S16 => raw as i16 as u64,
            Self::S32 => raw as i32 as u64,
            _ => match self.size() {
                1 => raw as u8 as u64,
                2 => raw as u16 as u64,
                4 => raw as u32 as u64,
                _ => raw,
            },
        }
    }

    /// The value as a whole number, whatever the type's width.
    pub(crate) fn integer(self, raw: u64) -> i128 {
        if self.is_signed() { self.extend(raw) as i64 as i128 } else { self.extend(raw) as i128 }
    }
}
