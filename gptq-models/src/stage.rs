//! One stage: from what its input sums up to, to packed linears that are on disk and proven.

use gptq_core::{
    Error as SolverError, Moments, QuantizedMatrix, SolveJob, Solved, quantize_unseen,
};
use gptq_pack::PackedBackend;
use ndarray::Array2;

use crate::{
    Error, Fallback, FallbackPolicy, Kept, LayerReport, QuantizeOptions,
    block::copy,
    capsule::Capsules,
    graph::Stage,
    output::Output,
    plan::LinearPlan,
    source,
    weights::{Loader, StageWeights},
};

/// Solves stages, one after the other.
pub(crate) struct Solver<'a, B> {
    pub(crate) loader: Loader<'a, B>,
    pub(crate) options: &'a QuantizeOptions,
    pub(crate) kept: Option<&'a Kept<'a>>,
    /// Tokens of all samples.
    pub(crate) tokens: u64,
}

/// One quantized linear, however it came about.
struct Outcome {
    quantized: QuantizedMatrix,
    report: LayerReport,
}

impl<B: PackedBackend> Solver<'_, B> {
    /// Quantizes, writes and proves the linears of a stage. Returns the weights that samples go on
    /// with, quantized or, where a rule skips, original.
    pub(crate) fn quantize(
        &self,
        linears: &[LinearPlan],
        moments: Option<Moments<B::Tensor>>,
        output: &mut Output<'_>,
    ) -> Result<(Vec<Array2<f32>>, Vec<LayerReport>), Error> {
        let read = |l: &LinearPlan| source::weight(self.loader.checkpoint, &l.place);
        let mut weights = linears.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let mut outcomes: Vec<Option<Outcome>> = linears.iter().map(|_| None).collect();
        if let Some(moments) = moments {
            let inputs =
                output.adapter.as_ref().map(|_| self.second_moment(&moments)).transpose()?;
            outcomes = self.solve(linears, &weights, moments, &mut output.capsules)?;
            if let (Some(adapter), Some(inputs)) = (&mut output.adapter, inputs) {
                for (name, low_rank) in
                    corrections(linears, &weights, &outcomes, inputs, adapter.rank())?
                {
                    adapter.add(name, low_rank);
                }
            }
        }
        for (linear, outcome) in linears.iter().zip(&mut outcomes) {
            if let Some(kept) = self.kept.filter(|_| linear.kept) {
                let (quantized, report) = kept.layer(&linear.place)?;
                *outcome = Some(Outcome { quantized, report });
            }
        }
        let mut reports = Vec::new();
        for ((linear, weight), outcome) in linears.iter().zip(&mut weights).zip(outcomes) {
            let (Some(config), Some(outcome)) = (linear.config, outcome) else { continue };
            output.write_layer(&linear.place, &config, &outcome.quantized)?;
            *weight = outcome.quantized.dequantize();
            reports.push(outcome.report);
        }
        Ok((weights, reports))
    }

    /// Gives a stage its linears, with these weights.
    pub(crate) fn upload(
        &self,
        stage: &Stage,
        linears: &[LinearPlan],
        weights: Vec<Array2<f32>>,
        to: &mut StageWeights<B>,
    ) -> Result<(), Error> {
        let upload = |(linear, weight): (&LinearPlan, Array2<f32>)| {
            self.loader.for_many_tokens(&linear.place, weight)
        };
        let mut all = linears.iter().zip(weights).map(upload);
        let mut take = |count: usize| all.by_ref().take(count).collect::<Result<Vec<_>, Error>>();
        to.linears = take(stage.linears.len())?;
        let experts = stage.experts.iter().flat_map(|experts| &experts.linears);
        to.experts = experts.map(|linears| take(linears.len())).collect::<Result<_, _>>()?;
        Ok(())
    }

    /// One outcome per linear; none where a rule skips.
    fn solve(
        &self,
        linears: &[LinearPlan],
        weights: &[Array2<f32>],
        moments: Moments<B::Tensor>,
        capsules: &mut Capsules,
    ) -> Result<Vec<Option<Outcome>>, Error> {
        let mut outcomes: Vec<Option<Outcome>> = linears.iter().map(|_| None).collect();
        let mut waiting: Vec<usize> =
            (0..linears.len()).filter(|&i| linears[i].to_solve().is_some()).collect();
        let tokens = moments.tokens;
        let fall_back = |i: usize, policy: FallbackPolicy, reason: &str| {
            unsolved(&linears[i], &weights[i], tokens, policy, reason)
        };
        if let Some(policy) = self.options.fallback
            && let Some(reason) = policy.threshold.refuses(tokens, self.tokens)
        {
            for i in waiting.drain(..) {
                outcomes[i] = fall_back(i, policy, &reason)?;
            }
        }
        // Damping decides whether the Hessian can be factored, so linears that rules damp
        // differently must not fail each other. In an ordinary run there is one turn.
        let damping = |i: usize| linears[i].config.map(|config| config.damping);
        let mut moments = Some(moments);
        while let Some(&first) = waiting.first() {
            let (turn, rest): (Vec<usize>, Vec<usize>) =
                waiting.into_iter().partition(|&i| damping(i) == damping(first));
            let jobs: Vec<SolveJob<'_>> = turn
                .iter()
                .filter_map(|&i| {
                    let config = linears[i].config.as_ref()?;
                    Some(SolveJob { weight: weights[i].view(), config })
                })
                .collect();
            let needed_again = moments.as_ref().filter(|_| !rest.is_empty());
            let copied = needed_again.map(|m| self.copy(m)).transpose()?;
            let Some(summed) = std::mem::replace(&mut moments, copied) else { break };
            match (self.loader.backend.solve(summed, &jobs), self.options.fallback) {
                (Ok(solved), policy) => {
                    for (&i, solved) in turn.iter().zip(solved) {
                        // All its weights would become zero.
                        let unseen = solved.dead_columns == linears[i].place.in_features;
                        outcomes[i] = match policy {
                            _ if !unseen => outcome(&linears[i], solved, tokens),
                            Some(policy) => fall_back(i, policy, "its inputs were always zero")?,
                            None => return Err(failed(linears, SolverError::NoInput, None)),
                        };
                    }
                }
                (Err(source), policy) => {
                    let (config, weight) = (jobs[0].config, jobs[0].weight);
                    let name = &linears[first].place.name;
                    let kept = capsules.write(name, self.options, config, weight, &source);
                    match (policy, &source) {
                        (Some(policy), SolverError::NotPositiveDefinite { .. }) => {
                            let kept = kept.map_or(String::new(), |kept| format!("; {kept}"));
                            for i in turn {
                                outcomes[i] = fall_back(i, policy, &format!("{source}{kept}"))?;
                            }
                        }
                        _ => return Err(failed(linears, source, kept)),
                    }
                }
            }
            waiting = rest;
        }
        Ok(outcomes)
    }

    /// `Xᵀ X`, both triangles, before solving consumes it.
    fn second_moment(&self, moments: &Moments<B::Tensor>) -> Result<Array2<f32>, Error> {
        let gram = self.loader.backend.download(&moments.gram)?;
        Ok(gptq_core::Hessian::from_sum(gram, moments.tokens)?.matrix())
    }

    fn copy(&self, moments: &Moments<B::Tensor>) -> Result<Moments<B::Tensor>, Error> {
        let copied = |a: &B::Tensor| copy(self.loader.backend, a);
        Ok(Moments {
            gram: copied(&moments.gram)?,
            cross: moments.cross.as_ref().map(copied).transpose()?,
            tokens: moments.tokens,
        })
    }
}

/// What a low-rank product can make up for, by linear. Each is computed on one thread, so that the
/// result does not depend on how many there are.
fn corrections<'a>(
    linears: &'a [LinearPlan],
    weights: &[Array2<f32>],
    outcomes: &[Option<Outcome>],
    inputs: Array2<f32>,
    rank: usize,
) -> Result<Vec<(&'a str, gptq_core::LowRank)>, Error> {
    use rayon::prelude::*;

    // Where nothing was ever read, nothing can be fitted.
    if inputs.diag().iter().all(|&d| d == 0.0) {
        return Ok(Vec::new());
    }
    let jobs: Vec<_> = linears
        .iter()
        .zip(weights)
        .zip(outcomes)
        .filter_map(|((linear, weight), outcome)| Some((linear, weight, outcome.as_ref()?)))
        .collect();
    jobs.into_par_iter()
        .map(|(linear, weight, outcome)| {
            let place = &linear.place;
            let error = weight - &outcome.quantized.dequantize();
            let rank = rank.min(place.in_features).min(place.out_features);
            let low_rank = gptq_core::eora(error.view(), inputs.view(), rank)
                .map_err(|source| Error::Layer { layer: place.name.clone(), source })?;
            Ok((place.name.as_str(), low_rank))
        })
        .collect()
}

fn failed(linears: &[LinearPlan], source: SolverError, kept: Option<String>) -> Error {
    let names: Vec<&str> = linears.iter().map(|l| l.place.name.as_str()).collect();
    let layer = names.join(", ");
    match kept {
        Some(kept) => Error::Unsolved { layer, source, kept },
        None => Error::Layer { layer, source },
    }
}

fn outcome(linear: &LinearPlan, solved: Solved, tokens: u64) -> Option<Outcome> {
    let report = LayerReport {
        loss: Some(solved.loss),
        rtn_loss: Some(solved.rtn_loss),
        damp_percent: Some(solved.damp.percent),
        damp_attempts: Some(solved.damp.attempts),
        damp_floor: Some(solved.damp.floor),
        tokens,
        dead_columns: solved.dead_columns,
        ..LayerReport::unsolved(&linear.place.name, &linear.config?)
    };
    Some(Outcome { quantized: solved.quantized, report })
}

fn unsolved(
    linear: &LinearPlan,
    weight: &Array2<f32>,
    tokens: u64,
    policy: FallbackPolicy,
    reason: &str,
) -> Result<Option<Outcome>, Error> {
    let Some(config) = linear.config else { return Ok(None) };
    let quantized = quantize_unseen(weight.view(), policy.strategy, &config)
        .map_err(|source| Error::Layer { layer: linear.place.name.clone(), source })?;
    let errors = (weight - &quantized.dequantize()).mapv(|e| f64::from(e.abs()));
    let fallback = Fallback {
        strategy: policy.strategy.to_string(),
        reason: reason.to_owned(),
        mean_abs_error: errors.mean().unwrap_or_default(),
    };
    let report = LayerReport {
        tokens,
        fallback: Some(fallback),
        ..LayerReport::unsolved(&linear.place.name, &config)
    };
    Ok(Some(Outcome { quantized, report }))
}
