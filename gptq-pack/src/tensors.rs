//! Tensors as a file holds them: dtype, shape and little-endian bytes.

use std::{borrow::Cow, fmt};

use bytemuck::{AnyBitPattern, NoUninit};
use half::{bf16, f16};

use crate::{Error, names::Part};

/// Number formats that packed checkpoints use. Names are those of safetensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// 32-bit words and indices.
    I32,
    /// Shapes, in compressed-tensors.
    I64,
    /// IEEE half precision.
    F16,
    /// The upper half of an `F32`.
    BF16,
    /// IEEE single precision.
    F32,
    /// Anything else; no role in a packed layer allows it.
    Other,
}

impl Dtype {
    /// Bytes per element; 1 for [`Dtype::Other`], which is refused before its size matters.
    pub const fn size(self) -> usize {
        match self {
            Dtype::I64 => 8,
            Dtype::I32 | Dtype::F32 => 4,
            Dtype::F16 | Dtype::BF16 => 2,
            Dtype::Other => 1,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dtype::I32 => "I32",
            Dtype::I64 => "I64",
            Dtype::F16 => "F16",
            Dtype::BF16 => "BF16",
            Dtype::F32 => "F32",
            Dtype::Other => "other than I32, I64, F16, BF16 and F32",
        })
    }
}

/// One tensor, unchecked: bytes may have any length and alignment.
#[derive(Clone, Debug, PartialEq)]
pub struct RawTensor<'a> {
    /// How its numbers are written.
    pub dtype: Dtype,
    /// Its dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Its numbers, row-major, little-endian.
    pub bytes: Cow<'a, [u8]>,
}

impl<'a> RawTensor<'a> {
    /// The same tensor, independent of the file's bytes.
    pub fn into_owned(self) -> RawTensor<'static> {
        let Self { dtype, shape, bytes } = self;
        RawTensor { dtype, shape, bytes: bytes.into_owned().into() }
    }

    /// Borrows a tensor from a file's bytes.
    pub fn new(dtype: Dtype, shape: &[usize], bytes: &'a [u8]) -> Self {
        Self { dtype, shape: shape.to_vec(), bytes: Cow::Borrowed(bytes) }
    }

    /// The numbers of an `I32` tensor as bit patterns, once the shape is proven.
    pub(crate) fn words(&self, expected: Expected<'_>) -> Result<Cow<'a, [u32]>, Error> {
        if self.dtype != Dtype::I32 {
            return Err(self.wrong_dtype(expected.part, "I32"));
        }
        self.check(expected)?;
        Ok(decode(&self.bytes, u32::from_le_bytes))
    }

    /// The numbers of a float tensor in half precision, the nearest ones where the file is finer,
    /// once the shape is proven and all are finite.
    pub(crate) fn halves(&self, expected: Expected<'_>) -> Result<Cow<'a, [f16]>, Error> {
        let (part, columns) = (expected.part, expected.shape.last().copied().unwrap_or(1));
        if self.dtype != Dtype::F16 {
            return Ok(round_to_half(part, columns, self.floats(expected)?)?.into());
        }
        self.check(expected)?;
        let halves = decode(&self.bytes, f16::from_le_bytes);
        match halves.iter().position(|v| !v.is_finite()) {
            None => Ok(halves),
            Some(i) => {
                let (value, row, column) = (halves[i].to_f32(), i / columns, i % columns);
                Err(Error::NotFinite { part, value, row, column })
            }
        }
    }

    /// The numbers of a float tensor, exactly, once the shape is proven and all are finite.
    pub(crate) fn finite_floats(&self, expected: Expected<'_>) -> Result<Vec<f32>, Error> {
        let (part, columns) = (expected.part, expected.shape.last().copied().unwrap_or(1));
        let values = self.floats(expected)?;
        match values.iter().position(|v| !v.is_finite()) {
            None => Ok(values),
            Some(i) => {
                let (value, row, column) = (values[i], i / columns, i % columns);
                Err(Error::NotFinite { part, value, row, column })
            }
        }
    }

    /// The numbers of a float tensor, exactly, once the shape is proven. Infinities pass.
    pub(crate) fn floats(&self, expected: Expected<'_>) -> Result<Vec<f32>, Error> {
        let widen: fn(&Cow<'a, [u8]>) -> Vec<f32> = match self.dtype {
            Dtype::F32 => |b| decode(b, f32::from_le_bytes).into_owned(),
            Dtype::F16 => |b| decode(b, f16::from_le_bytes).iter().map(|v| v.to_f32()).collect(),
            Dtype::BF16 => |b| decode(b, bf16::from_le_bytes).iter().map(|v| v.to_f32()).collect(),
            Dtype::I32 | Dtype::I64 | Dtype::Other => {
                return Err(self.wrong_dtype(expected.part, "F16, BF16 or F32"));
            }
        };
        self.check(expected)?;
        Ok(widen(&self.bytes))
    }

    /// The numbers of an `I32` or `I64` tensor, once the shape is proven.
    pub(crate) fn integers(&self, expected: Expected<'_>) -> Result<Vec<i64>, Error> {
        let widen: fn(&Cow<'a, [u8]>) -> Vec<i64> = match self.dtype {
            Dtype::I64 => |b| decode(b, i64::from_le_bytes).into_owned(),
            Dtype::I32 => |b| decode(b, i32::from_le_bytes).iter().map(|&v| v.into()).collect(),
            _ => return Err(self.wrong_dtype(expected.part, "I64 or I32")),
        };
        self.check(expected)?;
        Ok(widen(&self.bytes))
    }

    fn check(&self, expected: Expected<'_>) -> Result<(), Error> {
        let Expected { part, shape, rule } = expected;
        if self.shape != shape {
            let (found, expected) = (self.shape.clone(), shape.to_vec());
            return Err(Error::Shape { part, found, expected, rule: rule.to_owned() });
        }
        let bytes = shape.iter().try_fold(self.dtype.size(), |n, &dim| n.checked_mul(dim));
        let expected = bytes.ok_or_else(|| Error::TooLarge { part, shape: shape.to_vec() })?;
        if self.bytes.len() != expected {
            let (found, dtype) = (self.bytes.len(), self.dtype);
            return Err(Error::Length { part, found, expected, shape: shape.to_vec(), dtype });
        }
        Ok(())
    }

    fn wrong_dtype(&self, part: Part, expected: &'static str) -> Error {
        Error::Dtype { part, found: self.dtype, expected }
    }
}

/// What a tensor must be, and why.
#[derive(Clone, Copy)]
pub(crate) struct Expected<'s> {
    pub(crate) part: Part,
    pub(crate) shape: &'s [usize],
    pub(crate) rule: &'static str,
}

/// Rounds to half precision what half precision can hold. `columns` only serves the messages.
pub(crate) fn round_to_half(
    part: Part,
    columns: usize,
    values: impl IntoIterator<Item = f32>,
) -> Result<Vec<f16>, Error> {
    let round = |(i, value): (usize, f32)| {
        let (half, row, column) = (f16::from_f32(value), i / columns, i % columns);
        match (half.is_finite(), value.is_finite()) {
            (true, _) => Ok(half),
            (false, true) => Err(Error::HalfOverflow { part, value, row, column }),
            (false, false) => Err(Error::NotFinite { part, value, row, column }),
        }
    };
    values.into_iter().enumerate().map(round).collect()
}

/// Numbers as the bytes of a float tensor, rounded to its dtype. `columns` only serves the messages.
pub(crate) fn encode_floats(
    part: Part,
    dtype: Dtype,
    columns: usize,
    values: &[f32],
) -> Result<Vec<u8>, Error> {
    let place = |i: usize| (i / columns, i % columns);
    if let Some(i) = values.iter().position(|v| !v.is_finite()) {
        let (value, (row, column)) = (values[i], place(i));
        return Err(Error::NotFinite { part, value, row, column });
    }
    match dtype {
        Dtype::F32 => Ok(encode(values, f32::to_le_bytes).into_owned()),
        Dtype::F16 => {
            let halves = round_to_half(part, columns, values.iter().copied())?;
            Ok(encode(&halves, f16::to_le_bytes).into_owned())
        }
        Dtype::BF16 => {
            let rounded: Vec<bf16> = values.iter().map(|&v| bf16::from_f32(v)).collect();
            match rounded.iter().position(|v| !v.is_finite()) {
                None => Ok(encode(&rounded, bf16::to_le_bytes).into_owned()),
                Some(i) => {
                    let (value, (row, column)) = (values[i], place(i));
                    Err(Error::Bf16Overflow { part, value, row, column })
                }
            }
        }
        found @ (Dtype::I32 | Dtype::I64 | Dtype::Other) => {
            Err(Error::Dtype { part, found, expected: "F16, BF16 or F32" })
        }
    }
}

/// Little-endian bytes as numbers: in place where this machine's byte order and the bytes'
/// alignment allow, copied otherwise.
fn decode<'a, T: AnyBitPattern, const N: usize>(
    bytes: &Cow<'a, [u8]>,
    from_le: fn([u8; N]) -> T,
) -> Cow<'a, [T]> {
    if cfg!(target_endian = "little")
        && let Cow::Borrowed(bytes) = bytes
        && let Ok(numbers) = bytemuck::try_cast_slice(bytes)
    {
        return Cow::Borrowed(numbers);
    }
    bytes.as_chunks().0.iter().map(|&chunk| from_le(chunk)).collect()
}

/// Numbers as little-endian bytes: in place where this machine's byte order allows.
pub(crate) fn encode<T: NoUninit, const N: usize>(
    numbers: &[T],
    to_le: fn(T) -> [u8; N],
) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        return Cow::Borrowed(bytemuck::cast_slice(numbers));
    }
    numbers.iter().flat_map(|&number| to_le(number)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: Expected<'_> = Expected { part: Part::GIdx, shape: &[2], rule: "two of them" };

    #[test]
    fn unaligned_bytes_read_like_aligned_ones() {
        let words = [1u32, 0x0403_0201];
        // Four starts in a row: at least three of them are unaligned.
        for start in 0..4 {
            let mut bytes = vec![0; start];
            bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
            let tensor = RawTensor::new(Dtype::I32, &[2], &bytes[start..]);
            assert_eq!(*tensor.words(TWO).unwrap(), words);
        }
    }

    #[test]
    fn aligned_bytes_are_not_copied() {
        let words = [1u32, 2];
        let tensor = RawTensor::new(Dtype::I32, &[2], bytemuck::cast_slice(&words));
        let borrowed = matches!(tensor.words(TWO), Ok(Cow::Borrowed(_)));
        assert_eq!(borrowed, cfg!(target_endian = "little"));
    }

    #[test]
    fn what_half_precision_cannot_hold_is_named() {
        let error = round_to_half(Part::Scales, 2, [1.0, 2.0, 1e6]).unwrap_err();
        let expected = Error::HalfOverflow { part: Part::Scales, value: 1e6, row: 1, column: 0 };
        assert_eq!(error, expected);
    }
}
