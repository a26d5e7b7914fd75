//! The interpreter: what a stage reads, and what becomes of what it computes.
//!
//! A plain forward pass runs stage after stage on one sequence. Quantization runs the same functions
//! stage by stage over all sequences, and solves in between.

mod attention;
mod experts;
mod positions;
mod stream;

use std::vec;

use gptq_pack::PackedBackend;

pub(crate) use attention::LayerCache;
pub use experts::Routing;
pub(crate) use positions::{Positions, key_bias};
pub(crate) use stream::{Input, Place, Stream, copy};

use crate::{
    Architecture, Error,
    graph::{Add, Embed, EmbedScale, NormSpec, Reads, Reg, Stage, Then},
    weights::{Linear, Small, StageWeights},
};

/// Runs the stages of one architecture on one backend.
pub(crate) struct Interpreter<'a, B> {
    pub(crate) backend: &'a B,
    pub(crate) arch: &'a Architecture,
    /// Which experts see which tokens.
    pub(crate) routing: Routing,
}

impl<B: PackedBackend> Interpreter<'_, B> {
    /// The first residual of texts of `length` tokens each, from the rows of their embedding.
    pub(crate) fn embed(
        &self,
        weights: &EmbedWeights<B::Tensor>,
        ids: &[u32],
        past: usize,
        length: usize,
    ) -> Result<Stream<B::Tensor>, Error> {
        let (backend, embed) = (self.backend, &self.arch.graph.embed);
        let mut x = backend.gather(&weights.table, ids)?;
        if weights.scale != 1.0 {
            backend.apply(&mut x, gptq_core::Pointwise::Scale(weights.scale))?;
        }
        if let Some(widen) = &weights.project_in {
            x = backend.linear(&x, widen, None)?;
        }
        if let (Some(table), Some((_, first))) = (&weights.positions, &embed.positions) {
            let row = |t: usize| (first + past + t % length) as u32;
            let rows: Vec<u32> = (0..ids.len()).map(row).collect();
            backend.add_assign(&mut x, &backend.gather(table, &rows)?)?;
        }
        if let Some(norm) = &embed.norm {
            x = self.norm(&x, norm, &weights.small)?;
        }
        Ok(Stream::new(x))
    }

    /// The input that the linears of a stage share.
    pub(crate) fn input<'s>(
        &self,
        stage: &Stage,
        weights: &StageWeights<B>,
        stream: &'s Stream<B::Tensor>,
    ) -> Result<Input<'s, B::Tensor>, Error> {
        Ok(match &stage.reads {
            Reads::Norm(norm) | Reads::NormInPlace(norm) => {
                Input::Made(self.norm(&stream.residual, norm, &weights.small)?)
            }
            Reads::Residual => Input::Held(&stream.residual),
            Reads::Held(reg) => match (stream.get(*reg), &stage.experts) {
                (Some(held), _) => Input::Held(held),
                // Experts hold their own.
                (None, Some(_)) => Input::Held(&stream.residual),
                (None, None) => unreachable!("a graph's stage reads what no stage made"),
            },
        })
    }

    /// Applies a stage's linears to its input and moves the stream on.
    pub(crate) fn advance(
        &self,
        stage: &Stage,
        weights: &StageWeights<B>,
        stream: &mut Stream<B::Tensor>,
        positions: &Positions<B::Tensor>,
        cache: Option<&mut LayerCache<B::Tensor>>,
    ) -> Result<(), Error> {
        let mut outputs;
        let mut normed = None;
        let mut routed = None;
        {
            let input = self.input(stage, weights, stream)?;
            outputs = Linear::apply_all(&weights.linears, self.backend, &input)?;
            if let Some(experts) = &stage.experts {
                routed = Some(self.experts(experts, weights, &input, stream)?);
            }
            if let (Reads::NormInPlace(_), Input::Made(x)) = (&stage.reads, input) {
                normed = Some(x);
            }
        }
        if let Some(normed) = normed {
            stream.residual = normed;
        }
        if let Reads::Held(reg) = stage.reads {
            stream.take(reg);
        }
        let mut from_experts = None;
        match routed {
            Some(experts::Made::Inside(routed)) => stream.routed = Some(routed),
            Some(experts::Made::Sum(sum)) => {
                let shared = stream.routed.take().and_then(|routed| routed.shared);
                if let (Some(shared), Some(output)) = (shared, outputs.first_mut()) {
                    self.backend.scale_rows(output, &shared)?;
                }
                from_experts = Some(sum);
            }
            None => {}
        }
        let mut outputs = outputs.into_iter();
        let mut cache = cache;
        for then in &stage.then {
            match then {
                Then::Attend(attention) => {
                    let cache = cache.take();
                    let made =
                        self.attend(attention, &mut outputs, weights, stream, positions, cache)?;
                    stream.hold(Reg::Attention, made);
                }
                Then::Latent(latent) => self.latents(latent, &mut outputs, weights, stream)?,
                Then::Hold(reg) => stream.hold(*reg, next(&mut outputs)),
                Then::Gated(gate) => {
                    let (gate_of, up) = (next(&mut outputs), next(&mut outputs));
                    stream.hold(Reg::Mlp, self.backend.gated(&gate_of, &up, *gate)?);
                }
                Then::GatedHalves(gate) => {
                    let both = next(&mut outputs);
                    let half = (self.backend.dim(&both).1 / 2) as u32;
                    let part = |at: u32| {
                        let index: Vec<u32> = (at * half..(at + 1) * half).collect();
                        self.backend.columns(&[&both], &index)
                    };
                    stream.hold(Reg::Mlp, self.backend.gated(&part(0)?, &part(1)?, *gate)?);
                }
                Then::Apply(f) => {
                    let mut x = next(&mut outputs);
                    self.backend.apply(&mut x, *f)?;
                    stream.hold(Reg::Mlp, x);
                }
                Then::Add(add) => {
                    let branch = match (outputs.next(), from_experts.take()) {
                        (Some(mut output), Some(sum)) => {
                            self.backend.add_assign(&mut output, &sum)?;
                            output
                        }
                        (Some(one), None) | (None, Some(one)) => one,
                        (None, None) => unreachable!("a graph's stage adds what no linear made"),
                    };
                    self.add(add, branch, weights, stream)?;
                }
            }
        }
        Ok(())
    }

    fn add(
        &self,
        add: &Add,
        mut branch: B::Tensor,
        weights: &StageWeights<B>,
        stream: &mut Stream<B::Tensor>,
    ) -> Result<(), Error> {
        if let Some(norm) = &add.norm {
            branch = self.norm(&branch, norm, &weights.small)?;
        }
        if add.scale != 1.0 {
            self.backend.apply(&mut branch, gptq_core::Pointwise::Scale(add.scale))?;
        }
        self.backend.add_assign(&mut stream.residual, &branch)?;
        if let Some(norm) = &add.then_norm {
            stream.residual = self.norm(&stream.residual, norm, &weights.small)?;
        }
        Ok(())
    }

    /// What the head reads: the final norm of the residual stream.
    pub(crate) fn finish(
        &self,
        weights: &FinishWeights<B::Tensor>,
        stream: &Stream<B::Tensor>,
    ) -> Result<B::Tensor, Error> {
        let x = match &self.arch.graph.final_norm {
            Some(norm) => self.norm(&stream.residual, norm, &weights.small)?,
            None => copy(self.backend, &stream.residual)?,
        };
        match &weights.project_out {
            Some(narrow) => Ok(self.backend.linear(&x, narrow, None)?),
            None => Ok(x),
        }
    }

    /// What logits become after the head's product.
    pub(crate) fn logits(&self, logits: &mut B::Tensor) -> Result<(), Error> {
        let head = &self.arch.graph.head;
        if head.scale != 1.0 {
            self.backend.apply(logits, gptq_core::Pointwise::Scale(head.scale))?;
        }
        if let Some(cap) = head.softcap {
            self.backend.apply(logits, gptq_core::Pointwise::SoftCap(cap))?;
        }
        Ok(())
    }

    pub(crate) fn norm(
        &self,
        x: &B::Tensor,
        norm: &NormSpec,
        small: &Small<B::Tensor>,
    ) -> Result<B::Tensor, Error> {
        let part = |of: &Option<crate::graph::Small>| of.as_ref().map(|s| small.get(s));
        let norm = gptq_core::Norm {
            kind: norm.kind,
            eps: norm.eps,
            segment: norm.segment,
            weight: part(&norm.weight),
            bias: part(&norm.bias),
        };
        Ok(self.backend.norm(x, &norm)?)
    }
}

/// What stands before the blocks.
pub(crate) struct EmbedWeights<T> {
    pub(crate) table: T,
    pub(crate) scale: f32,
    pub(crate) project_in: Option<T>,
    pub(crate) positions: Option<T>,
    pub(crate) small: Small<T>,
}

/// What stands between the blocks and the head.
pub(crate) struct FinishWeights<T> {
    pub(crate) project_out: Option<T>,
    pub(crate) small: Small<T>,
}

impl Embed {
    /// The number behind the scale, for a table of this type.
    pub(crate) fn scale(&self, hidden: usize, dtype: safetensors::Dtype) -> f32 {
        let root = (hidden as f32).sqrt();
        match self.scale {
            EmbedScale::One => 1.0,
            EmbedScale::By(scale) => scale,
            EmbedScale::RootOfWidth => match dtype {
                safetensors::Dtype::BF16 => half::bf16::from_f32(root).to_f32(),
                safetensors::Dtype::F16 => half::f16::from_f32(root).to_f32(),
                _ => root,
            },
        }
    }
}

/// A graph says how many outputs its stages have.
fn next<T>(outputs: &mut vec::IntoIter<T>) -> T {
    outputs.next().unwrap_or_else(|| unreachable!("a graph's stage has too few linears"))
}
