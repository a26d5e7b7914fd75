//! The dialect of GPTQ: AutoGPTQ's and GPTQModel's keys, for `gptq`, `gptq_v2`, `gptq_p` and `marlin`.

use gptq_core::GroupSize;
use serde_json::{Map, Value};

use super::{
    CheckpointConfig,
    keys::{self, Keys},
};
use crate::{DynamicRules, Error, Format, Width};

/// Spellings under which `read` finds a value; everything else is `extra`.
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

/// Reads the object. `method` is the layout that `quant_method` names, if it names one.
pub(super) fn read(keys: &Keys<'_>, method: Option<Format>) -> Result<CheckpointConfig, Error> {
    let (format, version_is_format) = read_format(keys, method)?;
    if let Some((key, value)) = keys.find(&["pack_dtype"])? {
        keys::pack_dtype(key, value)?;
    }
    let (key, bits) = find_bits(keys)?;
    let bits = match format {
        Format::GptqP => keys::width(key, bits)?,
        _ => Width::from(keys::bits(key, bits)?),
    };
    let mut config = CheckpointConfig::bare(format, bits, group_size(keys)?);
    config.sym = read_sym(keys)?;
    // Marlin's files have no place for it; AutoGPTQ ignores the key in them too.
    config.desc_act = format != Format::Marlin && keys.bool(&["desc_act"])?.unwrap_or(false);
    config.lm_head = keys.bool(&["lm_head"])?.unwrap_or(false);
    config.damp_percent =
        keys.find(&["damp_percent"])?.map(|(key, value)| keys::number(key, value)).transpose()?;
    config.static_groups = keys.bool(&["static_groups"])?.unwrap_or(false);
    config.true_sequential = keys.bool(&["true_sequential"])?.unwrap_or(true);
    if let Some((_, rules)) = keys.find(&["dynamic"])? {
        config.dynamic = DynamicRules::from_json(rules)?;
    }
    config.meta = keys.meta().cloned().unwrap_or_default();
    config.extra = keys.others(KNOWN);
    if version_is_format {
        config.extra.retain(|key, _| !key.eq_ignore_ascii_case("version"));
    }
    Ok(config)
}

pub(super) fn write(config: &CheckpointConfig) -> Result<Value, Error> {
    config.refuse_desc_act()?;
    let mut json = Map::new();
    let mut put = |key: &str, value: Value| json.insert(key.to_owned(), value);
    put("bits", config.bits.get().into());
    if !config.dynamic.is_empty() {
        put("dynamic", config.dynamic.to_json());
    }
    put("group_size", config.group_size.to_file().into());
    put("desc_act", config.desc_act.into());
    put("lm_head", config.lm_head.into());
    put("method", "gptq".into());
    put("quant_method", "gptq".into());
    put("format", config.format.as_str().into());
    put("checkpoint_format", config.format.as_str().into());
    put("pack_dtype", "int32".into());
    if !config.meta.is_empty() {
        put("meta", config.meta.clone().into());
    }
    put("sym", config.sym.into());
    if let Some(percent) = config.damp_percent {
        put("damp_percent", percent.into());
    }
    put("static_groups", config.static_groups.into());
    put("true_sequential", config.true_sequential.into());
    for (key, value) in &config.extra {
        if !KNOWN.contains(&key.to_lowercase().as_str()) {
            json.insert(key.clone(), value.clone());
        }
    }
    Ok(Value::Object(json))
}

pub(super) fn find_bits<'a>(keys: &Keys<'a>) -> Result<keys::Entry<'a>, Error> {
    keys.find(&["bits", "w_bit", "wbits"])?.ok_or(Error::ConfigMissing { key: "bits" })
}

pub(super) fn group_size(keys: &Keys<'_>) -> Result<GroupSize, Error> {
    match keys.find(&["group_size", "q_group_size"])? {
        Some((key, value)) => keys::group_size(key, value),
        None => Ok(GroupSize::from_file(128)?),
    }
}

/// The layout, and whether it stood under `version`.
fn read_format(keys: &Keys<'_>, method: Option<Format>) -> Result<(Format, bool), Error> {
    let marlin = keys.find(&["is_marlin_format"])?;
    let is_marlin = marlin.map(|(key, value)| keys::boolean(key, value)).transpose()?;
    let implied = is_marlin.is_some_and(|yes| yes).then_some(Format::Marlin).or(method);

    let stated = keys.find(&["checkpoint_format", "format"])?;
    let entry = match (stated, implied) {
        (None, None) => keys.find_at_top(&["version"])?,
        _ => stated,
    };
    let Some((key, value)) = entry else { return Ok((implied.unwrap_or(Format::Gptq), false)) };
    let found = keys::string(key, value)?.to_lowercase();
    let format = match found.parse() {
        Ok(format @ (Format::Gptq | Format::GptqV2 | Format::GptqP | Format::Marlin)) => format,
        _ => return Err(Error::UnsupportedFormat { key: key.to_owned(), found }),
    };
    if let Some(implied) = implied
        && implied != format
    {
        let other = match (is_marlin, marlin) {
            (Some(true), Some(marlin)) => marlin,
            _ => keys.find(&["quant_method", "method"])?.unwrap_or((key, value)),
        };
        return Err(keys::conflict((key, value), other));
    }
    Ok((format, stated.is_none()))
}

/// `sym`, or the opposite of `zero_point`.
pub(super) fn read_sym(keys: &Keys<'_>) -> Result<bool, Error> {
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
