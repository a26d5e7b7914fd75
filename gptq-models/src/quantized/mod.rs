//! Packed linears of a checkpoint, in any format: found by their tensors' names, described by the
//! config, read as one [`QuantizedMatrix`].

mod layer;

use std::path::Path;

use gptq_core::QuantizedMatrix;
use gptq_pack::{
    CheckpointConfig, Dtype as PackDtype, Format, LEGACY_TENSORS, PackedBackend, RawTensor,
};
use safetensors::Dtype;
use serde_json::Value;

pub(crate) use layer::{StoredLayer, is_zero};

use crate::{
    Checkpoint, Error, TensorView, checkpoint::read_json, graph::LinearPlace,
    source::source_compression,
};

/// What the folder says about its quantization: in `config.json`, or else beside it, and in
/// tensors of settings, which old files have. A convention of zero points that was chosen for this
/// [`Checkpoint`] replaces the stated one. A folder of original weights in FP8 or MXFP4 says
/// nothing of a quantization here.
///
/// # Errors
/// [`Error::QuantizationConfig`] if it cannot be understood.
pub fn quantization_config(checkpoint: &Checkpoint) -> Result<Option<CheckpointConfig>, Error> {
    let packed = || !packed_names(checkpoint, Format::Gptq).is_empty();
    if source_compression(checkpoint).is_some() && !packed() {
        return Ok(None);
    }
    let Some((file, json)) = stated_config(checkpoint)? else { return Ok(None) };
    let failed = |file: String| |source| Error::QuantizationConfig { file, source };
    let mut config = CheckpointConfig::from_json(&json).map_err(failed(file.clone()))?;
    for tensor in LEGACY_TENSORS.iter().filter_map(|name| checkpoint.get(name)) {
        let set = config.set_by_tensor(tensor.name, &raw(&tensor));
        set.map_err(failed(tensor.file.display().to_string()))?;
    }
    if let (Some(chosen), Some(_)) = (checkpoint.zero_points(), config.zero_format()) {
        config.format = chosen.into();
    }
    stored_as_said(checkpoint, config.format, &file)?;
    Ok(Some(config))
}

/// Refuses a folder whose packed layers are all of another format than the config's.
fn stored_as_said(checkpoint: &Checkpoint, format: Format, file: &str) -> Result<(), Error> {
    let holds = |format: Format| packed_names(checkpoint, format).first().copied();
    // Not `B`, Marlin's codes: that may be a tensor of anything.
    let other = [Format::Gptq, Format::CompressedTensors]
        .into_iter()
        .find_map(|other| Some(other.codes().of(holds(other)?)));
    match other.filter(|_| holds(format).is_none()) {
        None => Ok(()),
        Some(name) => Err(Error::file(
            Path::new(file),
            format!(
                "says that layers are stored as {:?}, in tensors {}, but the folder holds {name} \
                 and no such tensor",
                format.as_str(),
                format.codes()
            ),
        )),
    }
}

/// The file that has the quantization config, and the config as it stands there.
pub(crate) fn stated_config(checkpoint: &Checkpoint) -> Result<Option<(String, Value)>, Error> {
    if let Some(json) = checkpoint.config().get("quantization_config").filter(|v| !v.is_null()) {
        return Ok(Some((checkpoint.config_file(), json.clone())));
    }
    for name in ["quantize_config.json", "quant_config.json"] {
        let path = checkpoint.dir().join(name);
        if path.is_file() {
            return Ok(Some((path.display().to_string(), read_json(&path)?)));
        }
    }
    Ok(None)
}

/// The modules that hold codes in a format, in the order of their names.
pub(crate) fn packed_names(checkpoint: &Checkpoint, format: Format) -> Vec<&str> {
    let codes = |name| format.module_of(name).filter(|(_, part)| *part == format.codes());
    checkpoint.tensors().filter_map(|tensor| Some(codes(tensor.name)?.0)).collect()
}

/// A linear on a backend, if the checkpoint holds it packed: borrowed from the file if it is in
/// format `gptq` or `gptq_v2`, or in `marlin` and the backend takes that; repacked as `gptq_v2`
/// otherwise, with scales in half precision.
///
/// # Errors
/// [`Error::Packed`] and [`Error::Scheme`]; [`Error::MissingTensor`] if only some of its tensors
/// are there; the backend's.
pub(crate) fn prepare_packed<B: PackedBackend>(
    backend: &B,
    checkpoint: &Checkpoint,
    quantization: Option<&CheckpointConfig>,
    place: &LinearPlace,
) -> Result<Option<B::Packed>, Error> {
    let Some(layer) = StoredLayer::at(checkpoint, quantization, place)? else { return Ok(None) };
    if let Some(marlin) = layer.marlin()?
        && let Some(prepared) = backend.prepare_marlin(&marlin)?
    {
        return Ok(Some(prepared));
    }
    Ok(Some(backend.prepare(&layer.packed()?)?))
}

/// Codes and grids, and the bias.
pub(crate) type Quantized = (QuantizedMatrix, Option<Vec<f32>>);

/// A packed linear as codes and grids, with the bias, exactly as the file has them.
///
/// # Errors
/// As [`prepare_packed`].
pub(crate) fn read_quantized(
    checkpoint: &Checkpoint,
    quantization: Option<&CheckpointConfig>,
    place: &LinearPlace,
) -> Result<Option<Quantized>, Error> {
    let layer = StoredLayer::at(checkpoint, quantization, place)?;
    layer.map(|layer| layer.read()).transpose()
}

/// Refuses a folder that says nothing of a quantization and yet has packed modules.
pub(crate) fn unexplained(
    checkpoint: &Checkpoint,
    concerns: impl Fn(&str) -> bool,
) -> Result<(), Error> {
    for format in [Format::Gptq, Format::CompressedTensors] {
        let names = packed_names(checkpoint, format);
        if let Some(name) = names.into_iter().find(|name| concerns(name)) {
            let message = format!(
                "holds {}, but neither config.json nor quantize_config.json says how it is \
                 quantized",
                format.codes().of(name)
            );
            return Err(Error::file(checkpoint.dir(), message));
        }
    }
    Ok(())
}

/// Whether a module holds codes.
pub(crate) fn is_packed(checkpoint: &Checkpoint, format: Format, name: &str) -> bool {
    checkpoint.get(&format.codes().of(name)).is_some()
}

/// A dtype as the format crate names it.
pub(crate) fn pack_dtype(dtype: Dtype) -> PackDtype {
    match dtype {
        Dtype::I32 => PackDtype::I32,
        Dtype::I64 => PackDtype::I64,
        Dtype::F16 => PackDtype::F16,
        Dtype::BF16 => PackDtype::BF16,
        Dtype::F32 => PackDtype::F32,
        _ => PackDtype::Other,
    }
}

/// The reverse; `None` for [`PackDtype::Other`], which nothing is written as.
pub(crate) fn file_dtype(dtype: PackDtype) -> Option<Dtype> {
    match dtype {
        PackDtype::I32 => Some(Dtype::I32),
        PackDtype::I64 => Some(Dtype::I64),
        PackDtype::F16 => Some(Dtype::F16),
        PackDtype::BF16 => Some(Dtype::BF16),
        PackDtype::F32 => Some(Dtype::F32),
        PackDtype::Other => None,
    }
}

fn raw<'a>(view: &TensorView<'a>) -> RawTensor<'a> {
    RawTensor::new(pack_dtype(view.dtype), view.shape, view.bytes)
}

/// Whether the file holds a linear, dense or packed.
pub(crate) fn is_stored(
    checkpoint: &Checkpoint,
    config: Option<&CheckpointConfig>,
    name: &str,
) -> bool {
    checkpoint.get(&format!("{name}.weight")).is_some()
        || config.is_some_and(|config| is_packed(checkpoint, config.format, name))
}
