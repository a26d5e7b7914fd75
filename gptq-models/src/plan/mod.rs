//! What a run will do, decided from headers alone before a weight is read.

mod guess;
mod tensors;

use gptq_core::QuantConfig;
use gptq_pack::{Format, Scheme};
use serde_json::Value;

pub(crate) use tensors::Plain;

use crate::{
    Architecture, Checkpoint, Error, Kept, QuantizeOptions, TensorSpec,
    graph::{LinearPlace, Stored},
    notices::notices,
    quantized::unexplained,
    report::{Coverage, Entry},
    source,
};

/// Every linear with its settings, every tensor of the result, and the account of the source's.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// By block, then stage, in the order of [`Stage::all_linears`](crate::graph::Stage).
    pub(crate) blocks: Vec<Vec<Vec<LinearPlan>>>,
    /// The output head, if it is to be quantized.
    pub(crate) head: Option<LinearPlan>,
    /// Tensors of the graph beside its linears.
    pub(crate) dense: Vec<String>,
    pub(crate) outputs: Vec<TensorSpec>,
    /// Tensors copied byte for byte.
    pub(crate) copies: Vec<String>,
    /// Tensors of linears that are written anew as plain ones.
    pub(crate) plain: Vec<Plain>,
    pub(crate) tensors: Vec<Entry>,
    pub(crate) coverage: Coverage,
    pub(crate) notices: Vec<String>,
    /// The result's `quantization_config`.
    pub(crate) quantization: Value,
}

#[derive(Clone, Debug)]
pub(crate) struct LinearPlan {
    pub(crate) place: LinearPlace,
    /// `None` leaves it dense.
    pub(crate) config: Option<QuantConfig>,
    /// Taken over from an earlier result.
    pub(crate) kept: bool,
}

impl LinearPlan {
    /// The settings to solve it with, if it is to be solved.
    pub(crate) fn to_solve(&self) -> Option<QuantConfig> {
        self.config.filter(|_| !self.kept)
    }
}

impl Plan {
    /// Of a model whose graph is known.
    pub(crate) fn new(
        checkpoint: &Checkpoint,
        arch: &Architecture,
        options: &QuantizeOptions,
    ) -> Result<Self, Error> {
        refuse_quantized(checkpoint)?;
        if options.lm_head {
            check_head(checkpoint, arch, options)?;
        }
        let mut plan = Plan::default();
        for block in &arch.graph.blocks {
            let stages = block.stages.iter().map(|stage| {
                let shared = stage.linears.len();
                let places = stage.all_linears().enumerate();
                places
                    .map(|(i, place)| plan.linear(checkpoint, place, options, i < shared))
                    .collect()
            });
            let stages = stages.collect::<Result<_, Error>>()?;
            plan.blocks.push(stages);
        }
        if options.lm_head {
            plan.head = Some(plan.linear(checkpoint, arch.head(), options, true)?);
        }
        for (name, shape) in arch.graph.dense_tensors() {
            checkpoint.check(name, shape)?;
            plan.dense.push(name.to_owned());
        }
        plan.check_head_and_biases(checkpoint, arch)?;
        plan.check_explained(checkpoint, arch, options)?;
        plan.account(checkpoint, options)?;
        let head = plan.head.is_none().then(|| arch.head().name.clone());
        plan.quantization = quantization(checkpoint, head, &plan, options)?;
        plan.notices = notices(&plan, Some(arch), options)?;
        Ok(plan)
    }

    /// Of a model of an unknown family: what its tensors' names and shapes tell.
    pub(crate) fn by_names(
        checkpoint: &Checkpoint,
        options: &QuantizeOptions,
    ) -> Result<Self, Error> {
        refuse_quantized(checkpoint)?;
        let mut plan = Plan::default();
        let places = guess::linears(checkpoint);
        if places.is_empty() {
            return Err(Error::file(
                checkpoint.dir(),
                "holds no matrices in numbered blocks, so there is nothing to round",
            ));
        }
        let linears: Result<_, Error> =
            places.iter().map(|place| plan.linear(checkpoint, place, options, true)).collect();
        plan.blocks.push(vec![linears?]);
        plan.account(checkpoint, options)?;
        plan.quantization = quantization(checkpoint, None, &plan, options)?;
        plan.notices = notices(&plan, None, options)?;
        plan.notices.push(format!(
            "{}: the family is unknown, so the {} matrices to round were chosen by their names and \
             shapes; look through them with gptq inspect --layers",
            checkpoint.config_file(),
            places.len()
        ));
        Ok(plan)
    }

    /// What stands beside linears, and the head that stays dense.
    fn check_head_and_biases(
        &mut self,
        checkpoint: &Checkpoint,
        arch: &Architecture,
    ) -> Result<(), Error> {
        let head = arch.head();
        let mut rows = Vec::new();
        for place in arch.all_linears().chain([head]).filter(|place| place.bias) {
            let own = format!("{}.bias", place.name);
            let fused = match &place.stored {
                Stored::Fused(fused) if checkpoint.get(&own).is_none() => fused.bias.as_ref(),
                _ => None,
            };
            match fused {
                Some(fused) => rows.push(checkpoint.tensor(fused)?.name.to_owned()),
                None => {
                    checkpoint.check(&own, &[place.out_features])?;
                    rows.push(own);
                }
            }
        }
        rows.dedup();
        self.dense.append(&mut rows);
        if !arch.graph.head.tied && self.head.is_none() {
            let weight = format!("{}.weight", head.name);
            checkpoint.check(&weight, &[head.out_features, head.in_features])?;
            self.dense.push(weight);
        }
        Ok(())
    }

    /// The settings of one linear, after a look at its tensors.
    fn linear(
        &mut self,
        checkpoint: &Checkpoint,
        place: &LinearPlace,
        options: &QuantizeOptions,
        sees_all: bool,
    ) -> Result<LinearPlan, Error> {
        source::tensors(checkpoint, place)?;
        let mut config = options.for_layer(&place.name)?;
        if !sees_all && let Some(config) = &mut config {
            // The original model sends other tokens to an expert; there is nothing to compare.
            config.gptaq_alpha = 0.0;
        }
        let parameters = (place.out_features * place.in_features) as u64;
        self.coverage.expected += parameters;
        match config {
            Some(_) => self.coverage.quantized += parameters,
            None => self.coverage.skipped += parameters,
        }
        Ok(LinearPlan { place: place.clone(), config, kept: false })
    }

    /// Leaves to an earlier result what is kept of it.
    pub(crate) fn keep(&mut self, kept: &Kept<'_>) -> Result<(), Error> {
        let mut redone = 0;
        for linear in self.blocks.iter_mut().flatten().flatten().chain(&mut self.head) {
            let keeps = kept.keeps(&linear.place.name)?;
            linear.kept = linear.config.is_some() && keeps;
            redone += usize::from(!keeps);
        }
        match redone {
            0 => Err(kept.matches_none()),
            _ => Ok(()),
        }
    }

    /// Whether the original model must run beside the quantized one, as GPTAQ wants it.
    pub(crate) fn needs_native(&self) -> bool {
        let alpha = |l: &LinearPlan| l.to_solve().is_some_and(|c| c.gptaq_alpha != 0.0);
        self.linears().any(alpha)
    }

    /// All linears by the steps of a run: each block, then the head.
    pub(crate) fn by_step(&self) -> impl Iterator<Item = Vec<&LinearPlan>> {
        let blocks = self.blocks.iter().map(|stages| stages.iter().flatten().collect());
        blocks.chain(self.head.iter().map(|head| vec![head]))
    }

    /// All linears, in the order they are reached.
    pub(crate) fn linears(&self) -> impl Iterator<Item = &LinearPlan> {
        self.blocks.iter().flatten().flatten().chain(&self.head)
    }
}

fn refuse_quantized(checkpoint: &Checkpoint) -> Result<(), Error> {
    match crate::quantization_config(checkpoint)? {
        Some(_) => {
            Err(Error::file(checkpoint.dir(), "is quantized already; give the original model"))
        }
        None => unexplained(checkpoint, |_| true),
    }
}

/// Refuses a head that there is none of: tied embeddings are looked up as well as multiplied by.
fn check_head(
    checkpoint: &Checkpoint,
    arch: &Architecture,
    options: &QuantizeOptions,
) -> Result<(), Error> {
    let head = &arch.head().name;
    if arch.config.tie_word_embeddings {
        return Err(Error::input(format!(
            "{head} cannot be quantized: {} ties it to the embedding, whose rows are looked up as \
             well; leave lm_head off",
            checkpoint.config_file()
        )));
    }
    let weight = format!("{head}.weight");
    if checkpoint.get(&weight).is_none() {
        return Err(Error::input(format!(
            "{head} cannot be quantized: {} holds no {weight}, so the embedding serves as head; leave \
             lm_head off",
            checkpoint.dir().display()
        )));
    }
    if options.for_layer(head)?.is_none() {
        return Err(Error::input(format!(
            "lm_head asks for {head} to be quantized, but a dynamic rule skips it; drop one of the \
             two"
        )));
    }
    Ok(())
}

/// What the result says of itself. GPTQ's dialect says it as the run was told; others have no
/// regexes, and name modules.
fn quantization(
    checkpoint: &Checkpoint,
    dense_head: Option<String>,
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
    let modules = plan.linears().map(|l| (l.place.name.as_str(), scheme(l)));
    let left_alone = dense_head.as_deref().map(|head| (head, None));
    let config = config.for_modules(options.format, modules.chain(left_alone));
    config.and_then(|config| config.to_json()).map_err(failed)
}

/// Whether a format's config is GPTQ's, which also stands in `quantize_config.json`.
pub(crate) fn speaks_gptq(format: Format) -> bool {
    !matches!(format, Format::Awq | Format::CompressedTensors)
}
