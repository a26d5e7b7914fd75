//! Mixtures of experts: which tokens go where, and how they come back.

use gptq_core::Backend;
use gptq_pack::PackedBackend;
use ndarray::ArrayView1;

use super::{Interpreter, Stream, copy};
use crate::{
    Error,
    graph::{Experts, GroupRank, Router, Scoring, Weigh},
    weights::{Linear, StageWeights},
};

/// Which experts see which tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Routing {
    /// Those that the router sends.
    #[default]
    Routed,
    /// All; those that the router did not send count nothing in the sum.
    All,
}

/// The tokens of one expert.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Route {
    pub(crate) rows: Vec<u32>,
    /// What inputs are multiplied by.
    inputs: Option<Vec<f32>>,
    /// What outputs are multiplied by.
    outputs: Vec<f32>,
    /// Tokens that the router sent.
    pub(crate) sent: usize,
}

impl Route {
    /// Whether the expert reads the stage's input as it is.
    fn takes_all(&self, tokens: usize) -> bool {
        self.inputs.is_none() && self.rows.iter().copied().eq(0..tokens as u32)
    }
}

/// What experts hold between their two stages.
pub(crate) struct Routed<T> {
    pub(crate) routes: Vec<Route>,
    /// By expert: gate joined with up.
    pub(crate) inside: Vec<Option<T>>,
    /// What each token's shared output is multiplied by.
    pub(crate) shared: Option<Vec<f32>>,
}

impl<T> Routed<T> {
    pub(super) fn copy<B: Backend<Tensor = T>>(&self, backend: &B) -> Result<Self, Error> {
        let copied = |x: &Option<T>| x.as_ref().map(|x| copy(backend, x)).transpose();
        Ok(Self {
            routes: self.routes.clone(),
            inside: self.inside.iter().map(copied).collect::<Result<_, _>>()?,
            shared: self.shared.clone(),
        })
    }
}

/// What the experts of one stage make.
pub(super) enum Made<T> {
    Inside(Routed<T>),
    Sum(T),
}

impl<B: PackedBackend> Interpreter<'_, B> {
    pub(super) fn experts(
        &self,
        experts: &Experts,
        weights: &StageWeights<B>,
        input: &B::Tensor,
        stream: &Stream<B::Tensor>,
    ) -> Result<Made<B::Tensor>, Error> {
        let backend = self.backend;
        match (&experts.router, &stream.routed) {
            (Some(router), routed) => {
                let mut routed = match routed {
                    // The pipeline routed before it solved.
                    Some(routed) => Routed {
                        routes: routed.routes.clone(),
                        inside: Vec::new(),
                        shared: routed.shared.clone(),
                    },
                    None => self.route(router, weights, input)?,
                };
                let tokens = backend.dim(input).0;
                for (route, linears) in routed.routes.iter().zip(&weights.experts) {
                    let outputs = if route.rows.is_empty() {
                        Vec::new()
                    } else if route.takes_all(tokens) {
                        Linear::apply_all(linears, backend, input)?
                    } else {
                        Linear::apply_all(linears, backend, &self.rows(route, input)?)?
                    };
                    let inside = match &outputs[..] {
                        [gate, up] => Some(backend.gated(gate, up, router.gate)?),
                        _ => None,
                    };
                    routed.inside.push(inside);
                }
                Ok(Made::Inside(routed))
            }
            (None, Some(routed)) => {
                let (tokens, hidden) = backend.dim(&stream.residual);
                let mut sum = backend.zeros(tokens, hidden)?;
                let held = routed.routes.iter().zip(&routed.inside);
                for ((route, inside), linears) in held.zip(&weights.experts) {
                    if let (Some(inside), [down]) = (inside, &linears[..]) {
                        let y = down.apply(backend, inside)?;
                        backend.scatter_add(&mut sum, &route.rows, &route.outputs, &y)?;
                    }
                }
                Ok(Made::Sum(sum))
            }
            (None, None) => unreachable!("experts without a router before them"),
        }
    }

    /// What one expert reads of a stage's input.
    pub(crate) fn rows(&self, route: &Route, input: &B::Tensor) -> Result<B::Tensor, Error> {
        let mut x = self.backend.gather(input, &route.rows)?;
        if let Some(factors) = &route.inputs {
            self.backend.scale_rows(&mut x, factors)?;
        }
        Ok(x)
    }

    /// Sends every token to its experts.
    pub(crate) fn route(
        &self,
        router: &Router,
        weights: &StageWeights<B>,
        input: &B::Tensor,
    ) -> Result<Routed<B::Tensor>, Error> {
        let (backend, small) = (self.backend, &weights.small);
        let bias = router.bias.as_ref().map(|bias| small.get(bias));
        let logits = backend.linear(input, small.get(&router.weight), bias)?;
        let logits = backend.download(&logits)?;
        let correction = match &router.correction {
            Some(correction) => backend.download(small.get(correction))?.into_iter().collect(),
            None => vec![0.0; logits.ncols()],
        };
        let mut routes = vec![Route::default(); logits.ncols()];
        for (t, row) in logits.rows().into_iter().enumerate() {
            let scores = router.scores(row);
            let chosen = router.choose(&scores, &correction);
            let weigh = router.weights(&scores, &chosen);
            for (e, route) in routes.iter_mut().enumerate() {
                let at = chosen.iter().position(|&c| c == e);
                if at.is_none() && self.routing == Routing::Routed {
                    continue;
                }
                route.rows.push(t as u32);
                route.sent += usize::from(at.is_some());
                match router.weigh {
                    Weigh::Output => route.outputs.push(at.map_or(0.0, |at| weigh[at])),
                    Weigh::Input => {
                        let own = at.map_or(scores[e], |at| weigh[at]);
                        route.inputs.get_or_insert_default().push(own);
                        route.outputs.push(f32::from(u8::from(at.is_some())));
                    }
                }
            }
        }
        let shared = match &router.shared_gate {
            Some(gate) => {
                let gate = backend.download(&backend.linear(input, small.get(gate), None)?)?;
                Some(gate.iter().map(|&x| sigmoid(x)).collect())
            }
            None => None,
        };
        Ok(Routed { routes, inside: Vec::new(), shared })
    }
}

impl Router {
    fn scores(&self, logits: ArrayView1<'_, f32>) -> Vec<f32> {
        match self.scoring {
            Scoring::Softmax => softmax(logits.iter().copied()),
            Scoring::Sigmoid => logits.iter().map(|&x| sigmoid(x)).collect(),
            Scoring::SoftmaxOfChosen => logits.to_vec(),
        }
    }

    /// The best experts, the best first; of equals the one with the lower number.
    fn choose(&self, scores: &[f32], correction: &[f32]) -> Vec<usize> {
        let mut ranked: Vec<f32> = scores.iter().zip(correction).map(|(s, c)| s + c).collect();
        if let Some(groups) = self.groups {
            let size = ranked.len() / groups.count;
            let worth = |group: &[f32]| {
                let mut sorted = group.to_vec();
                sorted.sort_by(|a, b| b.total_cmp(a));
                match groups.rank {
                    GroupRank::Best => sorted[0],
                    GroupRank::BestTwo => sorted[0] + sorted[1],
                }
            };
            let worths: Vec<f32> = ranked.chunks(size).map(worth).collect();
            let kept = best(&worths, groups.keep);
            for (g, group) in ranked.chunks_mut(size).enumerate() {
                if !kept.contains(&g) {
                    group.fill(f32::NEG_INFINITY);
                }
            }
        }
        best(&ranked, self.top)
    }

    fn weights(&self, scores: &[f32], chosen: &[usize]) -> Vec<f32> {
        let of_chosen = chosen.iter().map(|&e| scores[e]);
        let mut weights = match self.scoring {
            Scoring::SoftmaxOfChosen => softmax(of_chosen),
            _ => of_chosen.collect(),
        };
        if self.normalize {
            let sum = weights.iter().sum::<f32>() + 1e-20;
            weights.iter_mut().for_each(|w| *w /= sum);
        }
        weights.iter_mut().for_each(|w| *w *= self.scale);
        weights
    }
}

fn best(scores: &[f32], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order.truncate(count);
    order
}

fn softmax(x: impl Iterator<Item = f32> + Clone) -> Vec<f32> {
    let top = x.clone().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = x.map(|x| (x - top).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.into_iter().map(|p| p / sum).collect()
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
