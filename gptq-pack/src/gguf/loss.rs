//! What an encoding loses.

use gptq_core::QuantizedMatrix;

use super::{block::BlockType, check_bytes};
use crate::{Error, linear};

/// The difference of an encoded layer from the layer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// Weights of the layer.
    pub weights: u64,
    /// Weights that differ at all.
    pub inexact: u64,
    /// Largest error of a weight, in steps of its group's scale.
    pub max_steps: f64,
    /// Largest error of a weight, as a share of the root mean square of all weights.
    pub max: f64,
    /// Root mean square of all errors, as a share of the same of all weights.
    pub rms: f64,
}

impl Loss {
    /// Compares decoded rows with what the matrix stands for. `decode_row` fills in the weights of
    /// one row, by number.
    ///
    /// # Errors
    /// What [`PackedLinear::pack`](crate::PackedLinearRef::pack) says of a matrix that contradicts
    /// itself.
    pub fn measure(
        q: &QuantizedMatrix,
        mut decode_row: impl FnMut(usize, &mut [f32]),
    ) -> Result<Self, Error> {
        linear::check_matrix(q)?;
        let mut out = Loss { weights: q.codes.len() as u64, ..Loss::default() };
        let (mut largest, mut errors, mut squares) = (0f64, 0f64, 0f64);
        let mut got = vec![0.0; q.in_features()];
        let mut want = got.clone();
        for row in 0..q.out_features() {
            decode_row(row, &mut got);
            dequantize_row(q, row, &mut want);
            squares += want.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>();
            if got == want {
                continue;
            }
            for ((got, want), &g) in got.iter().zip(&want).zip(&q.g_idx) {
                let error = (f64::from(*got) - f64::from(*want)).abs();
                // Not "above 0": a NaN differs too.
                if error == 0.0 {
                    continue;
                }
                out.inexact += 1;
                largest = largest.max(error);
                errors += error * error;
                let scale = f64::from(q.scales[[row, g as usize]].abs());
                out.max_steps = out.max_steps.max(error / scale);
            }
        }
        let typical = (squares / q.codes.len() as f64).sqrt();
        let share = |error: f64| if error == 0.0 { 0.0 } else { error / typical };
        out.max = share(largest);
        out.rms = share((errors / q.codes.len() as f64).sqrt());
        Ok(out)
    }

    /// What blocks of a type lose.
    ///
    /// # Errors
    /// As [`Loss::measure`], and [`Error::BlockBytes`] if these are not the matrix's bytes.
    pub fn of_blocks(q: &QuantizedMatrix, bytes: &[u8], ty: BlockType) -> Result<Self, Error> {
        check_bytes(bytes, ty, q.out_features(), q.in_features())?;
        let size = ty.row_bytes(q.in_features());
        Self::measure(q, |row, out| ty.decode_row(&bytes[row * size..][..size], out))
    }

    /// Whether every weight is what it was.
    pub fn is_exact(&self) -> bool {
        self.inexact == 0
    }
}

/// The weights that one row of codes stands for.
pub(super) fn dequantize_row(q: &QuantizedMatrix, row: usize, out: &mut [f32]) {
    let (scales, zeros) = (q.scales.row(row), q.zeros.row(row));
    for ((w, &code), &g) in out.iter_mut().zip(q.codes.row(row)).zip(&q.g_idx) {
        *w = scales[g as usize] * (f32::from(code) - f32::from(zeros[g as usize]));
    }
}
