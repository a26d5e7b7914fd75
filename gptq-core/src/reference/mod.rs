//! [`Reference`]: every operation of [`Backend`] in its plainest form.

mod attention;
mod pointwise;

use ndarray::{Array2, ArrayView2, Axis, Zip, concatenate, s};

use crate::{
    AttentionShape, Backend, Error, Gate, Norm, NormKind, Pointwise, RopeShape, ScoreTerms,
};

/// The definition that fast backends are tested against: slow, sequential, obviously right.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

impl Backend for Reference {
    type Tensor = Array2<f32>;

    fn upload(&self, a: ArrayView2<'_, f32>) -> Result<Array2<f32>, Error> {
        Ok(a.as_standard_layout().into_owned())
    }

    fn download(&self, a: &Array2<f32>) -> Result<Array2<f32>, Error> {
        Ok(a.clone())
    }

    fn dim(&self, a: &Array2<f32>) -> (usize, usize) {
        a.dim()
    }

    fn zeros(&self, rows: usize, columns: usize) -> Result<Array2<f32>, Error> {
        Ok(Array2::zeros((rows, columns)))
    }

    fn linear(
        &self,
        x: &Array2<f32>,
        w: &Array2<f32>,
        bias: Option<&Array2<f32>>,
    ) -> Result<Array2<f32>, Error> {
        let y = x.dot(&w.t());
        Ok(match bias {
            Some(bias) => y + bias,
            None => y,
        })
    }

    fn norm(&self, x: &Array2<f32>, norm: &Norm<'_, Array2<f32>>) -> Result<Array2<f32>, Error> {
        let mut y = x.clone();
        for mut row in y.rows_mut() {
            for mut segment in row.exact_chunks_mut(norm.segment) {
                if norm.kind == NormKind::Layer {
                    segment -= segment.sum() / norm.segment as f32;
                }
                let square = segment.iter().map(|v| v * v).sum::<f32>() / norm.segment as f32;
                segment *= 1.0 / (square + norm.eps).sqrt();
            }
        }
        for ((_, c), y) in y.indexed_iter_mut() {
            *y *= norm.weight.map_or(1.0, |weight| weight[(0, c % weight.ncols())]);
            *y += norm.bias.map_or(0.0, |bias| bias[(0, c % bias.ncols())]);
        }
        Ok(y)
    }

    fn rope(
        &self,
        x: &mut Array2<f32>,
        cos: &Array2<f32>,
        sin: &Array2<f32>,
        shape: RopeShape,
    ) -> Result<(), Error> {
        let half = cos.ncols();
        for (t, mut row) in x.rows_mut().into_iter().enumerate() {
            for mut head in row.exact_chunks_mut(shape.head_dim) {
                for i in 0..half {
                    let (first, second) =
                        if shape.interleaved { (2 * i, 2 * i + 1) } else { (i, i + half) };
                    let (first, second) = (shape.offset + first, shape.offset + second);
                    let (a, b) = (head[first], head[second]);
                    head[first] = a * cos[(t, i)] - b * sin[(t, i)];
                    head[second] = b * cos[(t, i)] + a * sin[(t, i)];
                }
            }
        }
        Ok(())
    }

    fn attention(
        &self,
        q: &Array2<f32>,
        k: &Array2<f32>,
        v: &Array2<f32>,
        shape: &AttentionShape,
        terms: ScoreTerms<'_, Array2<f32>>,
    ) -> Result<Array2<f32>, Error> {
        Ok(attention::attention(q, k, v, shape, terms))
    }

    fn apply(&self, x: &mut Array2<f32>, f: Pointwise) -> Result<(), Error> {
        x.mapv_inplace(|x| pointwise::pointwise(f, x));
        Ok(())
    }

    fn gated(&self, gate: &Array2<f32>, up: &Array2<f32>, f: Gate) -> Result<Array2<f32>, Error> {
        Ok(Zip::from(gate).and(up).map_collect(|&g, &u| pointwise::gate(f, g, u)))
    }

    fn add_assign(&self, x: &mut Array2<f32>, y: &Array2<f32>) -> Result<(), Error> {
        *x += y;
        Ok(())
    }

    fn scale_rows(&self, x: &mut Array2<f32>, factors: &[f32]) -> Result<(), Error> {
        assert_eq!(x.nrows(), factors.len(), "scale_rows: one factor per row");
        for (mut row, &factor) in x.rows_mut().into_iter().zip(factors) {
            row *= factor;
        }
        Ok(())
    }

    fn columns(&self, parts: &[&Array2<f32>], index: &[u32]) -> Result<Array2<f32>, Error> {
        let parts: Vec<_> = parts.iter().map(|part| part.view()).collect();
        let all = concatenate(Axis(1), &parts).expect("parts have the same rows");
        let index: Vec<usize> = index.iter().map(|&c| c as usize).collect();
        // `select` of columns may come back in the other memory order.
        Ok(all.select(Axis(1), &index).as_standard_layout().into_owned())
    }

    fn scatter_add(
        &self,
        x: &mut Array2<f32>,
        rows: &[u32],
        weights: &[f32],
        y: &Array2<f32>,
    ) -> Result<(), Error> {
        assert_eq!(y.nrows(), rows.len(), "scatter_add: one target per row");
        assert_eq!(y.nrows(), weights.len(), "scatter_add: one weight per row");
        for ((y, &row), &weight) in y.rows().into_iter().zip(rows).zip(weights) {
            x.row_mut(row as usize).scaled_add(weight, &y);
        }
        Ok(())
    }

    fn gather(&self, table: &Array2<f32>, rows: &[u32]) -> Result<Array2<f32>, Error> {
        let rows: Vec<usize> = rows.iter().map(|&r| r as usize).collect();
        Ok(table.select(Axis(0), &rows))
    }

    fn write_rows(
        &self,
        target: &mut Array2<f32>,
        at: usize,
        rows: &Array2<f32>,
    ) -> Result<(), Error> {
        target.slice_mut(s![at..at + rows.nrows(), ..]).assign(rows);
        Ok(())
    }

    fn accumulate_gram(&self, h: &mut Array2<f32>, x: &Array2<f32>) -> Result<(), Error> {
        *h += &x.t().dot(x);
        Ok(())
    }

    fn accumulate_cross(
        &self,
        d: &mut Array2<f32>,
        native: &Array2<f32>,
        x: &Array2<f32>,
    ) -> Result<(), Error> {
        *d += &(native - x).t().dot(x);
        Ok(())
    }
}
