//! What becomes of every tensor of the source.

use std::collections::{HashMap, HashSet};

use gptq_core::{QuantConfig, QuantizedMatrix};
use gptq_pack::{Format, LayerSpec, names::Part};
use ndarray::Array2;
use safetensors::Dtype;

use super::Plan;
use crate::{
    Architecture, Checkpoint, Error, QuantizeOptions, TensorSpec,
    graph::{LinearPlace, Stored},
    quantized::file_dtype,
    report::{Entry, Fate},
    source,
};

/// A tensor of a linear that is written anew: `{name}.weight`, or else `{name}.bias`.
#[derive(Debug)]
pub(crate) struct Plain {
    pub(crate) place: LinearPlace,
    pub(crate) bias: bool,
    /// `F16`, `BF16` or `F32`.
    pub(crate) dtype: Dtype,
}

impl Plain {
    pub(crate) fn name(&self) -> String {
        format!("{}.{}", self.place.name, if self.bias { "bias" } else { "weight" })
    }

    fn spec(&self) -> TensorSpec {
        let place = &self.place;
        let shape = match self.bias {
            true => vec![place.out_features],
            false => vec![place.out_features, place.in_features],
        };
        TensorSpec { name: self.name(), dtype: self.dtype, shape }
    }
}

/// The linears that are made of one tensor of the source.
#[derive(Default)]
struct Users {
    quantized: Vec<(LinearPlace, QuantConfig)>,
    dense: Vec<LinearPlace>,
}

impl Plan {
    /// Every tensor of the result, and what becomes of every tensor of the source.
    pub(super) fn account(
        &mut self,
        checkpoint: &Checkpoint,
        options: &QuantizeOptions,
    ) -> Result<(), Error> {
        let mut users: HashMap<String, Users> = HashMap::new();
        // Beside the first tensor of a linear: scales of a compressed source.
        let mut parts = HashSet::new();
        let mut biases: HashMap<String, Vec<LinearPlace>> = HashMap::new();
        for linear in self.linears() {
            let mut tensors = source::tensors(checkpoint, &linear.place)?.into_iter();
            let of = users.entry(tensors.next().unwrap_or_default()).or_default();
            match linear.config {
                Some(config) => of.quantized.push((linear.place.clone(), config)),
                None => of.dense.push(linear.place.clone()),
            }
            parts.extend(tensors);
            if let Stored::Fused(fused) = &linear.place.stored
                && let Some(bias) = &fused.bias
                && checkpoint.get(&format!("{}.bias", linear.place.name)).is_none()
            {
                biases.entry(bias.clone()).or_default().push(linear.place.clone());
            }
        }
        let compressed = source::source_compression(checkpoint).is_some();
        let unfused: HashSet<String> = users
            .iter()
            .filter(|(_, users)| compressed || !users.quantized.is_empty())
            .flat_map(|(_, users)| {
                let quantized = users.quantized.iter().map(|(place, _)| place);
                quantized.chain(&users.dense).map(|place| place.name.clone())
            })
            .collect();

        let mut checked: Vec<LayerSpec> = Vec::new();
        for tensor in checkpoint.tensors() {
            let name = tensor.name.to_owned();
            let half = if tensor.dtype.bitsize() < 16 { Dtype::BF16 } else { tensor.dtype };
            let own = users.remove(&name);
            let rewritten = own.as_ref().is_some_and(|users| {
                !users.quantized.is_empty() || (compressed && tensor.dtype.bitsize() < 16)
            });
            if let Some(Users { quantized, dense }) = own.filter(|_| rewritten) {
                let fate = if quantized.is_empty() { Fate::Rewritten } else { Fate::Quantized };
                self.tensors.push(Entry::new(name, fate, None));
                for (place, config) in quantized {
                    let spec = options.spec(&place, &config);
                    if options.format.zero_format().is_none() && !checked.contains(&spec) {
                        check_held(options.format, &place, &spec)?;
                        checked.push(spec);
                    }
                    self.outputs.extend(packed_specs(options.format, &place, &spec));
                }
                for place in dense {
                    self.write_plain(Plain { place, bias: false, dtype: half });
                }
                continue;
            }
            let places = biases.remove(&name).unwrap_or_default();
            if places.iter().any(|place| unfused.contains(&place.name)) {
                let reason = Some("each expert has its own now");
                self.tensors.push(Entry::new(name, Fate::Rewritten, reason));
                for place in places {
                    self.write_plain(Plain { place, bias: true, dtype: half });
                }
                continue;
            }
            if parts.contains(&name) {
                let reason = Some("part of a weight that is written anew");
                self.tensors.push(Entry::new(name, Fate::Rewritten, reason));
                continue;
            }
            let (dtype, shape) = (tensor.dtype, tensor.shape.to_vec());
            self.outputs.push(TensorSpec { name: name.clone(), dtype, shape });
            self.tensors.push(Entry::new(name.clone(), Fate::Copied, None));
            self.copies.push(name);
        }
        Ok(())
    }

    fn write_plain(&mut self, plain: Plain) {
        self.outputs.push(plain.spec());
        self.plain.push(plain);
    }

    /// Refuses matrices inside the model's blocks that the graph does not know: they would be left
    /// dense in silence. A rule that skips them by name is an answer.
    pub(super) fn check_explained(
        &self,
        checkpoint: &Checkpoint,
        arch: &Architecture,
        options: &QuantizeOptions,
    ) -> Result<(), Error> {
        let mut known: HashSet<String> = self.dense.iter().cloned().collect();
        for linear in self.linears() {
            known.extend(source::tensors(checkpoint, &linear.place)?);
        }
        let blocks: HashSet<&str> =
            arch.graph.blocks.iter().map(|block| block.name.as_str()).collect();
        for tensor in checkpoint.tensors() {
            let Some((module, "weight")) = tensor.name.rsplit_once('.') else { continue };
            let inside = tensor
                .name
                .match_indices('.')
                .any(|(at, _)| tensor.name.get(..at).is_some_and(|start| blocks.contains(start)));
            if !inside || tensor.shape.len() < 2 || known.contains(tensor.name) {
                continue;
            }
            if options.for_layer(module)?.is_some() {
                let rule = module.replace('.', "\\\\.");
                return Err(Error::file(
                    tensor.file,
                    format!(
                        "tensor {} is no part of a {} model as it is known here, so it would stay \
                         dense unexplained; if that is right, say so with \
                         --dynamic '{{\"-:{rule}\": {{}}}}'",
                        tensor.name, arch.config.model_type
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// The tensors that a packed linear becomes.
fn packed_specs(format: Format, place: &LinearPlace, spec: &LayerSpec) -> Vec<TensorSpec> {
    let parts = format.parts(spec).into_iter();
    let tensor = |(part, dtype, shape): (Part, _, _)| {
        Some(TensorSpec { name: part.of(&place.name), dtype: file_dtype(dtype)?, shape })
    };
    parts.filter_map(tensor).collect()
}

/// Refuses a layer that the format cannot hold, before anything is computed.
fn check_held(format: Format, place: &LinearPlace, spec: &LayerSpec) -> Result<(), Error> {
    // Formats' rules are about shapes, widths and grids: any layer of the spec will do.
    let (ins, outs, groups) = (spec.in_features, spec.out_features, spec.groups());
    let size = spec.group_size.columns(ins);
    let group = |c: usize| (if spec.scattered { ins - 1 - c } else { c } / size) as u32;
    let any = QuantizedMatrix {
        bits: spec.width.bits(),
        codes: Array2::zeros((outs, ins)),
        scales: Array2::ones((outs, groups)),
        zeros: Array2::from_elem((outs, groups), spec.width.middle()),
        g_idx: (0..ins).map(group).collect(),
    };
    let failed = |source| Error::Packed { layer: place.name.clone(), source };
    format.check(&any, spec).map_err(failed)
}
