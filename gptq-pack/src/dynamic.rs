//! [`DynamicRules`]: settings that differ from module to module, the config's `dynamic`.

use fancy_regex::{Regex, RegexBuilder};
use gptq_core::{Bits, GroupSize};
use serde_json::{Map, Value};

use crate::{Error, keys};

/// An ordered list of rules `regex → override`, matched against full module names such as
/// `model.layers.3.mlp.down_proj`.
///
/// A regex must match from the first character of the name, but need not reach its last: the rule
/// `model.layers.1` also matches layers 10 to 19. A prefix `-:` skips the module; `+:` or no prefix
/// overrides. The first rule that matches decides, in the order of the JSON text, as in vLLM.
/// GPTQModel moves all `-:` rules to the front; rules written in that order mean the same to both.
///
/// ```
/// use gptq_core::Bits;
/// use gptq_pack::{DynamicRules, Resolved};
/// use serde_json::json;
///
/// let rules = json!({"-:.*\\.gate$": {}, ".*down_proj": {"bits": 8}});
/// let rules = DynamicRules::from_json(&rules)?;
///
/// assert_eq!(rules.resolve("model.layers.0.mlp.gate")?, Resolved::Skip);
/// assert_eq!(rules.resolve("model.layers.0.mlp.up_proj")?, Resolved::Default);
/// let Resolved::Override(changes) = rules.resolve("model.layers.0.mlp.down_proj")? else {
///     unreachable!()
/// };
/// assert_eq!(changes.bits, Some(Bits::B8));
/// # Ok::<(), gptq_pack::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DynamicRules {
    rules: Vec<Rule>,
}

/// What the rules say about one module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Resolved<'a> {
    /// Leave the module unquantized.
    Skip,
    /// Use these settings; what they leave open is as in the config.
    Override(&'a Override),
    /// No rule matches: all settings are the config's.
    Default,
}

/// Bytes of a compiled rule; thousands of times what rules in use need.
const LARGEST_PROGRAM: usize = 1 << 20;
/// Instructions of a rule with look-around or references.
const MOST_INSTRUCTIONS: usize = 1 << 15;
/// Steps of such a rule on one name. Names have some fifty characters.
const MOST_STEPS: usize = 100_000;

/// The settings of one rule. `None` leaves a setting as the config has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Override {
    /// Width of a code.
    pub bits: Option<Bits>,
    /// Inputs per group.
    pub group_size: Option<GroupSize>,
    /// Symmetric grid.
    pub sym: Option<bool>,
    /// Activation order.
    pub desc_act: Option<bool>,
    /// Activation order inside groups; matters only while quantizing.
    pub act_group_aware: Option<bool>,
    /// Grids chosen before the first column; matters only while quantizing.
    pub static_groups: Option<bool>,
    /// Exponent of the grid search, 0 for none; matters only while quantizing.
    pub mse: Option<f64>,
    /// Share of the mean diagonal added to the Hessian; matters only while quantizing.
    pub damp_percent: Option<f64>,
    /// Keys not known here, kept for writing.
    pub extra: Map<String, Value>,
}

#[derive(Clone, Debug)]
struct Rule {
    /// As written, prefix included.
    pattern: String,
    regex: Regex,
    /// `None` skips.
    changes: Option<Override>,
}

impl PartialEq for Rule {
    /// The regex follows from the pattern.
    fn eq(&self, other: &Self) -> bool {
        self.pattern == other.pattern && self.changes == other.changes
    }
}

impl DynamicRules {
    /// Reads the object under `dynamic`. The order of its keys is kept and matters; `config.json`
    /// files written by transformers have it sorted, so prefer `quantize_config.json`.
    ///
    /// # Errors
    /// [`Error::ConfigNotObject`], [`Error::ConfigValue`] with the rule and the key,
    /// [`Error::RulePattern`], or [`Error::Core`] for bits or a group size no file knows.
    pub fn from_json(json: &Value) -> Result<Self, Error> {
        let rules = keys::object("dynamic", json)?.iter();
        let rules = rules.map(|(pattern, value)| Rule::from_json(pattern, value));
        Ok(Self { rules: rules.collect::<Result<_, _>>()? })
    }

    /// The object to write under `dynamic`, rules in order.
    pub fn to_json(&self) -> Value {
        let rule = |rule: &Rule| {
            let changes = rule.changes.as_ref().map(Override::to_json).unwrap_or_default();
            (rule.pattern.clone(), Value::Object(changes))
        };
        Value::Object(self.rules.iter().map(rule).collect())
    }

    /// Whether there are no rules.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// What the first rule that matches says about a module. Cost: each rule is tried in turn.
    ///
    /// # Errors
    /// [`Error::RuleMatch`] if a rule backtracks without end.
    pub fn resolve(&self, module: &str) -> Result<Resolved<'_>, Error> {
        for rule in &self.rules {
            if rule.matches(module)? {
                return Ok(rule.changes.as_ref().map_or(Resolved::Skip, Resolved::Override));
            }
        }
        Ok(Resolved::Default)
    }
}

impl Rule {
    fn from_json(pattern: &str, value: &Value) -> Result<Self, Error> {
        let (skip, expression) = match pattern.strip_prefix("-:") {
            Some(rest) => (true, rest),
            None => (false, pattern.strip_prefix("+:").unwrap_or(pattern)),
        };
        let regex = RegexBuilder::new(expression)
            .delegate_size_limit(LARGEST_PROGRAM)
            .max_prog_size(MOST_INSTRUCTIONS)
            .backtrack_limit(MOST_STEPS)
            .build();
        let regex = regex.map_err(|error| Error::RulePattern {
            pattern: pattern.to_owned(),
            message: error.to_string(),
        })?;
        let changes = if skip { None } else { Some(Override::from_json(pattern, value)?) };
        Ok(Self { pattern: pattern.to_owned(), regex, changes })
    }

    /// A search tries the name's start first, so it finds a match there if there is one.
    fn matches(&self, module: &str) -> Result<bool, Error> {
        match self.regex.find(module) {
            Ok(found) => Ok(found.is_some_and(|found| found.start() == 0)),
            Err(error) => Err(Error::RuleMatch {
                pattern: self.pattern.clone(),
                module: module.to_owned(),
                message: error.to_string(),
            }),
        }
    }
}

impl Override {
    fn from_json(pattern: &str, value: &Value) -> Result<Self, Error> {
        let mut changes = Self::default();
        for (key, value) in keys::object(&format!("dynamic {pattern:?}"), value)? {
            let named = format!("{key} of dynamic {pattern:?}");
            match key.as_str() {
                _ if value.is_null() => {}
                "bits" => changes.bits = Some(keys::bits(&named, value)?),
                "group_size" => changes.group_size = Some(keys::group_size(&named, value)?),
                "sym" => changes.sym = Some(keys::boolean(&named, value)?),
                "desc_act" => changes.desc_act = Some(keys::boolean(&named, value)?),
                "act_group_aware" => changes.act_group_aware = Some(keys::boolean(&named, value)?),
                "static_groups" => changes.static_groups = Some(keys::boolean(&named, value)?),
                "damp_percent" => changes.damp_percent = Some(keys::number(&named, value)?),
                "mse" => changes.mse = Some(keys::number(&named, value)?),
                "pack_dtype" => keys::pack_dtype(&named, value)?,
                _ => {
                    changes.extra.insert(key.clone(), value.clone());
                }
            }
        }
        Ok(changes)
    }

    fn to_json(&self) -> Map<String, Value> {
        let known = [
            ("bits", self.bits.map(|bits| bits.get().into())),
            ("group_size", self.group_size.map(|size| size.to_file().into())),
            ("sym", self.sym.map(Value::from)),
            ("desc_act", self.desc_act.map(Value::from)),
            ("act_group_aware", self.act_group_aware.map(Value::from)),
            ("static_groups", self.static_groups.map(Value::from)),
            ("damp_percent", self.damp_percent.map(Value::from)),
            ("mse", self.mse.map(Value::from)),
        ];
        let known = known.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
        known.chain(self.extra.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rules(json: &Value) -> DynamicRules {
        DynamicRules::from_json(json).unwrap()
    }

    fn bits(rules: &DynamicRules, module: &str) -> Option<Bits> {
        match rules.resolve(module).unwrap() {
            Resolved::Override(changes) => changes.bits,
            other => panic!("{module}: {other:?}"),
        }
    }

    #[test]
    fn the_first_match_from_the_start_of_the_name_decides() {
        let rules = rules(&json!({
            "-:.*\\.mlp\\.gate$": {},
            "+:.*\\.(?:1[0-5])\\..*": {"bits": 8},
            ".*down_proj": {"bits": 3},
        }));
        assert_eq!(rules.resolve("model.layers.3.mlp.gate").unwrap(), Resolved::Skip);
        assert_eq!(rules.resolve("model.layers.3.mlp.gate_proj").unwrap(), Resolved::Default);
        assert_eq!(bits(&rules, "model.layers.12.mlp.down_proj"), Some(Bits::B8));
        assert_eq!(bits(&rules, "model.layers.2.mlp.down_proj"), Some(Bits::B3));
        let Ok(Resolved::Override(q)) = rules.resolve("model.layers.12.self_attn.q_proj") else {
            panic!("layers 10 to 15 have a rule")
        };
        assert_eq!(q.group_size, None);
    }

    #[test]
    fn a_rule_is_anchored_at_the_start_only() {
        let middle = rules(&json!({"layers": {"bits": 8}}));
        assert_eq!(middle.resolve("model.layers.1.mlp").unwrap(), Resolved::Default);
        let prefix = rules(&json!({"model.layers.1": {"bits": 8}}));
        assert_eq!(bits(&prefix, "model.layers.17.mlp"), Some(Bits::B8));
        assert_eq!(prefix.resolve("model.layers.2.mlp").unwrap(), Resolved::Default);
    }

    #[test]
    fn rules_survive_writing_with_order_and_unknown_keys() {
        let json = json!({
            "z": {"bits": 2, "group_size": -1, "mse": 2.4},
            "-:a": {},
            "+:b": {"sym": false, "desc_act": true, "damp_percent": 0.1},
        });
        assert_eq!(rules(&json).to_json().to_string(), json.to_string());
    }

    #[test]
    fn settings_have_types() {
        let rules = rules(&json!({"a": {"mse": 2.4}, "b": {"mse": 0}}));
        for (module, mse) in [("a", 2.4), ("b", 0.0)] {
            let Ok(Resolved::Override(changes)) = rules.resolve(module) else {
                panic!("{module} has a rule")
            };
            assert_eq!(changes.mse, Some(mse));
        }
        let error = DynamicRules::from_json(&json!({"a": {"mse": true}})).unwrap_err();
        assert_eq!(error.to_string(), "mse of dynamic \"a\" is true, but must be a number");
    }

    #[test]
    fn look_around_is_understood() {
        let rules = rules(&json!({r"-:model\.layers\.\d+\.(?!mlp)": {}}));
        assert_eq!(rules.resolve("model.layers.0.self_attn.q_proj").unwrap(), Resolved::Skip);
        assert_eq!(rules.resolve("model.layers.0.mlp.up_proj").unwrap(), Resolved::Default);
    }
}
