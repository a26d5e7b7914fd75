//! 8-bit floats (E4M3) in rectangular blocks that share a scale, as DeepSeek-V3 is published.

use ndarray::Array2;
use serde_json::Value;

use crate::{Checkpoint, Error, TensorView, graph::LinearPlace};

/// Values by code: sign, four bits of exponent, three of mantissa, no infinities.
const E4M3: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = e4m3(code as u8);
        code += 1;
    }
    table
};

const fn e4m3(code: u8) -> f32 {
    let magnitude = code & 0x7f;
    if magnitude == 0x7f {
        return f32::NAN;
    }
    // The same fields at f32's places, where exponents are larger by 127 − 7. Subnormal codes are
    // subnormal there too, so one exact product mends both.
    let value = f32::from_bits((magnitude as u32) << 20) * f32::from_bits((127 + 120) << 23);
    if code == magnitude { value } else { -value }
}

/// One linear: `{name}.weight` and `{name}.weight_scale_inv`, which values are multiplied by
/// despite its name.
pub(super) struct Fp8<'a> {
    pub(super) weight: TensorView<'a>,
    pub(super) scales: TensorView<'a>,
    out_features: usize,
    in_features: usize,
    /// Outputs and inputs of a block.
    block: (usize, usize),
}

impl<'a> Fp8<'a> {
    pub(super) fn new(
        checkpoint: &'a Checkpoint,
        place: &LinearPlace,
        weight: TensorView<'a>,
    ) -> Result<Self, Error> {
        let (out_features, in_features) = (place.out_features, place.in_features);
        weight.check_shape(&[out_features, in_features])?;
        let block = block_size(checkpoint)?;
        let scales = checkpoint.tensor(&format!("{}_scale_inv", weight.name))?;
        scales.check_shape(&[out_features.div_ceil(block.0), in_features.div_ceil(block.1)])?;
        scales.check_floats()?;
        Ok(Self { weight, scales, out_features, in_features, block })
    }

    pub(super) fn read(&self) -> Result<Array2<f32>, Error> {
        let (outs, ins) = (self.out_features, self.in_features);
        let (high, wide) = self.block;
        let scales = self.scales.to_matrix(outs.div_ceil(high), ins.div_ceil(wide))?;
        let mut values = Vec::with_capacity(outs * ins);
        for row in 0..outs {
            let codes = &self.weight.bytes[row * ins..][..ins];
            for (codes, &scale) in codes.chunks(wide).zip(scales.row(row / high)) {
                values.extend(codes.iter().map(|&code| E4M3[usize::from(code)] * scale));
            }
        }
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            return Err(self.weight.not_finite(values[at], at / ins, at % ins));
        }
        self.weight.matrix_of(outs, ins, values)
    }
}

/// Outputs and inputs that share a scale: 128 × 128 unless `config.json` says otherwise.
fn block_size(checkpoint: &Checkpoint) -> Result<(usize, usize), Error> {
    let config = checkpoint.config().get("quantization_config");
    let Some(stated) = config.and_then(|config| config.get("weight_block_size")) else {
        return Ok((128, 128));
    };
    let side = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok());
    let sides = stated.as_array().map(|sides| sides.iter().map(side).collect::<Vec<_>>());
    match sides.as_deref() {
        Some(&[Some(high), Some(wide)]) if high > 0 && wide > 0 => Ok((high, wide)),
        _ => Err(Error::Config {
            file: checkpoint.config_file(),
            key: "quantization_config.weight_block_size".to_owned(),
            message: format!(
                "is {stated}, but must be the outputs and the inputs that share a scale, such as \
                 [128, 128]"
            ),
        }),
    }
}
