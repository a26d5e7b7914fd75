//! [`Reference`]: every operation of [`Backend`] in its plainest form.

use ndarray::{Array2, ArrayView2, Axis, Zip, s};

use crate::{AttentionShape, Backend, Error};

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

    fn rms_norm(
        &self,
        x: &Array2<f32>,
        weight: &Array2<f32>,
        eps: f32,
    ) -> Result<Array2<f32>, Error> {
        let mut y = x.clone();
        for mut row in y.rows_mut() {
            let mean = row.iter().map(|v| v * v).sum::<f32>() / row.len() as f32;
            row *= 1.0 / (mean + eps).sqrt();
        }
        Ok(y * weight)
    }

    fn rope(
        &self,
        x: &mut Array2<f32>,
        cos: &Array2<f32>,
        sin: &Array2<f32>,
        head_dim: usize,
    ) -> Result<(), Error> {
        let half = cos.ncols();
        for (t, mut row) in x.rows_mut().into_iter().enumerate() {
            for mut head in row.exact_chunks_mut(head_dim) {
                for i in 0..half {
                    let (a, b) = (head[i], head[i + half]);
                    head[i] = a * cos[(t, i)] - b * sin[(t, i)];
                    head[i + half] = b * cos[(t, i)] + a * sin[(t, i)];
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
    ) -> Result<Array2<f32>, Error> {
        let &AttentionShape { heads, kv_heads, head_dim, scale, keys } = shape;
        let before = keys - q.nrows();
        let mut out = Array2::zeros(q.dim());
        for h in 0..heads {
            let channels = h * head_dim..(h + 1) * head_dim;
            let kv = h * kv_heads / heads;
            let kv_channels = kv * head_dim..(kv + 1) * head_dim;
            for t in 0..q.nrows() {
                let visible = before + t + 1;
                let k = k.slice(s![..visible, kv_channels.clone()]);
                let v = v.slice(s![..visible, kv_channels.clone()]);
                let scores = k.dot(&q.slice(s![t, channels.clone()])) * scale;
                let top = scores.fold(f32::NEG_INFINITY, |m, &x| m.max(x));
                let weights = scores.mapv(|x| (x - top).exp());
                let mixed = v.t().dot(&weights) / weights.sum();
                out.slice_mut(s![t, channels.clone()]).assign(&mixed);
            }
        }
        Ok(out)
    }

    fn gated_silu(&self, gate: &Array2<f32>, up: &Array2<f32>) -> Result<Array2<f32>, Error> {
        Ok(Zip::from(gate).and(up).map_collect(|&g, &u| g / (1.0 + (-g).exp()) * u))
    }

    fn add_assign(&self, x: &mut Array2<f32>, y: &Array2<f32>) -> Result<(), Error> {
        *x += y;
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
