//! What a run will do, decided from headers alone before a weight is read.

use gptq_core::{ActOrder, Bits, GroupSize, QuantConfig, ScaleDtype};
use gptq_pack::{
    CheckpointConfig, DynamicRules, Override, Resolved, ZeroPointFormat, lane, names::Part,
};
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::{
    Architecture, Checkpoint, Error, TensorSpec,
    arch::LinearPlace,
    report::{Coverage, Entry, Fate},
};

/// How codes are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Error feedback through the Hessian; needs calibration tokens.
    Gptq,
    /// Round to nearest; needs nothing.
    Rtn,
}

/// Settings of a run.
#[derive(Clone, Debug)]
pub struct QuantizeOptions {
    /// GPTQ or round-to-nearest.
    pub method: Method,
    /// Settings of every linear that no rule changes. Scales are rounded to half precision and, for
    /// asymmetric layers in the v1 format, zero points kept above 0, whatever is set here: that is
    /// what the file can hold.
    pub config: QuantConfig,
    /// How zero points are stored.
    pub zero_format: ZeroPointFormat,
    /// Rules that change settings or skip linears, by name.
    pub dynamic: DynamicRules,
    /// Largest shard, in bytes of tensors.
    pub max_shard_bytes: u64,
    /// Where the calibration tokens come from, for the report.
    pub calibration: Value,
    /// Name and version of the program, for the report and the config's `meta`.
    pub tool: String,
}

impl Default for QuantizeOptions {
    fn default() -> Self {
        Self {
            method: Method::Gptq,
            config: QuantConfig::default(),
            zero_format: ZeroPointFormat::Gptq,
            dynamic: DynamicRules::default(),
            max_shard_bytes: 5_000_000_000,
            calibration: Value::Null,
            tool: concat!("gptq ", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

impl QuantizeOptions {
    /// The settings of one linear, or `None` if a rule skips it.
    pub(crate) fn for_layer(&self, name: &str) -> Result<Option<QuantConfig>, Error> {
        let failed = |source| Error::Packed { layer: name.to_owned(), source };
        let mut config = self.config;
        match self.dynamic.resolve(name).map_err(failed)? {
            Resolved::Skip => return Ok(None),
            Resolved::Default => {}
            Resolved::Override(changes) => apply(changes, &mut config),
        }
        config.scale_dtype = ScaleDtype::F16;
        let stores_minus_one = self.zero_format == ZeroPointFormat::Gptq;
        config.min_zero = u8::from(stores_minus_one && !config.sym);
        config.validate().map_err(|source| Error::Layer { layer: name.to_owned(), source })?;
        Ok(Some(config))
    }

    /// What the result says of itself.
    pub(crate) fn checkpoint_config(&self) -> CheckpointConfig {
        let c = &self.config;
        let mut out = CheckpointConfig::new(c.bits, c.group_size);
        out.sym = c.sym;
        out.desc_act = c.act_order == ActOrder::DescAct && !c.static_groups;
        out.zero_format = self.zero_format;
        out.damp_percent = Some(c.damping.percent);
        out.static_groups = c.static_groups;
        out.dynamic = self.dynamic.clone();
        out.meta.insert("quantizer".into(), json!([self.tool.replace(' ', ":")]));
        let options = [
            ("damp_percent", json!(c.damping.percent)),
            ("damp_auto_increment", json!(c.damping.auto_increment)),
            ("static_groups", json!(c.static_groups)),
            ("true_sequential", json!(true)),
            ("act_group_aware", json!(c.act_order == ActOrder::GroupAware)),
            ("mse", json!(c.mse.map_or(0.0, |search| search.norm))),
        ];
        out.meta.extend(options.map(|(key, value)| (key.to_owned(), value)));
        out
    }

    /// The settings for the report.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "method": match self.method { Method::Gptq => "gptq", Method::Rtn => "rtn" },
            "block_size": self.config.block_size.get(),
            "max_shard_bytes": self.max_shard_bytes,
            "quantization_config": self.checkpoint_config().to_json(),
        })
    }
}

fn apply(changes: &Override, config: &mut QuantConfig) {
    config.bits = changes.bits.unwrap_or(config.bits);
    config.group_size = changes.group_size.unwrap_or(config.group_size);
    config.sym = changes.sym.unwrap_or(config.sym);
    config.static_groups = changes.static_groups.unwrap_or(config.static_groups);
    config.damping.percent = changes.damp_percent.unwrap_or(config.damping.percent);
    let ordered = config.act_order == ActOrder::DescAct;
    let aware = config.act_order == ActOrder::GroupAware;
    let aware = aware && config.group_size != GroupSize::PerChannel && !config.static_groups;
    config.act_order = match (changes.desc_act, changes.act_group_aware) {
        (Some(true), _) => ActOrder::DescAct,
        (None, None | Some(false)) if ordered => ActOrder::DescAct,
        (_, Some(true)) => ActOrder::GroupAware,
        (_, None) if aware => ActOrder::GroupAware,
        _ => ActOrder::Natural,
    };
}

/// Every linear with its settings, every tensor of the result, and the account of the source's.
#[derive(Debug)]
pub(crate) struct Plan {
    /// By block, then stage.
    pub(crate) linears: Vec<Vec<Vec<LinearPlan>>>,
    /// Tensors of the graph beside its linears.
    pub(crate) dense: Vec<String>,
    pub(crate) outputs: Vec<TensorSpec>,
    /// Tensors copied byte for byte.
    pub(crate) copies: Vec<String>,
    pub(crate) tensors: Vec<Entry>,
    pub(crate) coverage: Coverage,
    pub(crate) notices: Vec<String>,
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
        let mut plan = Plan {
            linears: Vec::new(),
            dense: Vec::new(),
            outputs: Vec::new(),
            copies: Vec::new(),
            tensors: Vec::new(),
            coverage: Coverage::default(),
            notices: Vec::new(),
        };
        for tensor in arch.dense_tensors() {
            checkpoint.check(&tensor.name, &tensor.shape)?;
            plan.dense.push(tensor.name);
        }
        let mut quantized = std::collections::HashMap::new();
        for block in 0..arch.config.layers {
            let mut stages = Vec::with_capacity(arch.graph.stages.len());
            for stage in 0..arch.graph.stages.len() {
                let mut linears = Vec::new();
                for place in arch.linears(block, stage) {
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
                    linears.push(LinearPlan { place, config });
                }
                stages.push(linears);
            }
            plan.linears.push(stages);
        }
        for tensor in checkpoint.tensors() {
            match quantized.remove(tensor.name) {
                Some((place, config)) => {
                    plan.outputs.extend(packed_specs(&place, &config));
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
        plan.notices = notices(&plan, options);
        Ok(plan)
    }

    /// All quantized linears.
    fn quantized(&self) -> impl Iterator<Item = (&LinearPlace, QuantConfig)> {
        self.linears.iter().flatten().flatten().filter_map(|l| Some((&l.place, l.config?)))
    }
}

fn packed_specs(place: &LinearPlace, config: &QuantConfig) -> [TensorSpec; 4] {
    let (rows, columns) = (place.in_features, place.out_features);
    let groups = config.group_size.groups(rows);
    let spec = |part: Part, dtype, shape: &[usize]| TensorSpec {
        name: part.of(&place.name),
        dtype,
        shape: shape.to_vec(),
    };
    [
        spec(Part::QWeight, Dtype::I32, &[lane::words(config.bits, rows), columns]),
        spec(Part::QZeros, Dtype::I32, &[groups, lane::words(config.bits, columns)]),
        spec(Part::Scales, Dtype::F16, &[groups, columns]),
        spec(Part::GIdx, Dtype::I32, &[rows]),
    ]
}

/// What common servers will not take, said before hours are spent.
fn notices(plan: &Plan, options: &QuantizeOptions) -> Vec<String> {
    let mut out = Vec::new();
    let mut note = |message: String| {
        if !out.contains(&message) {
            out.push(message);
        }
    };
    for (place, config) in plan.quantized() {
        let (bits, group) = (config.bits.get(), config.group_size.to_file());
        if !matches!(config.bits, Bits::B4 | Bits::B8) {
            note(format!(
                "{bits}-bit layers load in transformers, GPTQModel and here; vLLM and SGLang take only 4 and 8 bits"
            ));
        }
        if !config.sym {
            note("asymmetric layers load in transformers, GPTQModel and here; vLLM and SGLang take only sym GPTQ".into());
            if options.zero_format == ZeroPointFormat::Gptq {
                note("asymmetric layers in the gptq (v1) format keep zero points of at least 1, because readers disagree on a stored -1; --format gptq_v2 has no such limit".into());
            }
        }
        if ![-1, 32, 64, 128].contains(&group) {
            note(format!(
                "group_size {group} is outside what vLLM and SGLang take: -1, 32, 64, 128"
            ));
        }
        if group > 0 && place.in_features % group as usize != 0 {
            note(format!(
                "{} has {} inputs, not a multiple of group_size {group}; vLLM and SGLang refuse \
                 it, a smaller group_size would not",
                short(&place.name),
                place.in_features
            ));
        }
        if place.in_features % 32 != 0 || place.out_features % 32 != 0 {
            note(format!(
                "{} is {} × {}; most readers want multiples of 32, so skip it with a dynamic rule \
                 if yours refuses",
                short(&place.name),
                place.out_features,
                place.in_features
            ));
        }
    }
    out
}

/// A layer's name without its block, so that a notice appears once for all blocks.
fn short(name: &str) -> &str {
    let after_index = name.split_inclusive('.').scan(0, |at, part| {
        *at += part.len();
        Some((*at, part))
    });
    let index = |part: &str| part.trim_end_matches('.').parse::<usize>().is_ok();
    let cut = after_index.filter(|(_, part)| index(part)).map(|(at, _)| at).last();
    cut.and_then(|at| name.get(at..)).unwrap_or(name)
}
