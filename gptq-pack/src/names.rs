//! Names: a layer's tensors, and the file AutoGPTQ puts them in.

use std::fmt;

use gptq_core::{Bits, GroupSize};

/// The tensors of one packed linear layer, in the order files list them here.
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
    /// The bias. Unquantized layers have a tensor of this name too: only its siblings tell.
    Bias,
}

impl Part {
    /// Every part.
    pub const ALL: [Part; 5] = [Part::QWeight, Part::QZeros, Part::Scales, Part::GIdx, Part::Bias];

    /// The last component of the tensor's name.
    pub const fn suffix(self) -> &'static str {
        match self {
            Part::QWeight => "qweight",
            Part::QZeros => "qzeros",
            Part::Scales => "scales",
            Part::GIdx => "g_idx",
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

/// The layer and the part that a tensor's name stands for; the inverse of [`Part::of`]. `None` for
/// names with another last component, such as `weight`.
pub fn split(tensor: &str) -> Option<(&str, Part)> {
    let (layer, suffix) = tensor.rsplit_once('.')?;
    let part = Part::ALL.into_iter().find(|part| part.suffix() == suffix)?;
    Some((layer, part))
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
            assert_eq!(split(&part.of("h.0.attn")), Some(("h.0.attn", part)));
        }
        assert_eq!(split("model.norm.weight"), None);
        assert_eq!(split("qweight"), None);
    }
}
