//! The weights of a model on a backend: dense or packed, linear by linear.

use gptq_pack::{CheckpointConfig, PackedBackend};
use ndarray::Array2;

use crate::{
    Architecture, Checkpoint, Error, arch::LinearPlace, graph::Reads, quantized::read_packed,
};

/// One linear, whatever its weights are stored as.
pub(crate) enum Linear<B: PackedBackend> {
    /// out × in, and 1 × out.
    Dense { weight: B::Tensor, bias: Option<B::Tensor> },
    /// Prepared for this machine; carries its own bias.
    Packed(B::Packed),
    /// With `x · aᵀ · bᵀ` on top: a is r × in, b is out × r.
    Adapted { base: Box<Linear<B>>, a: B::Tensor, b: B::Tensor },
}

impl<B: PackedBackend> Linear<B> {
    pub(crate) fn apply(&self, backend: &B, x: &B::Tensor) -> Result<B::Tensor, Error> {
        Ok(match self {
            Linear::Dense { weight, bias } => backend.linear(x, weight, bias.as_ref())?,
            Linear::Packed(packed) => backend.packed_linear(x, packed)?,
            Linear::Adapted { base, a, b } => {
                let mut y = base.apply(backend, x)?;
                let added = backend.linear(&backend.linear(x, a, None)?, b, None)?;
                backend.add_assign(&mut y, &added)?;
                y
            }
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

/// A dense weight as the solver wants it.
pub(crate) fn dense_weight(
    checkpoint: &Checkpoint,
    place: &LinearPlace,
) -> Result<Array2<f32>, Error> {
    checkpoint.matrix(&format!("{}.weight", place.name), place.out_features, place.in_features)
}
