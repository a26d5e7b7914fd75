//! What a conversion will do and what it will lose, before anything is written.

use std::{collections::HashMap, fmt};

use gptq_pack::{
    CheckpointConfig, Dtype, Format, LEGACY_TENSORS, LayerSpec, Rounding, Scheme, names::Part,
};
use rayon::prelude::*;
use safetensors::Dtype as FileDtype;
use serde_json::Value;

use super::{
    Target,
    config::Written,
    entry,
    loss::{Loss, Verdict, refuse},
};
use crate::{
    Checkpoint, Entry, Error, Fate, Progress, TensorSpec,
    quantized::{StoredLayer, file_dtype, is_packed, pack_dtype, packed_names},
};

/// Every layer, every tensor of the result, and the account of the source's.
pub(super) struct Plan<'a> {
    /// With the type of plain weights decided.
    pub(super) target: Goal,
    /// In the order of their names.
    pub(super) layers: Vec<LayerPlan<'a>>,
    pub(super) outputs: Vec<TensorSpec>,
    /// Tensors copied byte for byte.
    pub(super) copies: Vec<String>,
    pub(super) tensors: Vec<Entry>,
    /// What the result says of its quantization; `None` if it is plain.
    pub(super) config: Option<Value>,
    pub(super) notices: Vec<String>,
}

/// A [`Target`] with nothing left open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    Packed(Format),
    Dense(Dtype),
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Goal::Packed(format) => format.fmt(f),
            Goal::Dense(dtype) => write!(f, "dense {dtype}"),
        }
    }
}

/// One layer and the form it will have.
pub(super) struct LayerPlan<'a> {
    pub(super) layer: StoredLayer<'a>,
    /// Of the result, if it is packed.
    pub(super) spec: LayerSpec,
    /// What a reader of the result takes it for, by the config written.
    pub(super) read_as: LayerSpec,
    pub(super) lossless: bool,
}

/// A layer as found, before all layers together decide the scheme.
pub(super) struct Facts<'a> {
    pub(super) layer: StoredLayer<'a>,
    /// Of the result, by this layer alone.
    pub(super) spec: LayerSpec,
    /// As the source's config has it.
    scheme: Scheme,
    pub(super) verdict: Verdict,
}

impl<'a> Plan<'a> {
    pub(super) fn new(
        checkpoint: &'a Checkpoint,
        config: &CheckpointConfig,
        target: Target,
        lossy: bool,
        progress: &mut dyn Progress,
    ) -> Result<Self, Error> {
        let target = match target {
            Target::Packed(format) => Goal::Packed(format),
            Target::Dense(dtype) => {
                Goal::Dense(dtype.unwrap_or_else(|| common_dtype(checkpoint, config.format)))
            }
        };
        progress.advance(0.0, "reading grids");
        let names = packed_names(checkpoint, config.format);
        let mut facts: Vec<Facts<'_>> = names
            .par_iter()
            .map(|name| Facts::of(checkpoint, config, name, target, lossy))
            .collect::<Result<_, _>>()?;
        refuse(checkpoint, target, lossy, &facts)?;
        agree(&mut facts);

        let written = match target {
            Goal::Dense(_) => None,
            Goal::Packed(format) => Some(Written::of(checkpoint, config, format, &facts)?),
        };
        let mut plan = Plan {
            target,
            layers: Vec::new(),
            outputs: Vec::new(),
            copies: Vec::new(),
            tensors: Vec::new(),
            config: None,
            notices: notices(target, &facts),
        };
        let mut layers: HashMap<String, Facts<'a>> =
            facts.into_iter().map(|facts| (facts.layer.name.clone(), facts)).collect();
        for tensor in checkpoint.tensors() {
            let module = config.format.module_of(tensor.name);
            let module = module.filter(|(name, _)| is_packed(checkpoint, config.format, name));
            match module {
                _ if LEGACY_TENSORS.contains(&tensor.name) => {
                    let reason = Some("a setting, which config.json states");
                    plan.tensors.push(entry(tensor.name, Fate::Dropped, reason));
                }
                None => plan.copy(tensor.name, tensor.dtype, tensor.shape),
                Some((_, Part::Bias)) if matches!(target, Goal::Dense(_)) => {
                    plan.copy(tensor.name, tensor.dtype, tensor.shape);
                }
                Some((name, _)) => {
                    let reason = Some("part of a layer that was converted");
                    plan.tensors.push(entry(tensor.name, Fate::Rewritten, reason));
                    if let Some(facts) = layers.remove(name) {
                        plan.layer(facts, written.as_ref())?;
                    }
                }
            }
        }
        plan.config = written.map(|written| written.json);
        Ok(plan)
    }

    /// The share of the work that is done after some layers.
    pub(super) fn share(&self, layers: usize) -> f64 {
        0.1 + 0.9 * layers as f64 / self.layers.len().max(1) as f64
    }

    fn copy(&mut self, name: &str, dtype: FileDtype, shape: &[usize]) {
        self.outputs.push(TensorSpec { name: name.to_owned(), dtype, shape: shape.to_vec() });
        self.copies.push(name.to_owned());
        self.tensors.push(entry(name, Fate::Copied, None));
    }

    fn layer(&mut self, facts: Facts<'a>, written: Option<&Written>) -> Result<(), Error> {
        let Facts { layer, spec, verdict, .. } = facts;
        let read_as = match written {
            Some(written) => written.spec(&layer, &spec)?,
            None => spec,
        };
        match self.target {
            Goal::Dense(dtype) => self.outputs.push(TensorSpec {
                name: format!("{}.weight", layer.name),
                dtype: file_dtype(dtype).unwrap_or(FileDtype::F32),
                shape: vec![spec.out_features, spec.in_features],
            }),
            Goal::Packed(format) => {
                let parts = format.parts(&spec).into_iter();
                self.outputs.extend(parts.filter_map(|(part, dtype, shape)| {
                    Some(TensorSpec {
                        name: part.of(&layer.name),
                        dtype: file_dtype(dtype)?,
                        shape,
                    })
                }));
            }
        }
        let lossless = matches!(verdict, Verdict::Lossless);
        self.layers.push(LayerPlan { layer, spec, read_as, lossless });
        Ok(())
    }
}

impl<'a> Facts<'a> {
    fn of(
        checkpoint: &'a Checkpoint,
        config: &CheckpointConfig,
        name: &str,
        target: Goal,
        lossy: bool,
    ) -> Result<Self, Error> {
        let layer = StoredLayer::named(checkpoint, config, name)?;
        let scheme = config.scheme(name).map_err(|source| layer.explain(source))?;
        let scheme = scheme.unwrap_or(config.base());
        let mut spec = LayerSpec {
            scale_dtype: layer.scale_dtype(),
            bias: layer.tensor(Part::Bias).map(|bias| bias.dtype),
            ..layer.spec
        };
        let verdict = match target {
            Goal::Dense(Dtype::F32) => Verdict::Lossless,
            Goal::Dense(_) if lossy => Verdict::Lossy(Loss::Accepted),
            Goal::Dense(dtype) => {
                let by = Rounding::of(layer.read()?.0.dequantize(), dtype);
                Verdict::of_rounding("weights", dtype, by)
            }
            Goal::Packed(format) => {
                let q = layer.grids()?;
                // Widths that solvers do not know are read as eight bits.
                spec.width = q.bits.into();
                let middle = spec.width.middle();
                spec.sym = q.zeros.iter().all(|&zero| zero == middle);
                spec.scattered = !spec.is_natural(&q.g_idx);
                let scales = match format {
                    Format::CompressedTensors => spec.scale_dtype,
                    _ => Dtype::F16,
                };
                match format.check(&q, &spec) {
                    Ok(()) => {
                        Verdict::of_rounding("scales", scales, Rounding::of(q.scales, scales))
                    }
                    Err(gptq_pack::Error::ZeroPointAtZero { count, .. }) => {
                        Verdict::Lossy(Loss::ZeroAtZero { count })
                    }
                    Err(error) => Verdict::Impossible(error),
                }
            }
        };
        Ok(Self { layer, spec, scheme, verdict })
    }
}

/// The type of most of the bytes that are not packed.
fn common_dtype(checkpoint: &Checkpoint, format: Format) -> Dtype {
    let packed = |name: &str| {
        format.module_of(name).is_some_and(|(module, _)| is_packed(checkpoint, format, module))
    };
    let bytes = |dtype: &Dtype| {
        let of_type = checkpoint.tensors().filter(|t| pack_dtype(t.dtype) == *dtype);
        of_type.filter(|t| !packed(t.name)).map(|t| t.bytes.len()).sum::<usize>()
    };
    // The last of equals wins.
    [Dtype::F32, Dtype::BF16, Dtype::F16].into_iter().max_by_key(bytes).unwrap_or(Dtype::F16)
}

/// Servers want one scheme: a layer that is symmetric by chance in an asymmetric model keeps its
/// zero points, and one whose order happens to be natural among scattered ones its group indices.
fn agree(facts: &mut [Facts<'_>]) {
    let all_sym = facts.iter().all(|facts| facts.spec.sym);
    let any_scattered = facts.iter().any(|facts| facts.spec.scattered);
    for Facts { spec, scheme, .. } in facts {
        spec.sym &= scheme.sym || all_sym;
        spec.scattered |= scheme.desc_act && any_scattered && spec.groups() > 1;
    }
}

fn notices(target: Goal, facts: &[Facts<'_>]) -> Vec<String> {
    let Goal::Packed(format) = target else { return Vec::new() };
    let mut out = Vec::new();
    if let Some(caveat) = facts.iter().find_map(|facts| format.caveat(&facts.spec)) {
        out.push(caveat.to_owned());
    }
    let mut widened = facts.iter().filter(|f| f.spec.width != f.layer.spec.width);
    if let Some(first) = widened.next() {
        out.push(format!(
            "{} layers of 5, 6 or 7 bits are stored as 8-bit ones (first: {})",
            1 + widened.count(),
            first.layer.name
        ));
    }
    out
}
