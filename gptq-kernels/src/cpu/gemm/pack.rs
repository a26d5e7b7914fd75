//! Operands as strips.

use ndarray::{ArrayView2, s};

use super::super::isa::{Isa, Kernel};

/// Writes `alpha · a` (rows × k, any strides) as strips of `width` rows: for every k the values of
/// all rows of the strip, zeros for rows that are missing.
pub(super) fn pack(isa: Isa, a: ArrayView2<'_, f32>, width: usize, alpha: f32, out: &mut Vec<f32>) {
    // Whatever was there is overwritten.
    out.resize(a.nrows().next_multiple_of(width) * a.ncols(), 0.0);
    match width {
        6 => isa.run(Pack::<6> { a, alpha, out }),
        12 => isa.run(Pack::<12> { a, alpha, out }),
        16 => isa.run(Pack::<16> { a, alpha, out }),
        32 => isa.run(Pack::<32> { a, alpha, out }),
        _ => unreachable!("no kernel has strips of {width}"),
    }
}

struct Pack<'a, const WIDTH: usize> {
    a: ArrayView2<'a, f32>,
    alpha: f32,
    out: &'a mut [f32],
}

impl<const WIDTH: usize> Kernel for Pack<'_, WIDTH> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { a, alpha, out } = self;
        let (rows, depth) = a.dim();
        if depth == 0 {
            return;
        }
        let [row_stride, stride] = [a.strides()[0], a.strides()[1]];
        for (strip, out) in out.chunks_exact_mut(WIDTH * depth).enumerate() {
            let row = strip * WIDTH;
            let lines = out.as_chunks_mut::<WIDTH>().0.iter_mut().enumerate();
            if row + WIDTH > rows {
                let part = a.slice(s![row.., ..]);
                for (k, line) in lines {
                    *line = [0.0; WIDTH];
                    line.iter_mut().zip(part.column(k)).for_each(|(line, &x)| *line = alpha * x);
                }
            } else if row_stride == 1 {
                for (k, line) in lines {
                    // SAFETY: WIDTH rows from `row` on are there, and neighbours in memory.
                    let column: &[f32; WIDTH] =
                        unsafe { &*a.as_ptr().offset(row as isize + k as isize * stride).cast() };
                    for (line, x) in line.iter_mut().zip(column) {
                        *line = alpha * x;
                    }
                }
            } else {
                for (k, line) in lines {
                    for (r, line) in line.iter_mut().enumerate() {
                        let at = (row + r) as isize * row_stride + k as isize * stride;
                        // SAFETY: row + r < rows and k < depth.
                        *line = alpha * unsafe { *a.as_ptr().offset(at) };
                    }
                }
            }
        }
    }
}
