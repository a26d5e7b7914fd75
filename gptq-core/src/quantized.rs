//! The result: integer codes, and the grids that give them meaning.

use ndarray::{Array2, Zip};
use rayon::prelude::*;

use crate::Bits;

/// A quantized weight matrix before packing: `W[r, c] ≈ scales[r, g] · (codes[r, c] − zeros[r, g])`
/// with `g = g_idx[c]`.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedMatrix {
    /// Width of a code.
    pub bits: Bits,
    /// out × in, in the original column order; each at most `bits.maxq()`.
    pub codes: Array2<u8>,
    /// out × groups.
    pub scales: Array2<f32>,
    /// out × groups; each at most `bits.maxq()`.
    pub zeros: Array2<u8>,
    /// in; the group of each column.
    pub g_idx: Vec<u32>,
}

impl QuantizedMatrix {
    /// Output rows.
    pub fn out_features(&self) -> usize {
        self.codes.nrows()
    }

    /// Input columns.
    pub fn in_features(&self) -> usize {
        self.codes.ncols()
    }

    /// Scales per row.
    pub fn groups(&self) -> usize {
        self.scales.ncols()
    }

    /// The weights the codes stand for, out × in, in the original column order.
    pub fn dequantize(&self) -> Array2<f32> {
        let mut w = Array2::zeros(self.codes.dim());
        let rows: Vec<_> = w.outer_iter_mut().enumerate().collect();
        rows.into_par_iter().for_each(|(r, mut row)| {
            let (scales, zeros) = (self.scales.row(r), self.zeros.row(r));
            Zip::from(&mut row).and(self.codes.row(r)).and(&self.g_idx[..]).for_each(
                |w, &code, &g| {
                    let g = g as usize;
                    *w = scales[g] * (f32::from(code) - f32::from(zeros[g]));
                },
            );
        });
        w
    }
}
