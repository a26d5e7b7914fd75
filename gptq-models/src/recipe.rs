//! [`Recipe`]: the settings of a run as JSON, complete, so that it can be gone on with or done again.

use std::num::NonZeroUsize;

use gptq_core::{ActOrder, Bits, Damping, FallbackStrategy, GridSearch, GroupSize, QuantConfig};
use gptq_pack::DynamicRules;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    EoraOptions, Error, FallbackPolicy, FallbackThreshold, Method, QuantizeOptions, Routing,
};

/// Everything that decides the bytes of a result beside the model and the tokens. In reports it is
/// `settings`.
///
/// ```
/// use gptq_models::{QuantizeOptions, Recipe};
///
/// let recipe = Recipe::of(&QuantizeOptions::default());
/// let json = serde_json::to_value(&recipe).unwrap();
/// assert_eq!(json["group_size"], 128);
/// let again: Recipe = serde_json::from_value(json).unwrap();
/// assert_eq!(Recipe::of(&again.options().unwrap()), recipe);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// Name and version of the program.
    pub tool: String,
    /// `gptq` or `rtn`.
    pub method: String,
    /// Width of a code, where no rule says otherwise.
    pub bits: u32,
    /// Columns per group, -1 for whole rows.
    pub group_size: i64,
    /// Symmetric grids.
    pub sym: bool,
    /// Columns by decreasing activation.
    pub desc_act: bool,
    /// The same inside groups.
    pub act_group_aware: bool,
    /// Grids chosen before the first column.
    pub static_groups: bool,
    /// Share of the mean diagonal added to the Hessian.
    pub damp_percent: f64,
    /// And what it grows by.
    pub damp_auto_increment: f64,
    /// Search of smaller ranges, if any.
    pub mse: Option<Mse>,
    /// Columns per lazy update.
    pub block_size: NonZeroUsize,
    /// Grids chosen with the errors of all columns before.
    pub fresh_scales: bool,
    /// GPTAQ's share, 0 without.
    pub gptaq: f64,
    /// FOEM's share, 0 without.
    pub foem: f64,
    /// How packed layers are stored.
    pub format: String,
    /// Rules per module.
    pub dynamic: Value,
    /// Whether stages see the quantized stages before them.
    pub true_sequential: bool,
    /// Whether the output head is quantized.
    pub lm_head: bool,
    /// What becomes of linears that cannot be solved; null fails the run.
    pub fallback: Option<FallbackRecipe>,
    /// `routed` or `all`.
    pub moe: String,
    /// Rank of the adapter that is computed along, if any.
    pub eora_rank: Option<usize>,
    /// Largest shard, in bytes of tensors.
    pub max_shard_bytes: u64,
    /// Precision of products and instruction set.
    pub computed: String,
}

/// [`GridSearch`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mse {
    /// Exponent of the error.
    pub norm: f64,
    /// Steps.
    pub grid: u32,
    /// Largest shrinkage.
    pub maxshrink: f64,
    /// Both zero points at 2 bits.
    pub both_zeros: bool,
}

/// [`FallbackPolicy`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FallbackRecipe {
    /// The strategy's name.
    pub strategy: String,
    /// Fewer tokens than this share of all are too few.
    pub share: Option<f64>,
    /// Or than this number.
    pub tokens: Option<u64>,
}

impl Recipe {
    /// The settings of a run.
    pub fn of(options: &QuantizeOptions) -> Self {
        let c = &options.config;
        Self {
            tool: options.tool.clone(),
            method: match options.method {
                Method::Gptq => GPTQ.to_owned(),
                Method::Rtn => RTN.to_owned(),
            },
            bits: c.bits.get(),
            group_size: c.group_size.to_file(),
            sym: c.sym,
            desc_act: c.act_order == ActOrder::DescAct,
            act_group_aware: c.act_order == ActOrder::GroupAware,
            static_groups: c.static_groups,
            damp_percent: c.damping.percent,
            damp_auto_increment: c.damping.auto_increment,
            mse: c.mse.map(|search| Mse {
                norm: decimal(search.norm),
                grid: search.grid,
                maxshrink: decimal(search.maxshrink),
                both_zeros: search.both_zeros,
            }),
            block_size: c.block_size,
            fresh_scales: c.fresh_scales,
            gptaq: decimal(c.gptaq_alpha),
            foem: decimal(c.foem_beta),
            format: options.format.to_string(),
            dynamic: options.dynamic.to_json(),
            true_sequential: options.true_sequential,
            lm_head: options.lm_head,
            fallback: options.fallback.map(|policy| {
                let (share, tokens) = match policy.threshold {
                    FallbackThreshold::Share(share) => (Some(share), None),
                    FallbackThreshold::Tokens(tokens) => (None, Some(tokens)),
                };
                FallbackRecipe { strategy: policy.strategy.to_string(), share, tokens }
            }),
            moe: match options.routing {
                Routing::Routed => ROUTED.to_owned(),
                Routing::All => ALL.to_owned(),
            },
            eora_rank: options.eora.as_ref().map(|eora| eora.rank),
            max_shard_bytes: options.max_shard_bytes,
            computed: options.computed.clone(),
        }
    }

    /// The settings as a run takes them; what decides no byte is as by default.
    ///
    /// # Errors
    /// [`Error::Input`] naming the field that makes no sense.
    pub fn options(&self) -> Result<QuantizeOptions, Error> {
        let no = |field: &str, problem: &dyn std::fmt::Display| {
            Error::input(format!("the recorded settings cannot be used again: {field}: {problem}"))
        };
        let choose = |field: &str, value: &str, first: &str, second: &str| match value {
            _ if value == first => Ok(true),
            _ if value == second => Ok(false),
            _ => Err(no(field, &format!("{value:?} is neither {first} nor {second}"))),
        };
        let config = QuantConfig {
            bits: Bits::try_from(self.bits).map_err(|e| no("bits", &e))?,
            group_size: GroupSize::from_file(self.group_size).map_err(|e| no("group_size", &e))?,
            sym: self.sym,
            act_order: match (self.desc_act, self.act_group_aware) {
                (true, _) => ActOrder::DescAct,
                (_, true) => ActOrder::GroupAware,
                _ => ActOrder::Natural,
            },
            static_groups: self.static_groups,
            damping: Damping {
                percent: self.damp_percent,
                auto_increment: self.damp_auto_increment,
            },
            mse: self.mse.as_ref().map(|mse| GridSearch {
                norm: mse.norm as f32,
                grid: mse.grid,
                maxshrink: mse.maxshrink as f32,
                both_zeros: mse.both_zeros,
            }),
            block_size: self.block_size,
            fresh_scales: self.fresh_scales,
            gptaq_alpha: self.gptaq as f32,
            foem_beta: self.foem as f32,
            ..QuantConfig::default()
        };
        let fallback = |recipe: &FallbackRecipe| {
            let strategy: FallbackStrategy =
                recipe.strategy.parse().map_err(|e| no("fallback.strategy", &e))?;
            let threshold = match (recipe.share, recipe.tokens) {
                (Some(share), None) => FallbackThreshold::Share(share),
                (None, Some(tokens)) => FallbackThreshold::Tokens(tokens),
                _ => return Err(no("fallback", &"has not one of share and tokens")),
            };
            Ok(FallbackPolicy { strategy, threshold })
        };
        let gptq = choose("method", &self.method, GPTQ, RTN)?;
        let routed = choose("moe", &self.moe, ROUTED, ALL)?;
        Ok(QuantizeOptions {
            tool: self.tool.clone(),
            method: if gptq { Method::Gptq } else { Method::Rtn },
            config,
            format: self.format.parse().map_err(|e| no("format", &e))?,
            dynamic: DynamicRules::from_json(&self.dynamic).map_err(|e| no("dynamic", &e))?,
            true_sequential: self.true_sequential,
            lm_head: self.lm_head,
            fallback: self.fallback.as_ref().map(fallback).transpose()?,
            routing: if routed { Routing::Routed } else { Routing::All },
            eora: self.eora_rank.map(|rank| EoraOptions { rank, out: None }),
            max_shard_bytes: self.max_shard_bytes,
            computed: self.computed.clone(),
            ..QuantizeOptions::default()
        })
    }
}

const GPTQ: &str = "gptq";
const RTN: &str = "rtn";
const ROUTED: &str = "routed";
const ALL: &str = "all";

/// The number that was typed: 0.2, not the nearest f32 in all its digits.
pub(crate) fn decimal(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}
