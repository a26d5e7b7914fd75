//! The dialect of AWQ: AutoAWQ's keys, as transformers, vLLM and GPTQModel read and write them.

use serde_json::{Map, Value, json};

use super::{
    CheckpointConfig, gptq,
    keys::{self, Keys},
    patterns,
};
use crate::{DynamicRules, Error, Format};

/// The layouts that AWQ checkpoints have, under any of the keys that name them.
const VERSION_KEYS: &[&str] = &["version", "format", "checkpoint_format"];
const VERSIONS: &[&str] = &["gemm", "gemv", "gemv_fast", "marlin", "exllama", "llm-awq"];

/// Whether a config that names no method is AWQ's all the same.
pub(super) fn has_awq_version(keys: &Keys<'_>) -> Result<bool, Error> {
    let version = keys.find_at_top(&["version"])?.and_then(|(_, version)| version.as_str());
    Ok(version.is_some_and(|name| VERSIONS.contains(&name.to_lowercase().as_str())))
}

pub(super) fn read(keys: &Keys<'_>) -> Result<CheckpointConfig, Error> {
    let named = match keys.name(&VERSION_KEYS[..1])? {
        Some(version) => Some(version),
        None => keys.name(&VERSION_KEYS[1..])?,
    };
    if let Some((key, found)) = named
        && found != "gemm"
    {
        return Err(Error::UnsupportedScheme {
            key: key.to_owned(),
            found,
            advice: "of AWQ's layouts only gemm is read; quantize with version gemm, which the \
                     other kernels read too",
        });
    }
    if let Some((key, found)) = keys.name(&["backend"])?
        && found == "llm-awq"
    {
        let advice = "the original llm-awq layout is not read; convert it to gemm with AutoAWQ";
        return Err(Error::UnsupportedScheme { key: key.to_owned(), found, advice });
    }
    let (key, bits) = gptq::find_bits(keys)?;
    let bits = keys::width(key, bits)?;
    if bits.get() != 4 {
        return Err(Error::UnsupportedScheme {
            key: key.to_owned(),
            found: bits.to_string(),
            advice: "AWQ's gemm layout holds 4 bits",
        });
    }
    let mut config = CheckpointConfig::bare(Format::Awq, bits, gptq::group_size(keys)?);
    // Unlike GPTQ's files, AWQ's are asymmetric unless they deny it.
    let stated = keys.find(&["sym"])?.or(keys.find(&["zero_point"])?);
    config.sym = stated.is_some() && gptq::read_sym(keys)?;
    config.meta = keys.meta().cloned().unwrap_or_default();
    let skipped = keys::names(keys.find(&["modules_to_not_convert"])?)?;
    let rules =
        skipped.into_iter().map(|part| (format!("-:{}", patterns::containing(part)), json!({})));
    config.dynamic = DynamicRules::from_json(&Value::Object(rules.collect()))?;
    Ok(config)
}

pub(super) fn write(config: &CheckpointConfig) -> Result<Value, Error> {
    config.refuse_desc_act()?;
    let rules = config.dynamic.to_json();
    let rules = rules.as_object().into_iter().flatten();
    let skipped: Vec<Value> = rules
        .map(|(rule, _)| {
            match patterns::split(rule) {
                (true, pattern) => patterns::literal(pattern).map(Value::from),
                (false, _) => None,
            }
            .ok_or_else(|| Error::FormatRule {
                format: Format::Awq,
                message: format!(
                    "its config can leave modules out by name, but not say {rule:?}; write \
                 compressed-tensors or gptq_v2"
                ),
            })
        })
        .collect::<Result<_, _>>()?;
    let mut json = Map::new();
    let mut put = |key: &str, value: Value| json.insert(key.to_owned(), value);
    put("quant_method", "awq".into());
    put("bits", config.bits.get().into());
    put("group_size", config.group_size.to_file().into());
    put("zero_point", true.into());
    put("version", "gemm".into());
    put("modules_to_not_convert", if skipped.is_empty() { Value::Null } else { skipped.into() });
    if !config.meta.is_empty() {
        put("meta", config.meta.clone().into());
    }
    Ok(Value::Object(json))
}
