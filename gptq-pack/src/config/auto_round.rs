//! AutoRound's own dialect. What it exports as GPTQ or AWQ says so itself and is read as such.

use serde_json::{Map, Value, json};

use super::{
    CheckpointConfig, gptq,
    keys::{self, Keys},
    patterns,
};
use crate::{DynamicRules, Error, Format, Width};

pub(super) fn read(keys: &Keys<'_>) -> Result<CheckpointConfig, Error> {
    let (key, found) =
        keys.name(&["packing_format"])?.ok_or(Error::ConfigMissing { key: "packing_format" })?;
    let format = match found.as_str() {
        "auto_round:auto_gptq" => Format::Gptq,
        "auto_round:auto_awq" => Format::Awq,
        _ => return Err(Error::UnsupportedFormat { key: key.to_owned(), found }),
    };
    if let Some((key, found)) = keys.name(&["data_type"])?
        && found != "int"
    {
        let advice = "only whole-number codes are read";
        return Err(Error::UnsupportedScheme { key: key.to_owned(), found, advice });
    }
    let (key, bits) = gptq::find_bits(keys)?;
    let bits = Width::from(keys::bits(key, bits)?);
    let mut config = CheckpointConfig::bare(format, bits, gptq::group_size(keys)?);
    config.sym = gptq::read_sym(keys)?;
    if let Some((key, value)) = keys.find(&["extra_config"])? {
        config.dynamic = read_rules(keys::object(key, value)?)?;
    }
    Ok(config)
}

/// Modules by name, or, where a name has characters that no name has, by a regular expression that
/// may match anywhere. 16 bits and more mean that a module is not quantized.
fn read_rules(modules: &Map<String, Value>) -> Result<DynamicRules, Error> {
    let mut rules = Map::new();
    for (module, settings) in modules {
        let settings = keys::object(module, settings)?;
        let is_name = module.chars().all(|c| c.is_alphanumeric() || "._-/".contains(c));
        let pattern = match is_name {
            true => patterns::exactly(module),
            false => format!(".*(?:{module})"),
        };
        let bits = settings.get("bits").filter(|bits| !bits.is_null());
        let rule = match bits.and_then(Value::as_u64) {
            Some(16..) => (format!("-:{pattern}"), json!({})),
            _ => {
                let known = |(key, value): (&String, &Value)| {
                    (["bits", "group_size", "sym"].contains(&key.as_str()) && !value.is_null())
                        .then(|| (key.clone(), value.clone()))
                };
                let changes: Map<String, Value> = settings.iter().filter_map(known).collect();
                (format!("+:{pattern}"), changes.into())
            }
        };
        rules.extend([rule]);
    }
    DynamicRules::from_json(&Value::Object(rules))
}
