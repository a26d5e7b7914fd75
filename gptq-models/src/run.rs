//! The loop over blocks: gather what the inputs say, solve, and go on with the quantized weights.
//!
//! A block is cut into units. All linears of a unit are solved from inputs that have seen no
//! quantized weights of the same unit: a unit is one stage if the run is true-sequential, so that each
//! stage sees the error of those before it, and the whole block if not. Inside a stage, linears that
//! read the same rows are a group and share a Hessian: all of them, or, where there are experts, those
//! of each. GPTAQ compares the inputs with those of the original model, which then runs beside the
//! quantized one.

use std::{ops::Range, slice, time::Instant};

use gptq_core::Moments;
use gptq_pack::PackedBackend;
use ndarray::Array2;

use crate::{
    Error, LayerReport, Progress, QuantizeOptions,
    block::{Interpreter, Positions, Routing, Stream},
    graph::{Stage, Weigh},
    meter::{Cost, Meter},
    output::Output,
    plan::{LinearPlan, Plan},
    stage::Solver,
    weights::{Loader, StageWeights},
};

/// GPTQ over a whole model. `samples` all have one length.
pub(crate) struct Run<'a, B: PackedBackend> {
    solver: Solver<'a, B>,
    plan: &'a Plan,
    samples: &'a [Vec<u32>],
    /// Tokens of one sample.
    length: usize,
    positions: Positions<B::Tensor>,
    /// Whether the original model runs beside the quantized one.
    native: bool,
}

/// One sample on its way.
struct Walk<T> {
    /// Through the quantized model.
    stream: Stream<T>,
    /// Through the original one.
    native: Option<Stream<T>>,
}

impl<'a, B: PackedBackend> Run<'a, B> {
    pub(crate) fn new(
        loader: Loader<'a, B>,
        plan: &'a Plan,
        options: &'a QuantizeOptions,
        samples: &'a [Vec<u32>],
    ) -> Result<Self, Error> {
        let length = samples.first().map_or(0, Vec::len);
        let positions = Positions::new(loader.backend, &loader.arch.graph, 0, length)?;
        let tokens = (samples.len() * length) as u64;
        let native = plan.needs_native();
        let solver = Solver { loader, options, tokens };
        Ok(Self { solver, plan, samples, length, positions, native })
    }

    pub(crate) fn quantize(
        &self,
        output: &mut Output<'_>,
        progress: &mut dyn Progress,
    ) -> Result<Vec<LayerReport>, Error> {
        let mut meter = Meter::new(self.operations(), progress);
        let mut walks = self.start()?;
        let mut reports = Vec::new();
        for (block, stages) in self.plan.blocks.iter().enumerate() {
            for unit in self.units(stages.len()) {
                let started = Instant::now();
                let mut finished = self.unit(block, unit, &mut walks, output, &mut meter)?;
                close(&mut finished, started, &mut meter);
                reports.append(&mut finished);
            }
        }
        if let Some(head) = &self.plan.head {
            let started = Instant::now();
            let mut finished = self.head(head, &walks, output, &mut meter)?;
            close(&mut finished, started, &mut meter);
            reports.append(&mut finished);
        }
        Ok(reports)
    }

    /// The embedded samples.
    fn start(&self) -> Result<Vec<Walk<B::Tensor>>, Error> {
        let backend = self.solver.loader.backend;
        let (embed, interpreter) = (self.solver.loader.embed()?, self.interpreter());
        let walk = |sample: &Vec<u32>| {
            let stream = interpreter.embed(&embed, sample, 0)?;
            let native = if self.native { Some(stream.copy(backend)?) } else { None };
            Ok(Walk { stream, native })
        };
        self.samples.iter().map(walk).collect()
    }

    /// The stages of a block that are solved together.
    fn units(&self, stages: usize) -> Vec<Range<usize>> {
        let size = if self.solver.options.true_sequential { 1 } else { stages.max(1) };
        (0..stages).step_by(size).map(|start| start..start + size).collect()
    }

    /// Gathers, solves and moves every sample through the stages of a unit.
    fn unit(
        &self,
        block: usize,
        unit: Range<usize>,
        walks: &mut [Walk<B::Tensor>],
        output: &mut Output<'_>,
        meter: &mut Meter<'_>,
    ) -> Result<Vec<LayerReport>, Error> {
        let loader = &self.solver.loader;
        let mut stages = Vec::with_capacity(unit.len());
        for at in unit.clone() {
            let stage = &loader.arch.graph.blocks[block].stages[at];
            let linears = &self.plan.blocks[block][at];
            let runs = self.native || at + 1 < unit.end;
            let weights =
                if runs { loader.stage(stage)? } else { loader.without_linears(stage)? };
            let groups = self.groups(stage);
            let cost = self.cost(stage, linears, at + 1 == unit.end);
            stages.push(UnitStage { stage, linears, groups, weights, cost, solved: Vec::new() });
        }
        let mut reports = Vec::new();
        for round in rounds(&stages) {
            let mut sums = self.sums(&stages, &round)?;
            for walk in &mut *walks {
                self.gather(&mut stages, &mut sums, &round, walk, meter)?;
            }
            if round.last {
                // Originals give way before quantized ones come.
                stages.iter_mut().for_each(|at| at.weights.clear_linears());
            }
            for Sum { stage, group, moments, sent } in sums {
                let at = &mut stages[stage];
                let range = at.groups[group].linears.clone();
                let (weights, mut finished) =
                    self.solver.quantize(&at.linears[range], moments, output)?;
                finished.iter_mut().for_each(|report| report.routed_tokens = sent);
                at.solved.extend(weights);
                reports.append(&mut finished);
                meter.add(at.cost.solve / at.groups.len() as f64, at.label());
            }
        }
        for at in &mut stages {
            let solved = std::mem::take(&mut at.solved);
            self.solver.upload(at.stage, at.linears, &solved, &mut at.weights)?;
        }
        let interpreter = self.interpreter();
        for walk in walks {
            for at in &stages {
                let stream = &mut walk.stream;
                interpreter.advance(at.stage, &at.weights, stream, &self.positions, None)?;
                meter.add(at.cost.forward, at.label());
            }
        }
        Ok(reports)
    }

    /// Runs one sample through a unit with original weights, as far as its last stage's input, and
    /// sums up what the groups of this round read. The sample itself stays where it is; its native
    /// stream passes in the last round.
    fn gather(
        &self,
        stages: &mut [UnitStage<'_, B>],
        sums: &mut [Sum<B::Tensor>],
        round: &Round,
        walk: &mut Walk<B::Tensor>,
        meter: &mut Meter<'_>,
    ) -> Result<(), Error> {
        let (interpreter, backend) = (self.interpreter(), self.solver.loader.backend);
        let last = stages.len() - 1;
        let mut ahead: Option<Stream<B::Tensor>> = None;
        for (i, at) in stages.iter_mut().enumerate() {
            let stream = ahead.as_mut().unwrap_or(&mut walk.stream);
            self.route(at.stage, &at.weights, stream)?;
            let x = interpreter.input(at.stage, &at.weights, stream)?;
            for sum in sums.iter_mut().filter(|sum| sum.stage == i) {
                let expert = at.groups[sum.group].expert;
                let routed = expert.and_then(|e| Some((e, stream.routed.as_ref()?)));
                let Some((e, routed)) = routed else {
                    if let Some(moments) = &mut sum.moments {
                        let native = walk.native.as_ref();
                        let native = native
                            .map(|n| interpreter.input(at.stage, &at.weights, n))
                            .transpose()?;
                        accumulate(backend, moments, &x, native.as_deref())?;
                    }
                    continue;
                };
                sum.sent = Some(sum.sent.unwrap_or(0) + routed.routes[e].sent as u64);
                let Some(moments) = &mut sum.moments else { continue };
                match routed.inside.get(e) {
                    Some(Some(inside)) => accumulate(backend, moments, inside, None)?,
                    None if !routed.routes[e].rows.is_empty() => {
                        let rows = interpreter.rows(&routed.routes[e], &x)?;
                        accumulate(backend, moments, &rows, None)?;
                    }
                    _ => {}
                }
            }
            drop(x);
            if round.last
                && let Some(native) = &mut walk.native
            {
                interpreter.advance(at.stage, &at.weights, native, &self.positions, None)?;
            }
            if i < last {
                let mut next = match ahead.take() {
                    Some(stream) => stream,
                    None => walk.stream.copy(backend)?,
                };
                interpreter.advance(at.stage, &at.weights, &mut next, &self.positions, None)?;
                ahead = Some(next);
            }
            meter.add(at.cost.gather / round.of as f64, at.label());
        }
        Ok(())
    }

    /// Sends tokens to experts, if that is what the stage does.
    fn route(
        &self,
        stage: &Stage,
        weights: &StageWeights<B>,
        stream: &mut Stream<B::Tensor>,
    ) -> Result<(), Error> {
        let router = stage.experts.as_ref().and_then(|experts| experts.router.as_ref());
        if let (Some(router), None) = (router, &stream.routed) {
            let interpreter = self.interpreter();
            let routed = {
                let x = interpreter.input(stage, weights, stream)?;
                interpreter.route(router, weights, &x)?
            };
            stream.routed = Some(routed);
        }
        Ok(())
    }

    /// The linears of a stage by what they read.
    fn groups(&self, stage: &Stage) -> Vec<Group> {
        let own = stage.linears.len();
        let Some(experts) = &stage.experts else {
            return vec![Group { expert: None, linears: 0..own }];
        };
        // Experts that all see every token as it is see what the others see.
        let alike = self.solver.options.routing == Routing::All
            && experts.router.as_ref().is_some_and(|router| router.weigh == Weigh::Output);
        if alike {
            return vec![Group { expert: None, linears: 0..stage.all_linears().count() }];
        }
        let mut groups = Vec::with_capacity(1 + experts.linears.len());
        if own > 0 {
            groups.push(Group { expert: None, linears: 0..own });
        }
        let mut start = own;
        for (e, linears) in experts.linears.iter().enumerate() {
            groups.push(Group { expert: Some(e), linears: start..start + linears.len() });
            start += linears.len();
        }
        groups
    }

    /// Empty sums for the groups of a round.
    fn sums(
        &self,
        stages: &[UnitStage<'_, B>],
        round: &Round,
    ) -> Result<Vec<Sum<B::Tensor>>, Error> {
        let mut sums = Vec::new();
        for (s, at) in stages.iter().enumerate() {
            for (g, group) in at.groups.iter().enumerate() {
                if round.group.is_none_or(|only| only == g) {
                    let linears = &at.linears[group.linears.clone()];
                    let moments = self.moments(linears, group.expert.is_none())?;
                    sums.push(Sum { stage: s, group: g, moments, sent: None });
                }
            }
        }
        Ok(sums)
    }

    /// The head reads the final norm, and nothing follows it.
    fn head(
        &self,
        head: &LinearPlan,
        walks: &[Walk<B::Tensor>],
        output: &mut Output<'_>,
        meter: &mut Meter<'_>,
    ) -> Result<Vec<LayerReport>, Error> {
        let (interpreter, loader) = (self.interpreter(), &self.solver.loader);
        let head = slice::from_ref(head);
        let cost = self.head_cost(head);
        let finish = loader.finish()?;
        let mut moments = self.moments(head, true)?;
        for walk in walks {
            if let Some(moments) = &mut moments {
                let x = interpreter.finish(&finish, &walk.stream)?;
                let native = walk.native.as_ref();
                let native = native.map(|n| interpreter.finish(&finish, n)).transpose()?;
                accumulate(loader.backend, moments, &x, native.as_ref())?;
            }
            meter.add(cost.gather, &head[0].place.name);
        }
        let (_, reports) = self.solver.quantize(head, moments, output)?;
        meter.add(cost.solve, &head[0].place.name);
        Ok(reports)
    }

    /// Empty sums, unless rules skip the linears whole: nobody would solve them. Routes of the
    /// original model are its own, so experts are not compared.
    fn moments(
        &self,
        linears: &[LinearPlan],
        compared: bool,
    ) -> Result<Option<Moments<B::Tensor>>, Error> {
        if linears.iter().all(|l| l.config.is_none()) {
            return Ok(None);
        }
        let width = linears.first().map_or(0, |l| l.place.in_features);
        let zeros = || self.solver.loader.backend.zeros(width, width);
        let cross = if self.native && compared { Some(zeros()?) } else { None };
        Ok(Some(Moments { gram: zeros()?, cross, tokens: 0 }))
    }

    fn interpreter(&self) -> Interpreter<'_, B> {
        let loader = &self.solver.loader;
        let routing = self.solver.options.routing;
        Interpreter { backend: loader.backend, arch: loader.arch, routing }
    }

    fn cost(&self, stage: &Stage, linears: &[LinearPlan], last: bool) -> Cost {
        let originals = usize::from(self.native) + usize::from(!last);
        let tokens = self.length as f64;
        let router = stage.experts.as_ref().and_then(|experts| experts.router.as_ref());
        let count = stage.experts.as_ref().map_or(1, |experts| experts.linears.len());
        // The second stage of experts does not know how many a token takes; two is usual.
        let chosen = router.map_or(2, |router| router.top).min(count);
        let share = match self.solver.options.routing {
            Routing::Routed => chosen as f64 / count as f64,
            Routing::All => 1.0,
        };
        self.groups(stage)
            .into_iter()
            .map(|group| {
                let tokens = if group.expert.is_some() { tokens * share } else { tokens };
                Cost::of(&linears[group.linears], tokens, originals, self.native)
            })
            .fold(Cost::default(), Cost::plus)
    }

    fn head_cost(&self, head: &[LinearPlan]) -> Cost {
        Cost { forward: 0.0, ..Cost::of(head, self.length as f64, 0, self.native) }
    }

    fn operations(&self) -> f64 {
        let mut total = 0.0;
        let blocks = self.solver.loader.arch.graph.blocks.iter();
        for (block, linears) in blocks.zip(&self.plan.blocks) {
            for unit in self.units(block.stages.len()) {
                for at in unit.clone() {
                    let cost = self.cost(&block.stages[at], &linears[at], at + 1 == unit.end);
                    total += cost.total(self.samples.len());
                }
            }
        }
        let head = self.plan.head.as_ref().map(slice::from_ref);
        total + head.map_or(0.0, |head| self.head_cost(head).total(self.samples.len()))
    }
}

/// One stage of a unit.
struct UnitStage<'a, B: PackedBackend> {
    stage: &'a Stage,
    /// In the order of [`Stage::all_linears`].
    linears: &'a [LinearPlan],
    groups: Vec<Group>,
    /// Original linears while inputs are gathered, none where nothing runs through them; quantized
    /// ones afterwards.
    weights: StageWeights<B>,
    cost: Cost,
    /// Dequantized weights so far, in the order of the linears.
    solved: Vec<Array2<f32>>,
}

impl<B: PackedBackend> UnitStage<'_, B> {
    fn label(&self) -> &str {
        self.linears.first().map_or("", |l| &l.place.name)
    }
}

/// Linears that read the same rows.
struct Group {
    /// Those of one expert; all rows without one.
    expert: Option<usize>,
    linears: Range<usize>,
}

/// What one group reads, summed up.
struct Sum<T> {
    stage: usize,
    group: usize,
    moments: Option<Moments<T>>,
    /// Tokens that a router sent.
    sent: Option<u64>,
}

/// One pass over the samples: for one group of the only stage, so that one Hessian is held at a
/// time, or for all groups of several stages.
struct Round {
    group: Option<usize>,
    last: bool,
    /// How many there are.
    of: usize,
}

fn rounds<B: PackedBackend>(stages: &[UnitStage<'_, B>]) -> Vec<Round> {
    match stages {
        [only] => {
            let of = only.groups.len();
            (0..of).map(|g| Round { group: Some(g), last: g + 1 == of, of }).collect()
        }
        _ => vec![Round { group: None, last: true, of: 1 }],
    }
}

fn accumulate<B: PackedBackend>(
    backend: &B,
    moments: &mut Moments<B::Tensor>,
    x: &B::Tensor,
    native: Option<&B::Tensor>,
) -> Result<(), Error> {
    backend.accumulate_gram(&mut moments.gram, x)?;
    if let (Some(cross), Some(native)) = (&mut moments.cross, native) {
        backend.accumulate_cross(cross, native, x)?;
    }
    moments.tokens += backend.dim(x).0 as u64;
    Ok(())
}

/// Shares the time of a pass among its linears, and says that they are done.
fn close(finished: &mut [LayerReport], started: Instant, meter: &mut Meter<'_>) {
    let seconds = started.elapsed().as_secs_f64() / finished.len().max(1) as f64;
    for report in finished {
        report.seconds = seconds;
        meter.progress.layer(report);
    }
}
