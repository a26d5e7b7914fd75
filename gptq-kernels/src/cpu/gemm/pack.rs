//! Operands as strips.

use ndarray::{ArrayView2, s};

use super::super::isa::{Isa, Kernel};

/// Values along k that are turned at once.
const CHUNK: usize = 16;

/// Writes `alpha · a` (rows × k, any strides) as strips of `width` rows: for every k the values of
/// all rows of the strip, zeros for rows that are missing.
pub(super) fn pack(isa: Isa, a: ArrayView2<'_, f32>, width: usize, alpha: f32, out: &mut Vec<f32>) {
    out.clear();
    out.reserve(a.nrows().next_multiple_of(width) * a.ncols());
    match width {
        super::kernel::ROWS => isa.run(Pack::<{ super::kernel::ROWS }> { a, alpha, out }),
        16 => isa.run(Pack::<16> { a, alpha, out }),
        64 => isa.run(Pack::<64> { a, alpha, out }),
        _ => unreachable!("no kernel has strips of {width}"),
    }
}

struct Pack<'a, const WIDTH: usize> {
    a: ArrayView2<'a, f32>,
    alpha: f32,
    out: &'a mut Vec<f32>,
}

impl<const WIDTH: usize> Kernel for Pack<'_, WIDTH> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let (rows, depth) = self.a.dim();
        let [row_stride, stride] = [self.a.strides()[0], self.a.strides()[1]];
        for row in (0..rows).step_by(WIDTH) {
            let count = WIDTH.min(rows - row);
            for start in (0..depth).step_by(CHUNK) {
                let inner = start..depth.min(start + CHUNK);
                let mut chunk = [[0f32; WIDTH]; CHUNK];
                if stride == 1 {
                    for r in 0..count {
                        let values = self.a.row(row + r).to_slice().expect("rows without gaps");
                        for (line, &x) in chunk.iter_mut().zip(&values[inner.clone()]) {
                            line[r] = x;
                        }
                    }
                } else if row_stride == 1 {
                    for (line, k) in chunk.iter_mut().zip(inner.clone()) {
                        let values = self.a.column(k).to_slice().expect("columns without gaps");
                        line[..count].copy_from_slice(&values[row..row + count]);
                    }
                } else {
                    for (line, k) in chunk.iter_mut().zip(inner.clone()) {
                        let values = self.a.slice(s![row..row + count, k]);
                        line.iter_mut().zip(values).for_each(|(line, &x)| *line = x);
                    }
                }
                if self.alpha != 1.0 {
                    chunk.as_flattened_mut().iter_mut().for_each(|x| *x *= self.alpha);
                }
                self.out.extend_from_slice(chunk[..inner.len()].as_flattened());
            }
        }
    }
}
