//! [`TensorView`]: one tensor as it lies in its file, and its elements as numbers.

use std::path::Path;

use half::{bf16, f16, slice::HalfFloatSliceExt};
use ndarray::Array2;
use safetensors::Dtype;

use crate::Error;

/// One tensor as it lies in its file.
#[derive(Clone, Debug)]
pub struct TensorView<'a> {
    /// Its name.
    pub name: &'a str,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first.
    pub shape: &'a [usize],
    /// Little-endian elements, row-major.
    pub bytes: &'a [u8],
    /// The file it comes from.
    pub file: &'a Path,
}

impl TensorView<'_> {
    pub(crate) fn check_shape(&self, expected: &[usize]) -> Result<(), Error> {
        if self.shape == expected {
            return Ok(());
        }
        Err(Error::Shape {
            file: self.file.display().to_string(),
            tensor: self.name.to_owned(),
            found: self.shape.to_vec(),
            expected: expected.to_vec(),
        })
    }

    pub(crate) fn check_floats(&self) -> Result<(), Error> {
        if matches!(self.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            return Ok(());
        }
        Err(self.wrong_dtype("F32, F16 or BF16"))
    }

    /// Refuses elements of any other type; `expected` is its name.
    ///
    /// # Errors
    /// [`Error::Dtype`].
    pub(crate) fn check_dtype(&self, dtype: Dtype, expected: &'static str) -> Result<(), Error> {
        if self.dtype == dtype { Ok(()) } else { Err(self.wrong_dtype(expected)) }
    }

    fn wrong_dtype(&self, expected: &'static str) -> Error {
        Error::Dtype {
            file: self.file.display().to_string(),
            tensor: self.name.to_owned(),
            found: format!("{:?}", self.dtype),
            expected,
        }
    }

    /// One row along the last dimension, the others taken as one. The index must be in range.
    pub(crate) fn row(&self, index: usize) -> Self {
        let last = self.shape.len().saturating_sub(1);
        let rows: usize = self.shape[..last].iter().product();
        let length = self.bytes.len().checked_div(rows).unwrap_or(0);
        let bytes = &self.bytes[index * length..][..length];
        Self { shape: &self.shape[last..], bytes, ..self.clone() }
    }

    /// All elements as f32; nothing if they are not floats.
    pub(crate) fn floats(&self) -> Box<dyn Iterator<Item = f32> + '_> {
        // Chunks rather than casts: nothing promises that a tensor is aligned in its file.
        let halves = self.bytes.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b));
        match self.dtype {
            Dtype::F32 => {
                Box::new(self.bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)))
            }
            Dtype::F16 => Box::new(halves.map(|h| f16::from_bits(h).to_f32())),
            Dtype::BF16 => Box::new(halves.map(|h| bf16::from_bits(h).to_f32())),
            _ => Box::new(std::iter::empty()),
        }
    }

    /// All elements as f32, at the speed of memory; nothing if they are not floats.
    pub(crate) fn to_vec(&self) -> Vec<f32> {
        // Loops over slices of one kind each become vector instructions; those over a boxed
        // iterator do not.
        let halves = self.bytes.as_chunks::<2>().0;
        match self.dtype {
            Dtype::F32 => {
                self.bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
            }
            Dtype::F16 => {
                let bits: Vec<f16> = halves.iter().map(|b| f16::from_le_bytes(*b)).collect();
                bits.to_f32_vec()
            }
            Dtype::BF16 => halves.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            _ => Vec::new(),
        }
    }

    /// Whether every float has an exponent below that of infinity and NaN.
    pub(crate) fn all_finite(&self) -> bool {
        const RUN: usize = 4096;
        let finite = |exponent: u16| {
            let all = |run: &[[u8; 2]]| {
                let in_run = |b: &[u8; 2]| u16::from_le_bytes(*b) & exponent == exponent;
                run.iter().fold(true, |all, b| all & !in_run(b))
            };
            self.bytes.as_chunks::<2>().0.chunks(RUN).all(all)
        };
        match self.dtype {
            Dtype::F32 => {
                let exponent = 0x7F80_0000;
                let infinite = |b: &[u8; 4]| u32::from_le_bytes(*b) & exponent == exponent;
                let all = |run: &[[u8; 4]]| run.iter().fold(true, |all, b| all & !infinite(b));
                self.bytes.as_chunks::<4>().0.chunks(RUN).all(all)
            }
            Dtype::F16 => finite(0x7C00),
            Dtype::BF16 => finite(0x7F80),
            _ => true,
        }
    }

    /// Refuses the first NaN or infinity.
    ///
    /// # Errors
    /// [`Error::NotFinite`].
    pub(crate) fn check_finite(&self) -> Result<(), Error> {
        if self.all_finite() {
            return Ok(());
        }
        let columns = self.shape.last().copied().unwrap_or(1).max(1);
        match self.floats().enumerate().find(|(_, v)| !v.is_finite()) {
            None => Ok(()),
            Some((index, value)) => Err(self.not_finite(value, index / columns, index % columns)),
        }
    }

    pub(crate) fn not_finite(&self, value: f32, row: usize, column: usize) -> Error {
        Error::NotFinite {
            file: self.file.display().to_string(),
            tensor: self.name.to_owned(),
            value,
            row,
            column,
        }
    }

    /// All elements as f32, in this shape.
    ///
    /// # Errors
    /// [`Error::NotFinite`].
    pub(crate) fn to_matrix(&self, rows: usize, columns: usize) -> Result<Array2<f32>, Error> {
        self.check_finite()?;
        self.matrix_of(rows, columns, self.to_vec())
    }

    /// Values that were read from this tensor, as a matrix.
    pub(crate) fn matrix_of(
        &self,
        rows: usize,
        columns: usize,
        values: Vec<f32>,
    ) -> Result<Array2<f32>, Error> {
        Array2::from_shape_vec((rows, columns), values)
            .map_err(|e| Error::file(self.file, format!("tensor {}: {e}", self.name)))
    }
}
