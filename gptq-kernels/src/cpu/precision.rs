//! [`Precision`]: what numbers products are made of.

/// What numbers the factors of a product are rounded to. Sums are f32 in every case, except that
/// those of bytes are exact.
///
/// A precision that the CPU has no instructions for is not imitated: the next better one is used,
/// and [`crate::CpuBackend::precision`] says which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precision {
    /// As they are.
    #[default]
    F32,
    /// bf16 for dense products and sums of squares of inputs: 8 significant bits.
    Bf16,
    /// As [`Precision::Bf16`], and products with prepared linears take their activations as bytes,
    /// with a scale for every token and at most 128 inputs of a group. Dense linears are held as 8
    /// bits in groups of 64. Every instruction set gives the same integers.
    Int8,
}

impl Precision {
    /// The usual name.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
            Precision::Int8 => "int8",
        }
    }
}
