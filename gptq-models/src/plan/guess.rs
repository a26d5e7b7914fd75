//! Linears of a model of an unknown family, by names and shapes.

use crate::{
    Checkpoint,
    graph::{LinearPlace, Stored},
};

/// Parts of names that stand for something other than a linear to quantize: embeddings, norms, heads,
/// and the small products that choose experts or gates.
const OTHERS: [&str; 8] =
    ["embed", "emb.", "norm", "lm_head", "router", "shared_expert_gate", "wpe", "wte"];

/// Matrices named `….{number}.….weight` that are no embedding, norm, head or router. Their order is
/// that of the names.
pub(super) fn linears(checkpoint: &Checkpoint) -> Vec<LinearPlace> {
    let place = |tensor: crate::TensorView<'_>| {
        let name = tensor.name.strip_suffix(".weight")?;
        let &[out_features, in_features] = tensor.shape else { return None };
        let numbered = name.split('.').any(|part| part.parse::<usize>().is_ok());
        let lower = name.to_lowercase();
        let other = OTHERS.iter().any(|other| lower.contains(other)) || lower.ends_with(".gate");
        let small = out_features < 32 || in_features < 32;
        let float = matches!(
            tensor.dtype,
            safetensors::Dtype::F16 | safetensors::Dtype::BF16 | safetensors::Dtype::F32
        );
        let linear = numbered && !other && !small && float;
        linear.then(|| LinearPlace {
            name: name.to_owned(),
            out_features,
            in_features,
            bias: false,
            stored: Stored::Plain,
        })
    };
    checkpoint.tensors().filter_map(place).collect()
}
