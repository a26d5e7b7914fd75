//! Whether the programs that serve models will load a folder, written or only planned.
//!
//! [`rules`] is what was read in their sources, as dated data; [`law`] is the few kinds of rules
//! there are; [`facts`] and [`layout`] are what engines see of a folder; [`nearest`] looks for the
//! settings that would load.

mod engine;
pub(crate) mod facts;
mod law;
pub(crate) mod layout;
mod nearest;
mod rules;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Serialize, Serializer};

pub use engine::Engine;
pub use nearest::Setting;

use crate::{
    Architecture, Checkpoint, Error, Method, QuantizeOptions, plan::Plan, quantization_config,
};
use facts::Facts;
use law::{Breach, Rule};
use rules::RULES;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The engine does not load the folder, or answers wrongly.
    Refuses,
    /// It loads, but slowly, or nobody has tried.
    Warns,
}

/// What one engine has against a folder, for all layers that are alike.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Objection {
    /// Who.
    pub engine: Engine,
    /// How bad it is.
    pub severity: Severity,
    /// What it is about: `bits`, `group_size`, `tiles` and the like.
    pub rule: &'static str,
    /// The first layer that it is about, if it is about layers.
    pub layer: Option<String>,
    /// How many.
    pub layers: usize,
    /// What was found, in numbers, and what would load.
    pub found: String,
    /// What the engine does then.
    pub why: &'static str,
    /// The nearest settings under which the engine would not say this; empty if none were found.
    /// Those of all refusals of one engine are the same: together they make it load, as far as
    /// settings can.
    pub nearest: Vec<Setting>,
    /// Where the rule was read.
    pub source: &'static str,
    /// When, as year-month-day.
    pub read: &'static str,
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.engine, self.found, self.why)
    }
}

impl Serialize for Setting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What engines have against a quantized folder, in any format that can be read here, on `tp`
/// devices that share every matrix. Nothing if they load it, by the rules known here: they are
/// read from sources and dated, and the engines themselves have the last word.
///
/// Cost: headers, configs, and one pass over group indices.
///
/// # Errors
/// [`Error::File`] for a folder that is not quantized, which [`check_run`] is for; otherwise those
/// of [`quantization_config`] and of reading headers.
///
/// ```no_run
/// use gptq_models::{Checkpoint, Engine, Severity, check};
///
/// let folder = Checkpoint::open(std::path::Path::new("my-llama-gptq"))?;
/// let said = check(&folder, &[Engine::Vllm], 4)?;
/// assert!(said.iter().all(|objection| objection.severity == Severity::Warns), "{said:?}");
/// # Ok::<(), gptq_models::Error>(())
/// ```
pub fn check(
    checkpoint: &Checkpoint,
    engines: &[Engine],
    tp: usize,
) -> Result<Vec<Objection>, Error> {
    let Some(config) = quantization_config(checkpoint)? else {
        return Err(Error::file(
            checkpoint.dir(),
            "is not quantized, so there is nothing to load; give the settings of a run to check \
             what it would write",
        ));
    };
    Ok(objections(&Facts::of_folder(checkpoint, &config, devices(tp)?)?, engines))
}

/// The same about what a run with these settings would write, decided from headers.
///
/// # Errors
/// Those of [`quantize`](crate::quantize) before it reads a weight.
pub fn check_run(
    checkpoint: &Checkpoint,
    options: &QuantizeOptions,
    engines: &[Engine],
    tp: usize,
) -> Result<Vec<Objection>, Error> {
    let arch = match Architecture::of(checkpoint) {
        Err(Error::UnknownArchitecture { .. }) if options.method == Method::Rtn => None,
        found => Some(found?),
    };
    let options = &options.with_head_rule(arch.as_ref().map_or("lm_head", |a| &a.head().name))?;
    options.validate()?;
    let plan = match &arch {
        Some(arch) => Plan::new(checkpoint, arch, options)?,
        None => Plan::by_names(checkpoint, options)?,
    };
    Ok(objections(&Facts::of_plan(&plan, arch.as_ref(), options, devices(tp)?)?, engines))
}

fn devices(tp: usize) -> Result<usize, Error> {
    match tp {
        0 => Err(Error::input("0 devices cannot share a model; 1 is the least")),
        tp => Ok(tp),
    }
}

/// What engines have against it, refusals first, with the nearest settings that would load.
pub(crate) fn objections(facts: &Facts, engines: &[Engine]) -> Vec<Objection> {
    let mut out = Vec::new();
    for &engine in engines {
        let rules = || RULES.iter().filter(|rule| rule.engine == engine);
        let mut said: Vec<Objection> = rules().flat_map(|rule| of_rule(rule, facts)).collect();
        said.sort_by_key(|objection| objection.severity);
        // A layer that is refused for a reason need not be warned of for the same.
        let refused: Vec<_> = said
            .iter()
            .filter(|o| o.severity == Severity::Refuses)
            .map(|o| (o.rule, o.found.clone()))
            .collect();
        said.retain(|o| {
            o.severity == Severity::Refuses || !refused.contains(&(o.rule, o.found.clone()))
        });
        if !refused.is_empty() {
            let found = nearest::nearest(facts, engine);
            for objection in said.iter_mut().filter(|o| o.severity == Severity::Refuses) {
                if !found.left.contains(&objection.rule) {
                    objection.nearest.clone_from(&found.settings);
                }
            }
        }
        out.append(&mut said);
    }
    out
}

/// What breaks a rule, equal things together.
fn of_rule(rule: &Rule, facts: &Facts) -> Vec<Objection> {
    let mut out: Vec<Objection> = Vec::new();
    for Breach { layer, layers, message } in rule.breaches(facts) {
        match out.iter_mut().find(|other| other.found == message) {
            Some(other) => other.layers += layers,
            None => out.push(Objection {
                engine: rule.engine,
                severity: rule.severity,
                rule: rule.name,
                layer,
                layers,
                found: message,
                why: rule.why,
                nearest: Vec::new(),
                source: rule.source,
                read: rule.read,
            }),
        }
    }
    out
}

/// Refusals as one line for each thing found, whoever refuses.
pub(crate) fn notices(facts: &Facts) -> Vec<String> {
    let mut lines: Vec<(String, &str, Vec<&str>)> = Vec::new();
    let rules = RULES.iter().filter(|rule| rule.severity == Severity::Refuses);
    for objection in rules.flat_map(|rule| of_rule(rule, facts)) {
        let engine = objection.engine.as_str();
        match lines.iter_mut().find(|(found, ..)| *found == objection.found) {
            Some((_, _, engines)) => {
                if !engines.contains(&engine) {
                    engines.push(engine);
                }
            }
            None => lines.push((objection.found, objection.why, vec![engine])),
        }
    }
    let line = |(found, why, engines): (String, &str, Vec<&str>)| match engines.len() {
        1 => format!("{} will not load this: {found}: {why}", engines.join("")),
        _ => format!("{} will not load this: {found}", engines.join(", ")),
    };
    lines.into_iter().map(line).collect()
}
