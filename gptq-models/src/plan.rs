//! What a run will do, decided from headers alone before a weight is read.

use std::collections::HashMap;

use gptq_core::{QuantConfig, QuantizedMatrix};
use gptq_pack::{Format, LayerSpec, Scheme, names::Part};
use ndarray::Array2;
use serde_json::Value;

use crate::{
    Architecture, Checkpoint, Error, QuantizeOptions, TensorSpec,
    arch::LinearPlace,
    notices::notices,
    quantized::file_dtype,
    report::{Coverage, Entry, Fate},
};

/// Every linear with its settings, every tensor of the result, and the account of the source's.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// By block, then stage.
    pub(crate) blocks: Vec<Vec<Vec<LinearPlan>>>,
    /// The output head, if it is to be quantized.
    pub(crate) head: Option<LinearPlan>,
    /// Tensors of the graph beside its linears.
    pub(crate) dense: Vec<String>,
    pub(crate) outputs: Vec<TensorSpec>,
    /// Tensors copied byte for byte.
    pub(crate) copies: Vec<String>,
    pub(crate) tensors: Vec<Entry>,
    pub(crate) coverage: Coverage,
    pub(crate) notices: Vec<String>,
    /// The result's `quantization_config`.
    pub(crate) quantization: Value,
}

#[derive(Debug)]
pub(crate) struct LinearPlan {
    pub(crate) place: LinearPlace,
    /// `None` leaves it dense.
    pub(crate) config: Option<QuantConfig>,
}

impl Plan {
    pub(crate) fn new(
        checkpoint: &Checkpoint,
        arch: &Architecture,
        options: &QuantizeOptions,
    ) -> Result<Self, Error> {
        if crate::quantization_config(checkpoint)?.is_some() {
            return Err(Error::file(
                checkpoint.dir(),
                "is quantized already; give the original model",
            ));
        }
        let mut plan = Plan::default();
        if options.lm_head {
            check_head(checkpoint, arch, options)?;
        }
        let mut quantized = HashMap::new();
        let mut linear = |place: LinearPlace| -> Result<LinearPlan, Error> {
            let weight = format!("{}.weight", place.name);
            checkpoint.check(&weight, &[place.out_features, place.in_features])?;
            let config = options.for_layer(&place.name)?;
            let parameters = (place.out_features * place.in_features) as u64;
            plan.coverage.expected += parameters;
            match config {
                Some(config) => {
                    plan.coverage.quantized += parameters;
                    quantized.insert(weight, (place.clone(), config));
                }
                None => plan.coverage.skipped += parameters,
            }
            Ok(LinearPlan { place, config })
        };
        for block in 0..arch.config.layers {
            let stages = (0..arch.graph.stages.len())
                .map(|stage| arch.linears(block, stage).into_iter().map(&mut linear).collect());
            plan.blocks.push(stages.collect::<Result<_, _>>()?);
        }
        if options.lm_head {
            plan.head = Some(linear(arch.head())?);
        }
        for tensor in arch.dense_tensors().filter(|t| !quantized.contains_key(&t.name)) {
            checkpoint.check(&tensor.name, &tensor.shape)?;
            plan.dense.push(tensor.name);
        }
        let mut checked: Vec<LayerSpec> = Vec::new();
        for tensor in checkpoint.tensors() {
            match quantized.remove(tensor.name) {
                Some((place, config)) => {
                    let spec = options.spec(&place, &config);
                    if options.format.zero_format().is_none() && !checked.contains(&spec) {
                        check_held(options.format, &place, &spec)?;
                        checked.push(spec);
                    }
                    plan.outputs.extend(packed_specs(options.format, &place, &spec));
                    plan.tensors.push(Entry::new(tensor.name, Fate::Quantized, None));
                }
                None => {
                    let (name, dtype) = (tensor.name.to_owned(), tensor.dtype);
                    let shape = tensor.shape.to_vec();
                    plan.outputs.push(TensorSpec { name: name.clone(), dtype, shape });
                    plan.tensors.push(Entry::new(name.clone(), Fate::Copied, None));
                    plan.copies.push(name);
                }
            }
        }
        plan.quantization = quantization(checkpoint, arch, &plan, options)?;
        plan.notices = notices(&plan, options)?;
        Ok(plan)
    }

    /// Whether the original model must run beside the quantized one, as GPTAQ wants it.
    pub(crate) fn needs_native(&self) -> bool {
        let alpha = |l: &LinearPlan| l.config.is_some_and(|c| c.gptaq_alpha != 0.0);
        self.linears().any(alpha)
    }

    /// All linears, in the order they are reached.
    pub(crate) fn linears(&self) -> impl Iterator<Item = &LinearPlan> {
        self.blocks.iter().flatten().flatten().chain(&self.head)
    }
}

/// Refuses a head that there is none of: tied embeddings are looked up as well as multiplied by.
fn check_head(
    checkpoint: &Checkpoint,
    arch: &Architecture,
    options: &QuantizeOptions,
) -> Result<(), Error> {
    let head = arch.head().name;
    if arch.config.tie_word_embeddings {
        return Err(Error::input(format!(
            "{head} cannot be quantized: {} ties it to the embedding, whose rows are looked up as \
             well; leave lm_head off",
            checkpoint.config_file()
        )));
    }
    if checkpoint.get(arch.graph.head).is_none() {
        return Err(Error::input(format!(
            "{head} cannot be quantized: {} holds no {}, so the embedding serves as head; leave \
             lm_head off",
            checkpoint.dir().display(),
            arch.graph.head
        )));
    }
    if options.for_layer(&head)?.is_none() {
        return Err(Error::input(format!(
            "lm_head asks for {head} to be quantized, but a dynamic rule skips it; drop one of the \
             two"
        )));
    }
    Ok(())
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

/// What the result says of itself. GPTQ's dialect says it as the run was told; others have no
/// regexes, and name modules.
fn quantization(
    checkpoint: &Checkpoint,
    arch: &Architecture,
    plan: &Plan,
    options: &QuantizeOptions,
) -> Result<Value, Error> {
    let mut config = options.checkpoint_config();
    // Whether readers must look at group indices anywhere, whatever a rule says of static groups.
    let scattered = |l: &LinearPlan| l.config.is_some_and(|c| options.spec(&l.place, &c).scattered);
    config.desc_act &= plan.linears().any(scattered);
    let failed = |source| Error::QuantizationConfig { file: checkpoint.config_file(), source };
    if speaks_gptq(options.format) {
        return config.to_json().map_err(failed);
    }
    let scheme = |linear: &LinearPlan| {
        let spec = options.spec(&linear.place, &linear.config?);
        Some(Scheme {
            bits: spec.width,
            group_size: spec.group_size,
            sym: spec.sym,
            desc_act: spec.scattered,
        })
    };
    let head = arch.head().name;
    let modules = plan.linears().map(|l| (l.place.name.as_str(), scheme(l)));
    let left_alone = plan.head.is_none().then_some((head.as_str(), None));
    let config = config.for_modules(options.format, modules.chain(left_alone));
    config.and_then(|config| config.to_json()).map_err(failed)
}

/// Whether a format's config is GPTQ's, which also stands in `quantize_config.json`.
pub(crate) fn speaks_gptq(format: Format) -> bool {
    !matches!(format, Format::Awq | Format::CompressedTensors)
}
