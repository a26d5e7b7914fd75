//! What stands beside the weights of a converted checkpoint.

use std::{fs, path::Path};

use gptq_pack::Format;
use serde_json::Value;

use super::{entry, plan::Goal};
use crate::{
    Checkpoint, Entry, Error, Fate,
    checkpoint::{read_json, write_json},
    output::{WEIGHT_FILES, copy as copy_file, is_no_file},
    verify::REPORT,
};

/// GPTQ's readers look for this one; others for none but `config.json`.
const BESIDE: &str = "quantize_config.json";

/// `config.json`, and for GPTQ's formats `quantize_config.json`.
pub(super) fn write_configs(
    checkpoint: &Checkpoint,
    out: &Path,
    target: Goal,
    quantization: Option<&Value>,
) -> Result<(), Error> {
    let mut model = checkpoint.config().clone();
    let Value::Object(keys) = &mut model else {
        let path = checkpoint.dir().join("config.json");
        return Err(Error::file(&path, "is not a JSON object"));
    };
    match quantization {
        None => {
            keys.shift_remove("quantization_config");
        }
        Some(json) => {
            keys.insert("quantization_config".into(), json.clone());
            if stands_beside(target) {
                write_json(&out.join(BESIDE), json)?;
            }
        }
    }
    write_json(&out.join("config.json"), &model)
}

fn stands_beside(target: Goal) -> bool {
    use Format::{Awq, CompressedTensors};
    !matches!(target, Goal::Dense(_) | Goal::Packed(Awq | CompressedTensors))
}

/// Copies what is not weights, and accounts for every file.
pub(super) fn copy(checkpoint: &Checkpoint, out: &Path, target: Goal) -> Result<Vec<Entry>, Error> {
    let source = checkpoint.dir();
    let mut names = Vec::new();
    for file in fs::read_dir(source).map_err(|e| Error::io("list", source, e))? {
        names.push(file.map_err(|e| Error::io("list", source, e))?.file_name());
    }
    names.sort_unstable();
    let weights: Vec<&Path> = checkpoint.weight_files().collect();
    let beside = stands_beside(target);
    let mut ledger = Vec::with_capacity(names.len());
    for name in names {
        let (from, to) = (source.join(&name), out.join(&name));
        let name = name.to_string_lossy().into_owned();
        let (fate, reason) = match name.as_str() {
            "config.json" => (Fate::Rewritten, Some("says how the result is stored")),
            BESIDE if beside => (Fate::Rewritten, Some("says how the result is stored")),
            BESIDE | "quant_config.json" => {
                (Fate::Dropped, Some("config.json says how the result is stored"))
            }
            REPORT => (Fate::Rewritten, Some("describes the result, and keeps what it said")),
            _ if weights.contains(&from.as_path()) => {
                (Fate::Rewritten, Some("its tensors are accounted for one by one"))
            }
            _ if name.ends_with(".safetensors.index.json") => {
                (Fate::Dropped, Some("the result has an index of its own, if it needs one"))
            }
            _ if is_no_file(&from)? => {
                (Fate::Dropped, Some("no file; only files belong to the model"))
            }
            _ if WEIGHT_FILES.iter().any(|suffix| name.to_lowercase().ends_with(suffix)) => {
                (Fate::Dropped, Some("weights in a file the model is not read from"))
            }
            _ => {
                copy_file(&from, &to).map_err(|e| Error::io("copy", &from, e))?;
                (Fate::Copied, None)
            }
        };
        ledger.push(entry(&name, fate, reason));
    }
    Ok(ledger)
}

/// The source's own report, if there is one that can be read, without what is true of its files
/// only.
pub(super) fn source_report(checkpoint: &Checkpoint) -> Value {
    let Ok(Value::Object(mut report)) = read_json(&checkpoint.dir().join(REPORT)) else {
        return Value::Null;
    };
    for key in ["sha256", "ledger", "source", "files", "seal"] {
        report.shift_remove(key);
    }
    Value::Object(report)
}
