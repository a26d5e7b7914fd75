//! `adapter_config.json`: whether it is a LoRA, and how strong.

use std::path::Path;

use fancy_regex::{Regex, RegexBuilder};

use super::CONFIG;
use crate::{Error, checkpoint::read_json, config::ConfigReader};

/// What scales an adapter.
pub(super) struct Strength {
    lora_alpha: f64,
    /// Others for some modules, by what their names end in.
    patterns: Vec<(Regex, f64)>,
    /// Divides by the square root of the rank.
    rslora: bool,
}

impl Strength {
    /// # Errors
    /// [`Error::Config`] naming the key; kinds of adapters that are more than a product are refused.
    pub(super) fn read(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(CONFIG);
        let json = read_json(&path)?;
        let file = path.display().to_string();
        let reader = ConfigReader::new(&json, &file);
        let kind = reader.text("peft_type")?;
        if kind != "LORA" {
            return Err(reader.error("peft_type", format!("is {kind:?}, but must be \"LORA\"")));
        }
        if reader.optional_flag("use_dora")?.unwrap_or(false) {
            return Err(reader.error("use_dora", "is true; only plain LoRA is known here"));
        }
        let lora_alpha = reader.optional_number("lora_alpha")?;
        let lora_alpha = lora_alpha.ok_or_else(|| reader.error("lora_alpha", "is missing"))?;
        let mut patterns = Vec::new();
        if let Some(object) = reader.get("alpha_pattern").and_then(|v| v.as_object()) {
            for (pattern, value) in object {
                let named = format!("alpha_pattern {pattern:?}");
                let alpha = value.as_f64().filter(|a| a.is_finite());
                let alpha = alpha.ok_or_else(|| reader.error(&named, "is no number"))?;
                // As bounded as the rules of quantization configs are.
                let regex = RegexBuilder::new(&format!(r"^(?:.*\.)?(?:{pattern})$"))
                    .delegate_size_limit(1 << 20)
                    .max_prog_size(1 << 15)
                    .backtrack_limit(100_000)
                    .build();
                let regex =
                    regex.map_err(|e| reader.error(&named, format!("cannot be read: {e}")))?;
                patterns.push((regex, alpha));
            }
        }
        let rslora = reader.optional_flag("use_rslora")?.unwrap_or(false);
        Ok(Self { lora_alpha, patterns, rslora })
    }

    /// The factor on one module's product; the rank is that of its matrices.
    pub(super) fn of(&self, module: &str, rank: usize) -> f32 {
        let matches = |regex: &Regex| regex.is_match(module).unwrap_or(false);
        let pattern = self.patterns.iter().find(|(regex, _)| matches(regex));
        let alpha = pattern.map_or(self.lora_alpha, |(_, alpha)| *alpha);
        let rank = rank as f64;
        (alpha / if self.rslora { rank.sqrt() } else { rank }) as f32
    }
}
