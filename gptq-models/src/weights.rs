//! The weights of a model on a backend: dense or packed, linear by linear.

use std::collections::{BTreeSet, HashMap};

use gptq_pack::{CheckpointConfig, PackedBackend};
use ndarray::{Array2, Axis, concatenate};

use crate::{
    Architecture, Checkpoint, Error,
    block::{EmbedWeights, FinishWeights},
    graph::{self, LinearPlace, Matrix, NormSpec, Stage},
    quantized::{is_stored, prepare_packed},
    source,
};

/// One linear, whatever its weights are stored as.
pub(crate) enum Linear<B: PackedBackend> {
    /// Prepared for this machine, be it dense or packed; carries its own bias.
    Prepared(B::Packed),
    /// With `x · aᵀ · bᵀ` on top: a is r × in, b is out × r.
    Adapted { base: Box<Linear<B>>, a: B::Tensor, b: B::Tensor },
}

impl<B: PackedBackend> Linear<B> {
    /// The outputs of linears that read the same input.
    pub(crate) fn apply_all(
        linears: &[Self],
        backend: &B,
        x: &B::Tensor,
    ) -> Result<Vec<B::Tensor>, Error> {
        let prepared: Vec<&B::Packed> = linears.iter().map(Self::prepared).collect();
        let products = backend.linears(x, &prepared)?;
        let complete = |(linear, y): (&Self, B::Tensor)| linear.complete(backend, x, y);
        linears.iter().zip(products).map(complete).collect()
    }

    pub(crate) fn apply(&self, backend: &B, x: &B::Tensor) -> Result<B::Tensor, Error> {
        let mut outputs = Self::apply_all(std::slice::from_ref(self), backend, x)?.into_iter();
        Ok(outputs.next().unwrap_or_else(|| unreachable!("an output for each linear")))
    }

    /// Without what stands on top.
    pub(crate) fn prepared(&self) -> &B::Packed {
        match self {
            Linear::Prepared(prepared) => prepared,
            Linear::Adapted { base, .. } => base.prepared(),
        }
    }

    /// The output, from the product without what stands on top.
    fn complete(&self, backend: &B, x: &B::Tensor, y: B::Tensor) -> Result<B::Tensor, Error> {
        let Linear::Adapted { base, a, b } = self else { return Ok(y) };
        let mut y = base.complete(backend, x, y)?;
        let added = backend.linear(&backend.linear(x, a, None)?, b, None)?;
        backend.add_assign(&mut y, &added)?;
        Ok(y)
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

/// Where the row of a token id is in a table of some rows.
pub(crate) type RowOf = HashMap<u32, u32>;

/// Reads a model's weights from a checkpoint to a backend.
pub(crate) struct Loader<'a, B> {
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) arch: &'a Architecture,
    pub(crate) quantization: Option<&'a CheckpointConfig>,
    pub(crate) backend: &'a B,
}

impl<B: PackedBackend> Loader<'_, B> {
    pub(crate) fn embed(&self) -> Result<EmbedWeights<B::Tensor>, Error> {
        self.embed_with(self.matrix(&self.arch.graph.embed.table)?)
    }

    /// Those rows of the table that these ids need, and which row is whose.
    pub(crate) fn embed_rows<'i>(
        &self,
        ids: impl Iterator<Item = &'i u32>,
    ) -> Result<(B::Tensor, RowOf), Error> {
        let table = &self.arch.graph.embed.table;
        self.checkpoint.check(&table.name, &table.shape)?;
        let view = self.checkpoint.tensor(&table.name)?;
        let ids: BTreeSet<u32> = ids.copied().collect();
        let mut values = Array2::zeros((ids.len(), table.shape[1]));
        for (mut row, &id) in values.rows_mut().into_iter().zip(&ids) {
            row.assign(&view.row(id as usize).to_matrix(1, table.shape[1])?.row(0));
        }
        let rows = ids.into_iter().zip(0..).collect();
        self.checkpoint.release();
        Ok((self.backend.take(values)?, rows))
    }

    /// With this table, or rows of it.
    pub(crate) fn embed_with(&self, table: B::Tensor) -> Result<EmbedWeights<B::Tensor>, Error> {
        let embed = &self.arch.graph.embed;
        let dtype = self.checkpoint.tensor(&embed.table.name)?.dtype;
        let positions = embed.positions.as_ref().map(|(table, _)| self.matrix(table));
        Ok(EmbedWeights {
            table,
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

    /// A stage of a model that is to run.
    pub(crate) fn prepared(&self, stage: &Stage) -> Result<StageWeights<B>, Error> {
        self.stage_of(stage, |place| self.linear(place))
    }

    /// A stage that is to be solved: its weights are plain matrices.
    pub(crate) fn stage(&self, stage: &Stage) -> Result<StageWeights<B>, Error> {
        self.stage_of(stage, |place| {
            self.for_many_tokens(place, source::weight(self.checkpoint, place)?)
        })
    }

    fn stage_of(
        &self,
        stage: &Stage,
        linear: impl Fn(&LinearPlace) -> Result<Linear<B>, Error>,
    ) -> Result<StageWeights<B>, Error> {
        let linears =
            |places: &Vec<LinearPlace>| places.iter().map(&linear).collect::<Result<Vec<_>, _>>();
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

    fn linear(&self, place: &LinearPlace) -> Result<Linear<B>, Error> {
        let Self { checkpoint, quantization, backend, .. } = *self;
        if let Some(prepared) = prepare_packed(backend, checkpoint, quantization, place)? {
            return Ok(Linear::Prepared(prepared));
        }
        let weight = source::weight(self.checkpoint, place)?;
        let bias = self.bias(place)?;
        Ok(Linear::Prepared(self.backend.prepare_dense(weight.view(), bias.as_deref())?))
    }

    /// A linear with weights that samples go through.
    pub(crate) fn for_many_tokens(
        &self,
        place: &LinearPlace,
        weight: Array2<f32>,
    ) -> Result<Linear<B>, Error> {
        let bias = self.bias(place)?;
        Ok(Linear::Prepared(self.backend.prepare_for_many_tokens(weight, bias.as_deref())?))
    }

    fn bias(&self, place: &LinearPlace) -> Result<Option<Vec<f32>>, Error> {
        let bias = source::bias(self.checkpoint, place)?;
        Ok(bias.map(|bias| bias.iter().copied().collect()))
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
