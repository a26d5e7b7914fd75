//! Names: a layer's tensors, and the file AutoGPTQ puts them in.

use std::fmt;

use gptq_core::{Bits, GroupSize};

use crate::Format;

/// The tensors of one packed linear layer, in the order files list them here. Which of them a
/// layer has is a matter of its [`Format`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The codes.
    QWeight,
    /// The zero points.
    QZeros,
    /// The scales.
    Scales,
    /// The group of each input.
    GIdx,
    /// The codes in Marlin's order.
    B,
    /// The scales in Marlin's order.
    S,
    /// The codes of compressed-tensors.
    WeightPacked,
    /// The scales of compressed-tensors.
    WeightScale,
    /// The shape of the weight, outputs first, of compressed-tensors.
    WeightShape,
    /// The zero points of compressed-tensors.
    WeightZeroPoint,
    /// The group of each input of compressed-tensors.
    WeightGIdx,
    /// The bias. Unquantized layers have a tensor of this name too: only its siblings tell.
    Bias,
}

impl Part {
    /// Every part.
    pub const ALL: [Part; 12] = [
        Part::QWeight,
        Part::QZeros,
        Part::Scales,
        Part::GIdx,
        Part::B,
        Part::S,
        Part::WeightPacked,
        Part::WeightScale,
        Part::WeightShape,
        Part::WeightZeroPoint,
        Part::WeightGIdx,
        Part::Bias,
    ];

    /// The last component of the tensor's name.
    pub const fn suffix(self) -> &'static str {
        match self {
            Part::QWeight => "qweight",
            Part::QZeros => "qzeros",
            Part::Scales => "scales",
            Part::GIdx => "g_idx",
            Part::B => "B",
            Part::S => "s",
            Part::WeightPacked => "weight_packed",
            Part::WeightScale => "weight_scale",
            Part::WeightShape => "weight_shape",
            Part::WeightZeroPoint => "weight_zero_point",
            Part::WeightGIdx => "weight_g_idx",
            Part::Bias => "bias",
        }
    }

    /// The name of this tensor of a layer.
    ///
    /// ```
    /// use gptq_pack::names::{self, Part};
    ///
    /// let name = Part::QWeight.of("model.layers.0.mlp.up_proj");
    /// assert_eq!(name, "model.layers.0.mlp.up_proj.qweight");
    /// assert_eq!(names::split(&name), Some(("model.layers.0.mlp.up_proj", Part::QWeight)));
    /// ```
    pub fn of(self, layer: &str) -> String {
        format!("{layer}.{}", self.suffix())
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.suffix())
    }
}

/// The layer and the part that a tensor's name stands for in the formats `gptq` and `gptq_v2`; the
/// inverse of [`Part::of`]. `None` for names with another last component, such as `weight`.
/// [`Format::module_of`] is the same for any format.
pub fn split(tensor: &str) -> Option<(&str, Part)> {
    Format::Gptq.module_of(tensor)
}

/// The file name, without extension, under which AutoGPTQ saves and first looks for a model. A
/// group size of whole rows reads `-1` after the hyphen: `gptq_model-4bit--1g`.
pub fn autogptq_basename(bits: Bits, group_size: GroupSize) -> String {
    format!("gptq_model-{}bit-{}g", bits.get(), group_size.to_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_splits_into_what_it_was_made_of() {
        for part in Part::ALL {
            let format = Format::ALL.into_iter().find(|f| f.all_parts().contains(&part)).unwrap();
            assert_eq!(format.module_of(&part.of("h.0.attn")), Some(("h.0.attn", part)));
        }
        assert_eq!(split("h.0.attn.g_idx"), Some(("h.0.attn", Part::GIdx)));
        assert_eq!(split("h.0.attn.weight_packed"), None);
        assert_eq!(split("model.norm.weight"), None);
        assert_eq!(split("qweight"), None);
    }
}
