//! Model folders, adapters and reports.

use std::{fs, path::Path};

use gptq_core::Reference;
use gptq_models::{
    Adapter, Architecture, Checkpoint, Kept, Method, Model, QuantizeOptions, Report, diff, inspect,
    quantize, verify,
};
use serde_json::Value;

use crate::{parts, tiny};

/// A folder of `config.json`, the header of `model.safetensors`, its index and
/// `quantize_config.json`. Tensors get the bytes that the header promises, so that what follows the
/// header is reached too.
pub fn checkpoint(bytes: &[u8]) {
    let [config, header, index, quantize_config] = parts(bytes);
    let dir = tiny::folder();
    let put = |name: &str, bytes: Option<&[u8]>| {
        if let Some(bytes) = bytes {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
    };
    put("config.json", config);
    put("quantize_config.json", quantize_config);
    if let Some(header) = header {
        fs::write(dir.path().join("model.safetensors"), with_data(header)).unwrap();
    }
    put("model.safetensors.index.json", index);
    if let Ok(checkpoint) = Checkpoint::open(dir.path()) {
        look_at(&checkpoint, &dir.path().join("out"));
    }
}

/// `model.safetensors`, whole, as the weights of the tiny model and of an adapter.
pub fn safetensors(bytes: &[u8]) {
    let dir = tiny::folder();
    fs::write(dir.path().join("config.json"), tiny::CONFIG).unwrap();
    fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    fs::write(dir.path().join("adapter_model.safetensors"), bytes).unwrap();
    let lora = r#"{"peft_type": "LORA", "lora_alpha": 16, "r": 8}"#;
    fs::write(dir.path().join("adapter_config.json"), lora).unwrap();
    if let Ok(checkpoint) = Checkpoint::open(dir.path()) {
        look_at(&checkpoint, &dir.path().join("out"));
    }
    drop(Adapter::open(dir.path()));
}

/// `adapter_config.json` and the header of its weights, on top of the tiny model.
pub fn adapter(bytes: &[u8]) {
    let [config, header] = parts(bytes);
    let dir = tiny::folder();
    tiny::write(dir.path());
    fs::write(dir.path().join("adapter_config.json"), config.unwrap_or_default()).unwrap();
    let weights = with_data(header.unwrap_or_default());
    fs::write(dir.path().join("adapter_model.safetensors"), weights).unwrap();
    if let Ok(adapter) = Adapter::open(dir.path()) {
        let source = Checkpoint::open(dir.path()).unwrap();
        let model = Model::load(&source, Reference).unwrap();
        if let Ok(model) = model.with_adapter(&adapter) {
            drop(model.logits(&[1, 2, 3]));
        }
    }
}

/// `gptq_report.json` beside a result that is sound.
pub fn report(bytes: &[u8]) {
    let dir = tiny::folder();
    for entry in fs::read_dir(tiny::quantized()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    fs::write(dir.path().join("gptq_report.json"), bytes).unwrap();
    drop(verify(dir.path(), None));
    drop(verify(dir.path(), Some(dir.path())));
    drop(Report::open(dir.path()));
    if let Ok(result) = Checkpoint::open(dir.path())
        && let Ok(kept) = Kept::but(&result, ".*up_proj")
    {
        drop(kept.recipe().options());
    }
}

/// A weight file with this header, and data as long as it says, up to a megabyte.
fn with_data(header: &[u8]) -> Vec<u8> {
    let json: Value = serde_json::from_slice(header).unwrap_or_default();
    let tensors = json.as_object().into_iter().flatten();
    let end = tensors.filter_map(|(_, info)| info["data_offsets"][1].as_u64()).max().unwrap_or(0);
    let end = usize::try_from(end).unwrap_or(usize::MAX).min(1 << 20);
    // Numbers from 1/2 to 2 in half and in single precision, and codes of all kinds.
    let data = (0..end).map(|i| if i % 2 == 0 { (i / 2 * 37) as u8 } else { 0x38 + (i % 8) as u8 });
    let length = (header.len() as u64).to_le_bytes();
    length.into_iter().chain(header.iter().copied()).chain(data).collect()
}

/// Everything that looks at a checkpoint, whatever the others say of it.
fn look_at(checkpoint: &Checkpoint, out: &Path) {
    drop(Architecture::of(checkpoint));
    drop(inspect(checkpoint));
    drop(diff(checkpoint, checkpoint, &mut ()));
    if let Ok(model) = Model::load(checkpoint, Reference) {
        drop(model.logits(&[0, 1, 2]));
    }
    let options = QuantizeOptions { method: Method::Rtn, ..QuantizeOptions::default() };
    drop(quantize(checkpoint, &[], &Reference, &options, out, &mut ()));
}
