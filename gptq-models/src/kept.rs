//! [`Kept`]: layers that are taken over from an earlier result instead of being solved again.

use std::collections::BTreeMap;

use gptq_core::QuantizedMatrix;
use gptq_pack::{CheckpointConfig, DynamicRules, Resolved};
use serde_json::{Value, json};

use crate::{
    Checkpoint, Error, LayerReport, Recipe, Report, graph::LinearPlace, quantization_config,
    quantized::read_quantized,
};

/// An earlier result, and which of its layers are to be done again.
#[derive(Debug)]
pub struct Kept<'a> {
    result: &'a Checkpoint,
    config: CheckpointConfig,
    recipe: Recipe,
    /// The names to do again, as keys of rules.
    redo: DynamicRules,
    rule: String,
    layers: BTreeMap<String, LayerReport>,
    /// The seal of its report.
    seal: String,
}

impl<'a> Kept<'a> {
    /// Everything of a result of [`quantize`](crate::quantize()) but the linears whose names a rule
    /// matches: a regular expression as in `dynamic`, which must match from a name's beginning.
    ///
    /// # Errors
    /// [`Error::File`] if the folder has no report with its settings, [`Error::Packed`] if the rule
    /// is no regular expression.
    pub fn but(result: &'a Checkpoint, rule: &str) -> Result<Self, Error> {
        let no = |problem: &dyn std::fmt::Display| {
            Error::file(result.dir(), format!("cannot be gone on from: {problem}"))
        };
        let report = Report::open(result.dir())?;
        let recipe = serde_json::from_value(report.settings)
            .map_err(|e| no(&format!("its report does not hold all settings: {e}")))?;
        let config = quantization_config(result)?;
        let config = config.ok_or_else(|| no(&"it holds no quantized model"))?;
        let failed = |source| Error::Packed { layer: rule.to_owned(), source };
        Ok(Self {
            result,
            config,
            recipe,
            redo: DynamicRules::from_json(&json!({ rule: {} })).map_err(failed)?,
            rule: rule.to_owned(),
            layers: report.layers.into_iter().map(|layer| (layer.name.clone(), layer)).collect(),
            seal: report.seal,
        })
    }

    /// The settings it was made with.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Whether a linear is taken over.
    pub(crate) fn keeps(&self, name: &str) -> Result<bool, Error> {
        let failed = |source| Error::Packed { layer: name.to_owned(), source };
        Ok(self.redo.resolve(name).map_err(failed)? == Resolved::Default)
    }

    /// A rule that names nothing to do.
    pub(crate) fn matches_none(&self) -> Error {
        Error::input(format!(
            "{:?} matches no linear; a rule must match from the beginning of a name, as .*down_proj \
             matches model.layers.0.mlp.down_proj",
            self.rule
        ))
    }

    /// A linear that is.
    pub(crate) fn layer(
        &self,
        place: &LinearPlace,
    ) -> Result<(QuantizedMatrix, LayerReport), Error> {
        let stored = read_quantized(self.result, Some(&self.config), place)?;
        let report = self.layers.get(&place.name).cloned();
        match (stored, report) {
            (Some((quantized, _)), Some(report)) => Ok((quantized, report)),
            _ => Err(Error::file(
                self.result.dir(),
                format!("holds no quantized {} to keep; let the rule match it", place.name),
            )),
        }
    }

    /// For the report of the new result.
    pub(crate) fn to_json(&self) -> Value {
        json!({"seal": self.seal, "redone": self.rule})
    }
}
