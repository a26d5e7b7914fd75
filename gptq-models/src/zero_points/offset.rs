//! Where codes lie around the stored zero points: the witness of asymmetric layers.
//!
//! Weights of a trained layer have a mean near 0, so its codes have a mean near its zero points:
//! `mean(code − stored)` is 0 if zero points are stored, 1 if they are stored minus one. Noise is
//! what a layer's mean is off by, in steps: some hundredths at 4 bits, up to a step at 8 bits, where
//! steps are small. The median over layers, with the spread between layers as its error, tells both
//! cases apart or says that it cannot.

use gptq_pack::{PackedLinearRef, ZeroPointFormat, lane};
use rayon::prelude::*;
use serde::Serialize;

/// The position of codes relative to stored zero points, over a sample of layers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Offset {
    /// Layers in the sample.
    pub layers: usize,
    /// Median over layers of the mean of `code − stored zero point`, in steps of the grid.
    pub steps: f64,
    /// Standard error of that median, from the spread between layers.
    pub error: f64,
}

impl Offset {
    /// Fewer layers have no spread to speak of.
    const FEWEST: usize = 4;

    /// The convention that the offset speaks for: within a quarter of a step of what it predicts
    /// and six standard errors from the midpoint between both predictions, a chance of one in 10⁹
    /// were the errors normal.
    pub fn convention(&self) -> Option<ZeroPointFormat> {
        let clear = (self.steps - 0.5).abs() >= 6.0 * self.error;
        let near = |prediction: f64| (self.steps - prediction).abs() <= 0.25;
        match self.layers >= Self::FEWEST && clear {
            true if near(1.0) => Some(ZeroPointFormat::Gptq),
            true if near(0.0) => Some(ZeroPointFormat::GptqV2),
            _ => None,
        }
    }
}

/// Most layers looked at; they are spread over the model.
const LAYERS: usize = 64;
/// Most lanes of 32 inputs of a layer, spread over its inputs.
const LANES: usize = 16;
/// Most outputs of a layer, spread over its outputs.
const OUTPUTS: usize = 512;

/// The offset of a sample of these layers; `None` if none can be read.
pub(super) fn of_layers<'a>(
    names: &[&str],
    read: impl Fn(&str) -> Option<PackedLinearRef<'a>> + Sync,
) -> Option<Offset> {
    let sample: Vec<&str> = spread(names.len(), LAYERS).map(|i| names[i]).collect();
    let layers: Vec<Option<Layer>> =
        sample.par_iter().map(|name| Some(Layer::of(&read(name)?))).collect();
    let layers: Vec<Layer> = layers.into_iter().flatten().filter(|l| l.outputs > 0).collect();
    if layers.is_empty() {
        return None;
    }
    let n = layers.len() as f64;
    let steps = median(layers.iter().map(|l| l.mean).collect());
    let deviation = median(layers.iter().map(|l| (l.mean - steps).abs()).collect());
    // 1.4826 turns a median deviation into a standard one, √(π/2) its mean's error into a median's.
    let between = 1.4826 * deviation / n.sqrt() * (std::f64::consts::PI / 2.0).sqrt();
    let within = layers.iter().map(|l| l.error * l.error).sum::<f64>().sqrt() / n;
    Some(Offset { layers: layers.len(), steps, error: between.max(within) })
}

/// The mean over one layer's sample, and its standard error from the spread between outputs.
struct Layer {
    outputs: usize,
    mean: f64,
    error: f64,
}

impl Layer {
    fn of(packed: &PackedLinearRef<'_>) -> Self {
        let (bits, outs, ins) = (packed.bits(), packed.out_features(), packed.in_features());
        let row_words = lane::words(bits, outs);
        let stored = |group: u32, output| {
            lane::code_at(bits, &packed.qzeros()[group as usize * row_words..], output)
        };
        let b = bits.get() as usize;
        let lanes: Vec<usize> = spread(ins / lane::LANE, LANES).collect();
        let mut means = Vec::new();
        for output in spread(outs, OUTPUTS) {
            let (mut sum, mut count) = (0i64, 0u32);
            for &at in &lanes {
                let mut words = [0; lane::MAX_LANE_WORDS];
                for (k, word) in words[..b].iter_mut().enumerate() {
                    *word = packed.qweight()[(at * b + k) * outs + output];
                }
                for n in 0..lane::LANE {
                    let zero = stored(packed.g_idx()[at * lane::LANE + n], output);
                    sum += i64::from(lane::code_at(bits, &words, n)) - i64::from(zero);
                    count += 1;
                }
            }
            if count > 0 {
                means.push(sum as f64 / f64::from(count));
            }
        }
        let n = means.len() as f64;
        let mean = means.iter().sum::<f64>() / n;
        let variance = means.iter().map(|m| (m - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        Self { outputs: means.len(), mean, error: (variance / n).sqrt() }
    }
}

/// At most `most` of `0..n`, evenly spread.
fn spread(n: usize, most: usize) -> impl Iterator<Item = usize> {
    let count = n.min(most);
    (0..count).map(move |i| i * n / count)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { values[half] } else { (values[half - 1] + values[half]) / 2.0 }
}
