//! Rotary position embedding: the frequencies of every scaling in use, and tables of angles.
//!
//! Channel pair i turns by `position · inv_freq[i]`. Scalings stretch low frequencies so that a
//! model trained on short texts reads long ones. Arithmetic is in f32 where the reference's is,
//! because a frequency off by one unit is a different rotation far out.

use ndarray::Array2;

use crate::{
    Error,
    config::ConfigReader,
    rope_scaling::{Scaling, llama3, yarn_ramp},
};

/// The rotation of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    theta: f64,
    /// Channels rotated per head, an even number.
    dim: usize,
    max_position_embeddings: usize,
    scaling: Scaling,
}

/// Cosines and sines of a run of positions.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTable {
    /// positions × dim/2.
    pub cos: Array2<f32>,
    /// positions × dim/2.
    pub sin: Array2<f32>,
}

impl Rope {
    /// Reads `rope_scaling` (older files; it wins) or `rope_parameters` (newer ones), with
    /// `rope_theta` inside or beside them.
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown `rope_type` or a missing or senseless number.
    pub(crate) fn read(
        outer: &ConfigReader<'_>,
        head_dim: usize,
        max_position_embeddings: usize,
    ) -> Result<Self, Error> {
        Self::read_as(
            outer,
            head_dim,
            max_position_embeddings,
            ["rope_theta", "partial_rotary_factor"],
        )
    }

    /// [`read`](Self::read) for families that have their own names for base and share at the top
    /// level.
    pub(crate) fn read_as(
        outer: &ConfigReader<'_>,
        head_dim: usize,
        max_position_embeddings: usize,
        names: [&str; 2],
    ) -> Result<Self, Error> {
        let nested = outer
            .nested("rope_scaling", "rope_scaling.")
            .or_else(|| outer.nested("rope_parameters", "rope_parameters."));
        Self::from_parts(outer, nested, head_dim, max_position_embeddings, names)
    }

    /// The rotation of one type of layer, where `rope_parameters` has one for each.
    pub(crate) fn of_layer_type(
        outer: &ConfigReader<'_>,
        layer_type: &str,
        head_dim: usize,
        max_position_embeddings: usize,
    ) -> Result<Option<Self>, Error> {
        let types = outer.nested("rope_parameters", "rope_parameters.");
        let Some(nested) = types.and_then(|types| types.nested(layer_type, "rope_parameters."))
        else {
            return Ok(None);
        };
        let names = ["rope_theta", "partial_rotary_factor"];
        Self::from_parts(outer, Some(nested), head_dim, max_position_embeddings, names).map(Some)
    }

    fn from_parts(
        outer: &ConfigReader<'_>,
        nested: Option<ConfigReader<'_>>,
        head_dim: usize,
        max_position_embeddings: usize,
        names: [&str; 2],
    ) -> Result<Self, Error> {
        let number = |key: &str, name: &str| -> Result<Option<f64>, Error> {
            let inside = nested.as_ref().map(|n| n.optional_number(key)).transpose()?.flatten();
            Ok(inside.or(outer.optional_number(name)?))
        };
        let theta = number("rope_theta", names[0])?.unwrap_or(10_000.0);
        let partial = number("partial_rotary_factor", names[1])?.unwrap_or(1.0);
        let dim = (head_dim as f64 * partial) as usize;
        if theta <= 1.0 || dim == 0 || !dim.is_multiple_of(2) || dim > head_dim {
            return Err(outer.error(
                "rope_theta",
                format!(
                    "is {theta} with {dim} of {head_dim} channels rotated, which is no rotation"
                ),
            ));
        }
        let scaling = match &nested {
            Some(nested) => Scaling::read(nested, outer, dim, max_position_embeddings)?,
            None => Scaling::None,
        };
        Ok(Self { theta, dim, max_position_embeddings, scaling })
    }

    /// Plain RoPE with nothing scaled.
    pub fn plain(theta: f64, dim: usize) -> Self {
        Self { theta, dim, max_position_embeddings: usize::MAX, scaling: Scaling::None }
    }

    /// Radians per position of the first channel pair are 1, of the last nearly `1 / theta`.
    pub(crate) fn theta(&self) -> f64 {
        self.theta
    }

    /// Channels rotated per head.
    pub(crate) fn dim(&self) -> usize {
        self.dim
    }

    /// Radians per position of each channel pair, for a text that ends before position `end`.
    pub fn inv_freq(&self, end: usize) -> Vec<f32> {
        let dim = self.dim as f64;
        let plain = |theta: f64| -> Vec<f32> {
            let exponent = |i: usize| (2.0 * i as f64 / dim) as f32;
            (0..self.dim / 2).map(|i| 1.0 / (theta as f32).powf(exponent(i))).collect()
        };
        let base = plain(self.theta);
        match &self.scaling {
            Scaling::None => base,
            Scaling::Linear { factor } => base.iter().map(|f| f / *factor as f32).collect(),
            Scaling::Dynamic { factor } => {
                let longest = self.max_position_embeddings as f64;
                let stretch = factor * (end as f64).max(longest) / longest - (factor - 1.0);
                plain(self.theta * stretch.powf(dim / (dim - 2.0)))
            }
            &Scaling::Llama3 { factor, low, high, original } => {
                base.into_iter().map(|f| llama3(f, factor, low, high, original)).collect()
            }
            Scaling::Yarn { factor, fast, slow, original, truncate, .. } => {
                let ramp = yarn_ramp(dim, self.theta, [*fast, *slow], *original, *truncate);
                let blend = |(i, f): (usize, f32)| {
                    let share = ramp(i) as f32;
                    f / *factor as f32 * share + f * (1.0 - share)
                };
                base.into_iter().enumerate().map(blend).collect()
            }
            Scaling::LongRope { short, long, original, .. } => {
                let factors = if end > *original { long } else { short };
                base.iter().zip(factors).map(|(f, ext)| f / *ext as f32).collect()
            }
        }
    }

    /// What cosines and sines are multiplied by; attention scores grow by its square.
    pub fn attention_factor(&self) -> f32 {
        match &self.scaling {
            Scaling::Yarn { attention, .. } | Scaling::LongRope { attention, .. } => {
                *attention as f32
            }
            _ => 1.0,
        }
    }

    /// What latent attention multiplies scores by, beside the root of their channels.
    pub(crate) fn score_factor(&self) -> f32 {
        match &self.scaling {
            Scaling::Yarn { scores, .. } => *scores as f32,
            _ => 1.0,
        }
    }

    /// The table for positions `start..start + len`.
    pub fn table(&self, start: usize, len: usize) -> RopeTable {
        let inv_freq = self.inv_freq(start + len);
        let factor = self.attention_factor();
        let angle = |(t, i): (usize, usize)| (start + t) as f32 * inv_freq[i];
        let shape = (len, inv_freq.len());
        RopeTable {
            cos: Array2::from_shape_fn(shape, |at| angle(at).cos() * factor),
            sin: Array2::from_shape_fn(shape, |at| angle(at).sin() * factor),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn rope(config: Value, head_dim: usize, longest: usize) -> Rope {
        Rope::read(&ConfigReader::new(&config, "config.json"), head_dim, longest).unwrap()
    }

    fn close(got: f32, want: f64) -> bool {
        (f64::from(got) / want - 1.0).abs() < 2e-6
    }

    #[test]
    fn llama3_bands() {
        let scaling = json!({"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3",
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192}});
        let f = rope(scaling, 128, 131_072).inv_freq(1);
        let want = [
            (0, 1.0),
            (1, 0.81461722),
            (28, 0.0032114461),
            (29, 0.0021665706),
            (32, 0.000524846022),
            (34, 0.000178507791),
            (35, 9.5562122e-5),
            (40, 3.4281024e-5),
            (63, 3.0689259e-7),
        ];
        for (i, want) in want {
            assert!(close(f[i], want), "{i}: {} against {want}", f[i]);
        }
    }

    #[test]
    fn yarn_blend() {
        let scaling = json!({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6,
            "factor": 4.0, "original_max_position_embeddings": 32768}});
        let rope = rope(scaling, 128, 131_072);
        assert!(close(rope.attention_factor(), 1.1386294361));
        let f = rope.inv_freq(1);
        let want = [
            (23, 0.006978306),
            (24, 0.0053753215),
            (30, 0.001064361),
            (40, 4.4456985e-5),
            (63, 3.1023444e-7),
        ];
        for (i, want) in want {
            assert!(close(f[i], want), "{i}: {} against {want}", f[i]);
        }
    }

    #[test]
    fn longrope_picks_its_factors_by_length() {
        let scaling = json!({"original_max_position_embeddings": 4096, "rope_scaling": {
            "type": "longrope", "short_factor": [1.0, 2.0], "long_factor": [4.0, 8.0]}});
        let rope = rope(scaling, 4, 131_072);
        assert!(close(rope.attention_factor(), 1.1902380714));
        assert!(close(rope.inv_freq(4096)[1], 0.01 / 2.0));
        assert!(close(rope.inv_freq(4097)[1], 0.01 / 8.0));
    }

    #[test]
    fn dynamic_grows_only_past_the_context() {
        let scaling = json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}});
        let rope = rope(scaling, 8, 100);
        assert_eq!(rope.inv_freq(100), Rope::plain(10_000.0, 8).inv_freq(1));
        let theta = 10_000.0 * 3f64.powf(8.0 / 6.0);
        assert!(close(rope.inv_freq(200)[1], theta.powf(-0.25)));
    }

    #[test]
    fn unknown_scalings_are_named() {
        let config = json!({"rope_scaling": {"rope_type": "spiral", "factor": 2.0}});
        let error = Rope::read(&ConfigReader::new(&config, "config.json"), 8, 100).unwrap_err();
        assert!(error.to_string().contains("rope_scaling.rope_type"), "{error}");
    }
}
