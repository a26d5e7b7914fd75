//! The weights of a model on a backend: dense or packed, linear by linear.

use gptq_pack::{
    CheckpointConfig, Dtype as PackDtype, LinearTensors, PackSpec, PackedBackend, PackedLinearRef,
    RawTensor, names::Part,
};
use ndarray::Array2;
use safetensors::Dtype;

use crate::{Architecture, Checkpoint, Error, TensorView, arch::LinearPlace, graph::Reads};

/// One linear, whatever its weights are stored as.
pub(crate) enum Linear<B: PackedBackend> {
    /// out × in, and 1 × out.
    Dense { weight: B::Tensor, bias: Option<B::Tensor> },
    /// Prepared for this machine; carries its own bias.
    Packed(B::Packed),
}

impl<B: PackedBackend> Linear<B> {
    pub(crate) fn apply(&self, backend: &B, x: &B::Tensor) -> Result<B::Tensor, Error> {
        Ok(match self {
            Linear::Dense { weight, bias } => backend.linear(x, weight, bias.as_ref())?,
            Linear::Packed(packed) => backend.packed_linear(x, packed)?,
        })
    }
}

/// What one stage of one block needs.
pub(crate) struct StageWeights<B: PackedBackend> {
    pub(crate) norm: Option<B::Tensor>,
    pub(crate) linears: Vec<Linear<B>>,
}

/// Reads a model's weights from a checkpoint to a backend.
pub(crate) struct Loader<'a, B> {
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) arch: &'a Architecture,
    pub(crate) quantization: Option<&'a CheckpointConfig>,
    pub(crate) backend: &'a B,
}

impl<B: PackedBackend> Loader<'_, B> {
    pub(crate) fn matrix(&self, name: &str, dim: (usize, usize)) -> Result<B::Tensor, Error> {
        Ok(self.backend.upload(self.checkpoint.matrix(name, dim.0, dim.1)?.view())?)
    }

    pub(crate) fn row(&self, name: &str, length: usize) -> Result<B::Tensor, Error> {
        Ok(self.backend.upload(self.checkpoint.row(name, length)?.view())?)
    }

    pub(crate) fn stage_norm(
        &self,
        block: usize,
        stage: usize,
    ) -> Result<Option<B::Tensor>, Error> {
        let stage = &self.arch.graph.stages[stage];
        match stage.reads {
            Reads::RmsNorm(name) => {
                let name = format!("{}.{name}", self.arch.block_name(block));
                self.row(&name, self.arch.width(stage.input)).map(Some)
            }
            Reads::Held => Ok(None),
        }
    }

    pub(crate) fn stage(&self, block: usize, stage: usize) -> Result<StageWeights<B>, Error> {
        let places = self.arch.linears(block, stage);
        let linears = places.iter().map(|place| self.linear(place)).collect::<Result<_, _>>()?;
        Ok(StageWeights { norm: self.stage_norm(block, stage)?, linears })
    }

    pub(crate) fn linear(&self, place: &LinearPlace) -> Result<Linear<B>, Error> {
        if let Some(packed) = read_packed(self.checkpoint, self.quantization, place)? {
            return Ok(Linear::Packed(self.backend.prepare(&packed)?));
        }
        let weight = self
            .matrix(&format!("{}.weight", place.name), (place.out_features, place.in_features))?;
        let bias = self.bias(place)?;
        Ok(Linear::Dense { weight, bias })
    }

    pub(crate) fn bias(&self, place: &LinearPlace) -> Result<Option<B::Tensor>, Error> {
        if !place.bias {
            return Ok(None);
        }
        self.row(&format!("{}.bias", place.name), place.out_features).map(Some)
    }
}

/// The packed form of a linear, if the checkpoint holds one.
///
/// # Errors
/// [`Error::Packed`] and [`Error::QuantizationConfig`]; [`Error::MissingTensor`] if only some of
/// its tensors are there.
pub(crate) fn read_packed<'a>(
    checkpoint: &'a Checkpoint,
    quantization: Option<&CheckpointConfig>,
    place: &LinearPlace,
) -> Result<Option<PackedLinearRef<'a>>, Error> {
    let part = |part: Part| part.of(&place.name);
    if checkpoint.get(&part(Part::QWeight)).is_none() {
        return Ok(None);
    }
    let Some(config) = quantization else {
        return Err(Error::file(
            checkpoint.dir(),
            format!(
                "holds {}, but neither config.json nor quantize_config.json says how it is \
                 quantized",
                part(Part::QWeight)
            ),
        ));
    };
    let failed = |source| Error::Packed { layer: place.name.clone(), source };
    let scheme = config.scheme(&place.name).map_err(failed)?.ok_or_else(|| {
        Error::file(
            checkpoint.dir(),
            format!("skips {} by a dynamic rule, but holds it packed", place.name),
        )
    })?;
    let required = |p: Part| raw(checkpoint.tensor(&part(p))?);
    let optional = |p: Part| checkpoint.get(&part(p)).map(raw).transpose();
    let tensors = LinearTensors {
        qweight: required(Part::QWeight)?,
        qzeros: required(Part::QZeros)?,
        scales: required(Part::Scales)?,
        g_idx: optional(Part::GIdx)?,
        bias: if place.bias { Some(required(Part::Bias)?) } else { optional(Part::Bias)? },
    };
    let spec = PackSpec {
        in_features: place.in_features,
        out_features: place.out_features,
        bits: Some(scheme.bits),
        group_size: scheme.group_size,
        zero_format: config.zero_format,
    };
    PackedLinearRef::from_tensors(&tensors, &spec).map(Some).map_err(failed)
}

fn raw(view: TensorView<'_>) -> Result<RawTensor<'_>, Error> {
    let dtype = match view.dtype {
        Dtype::I32 => PackDtype::I32,
        Dtype::F16 => PackDtype::F16,
        Dtype::BF16 => PackDtype::BF16,
        Dtype::F32 => PackDtype::F32,
        other => {
            return Err(Error::Dtype {
                file: view.file.display().to_string(),
                tensor: view.name.to_owned(),
                found: format!("{other:?}"),
                expected: "I32, F16, BF16 or F32",
            });
        }
    };
    Ok(RawTensor::new(dtype, view.shape, view.bytes))
}

/// A dense weight as the solver wants it.
pub(crate) fn dense_weight(
    checkpoint: &Checkpoint,
    place: &LinearPlace,
) -> Result<Array2<f32>, Error> {
    checkpoint.matrix(&format!("{}.weight", place.name), place.out_features, place.in_features)
}

/// What the folder says about its quantization: in `config.json`, or else beside it.
///
/// # Errors
/// [`Error::QuantizationConfig`] if it cannot be understood.
pub fn quantization_config(checkpoint: &Checkpoint) -> Result<Option<CheckpointConfig>, Error> {
    if let Some(json) = checkpoint.config().get("quantization_config").filter(|v| !v.is_null()) {
        let file = checkpoint.config_file();
        let parsed = CheckpointConfig::from_json(json);
        return parsed.map(Some).map_err(|source| Error::QuantizationConfig { file, source });
    }
    for name in ["quantize_config.json", "quant_config.json"] {
        let path = checkpoint.dir().join(name);
        if path.is_file() {
            let json = crate::checkpoint::read_json(&path)?;
            let file = path.display().to_string();
            let parsed = CheckpointConfig::from_json(&json);
            return parsed.map(Some).map_err(|source| Error::QuantizationConfig { file, source });
        }
    }
    Ok(None)
}
