//! A config from what is known of every module.

use std::collections::HashMap;

use gptq_core::Bits;
use serde_json::{Map, Value, json};

use super::{CheckpointConfig, Scheme, patterns};
use crate::{DynamicRules, Error, Format, Width};

impl CheckpointConfig {
    /// The config of a checkpoint of these modules: how each is packed, or `None` if it is left
    /// alone. The commonest scheme becomes the config's own, the first of those equally common;
    /// every other module gets a rule of its own, those left alone first. What the config says
    /// about the quantization that made the codes is taken from `self`.
    ///
    /// # Errors
    /// [`Error::UnsupportedWidth`] for codes of 5, 6 or 7 bits beside others, which rules cannot
    /// say; and those of [`DynamicRules::from_json`].
    pub fn for_modules<'a>(
        &self,
        format: Format,
        modules: impl IntoIterator<Item = (&'a str, Option<Scheme>)>,
    ) -> Result<Self, Error> {
        let modules: Vec<_> = modules.into_iter().collect();
        let mut counts: HashMap<Scheme, (usize, usize)> = HashMap::new();
        for (place, scheme) in modules.iter().enumerate().filter_map(|(i, m)| Some((i, m.1?))) {
            counts.entry(scheme).or_insert((0, usize::MAX - place)).0 += 1;
        }
        let commonest = counts.into_iter().max_by_key(|&(_, count)| count);
        let base = commonest.map_or(self.base(), |(scheme, _)| scheme);

        let mut rules = Map::new();
        for (module, _) in modules.iter().filter(|(_, scheme)| scheme.is_none()) {
            rules.insert(format!("-:{}", patterns::exactly(module)), json!({}));
        }
        for (module, scheme) in &modules {
            if let Some(scheme) = scheme.filter(|scheme| *scheme != base) {
                let rule = format!("+:{}", patterns::exactly(module));
                rules.insert(rule, changes(base, scheme)?.into());
            }
        }
        let head = modules.iter().find(|(module, _)| module.ends_with("lm_head"));
        Ok(Self {
            bits: base.bits,
            group_size: base.group_size,
            sym: base.sym,
            desc_act: base.desc_act,
            format,
            lm_head: head.is_some_and(|(_, scheme)| scheme.is_some()),
            dynamic: DynamicRules::from_json(&Value::Object(rules))?,
            ..self.clone()
        })
    }
}

/// What a rule must say to make `base` this scheme.
pub(super) fn changes(base: Scheme, scheme: Scheme) -> Result<Map<String, Value>, Error> {
    let mut changes = Map::new();
    let mut put = |key: &str, differs, value: Value| {
        if differs {
            changes.insert(key.to_owned(), value);
        }
    };
    let differs = scheme.bits != base.bits;
    if differs && Bits::try_from(scheme.bits.get()).is_err() {
        return Err(Error::UnsupportedWidth { bits: scheme.bits.get() });
    }
    let group = scheme.group_size.to_file();
    put("bits", differs, Width::get(scheme.bits).into());
    put("group_size", scheme.group_size != base.group_size, group.into());
    put("sym", scheme.sym != base.sym, scheme.sym.into());
    put("desc_act", scheme.desc_act != base.desc_act, scheme.desc_act.into());
    Ok(changes)
}
