//! Which `.safetensors` files of a folder are the model, under all the names in circulation.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use gptq_pack::{CheckpointConfig, names};
use serde_json::Value;

use super::read_json;
use crate::Error;

/// The files of a model.
pub(super) struct WeightFiles {
    /// In the order to read them.
    pub(super) files: Vec<String>,
    /// An index file, and its claims about which tensor lies where.
    pub(super) index: Option<(PathBuf, BTreeMap<String, String>)>,
}

/// Finds the model's files. Names are tried in this order, each with an index of shards first:
///
/// 1. what `quantize_config.json` gives as `model_file_base_name`, if that is there;
/// 2. AutoGPTQ's `gptq_model-{bits}bit-{group_size}g`, if only `quantize_config.json` says how the
///    model is quantized;
/// 3. `model`, as transformers and most others write it;
/// 4. whatever single name is left.
pub(super) fn weight_files(dir: &Path, config: &Value) -> Result<WeightFiles, Error> {
    for base in base_names(dir, config).into_iter().chain(["model".to_owned()]) {
        let index = format!("{base}{INDEX}");
        if dir.join(&index).is_file() {
            return indexed(dir, &index);
        }
        let file = format!("{base}{FILE}");
        if dir.join(&file).is_file() {
            return Ok(WeightFiles { files: vec![file], index: None });
        }
    }
    let names = list(dir)?;
    let ending = |with: &str| names.iter().filter(|n| n.ends_with(with)).collect::<Vec<_>>();
    let (indices, files) = (ending(INDEX), ending(FILE));
    let message = match (&indices[..], &files[..]) {
        ([index], _) => return indexed(dir, index),
        ([], [file]) => return Ok(WeightFiles { files: vec![(*file).clone()], index: None }),
        ([], []) => "holds no model.safetensors and no model.safetensors.index.json; other weight \
                     formats (.bin, .pth, .gguf) must be converted to safetensors first"
            .to_owned(),
        ([], [first, second, ..]) => format!(
            "holds {} .safetensors files ({first}, {second}, …) but no model{INDEX} that says \
             which belong together; leave one, or name it in quantize_config.json as \
             model_file_base_name",
            files.len()
        ),
        ([first, second, ..], _) => {
            format!("holds several models ({first}, {second}); leave the index of one of them")
        }
    };
    Err(Error::file(dir, message))
}

const FILE: &str = ".safetensors";
const INDEX: &str = ".safetensors.index.json";

/// Names that AutoGPTQ would look for. A quantization config that cannot be read is somebody
/// else's to complain about: whoever reads it says what is wrong with it.
fn base_names(dir: &Path, config: &Value) -> Vec<String> {
    let Ok(json) = read_json(&dir.join("quantize_config.json")) else { return Vec::new() };
    let stated = json.get("model_file_base_name").and_then(Value::as_str);
    let stated = stated.filter(|name| is_plain_file_name(name)).map(str::to_owned);
    let alone = config.get("quantization_config").is_none_or(Value::is_null);
    let usual = CheckpointConfig::from_json(&json).ok().filter(|_| alone);
    let usual = usual.map(|config| names::autogptq_basename(config.bits.bits(), config.group_size));
    stated.into_iter().chain(usual).collect()
}

fn indexed(dir: &Path, index: &str) -> Result<WeightFiles, Error> {
    let path = dir.join(index);
    let map = read_weight_map(&path)?;
    let mut files: Vec<String> = map.values().cloned().collect();
    files.sort_unstable();
    files.dedup();
    Ok(WeightFiles { files, index: Some((path, map)) })
}

fn read_weight_map(index: &Path) -> Result<BTreeMap<String, String>, Error> {
    let json = read_json(index)?;
    let map = json.get("weight_map").and_then(Value::as_object).filter(|map| !map.is_empty());
    let map = map.ok_or_else(|| Error::file(index, "has no weight_map with entries"))?;
    let mut out = BTreeMap::new();
    for (tensor, file) in map {
        let name = file.as_str().filter(|name| is_plain_file_name(name)).ok_or_else(|| {
            Error::file(
                index,
                format!("places tensor {tensor} in {file}, which is not a file of this folder"),
            )
        })?;
        out.insert(tensor.clone(), name.to_owned());
    }
    Ok(out)
}

/// No path may lead out of the folder.
fn is_plain_file_name(name: &str) -> bool {
    Path::new(name).file_name().is_some_and(|f| f == name) && !name.contains(['/', '\\'])
}

fn list(dir: &Path) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| Error::io("list", dir, e))? {
        let entry = entry.map_err(|e| Error::io("list", dir, e))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}
