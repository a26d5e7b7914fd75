//! Where the bytes of a checkpoint are, by what tensors are for, as far as their names tell.

use std::collections::BTreeMap;

use gptq_pack::Format;
use serde::Serialize;

use crate::{Checkpoint, TensorView, quantized::is_packed};

/// Unpacked tensors of one element type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DenseShare {
    /// How many.
    pub tensors: usize,
    /// Their elements.
    pub elements: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Tensors of one purpose.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Share {
    /// `packed q_proj` and the like, or `embeddings`, `head`, `norms`, `biases`, `dense linears`,
    /// `other`.
    pub kind: String,
    /// How many.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Of the bytes of all tensors, in 0..=1.
    pub share: f64,
}

pub(super) fn of(
    checkpoint: &Checkpoint,
    format: Option<Format>,
) -> (BTreeMap<String, DenseShare>, Vec<Share>) {
    let mut dense: BTreeMap<String, DenseShare> = BTreeMap::new();
    let mut kinds: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    for tensor in checkpoint.tensors() {
        let module = format.and_then(|format| Some((format, format.module_of(tensor.name)?.0)));
        let packed = module.filter(|(format, name)| is_packed(checkpoint, *format, name));
        let kind = match packed {
            Some((_, name)) => format!("packed {}", last(name)),
            None => {
                let share = dense.entry(format!("{:?}", tensor.dtype)).or_default();
                share.tensors += 1;
                share.elements += tensor.shape.iter().product::<usize>() as u64;
                share.bytes += tensor.bytes.len() as u64;
                purpose(&tensor).to_owned()
            }
        };
        let (count, bytes) = kinds.entry(kind).or_default();
        *count += 1;
        *bytes += tensor.bytes.len() as u64;
    }
    let all = checkpoint.nbytes().max(1) as f64;
    let share =
        |(kind, (tensors, bytes))| Share { kind, tensors, bytes, share: bytes as f64 / all };
    let mut shares: Vec<Share> = kinds.into_iter().map(share).collect();
    shares.sort_by_key(|share| std::cmp::Reverse(share.bytes));
    (dense, shares)
}

fn purpose(tensor: &TensorView<'_>) -> &'static str {
    let (module, parameter) = tensor.name.rsplit_once('.').unwrap_or((tensor.name, ""));
    let (module, weight) = (last(module), parameter == "weight");
    match tensor.shape.len() {
        _ if parameter == "bias" => "biases",
        2 if is_head(module) => "head",
        2 if is_embedding(module) => "embeddings",
        1 if weight => "norms",
        2.. if weight => "dense linears",
        _ => "other",
    }
}

/// Whether a module's last name is that of an output projection.
pub(crate) fn is_head(module: &str) -> bool {
    matches!(module, "lm_head" | "embed_out" | "output")
}

/// Whether a module's last name is that of a table that is looked up, not multiplied by.
pub(crate) fn is_embedding(module: &str) -> bool {
    !is_head(module) && (module.contains("embed") || matches!(module, "wte" | "wpe"))
}

/// The last component of a name.
pub(crate) fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}
