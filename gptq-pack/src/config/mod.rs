//! [`CheckpointConfig`]: what a checkpoint says about its own quantization, in any dialect. Legacy
//! spellings end here.

mod auto_round;
mod awq;
mod compressed;
mod gptq;
pub(crate) mod keys;
mod legacy;
mod modules;
mod patterns;

use gptq_core::{Bits, GroupSize};
use serde_json::{Map, Value, json};

use crate::{
    Dtype, DynamicRules, Error, Format, LayerSpec, Resolved, Width, ZeroPointFormat, names::Part,
};
use keys::Keys;

pub use legacy::LEGACY_TENSORS;

/// What a checkpoint says about its own quantization.
///
/// ```
/// use gptq_core::Bits;
/// use gptq_pack::{CheckpointConfig, Format};
/// use serde_json::json;
///
/// let config = CheckpointConfig::from_json(&json!({"w_bit": 4, "q_group_size": 128}))?;
/// assert_eq!(config.bits, Bits::B4);
/// assert!(config.sym && !config.desc_act);
///
/// let awq = json!({"quant_method": "awq", "bits": 4, "version": "gemm", "zero_point": true});
/// let config = CheckpointConfig::from_json(&awq)?;
/// assert_eq!(config.format, Format::Awq);
/// # Ok::<(), gptq_pack::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointConfig {
    /// Width of a stored code.
    pub bits: Width,
    /// Inputs per group.
    pub group_size: GroupSize,
    /// Symmetric grids: every zero point is `2^(bits-1)`. GPTQModel loads an asymmetric checkpoint
    /// of format `gptq` only if `meta.quantizer` names GPTQModel 0.9 or newer; `gptq_v2` always.
    pub sym: bool,
    /// Columns were quantized by decreasing activation, so that `g_idx` may be scattered.
    pub desc_act: bool,
    /// How layers are stored.
    pub format: Format,
    /// Whether the output head is quantized too.
    pub lm_head: bool,
    /// Share of the mean diagonal that was added to the Hessian, in (0, 1) for transformers to
    /// accept the file. Says nothing about how to read it.
    pub damp_percent: Option<f64>,
    /// Grids were chosen before the first column. Says nothing about how to read the file.
    pub static_groups: bool,
    /// Later layers saw the error of earlier ones. Says nothing about how to read the file.
    pub true_sequential: bool,
    /// Settings that differ from module to module, whatever the dialect calls them: `dynamic`,
    /// `modules_to_not_convert`, `ignore` and the targets of `config_groups`, `extra_config`.
    pub dynamic: DynamicRules,
    /// What inference does not need: the `quantizer` that wrote the file, its version, its options.
    pub meta: Map<String, Value>,
    /// Keys of GPTQ's dialect not known here, kept for writing: `modules_in_block_to_quantize`,
    /// for one. Which modules are packed, their tensors tell.
    pub extra: Map<String, Value>,
}

/// How one module is quantized: the config after its `dynamic` rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scheme {
    /// Width of a stored code.
    pub bits: Width,
    /// Inputs per group.
    pub group_size: GroupSize,
    /// Symmetric grids.
    pub sym: bool,
    /// Scattered `g_idx`.
    pub desc_act: bool,
}

impl Scheme {
    /// The spec of a layer of this scheme, with `F16` scales and without a bias.
    pub fn layer(&self, in_features: usize, out_features: usize) -> LayerSpec {
        LayerSpec {
            in_features,
            out_features,
            width: self.bits,
            group_size: self.group_size,
            sym: self.sym,
            scattered: self.desc_act,
            scale_dtype: Dtype::F16,
            bias: None,
        }
    }
}

impl CheckpointConfig {
    /// What every server loads, apart from the arguments: symmetric, natural order, format `gptq`,
    /// the head left alone, and this crate's name and version as `meta.quantizer`.
    pub fn new(bits: Bits, group_size: GroupSize) -> Self {
        let quantizer = json!([concat!("gptq:", env!("CARGO_PKG_VERSION"))]);
        let mut config = Self::bare(Format::Gptq, bits.into(), group_size);
        config.meta.insert("quantizer".to_owned(), quantizer);
        config
    }

    /// The same in any format and without `meta`: where readers start.
    fn bare(format: Format, bits: Width, group_size: GroupSize) -> Self {
        Self {
            bits,
            group_size,
            sym: true,
            desc_act: false,
            format,
            lm_head: false,
            damp_percent: None,
            static_groups: false,
            true_sequential: true,
            dynamic: DynamicRules::default(),
            meta: Map::new(),
            extra: Map::new(),
        }
    }

    /// Reads the object as AutoGPTQ, GPTQModel, AutoRound, AutoAWQ, llm-compressor and the tools
    /// around them write it, into `quantize_config.json`, `quant_config.json` or under
    /// `quantization_config` of `config.json`. Keys match in any case; `null` counts as absent;
    /// what is missing at top level is looked up in `meta`.
    ///
    /// | `quant_method` (or `method`) | formats |
    /// |---|---|
    /// | `gptq`, or absent | those of `checkpoint_format`: `gptq`, `gptq_v2`, `gptq_p`, `marlin` |
    /// | `marlin` | `marlin` |
    /// | `awq`, or absent with an AWQ `version` | `awq` |
    /// | `compressed-tensors`, or absent with `config_groups` | `compressed-tensors` |
    /// | `auto-round` | those of `packing_format`: `gptq`, `awq` |
    ///
    /// GPTQ's own keys:
    ///
    /// | key | also spelled | if absent |
    /// |---|---|---|
    /// | `bits` | `w_bit`, `wbits` | error |
    /// | `group_size` | `q_group_size` | 128, as GPTQModel and transformers read it (AutoGPTQ: -1); the shapes of the tensors tell if that is wrong |
    /// | `sym` | `zero_point`, negated | true |
    /// | `desc_act` | | false |
    /// | `checkpoint_format` | `format`, or `version` without them; `is_marlin_format` | `gptq` |
    /// | `lm_head`, `static_groups` | | false |
    /// | `true_sequential` | | true |
    ///
    /// # Errors
    /// [`Error::UnsupportedMethod`], [`Error::UnsupportedFormat`] and [`Error::UnsupportedScheme`]
    /// for checkpoints of other kinds, each by name; [`Error::ConfigConflict`] if spellings
    /// contradict each other; [`Error::ConfigMissing`], [`Error::ConfigValue`], [`Error::Core`] and
    /// [`Error::UnsupportedWidth`] for keys that cannot be understood; and those of
    /// [`DynamicRules::from_json`].
    pub fn from_json(json: &Value) -> Result<Self, Error> {
        let keys = Keys::new(json)?;
        let method = keys.name(&["quant_method", "method"])?;
        match method.as_ref().map(|(_, name)| name.as_str()) {
            Some("gptq") => gptq::read(&keys, None),
            Some("marlin") => gptq::read(&keys, Some(Format::Marlin)),
            Some("awq") => awq::read(&keys),
            Some("compressed-tensors") => compressed::read(&keys),
            Some("auto-round" | "intel/auto-round") => auto_round::read(&keys),
            None if keys.find_at_top(&["config_groups"])?.is_some() => compressed::read(&keys),
            None if awq::has_awq_version(&keys)? => awq::read(&keys),
            None => gptq::read(&keys, None),
            Some(_) => {
                let (key, found) = method.unwrap_or_default();
                let key = key.to_owned();
                // Old files name BitBLAS here, though it is a layout.
                Err(match found.as_str() {
                    "bitblas" => Error::UnsupportedFormat { key, found },
                    _ => Error::UnsupportedMethod { key, found },
                })
            }
        }
    }

    /// The object to write, the same into `quantize_config.json` and into `config.json` under
    /// `quantization_config`, in the dialect of [`format`](Self::format).
    ///
    /// GPTQ's keys stand in GPTQModel's order; those that only some readers know follow. Method
    /// and format appear under both spellings, because GPTQModel looks for one and every server
    /// for the other. AWQ files say `zero_point: true` even if every zero point is in the middle:
    /// they always hold zero points, and vLLM refuses those that deny it.
    ///
    /// # Errors
    /// [`Error::FormatRule`] for what the dialect cannot say: any rule but a module left out in
    /// AWQ, rules whose order compressed-tensors would change, and a scattered `g_idx` in AWQ and
    /// Marlin. Configs of [`for_modules`](Self::for_modules) have no such rules, except that AWQ
    /// knows one scheme only.
    pub fn to_json(&self) -> Result<Value, Error> {
        match self.format {
            Format::Gptq | Format::GptqV2 | Format::GptqP | Format::Marlin => gptq::write(self),
            Format::Awq => awq::write(self),
            Format::CompressedTensors => compressed::write(self),
        }
    }

    /// How zero points are stored, for the two formats that [`PackedLinear`](crate::PackedLinear)
    /// holds.
    pub fn zero_format(&self) -> Option<ZeroPointFormat> {
        self.format.zero_format()
    }

    /// How a module is quantized, or `None` if a rule skips it. Knows nothing of the model: a
    /// module that no rule names may still be one that is never quantized.
    ///
    /// # Errors
    /// Those of [`DynamicRules::resolve`].
    pub fn scheme(&self, module: &str) -> Result<Option<Scheme>, Error> {
        Ok(match self.dynamic.resolve(module)? {
            Resolved::Skip => None,
            Resolved::Default => Some(self.base()),
            Resolved::Override(changes) => {
                let base = self.base();
                Some(Scheme {
                    bits: changes.bits.map_or(base.bits, Width::from),
                    group_size: changes.group_size.unwrap_or(base.group_size),
                    sym: changes.sym.unwrap_or(base.sym),
                    desc_act: changes.desc_act.unwrap_or(base.desc_act),
                })
            }
        })
    }

    /// The scheme of modules that no rule names.
    pub fn base(&self) -> Scheme {
        let Self { bits, group_size, sym, desc_act, .. } = *self;
        Scheme { bits, group_size, sym, desc_act }
    }

    /// Without activation order, which this format has no place for.
    fn refuse_desc_act(&self) -> Result<(), Error> {
        if !self.desc_act || self.format.all_parts().contains(&Part::GIdx) {
            return Ok(());
        }
        Err(Error::FormatRule {
            format: self.format,
            message: "desc_act is true, but it has no place for group indices; write gptq_v2"
                .to_owned(),
        })
    }
}
