//! The dialect of compressed-tensors: groups of modules, each with its targets and its scheme.

use gptq_core::GroupSize;
use serde_json::{Map, Value, json};

use super::{
    CheckpointConfig, Scheme,
    keys::{self, Keys},
    modules::changes,
    patterns,
};
use crate::{DynamicRules, Error, Format, Resolved};

const PACKED: &str = "pack-quantized";
/// The only class of modules that GPTQ packs.
const LINEAR: &str = "Linear";
/// The rule that leaves alone what no other rule names.
const REST: &str = "-:.*";

/// One group of `config_groups`.
struct Group<'a> {
    targets: Vec<&'a str>,
    scheme: Scheme,
}

pub(super) fn read(keys: &Keys<'_>) -> Result<CheckpointConfig, Error> {
    for (key, advice) in [
        ("kv_cache_scheme", "a quantized cache is not read; drop the key to use a plain one"),
        ("sparsity_config", "sparse weights are not read; decompress the checkpoint first"),
        ("transform_config", "transformed weights are not read; fuse the transforms first"),
    ] {
        if let Some((key, value)) = keys.find_at_top(&[key])?
            && value.as_object().is_none_or(|map| !map.is_empty() && !is_dense(map))
        {
            return Err(unsupported(key, value, advice));
        }
    }
    let format = keys.find_at_top(&["format"])?;
    let (key, value) = keys
        .find_at_top(&["config_groups"])?
        .ok_or(Error::ConfigMissing { key: "config_groups" })?;
    let groups: Vec<Group<'_>> = keys::object(key, value)?
        .iter()
        .map(|(name, group)| read_group(name, group, format))
        .collect::<Result<_, _>>()?;
    let ignored = keys::names(keys.find_at_top(&["ignore"])?)?;

    let mut linear = groups.iter().filter(|group| group.targets.contains(&LINEAR));
    let all = linear.next();
    if let (Some(first), Some(second)) =
        (all, linear.find(|g| Some(g.scheme) != all.map(|g| g.scheme)))
    {
        return Err(Error::ConfigConflict {
            first: format!("one group of target Linear is {} bits", first.scheme.bits),
            second: format!("another is {} bits with other settings", second.scheme.bits),
        });
    }
    let base = all.or(groups.first()).ok_or(Error::ConfigMissing { key: "config_groups" })?.scheme;

    let mut config = CheckpointConfig::bare(Format::CompressedTensors, base.bits, base.group_size);
    config.sym = base.sym;
    config.desc_act = base.desc_act;
    config.dynamic = rules(&groups, &ignored, base, all.is_some())?;
    config.lm_head = config.dynamic.resolve("lm_head")? != Resolved::Skip;
    Ok(config)
}

/// Modules that are ignored come first, then those that groups name, then those that match an
/// expression, in the order of its letters; `Linear` is the rest, and without it the rest is left
/// alone. That is the order in which compressed-tensors decides.
fn rules(
    groups: &[Group<'_>],
    ignored: &[&str],
    base: Scheme,
    all: bool,
) -> Result<DynamicRules, Error> {
    let pattern = |target: &str| match target.strip_prefix("re:") {
        Some(expression) => (true, expression.to_owned()),
        None => (false, patterns::exactly(target)),
    };
    let mut rules = Map::new();
    for target in ignored {
        rules.insert(format!("-:{}", pattern(target).1), json!({}));
    }
    let mut targets: Vec<_> = groups
        .iter()
        .flat_map(|group| group.targets.iter().map(|target| (pattern(target), group.scheme)))
        .collect();
    targets.sort_by(|a, b| a.0.cmp(&b.0));
    for ((_, target), scheme) in targets {
        if target != patterns::exactly(LINEAR) {
            rules.entry(format!("+:{target}")).or_insert(changes(base, scheme)?.into());
        }
    }
    if !all {
        rules.insert(REST.to_owned(), json!({}));
    }
    DynamicRules::from_json(&Value::Object(rules))
}

fn read_group<'a>(
    name: &'a str,
    group: &'a Value,
    format: Option<keys::Entry<'a>>,
) -> Result<Group<'a>, Error> {
    keys::object(name, group)?;
    let keys = Keys::new(group)?;
    if let Some((key, value)) = keys.find(&["format"])?.or(format)
        && !keys::string(key, value)?.eq_ignore_ascii_case(PACKED)
    {
        return Err(unsupported(key, value, "only pack-quantized is read"));
    }
    for key in ["input_activations", "output_activations"] {
        if let Some((key, value)) = keys.find(&[key])? {
            return Err(unsupported(key, value, "only quantized weights are read"));
        }
    }
    let (key, weights) = keys.find(&["weights"])?.ok_or(Error::ConfigMissing { key: "weights" })?;
    keys::object(key, weights)?;
    Ok(Group { targets: keys::names(keys.find(&["targets"])?)?, scheme: read_scheme(weights)? })
}

fn read_scheme(weights: &Value) -> Result<Scheme, Error> {
    let keys = Keys::new(weights)?;
    if let Some((key, value)) = keys.find(&["type"])?
        && !keys::string(key, value)?.eq_ignore_ascii_case("int")
    {
        return Err(unsupported(key, value, "only whole-number codes are read"));
    }
    if let Some((key, value)) = keys.find(&["dynamic"])?
        && *value != Value::Bool(false)
    {
        return Err(unsupported(key, value, "weights must have fixed scales"));
    }
    let (key, bits) = keys.find(&["num_bits"])?.ok_or(Error::ConfigMissing { key: "num_bits" })?;
    let group_size = keys.find(&["group_size"])?;
    let group_size = group_size.map(|(key, value)| keys::group_size(key, value)).transpose()?;
    let group_size = match (keys.find(&["strategy"])?, group_size) {
        (None, Some(size)) => size,
        (None, None) => return Err(Error::ConfigMissing { key: "strategy" }),
        (Some((key, value)), size) => match (keys::string(key, value)?, size) {
            ("channel", _) => GroupSize::PerChannel,
            ("group", Some(size)) => size,
            ("group", None) => return Err(Error::ConfigMissing { key: "group_size" }),
            _ => return Err(unsupported(key, value, "strategies read are group and channel")),
        },
    };
    // Names of the order that leaves group indices behind; `static` and `weight` leave none.
    let desc_act = match keys.find(&["actorder"])? {
        None => false,
        Some((_, Value::Bool(order))) => *order,
        Some((key, value)) => match keys::string(key, value)?.to_lowercase().as_str() {
            "group" | "dynamic" => true,
            "weight" | "static" => false,
            _ => return Err(unsupported(key, value, "orders read are group and weight")),
        },
    };
    Ok(Scheme {
        bits: keys::width(key, bits)?,
        group_size,
        sym: keys.bool(&["symmetric"])?.unwrap_or(true),
        desc_act,
    })
}

/// A `sparsity_config` that says that there is no sparsity.
fn is_dense(map: &Map<String, Value>) -> bool {
    map.get("format").and_then(Value::as_str) == Some("dense")
}

fn unsupported(key: &str, value: &Value, advice: &'static str) -> Error {
    let found = match value {
        Value::String(name) => name.clone(),
        other => other.to_string(),
    };
    Error::UnsupportedScheme { key: key.to_owned(), found, advice }
}

/// Rules become targets: those of one scheme a group, those that skip the list `ignore`.
pub(super) fn write(config: &CheckpointConfig) -> Result<Value, Error> {
    let rules = config.dynamic.to_json();
    let mut rules: Vec<_> = rules.as_object().into_iter().flatten().collect();
    let mut rest = vec![Value::from(LINEAR)];
    if rules.last().is_some_and(|(rule, _)| *rule == REST) {
        // The rest is left alone: no group targets it.
        rest.clear();
        rules.pop();
    }
    check_order(rules.iter().map(|(rule, _)| rule.as_str()))?;
    let mut groups = vec![(config.base(), rest)];
    let mut ignored = Vec::new();
    for (rule, changes) in rules {
        let (skips, pattern) = patterns::split(rule);
        let target = patterns::only(pattern).unwrap_or_else(|| format!("re:{pattern}"));
        if skips {
            ignored.push(Value::from(target));
            continue;
        }
        let scheme = changed(config.base(), changes)?;
        match groups.iter_mut().find(|(group, _)| *group == scheme) {
            Some((_, targets)) => targets.push(target.into()),
            None => groups.push((scheme, vec![target.into()])),
        }
    }
    let groups = groups.into_iter().enumerate().map(|(i, (scheme, targets))| {
        let group = json!({
            "targets": targets,
            "weights": weights(scheme),
            "input_activations": null,
            "output_activations": null,
            "format": PACKED,
        });
        (format!("group_{i}"), group)
    });
    Ok(json!({
        "quant_method": "compressed-tensors",
        "format": PACKED,
        "quantization_status": "compressed",
        "global_compression_ratio": null,
        "ignore": ignored,
        "kv_cache_scheme": null,
        "config_groups": groups.collect::<Map<_, _>>(),
    }))
}

/// Refuses rules whose order may matter and is not the one in which [`rules`] puts them. Rules of
/// single modules never compete.
fn check_order<'a>(rules: impl Iterator<Item = &'a str>) -> Result<(), Error> {
    let keys: Vec<_> = rules
        .map(|rule| {
            let (skips, pattern) = patterns::split(rule);
            let single = patterns::only(pattern).is_some();
            let order = match (skips, single) {
                (true, _) => (0, ""),
                (false, true) => (1, ""),
                (false, false) => (2, pattern),
            };
            (order, single, rule)
        })
        .collect();
    let expressions = keys.iter().enumerate().filter(|(_, (_, single, _))| !single);
    for (i, (order, _, rule)) in expressions {
        let later = keys[i + 1..].iter().find(|later| later.0 < *order);
        let earlier = keys[..i].iter().find(|earlier| earlier.0 > *order);
        if let Some((_, _, other)) = later.or(earlier) {
            return Err(Error::FormatRule {
                format: Format::CompressedTensors,
                message: format!(
                    "its config has an order of its own, in which the rules {rule:?} and {other:?} \
                     change places; state rules of single modules"
                ),
            });
        }
    }
    Ok(())
}

fn weights(scheme: Scheme) -> Value {
    let (strategy, group_size) = match scheme.group_size {
        GroupSize::PerChannel => ("channel", Value::Null),
        GroupSize::Columns(size) => ("group", size.get().into()),
    };
    json!({
        "num_bits": scheme.bits.get(),
        "type": "int",
        "symmetric": scheme.sym,
        "strategy": strategy,
        "group_size": group_size,
        "dynamic": false,
        "actorder": if scheme.desc_act { Value::from("group") } else { Value::Null },
        "block_structure": null,
        "observer": "minmax",
        "observer_kwargs": {},
    })
}

/// A scheme with the changes of one rule.
fn changed(base: Scheme, changes: &Value) -> Result<Scheme, Error> {
    let keys = Keys::new(changes)?;
    let bits = keys.find(&["bits"])?.map(|(key, value)| keys::width(key, value)).transpose()?;
    let size = keys.find(&["group_size"])?;
    let size = size.map(|(key, value)| keys::group_size(key, value)).transpose()?;
    Ok(Scheme {
        bits: bits.unwrap_or(base.bits),
        group_size: size.unwrap_or(base.group_size),
        sym: keys.bool(&["sym"])?.unwrap_or(base.sym),
        desc_act: keys.bool(&["desc_act"])?.unwrap_or(base.desc_act),
    })
}
