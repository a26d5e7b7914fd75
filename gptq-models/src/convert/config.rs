//! What the result says of its quantization: built from what is packed in it.

use gptq_pack::{CheckpointConfig, Format, LayerSpec, Scheme};
use serde_json::Value;

use super::plan::Facts;
use crate::{
    Checkpoint, Error,
    inspect::{is_embedding, is_head, last},
    quantized::{StoredLayer, is_packed},
};

/// The config of the result as it will stand in its files, and as it will be read from there.
pub(super) struct Written {
    pub(super) json: Value,
    read: CheckpointConfig,
}

impl Written {
    pub(super) fn of(
        checkpoint: &Checkpoint,
        config: &CheckpointConfig,
        format: Format,
        facts: &[Facts<'_>],
    ) -> Result<Self, Error> {
        let failed = |source| Error::QuantizationConfig { file: checkpoint.config_file(), source };
        let json = config_for(checkpoint, config, format, facts).and_then(|c| c.to_json());
        let json = json.map_err(failed)?;
        let read = CheckpointConfig::from_json(&json).map_err(failed)?;
        Ok(Self { json, read })
    }

    pub(super) fn spec(
        &self,
        layer: &StoredLayer<'_>,
        spec: &LayerSpec,
    ) -> Result<LayerSpec, Error> {
        let scheme = self.read.scheme(&layer.name).map_err(|source| layer.explain(source))?;
        let scheme = scheme.ok_or_else(|| Error::Verify {
            layer: layer.name.clone(),
            message: "the config written would leave it out".to_owned(),
        })?;
        Ok(scheme.layer(spec.in_features, spec.out_features))
    }
}

/// The result's config. Between formats of GPTQ's own dialect it is the source's; otherwise it says
/// what is packed, module by module, and what is not.
fn config_for(
    checkpoint: &Checkpoint,
    config: &CheckpointConfig,
    format: Format,
    facts: &[Facts<'_>],
) -> Result<CheckpointConfig, gptq_pack::Error> {
    let dialect = |f| matches!(f, Format::Gptq | Format::GptqV2 | Format::GptqP | Format::Marlin);
    let same_widths = facts.iter().all(|f| f.spec.width == f.layer.spec.width);
    let mut out = if dialect(config.format) && dialect(format) && same_widths {
        CheckpointConfig { format, ..config.clone() }
    } else {
        let left_alone = left_alone(checkpoint, config.format, dialect(format), facts);
        let packed = facts.iter().map(|Facts { layer, spec, .. }| {
            let scheme = Scheme {
                bits: spec.width,
                group_size: spec.group_size,
                sym: spec.sym,
                desc_act: spec.scattered,
            };
            (layer.name.as_str(), Some(scheme))
        });
        let modules = packed.chain(left_alone.iter().map(|name| (name.as_str(), None)));
        config.for_modules(format, modules)?
    };
    // The result's file is not called so.
    out.extra.remove("model_file_base_name");
    Ok(out)
}

/// Linears that the source left alone. GPTQ's readers need to know of those that have packed
/// siblings elsewhere; the others of every linear, and of the head even if it is tied.
fn left_alone(
    checkpoint: &Checkpoint,
    format: Format,
    siblings_only: bool,
    facts: &[Facts<'_>],
) -> Vec<String> {
    let kinds: std::collections::HashSet<&str> =
        facts.iter().map(|facts| last(&facts.layer.name)).collect();
    let linears = checkpoint.tensors().filter(|tensor| tensor.shape.len() == 2);
    let modules = linears.filter_map(|tensor| tensor.name.strip_suffix(".weight"));
    let mut out: Vec<String> = modules
        .filter(|module| !is_packed(checkpoint, format, module))
        .filter(|module| match siblings_only {
            true => kinds.contains(last(module)),
            false => !is_embedding(last(module)),
        })
        .map(str::to_owned)
        .collect();
    let packed_head = facts.iter().any(|facts| is_head(last(&facts.layer.name)));
    if !siblings_only && !packed_head && !out.iter().any(|module| is_head(last(module))) {
        out.push("lm_head".to_owned());
    }
    out
}
