//! The weights of a model on a backend: dense or packed, linear by linear.

use std::collections::HashMap;

use gptq_pack::{CheckpointConfig, PackedBackend};
use ndarray::{Array2, Axis, concatenate};

use crate::{
    Architecture, Checkpoint, Error,
    block::{EmbedWeights, FinishWeights},
    graph::{self, LinearPlace, Matrix, NormSpec, Stage},
    quantized::{is_stored, read_packed},
    source,
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

/// Norms, routers and the like, by the names of their first tensors.
pub(crate) struct Small<T>(HashMap<String, T>);

impl<T> Small<T> {
    pub(crate) fn get(&self, small: &graph::Small) -> &T {
        let found = self.0.get(small.key());
        found.unwrap_or_else(|| unreachable!("{} was not loaded with its stage", small.key()))
    }
}

/// What one stage of one block needs.
pub(crate) struct StageWeights<B: PackedBackend> {
    pub(crate) small: Small<B::Tensor>,
    pub(crate) linears: Vec<Linear<B>>,
    /// By expert.
    pub(crate) experts: Vec<Vec<Linear<B>>>,
}

impl<B: PackedBackend> StageWeights<B> {
    pub(crate) fn clear_linears(&mut self) {
        self.linears.clear();
        self.experts.clear();
    }
}

/// Reads a model's weights from a checkpoint to a backend.
pub(crate) struct Loader<'a, B> {
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) arch: &'a Architecture,
    pub(crate) quantization: Option<&'a CheckpointConfig>,
    pub(crate) backend: &'a B,
}

impl<B: PackedBackend> Loader<'_, B> {
    pub(crate) fn embed(&self) -> Result<EmbedWeights<B::Tensor>, Error> {
        let embed = &self.arch.graph.embed;
        let dtype = self.checkpoint.tensor(&embed.table.name)?.dtype;
        let positions = embed.positions.as_ref().map(|(table, _)| self.matrix(table));
        Ok(EmbedWeights {
            table: self.matrix(&embed.table)?,
            scale: embed.scale(self.arch.config.hidden_size, dtype),
            project_in: embed.project_in.as_ref().map(|m| self.matrix(m)).transpose()?,
            positions: positions.transpose()?,
            small: self.small(embed.norm.iter().flat_map(NormSpec::small))?,
        })
    }

    /// What stands between the last block and the head.
    pub(crate) fn finish(&self) -> Result<FinishWeights<B::Tensor>, Error> {
        let graph = &self.arch.graph;
        Ok(FinishWeights {
            project_out: graph.project_out.as_ref().map(|m| self.matrix(m)).transpose()?,
            small: self.small(graph.final_norm.iter().flat_map(NormSpec::small))?,
        })
    }

    /// A head in the file is used even if the config says "tied": some files keep a copy.
    pub(crate) fn head(&self) -> Result<Option<Linear<B>>, Error> {
        let head = &self.arch.graph.head;
        if head.tied && !is_stored(self.checkpoint, self.quantization, &head.place.name) {
            return Ok(None);
        }
        self.linear(&head.place).map(Some)
    }

    pub(crate) fn stage(&self, stage: &Stage) -> Result<StageWeights<B>, Error> {
        let linears = |places: &Vec<LinearPlace>| {
            places.iter().map(|place| self.linear(place)).collect::<Result<Vec<_>, _>>()
        };
        let experts = stage.experts.iter().flat_map(|experts| &experts.linears);
        Ok(StageWeights {
            linears: linears(&stage.linears)?,
            experts: experts.map(linears).collect::<Result<_, _>>()?,
            ..self.without_linears(stage)?
        })
    }

    /// A stage without its linears, for where only its input is wanted.
    pub(crate) fn without_linears(&self, stage: &Stage) -> Result<StageWeights<B>, Error> {
        let small = self.small(stage.small().into_iter())?;
        Ok(StageWeights { small, linears: Vec::new(), experts: Vec::new() })
    }

    pub(crate) fn linear(&self, place: &LinearPlace) -> Result<Linear<B>, Error> {
        if let Some(packed) = read_packed(self.checkpoint, self.quantization, place)? {
            return Ok(Linear::Packed(self.backend.prepare(&packed)?));
        }
        let weight = self.backend.upload(source::weight(self.checkpoint, place)?.view())?;
        Ok(Linear::Dense { weight, bias: self.bias(place)? })
    }

    pub(crate) fn bias(&self, place: &LinearPlace) -> Result<Option<B::Tensor>, Error> {
        let bias = source::bias(self.checkpoint, place)?;
        Ok(bias.map(|bias| self.backend.upload(bias.view())).transpose()?)
    }

    fn matrix(&self, matrix: &Matrix) -> Result<B::Tensor, Error> {
        let [rows, columns] = matrix.shape;
        Ok(self.backend.upload(self.checkpoint.matrix(&matrix.name, rows, columns)?.view())?)
    }

    fn small<'s>(
        &self,
        parts: impl Iterator<Item = &'s graph::Small>,
    ) -> Result<Small<B::Tensor>, Error> {
        let load = |small: &graph::Small| {
            let values = small_values(self.checkpoint, small)?;
            Ok((small.key().to_owned(), self.backend.upload(values.view())?))
        };
        Ok(Small(parts.map(load).collect::<Result<_, Error>>()?))
    }
}

fn small_values(checkpoint: &Checkpoint, small: &graph::Small) -> Result<Array2<f32>, Error> {
    let length = small.shape.iter().product();
    let mut parts = Vec::with_capacity(small.names.len());
    for name in &small.names {
        checkpoint.check(name, &small.shape)?;
        parts.push(checkpoint.tensor(name)?.to_matrix(1, length)?);
    }
    let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
    let shape = |e: ndarray::ShapeError| Error::file(checkpoint.dir(), e.to_string());
    let whole = concatenate(Axis(1), &views).map_err(shape)?;
    let rows = whole.len() / small.columns;
    let mut whole = whole.into_shape_with_order((rows, small.columns)).map_err(shape)?;
    if small.plus_one {
        whole += 1.0;
    }
    Ok(whole)
}
