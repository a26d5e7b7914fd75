//! [`CheckpointConfig`]: `quantize_config.json`, and the same object as `config.json`'s
//! `quantization_config`. Legacy spellings end here.

use gptq_core::{Bits, GroupSize};
use serde_json::{Map, Value, json};

use crate::{
    DynamicRules, Error, Resolved, ZeroPointFormat,
    keys::{self, Keys},
};

/// What a checkpoint says about its own quantization.
///
/// ```
/// use gptq_core::Bits;
/// use gptq_pack::CheckpointConfig;
/// use serde_json::json;
///
/// let config = CheckpointConfig::from_json(&json!({"w_bit": 4, "q_group_size": 128}))?;
/// assert_eq!(config.bits, Bits::B4);
/// assert!(config.sym && !config.desc_act);
/// # Ok::<(), gptq_pack::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointConfig {
    /// Width of a code.
    pub bits: Bits,
    /// Inputs per group.
    pub group_size: GroupSize,
    /// Symmetric grids: every zero point is `2^(bits-1)`. GPTQModel loads an asymmetric checkpoint
    /// of format `gptq` only if `meta.quantizer` names GPTQModel 0.9 or newer; `gptq_v2` always.
    pub sym: bool,
    /// Columns were quantized by decreasing activation, so that `g_idx` may be scattered.
    pub desc_act: bool,
    /// How zero points are stored: `checkpoint_format`.
    pub zero_format: ZeroPointFormat,
    /// Whether the output head is quantized too.
    pub lm_head: bool,
    /// Share of the mean diagonal that was added to the Hessian, in (0, 1) for transformers to
    /// accept the file. Says nothing about how to read it.
    pub damp_percent: Option<f64>,
    /// Grids were chosen before the first column. Says nothing about how to read the file.
    pub static_groups: bool,
    /// Later layers saw the error of earlier ones. Says nothing about how to read the file.
    pub true_sequential: bool,
    /// Settings that differ from module to module.
    pub dynamic: DynamicRules,
    /// What inference does not need: the `quantizer` that wrote the file, its version, its options.
    pub meta: Map<String, Value>,
    /// Keys not known here, kept for writing: `modules_in_block_to_quantize`, for one.
    pub extra: Map<String, Value>,
}

/// How one module is quantized: the config after its `dynamic` rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheme {
    /// Width of a code.
    pub bits: Bits,
    /// Inputs per group.
    pub group_size: GroupSize,
    /// Symmetric grids.
    pub sym: bool,
    /// Scattered `g_idx`.
    pub desc_act: bool,
}

/// Spellings under which `from_json` finds a value; everything else is `extra`.
const KNOWN: &[&str] = &[
    "bits",
    "w_bit",
    "wbits",
    "group_size",
    "q_group_size",
    "sym",
    "zero_point",
    "desc_act",
    "quant_method",
    "method",
    "checkpoint_format",
    "format",
    "is_marlin_format",
    "pack_dtype",
    "lm_head",
    "damp_percent",
    "static_groups",
    "true_sequential",
    "dynamic",
    "meta",
];

impl CheckpointConfig {
    /// What every server loads, apart from the arguments: symmetric, natural order, format `gptq`,
    /// the head left alone, and this crate's name and version as `meta.quantizer`.
    pub fn new(bits: Bits, group_size: GroupSize) -> Self {
        let quantizer = json!([concat!("gptq:", env!("CARGO_PKG_VERSION"))]);
        Self {
            bits,
            group_size,
            sym: true,
            desc_act: false,
            zero_format: ZeroPointFormat::Gptq,
            lm_head: false,
            damp_percent: None,
            static_groups: false,
            true_sequential: true,
            dynamic: DynamicRules::default(),
            meta: Map::from_iter([("quantizer".to_owned(), quantizer)]),
            extra: Map::new(),
        }
    }

    /// Reads the object as AutoGPTQ, GPTQModel and the tools around them write it. Keys match in
    /// any case; `null` counts as absent; what is missing at top level is looked up in `meta`.
    ///
    /// | key | also spelled | if absent |
    /// |---|---|---|
    /// | `bits` | `w_bit`, `wbits` | error |
    /// | `group_size` | `q_group_size` | 128, as GPTQModel and transformers read it (AutoGPTQ: -1); the shapes of the tensors tell if that is wrong |
    /// | `sym` | `zero_point`, negated | true |
    /// | `desc_act` | | false |
    /// | `quant_method` | `method` | `gptq` |
    /// | `checkpoint_format` | `format`, or `version` without them | `gptq` |
    /// | `lm_head`, `static_groups` | | false |
    /// | `true_sequential` | | true |
    ///
    /// # Errors
    /// [`Error::UnsupportedMethod`] and [`Error::UnsupportedFormat`] for checkpoints of other kinds,
    /// Marlin among them; [`Error::ConfigConflict`] if spellings contradict each other;
    /// [`Error::ConfigMissing`], [`Error::ConfigValue`], [`Error::Core`] for keys that cannot be
    /// understood; and those of [`DynamicRules::from_json`].
    pub fn from_json(json: &Value) -> Result<Self, Error> {
        let keys = Keys::new(json)?;
        check_method(&keys)?;
        let (zero_format, version_is_format) = read_format(&keys)?;
        if let Some((key, value)) = keys.find(&["pack_dtype"])? {
            keys::pack_dtype(key, value)?;
        }
        let (key, bits) =
            keys.find(&["bits", "w_bit", "wbits"])?.ok_or(Error::ConfigMissing { key: "bits" })?;
        let group_size = match keys.find(&["group_size", "q_group_size"])? {
            Some((key, value)) => keys::group_size(key, value)?,
            None => GroupSize::from_file(128)?,
        };
        let dynamic = keys.find(&["dynamic"])?.map(|(_, rules)| DynamicRules::from_json(rules));
        let mut extra = keys.others(KNOWN);
        if version_is_format {
            extra.retain(|key, _| !key.eq_ignore_ascii_case("version"));
        }
        Ok(Self {
            bits: keys::bits(key, bits)?,
            group_size,
            sym: read_sym(&keys)?,
            desc_act: keys.bool(&["desc_act"])?.unwrap_or(false),
            zero_format,
            lm_head: keys.bool(&["lm_head"])?.unwrap_or(false),
            damp_percent: keys
                .find(&["damp_percent"])?
                .map(|(key, value)| keys::number(key, value))
                .transpose()?,
            static_groups: keys.bool(&["static_groups"])?.unwrap_or(false),
            true_sequential: keys.bool(&["true_sequential"])?.unwrap_or(true),
            dynamic: dynamic.transpose()?.unwrap_or_default(),
            meta: keys.meta().cloned().unwrap_or_default(),
            extra,
        })
    }

    /// The object to write, the same into `quantize_config.json` and into `config.json` under
    /// `quantization_config`. Keys stand in GPTQModel's order; those that only some readers know
    /// follow. Method and format appear under both spellings, because GPTQModel looks for one and
    /// every server for the other.
    pub fn to_json(&self) -> Value {
        let mut json = Map::new();
        let mut put = |key: &str, value: Value| json.insert(key.to_owned(), value);
        put("bits", self.bits.get().into());
        if !self.dynamic.is_empty() {
            put("dynamic", self.dynamic.to_json());
        }
        put("group_size", self.group_size.to_file().into());
        put("desc_act", self.desc_act.into());
        put("lm_head", self.lm_head.into());
        put("method", "gptq".into());
        put("quant_method", "gptq".into());
        put("format", self.zero_format.as_str().into());
        put("checkpoint_format", self.zero_format.as_str().into());
        put("pack_dtype", "int32".into());
        if !self.meta.is_empty() {
            put("meta", self.meta.clone().into());
        }
        put("sym", self.sym.into());
        if let Some(percent) = self.damp_percent {
            put("damp_percent", percent.into());
        }
        put("static_groups", self.static_groups.into());
        put("true_sequential", self.true_sequential.into());
        for (key, value) in &self.extra {
            if !KNOWN.contains(&key.to_lowercase().as_str()) {
                json.insert(key.clone(), value.clone());
            }
        }
        Value::Object(json)
    }

    /// How a module is quantized, or `None` if a rule skips it. Knows nothing of the model: a
    /// module that no rule names may still be one that is never quantized.
    ///
    /// # Errors
    /// Those of [`DynamicRules::resolve`].
    pub fn scheme(&self, module: &str) -> Result<Option<Scheme>, Error> {
        let Self { bits, group_size, sym, desc_act, .. } = *self;
        Ok(match self.dynamic.resolve(module)? {
            Resolved::Skip => None,
            Resolved::Default => Some(Scheme { bits, group_size, sym, desc_act }),
            Resolved::Override(changes) => Some(Scheme {
                bits: changes.bits.unwrap_or(bits),
                group_size: changes.group_size.unwrap_or(group_size),
                sym: changes.sym.unwrap_or(sym),
                desc_act: changes.desc_act.unwrap_or(desc_act),
            }),
        })
    }
}

/// Refuses other methods. Old files name Marlin and BitBLAS here, though these are layouts.
fn check_method(keys: &Keys<'_>) -> Result<(), Error> {
    let Some((key, value)) = keys.find(&["quant_method", "method"])? else { return Ok(()) };
    let (key, found) = (key.to_owned(), keys::string(key, value)?.to_lowercase());
    match found.as_str() {
        "gptq" => Ok(()),
        "marlin" | "bitblas" => Err(Error::UnsupportedFormat { key, found }),
        _ => Err(Error::UnsupportedMethod { key, found }),
    }
}

/// The layout, and whether it stood under `version`.
fn read_format(keys: &Keys<'_>) -> Result<(ZeroPointFormat, bool), Error> {
    if let Some((key, value)) = keys.find(&["is_marlin_format"])?
        && keys::boolean(key, value)?
    {
        return Err(Error::UnsupportedFormat { key: key.to_owned(), found: "marlin".to_owned() });
    }
    let stated = keys.find(&["checkpoint_format", "format"])?;
    let entry = if stated.is_some() { stated } else { keys.find_at_top(&["version"])? };
    let Some((key, value)) = entry else { return Ok((ZeroPointFormat::Gptq, false)) };
    let found = keys::string(key, value)?.to_lowercase();
    let format =
        found.parse().map_err(|_| Error::UnsupportedFormat { key: key.to_owned(), found })?;
    Ok((format, stated.is_none()))
}

/// `sym`, or the opposite of `zero_point`.
fn read_sym(keys: &Keys<'_>) -> Result<bool, Error> {
    let sym = keys.find(&["sym"])?;
    let zero_point = keys.find(&["zero_point"])?;
    let says = |(key, value): keys::Entry<'_>| keys::boolean(key, value);
    match (sym, zero_point) {
        (Some(sym), Some(zero_point)) if says(sym)? == says(zero_point)? => {
            Err(keys::conflict(sym, zero_point))
        }
        (Some(sym), _) => says(sym),
        (None, Some(zero_point)) => Ok(!says(zero_point)?),
        (None, None) => Ok(true),
    }
}
