//! Settings of a run, and what they mean for one linear.

use std::time::Duration;

use gptq_core::{ActOrder, GridSearch, GroupSize, QuantConfig, ScaleDtype};
use gptq_pack::{CheckpointConfig, Dtype, DynamicRules, Format, LayerSpec, Override, Resolved};
use serde_json::{Value, json};

use crate::{Error, FallbackPolicy, LinearPlace, Routing, recipe::decimal};

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
    /// How packed layers are stored.
    pub format: Format,
    /// Rules that change settings or skip linears, by name.
    pub dynamic: DynamicRules,
    /// Whether a stage is solved with inputs that have seen the quantized weights of the stages
    /// before it in the same block. If not, all linears of a block are solved from one pass with the
    /// block's original weights; blocks still see the quantized blocks before them.
    pub true_sequential: bool,
    /// Whether the output head is quantized too. Unless a rule names it, it gets 8 bits in groups of
    /// 32, as GPTQModel has it: its errors reach the logits directly.
    pub lm_head: bool,
    /// What becomes of linears that cannot be solved; `None` fails the run at the first.
    pub fallback: Option<FallbackPolicy>,
    /// Which tokens the experts of a mixture are solved with.
    pub routing: Routing,
    /// A low-rank correction to compute for every quantized linear; needs calibration tokens.
    pub eora: Option<crate::EoraOptions>,
    /// Whether what an interrupted run left in the partial folder is thrown away, instead of gone on
    /// from.
    pub restart: bool,
    /// How often samples on their way are saved, so that an interrupted run need not send them
    /// through all finished blocks again. Less often where that would take a twentieth of the time.
    pub save_every: Duration,
    /// Bytes of memory to stay within, if any: samples that do not fit wait in a scratch file beside
    /// the result, and wide inputs are computed again instead of being kept.
    pub max_ram: Option<u64>,
    /// Largest shard, in bytes of tensors.
    pub max_shard_bytes: u64,
    /// Where the calibration tokens come from, for the report.
    pub calibration: Value,
    /// What computes, for the report.
    pub computed: String,
    /// Name and version of the program, for the report and the config's `meta`.
    pub tool: String,
}

impl Default for QuantizeOptions {
    fn default() -> Self {
        Self {
            method: Method::Gptq,
            config: QuantConfig::default(),
            format: Format::Gptq,
            dynamic: DynamicRules::default(),
            true_sequential: true,
            lm_head: false,
            fallback: Some(FallbackPolicy::default()),
            routing: Routing::Routed,
            eora: None,
            restart: false,
            save_every: Duration::from_secs(120),
            max_ram: None,
            max_shard_bytes: 5_000_000_000,
            calibration: Value::Null,
            computed: String::new(),
            tool: concat!("gptq ", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

impl QuantizeOptions {
    /// The same with a rule for the head, if it is to be quantized and none names it. The rule is
    /// the one GPTQModel adds, so that every reader of `dynamic` finds it.
    ///
    /// # Errors
    /// [`Error::Packed`] if a rule cannot be matched.
    pub(crate) fn with_head_rule(&self, head: &str) -> Result<Self, Error> {
        let mut options = self.clone();
        let failed = |source| Error::Packed { layer: head.to_owned(), source };
        if self.lm_head && self.dynamic.resolve(head).map_err(failed)? == Resolved::Default {
            let mut rules = self.dynamic.to_json();
            rules[head.replace('.', "\\.")] =
                json!({"bits": 8, "group_size": 32, "sym": true, "desc_act": false, "mse": 2.4});
            options.dynamic = DynamicRules::from_json(&rules).map_err(failed)?;
        }
        Ok(options)
    }

    /// Refuses settings that make no sense for any model.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        if let Some(eora) = &self.eora {
            if eora.rank == 0 {
                return Err(Error::input("an adapter of rank 0 corrects nothing; 32 is usual"));
            }
            if self.method == Method::Rtn {
                return Err(Error::input(
                    "an adapter is fitted to inputs, and rounding to nearest sees none; use gptq",
                ));
            }
        }
        self.fallback.map_or(Ok(()), |policy| policy.threshold.validate())
    }

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
        let stores_minus_one = self.format == Format::Gptq;
        config.min_zero = u8::from(stores_minus_one && !config.sym);
        config.validate().map_err(|source| Error::Layer { layer: name.to_owned(), source })?;
        Ok(Some(config))
    }

    /// How a linear of these settings is stored. A bias stays beside it, as the source has it.
    pub(crate) fn spec(&self, place: &LinearPlace, config: &QuantConfig) -> LayerSpec {
        let ordered = config.act_order == ActOrder::DescAct && !config.static_groups;
        LayerSpec {
            in_features: place.in_features,
            out_features: place.out_features,
            width: config.bits.into(),
            group_size: config.group_size,
            sym: config.sym,
            scattered: ordered
                && self.method == Method::Gptq
                && config.group_size != GroupSize::PerChannel,
            scale_dtype: Dtype::F16,
            bias: None,
        }
    }

    /// Keys that the rule for a linear sets and nothing here understands.
    pub(crate) fn unknown_keys(&self, name: &str) -> Result<Vec<&String>, Error> {
        let failed = |source| Error::Packed { layer: name.to_owned(), source };
        Ok(match self.dynamic.resolve(name).map_err(failed)? {
            Resolved::Override(changes) => changes.extra.keys().collect(),
            Resolved::Skip | Resolved::Default => Vec::new(),
        })
    }

    /// What the result says of itself.
    pub(crate) fn checkpoint_config(&self) -> CheckpointConfig {
        let c = &self.config;
        let mut out = CheckpointConfig::new(c.bits, c.group_size);
        out.sym = c.sym;
        out.desc_act = c.act_order == ActOrder::DescAct;
        out.format = self.format;
        out.damp_percent = Some(c.damping.percent);
        out.static_groups = c.static_groups;
        out.true_sequential = self.true_sequential;
        out.lm_head = self.lm_head;
        out.dynamic = self.dynamic.clone();
        out.meta.insert("quantizer".into(), json!([self.tool.replace(' ', ":")]));
        let options = [
            ("damp_percent", json!(c.damping.percent)),
            ("damp_auto_increment", json!(c.damping.auto_increment)),
            ("static_groups", json!(c.static_groups)),
            ("true_sequential", json!(self.true_sequential)),
            ("act_group_aware", json!(c.act_order == ActOrder::GroupAware)),
            ("mse", json!(c.mse.map_or(0.0, |search| decimal(search.norm)))),
        ];
        out.meta.extend(options.map(|(key, value)| (key.to_owned(), value)));
        if self.method == Method::Gptq {
            let fallback = self.fallback.map_or(Value::Null, FallbackPolicy::to_json);
            out.meta.insert("fallback".into(), fallback);
            let (alpha, beta) = (decimal(c.gptaq_alpha), decimal(c.foem_beta));
            if beta != 0.0 {
                out.meta.insert("foem".into(), json!({"alpha": alpha, "beta": beta}));
            } else if alpha != 0.0 {
                out.meta.insert("gptaq".into(), json!({"alpha": alpha}));
            }
        }
        out
    }
}

fn apply(changes: &Override, config: &mut QuantConfig) {
    config.bits = changes.bits.unwrap_or(config.bits);
    config.group_size = changes.group_size.unwrap_or(config.group_size);
    config.sym = changes.sym.unwrap_or(config.sym);
    config.static_groups = changes.static_groups.unwrap_or(config.static_groups);
    if let Some(norm) = changes.mse {
        let search = GridSearch { norm: norm as f32, ..GridSearch::default() };
        config.mse = (norm != 0.0).then_some(search);
    }
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
