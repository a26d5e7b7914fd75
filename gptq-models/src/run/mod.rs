//! The loop over blocks: gather what the inputs say, solve, and go on with the quantized weights.
//!
//! A block is cut into units. All linears of a unit are solved from inputs that have seen no
//! quantized weights of the same unit: a unit is one stage if the run is true-sequential, so that each
//! stage sees the error of those before it, and the whole block if not. Inside a stage, linears that
//! read the same rows are a group and share a Hessian: all of them, or, where there are experts, those
//! of each. GPTAQ compares the inputs with those of the original model, which then runs beside the
//! quantized one.

mod cost;
mod resumed;

use std::{ops::Range, slice, time::Instant};

use gptq_core::Moments;
use gptq_pack::PackedBackend;

use resumed::Saving;

use crate::{
    Error, Kept, LayerReport, Progress, QuantizeOptions,
    block::{EmbedWeights, Interpreter, Positions, Stream, key_bias},
    graph::Stage,
    memory::Need,
    meter::Meter,
    output::Output,
    parking::Parking,
    plan::{LinearPlan, Plan},
    stage::Solver,
    unit::{Round, Sum, UnitStage, accumulate, groups, rounds, unit_size},
    weights::{Loader, StageWeights},
};

/// Tokens that go through a stage together: enough for products to run at full speed, whatever the
/// length of a sample.
const TOGETHER: usize = 512;

/// How many of so many samples of this length that is.
pub(crate) fn together(samples: usize, length: usize) -> usize {
    (TOGETHER / length.max(1)).clamp(1, samples.max(1))
}

/// GPTQ over a whole model. `samples` all have one length.
pub(crate) struct Run<'a, B: PackedBackend> {
    solver: Solver<'a, B>,
    plan: &'a Plan,
    samples: &'a [Vec<u32>],
    /// Tokens of one sample.
    length: usize,
    /// Samples per walk.
    together: usize,
    /// By samples in a walk: that of most walks, and that of the last.
    positions: Vec<Positions<B::Tensor>>,
    /// Whether the original model runs beside the quantized one.
    native: bool,
    need: Need,
    /// Bytes of samples that may wait in memory, if there is a limit.
    room: Option<u64>,
}

/// Some samples on their way.
struct Walk<T> {
    /// Through the quantized model.
    stream: Stream<T>,
    /// Through the original one.
    native: Option<Stream<T>>,
}

/// All walks, and what they have still to go through.
struct Pass<'r, 'a, B: PackedBackend> {
    walks: &'r mut [Walk<B::Tensor>],
    parking: &'r mut Parking,
    /// Stages that are solved and that no walk has passed yet.
    behind: Vec<UnitStage<'a, B>>,
}

impl<'a, B: PackedBackend> Run<'a, B> {
    /// # Errors
    /// [`Error::Input`] if the run does not fit into the memory that it may take.
    pub(crate) fn new(
        loader: Loader<'a, B>,
        plan: &'a Plan,
        options: &'a QuantizeOptions,
        kept: Option<&'a Kept<'a>>,
        samples: &'a [Vec<u32>],
    ) -> Result<Self, Error> {
        let length = samples.first().map_or(0, Vec::len);
        let together = together(samples.len(), length);
        let (backend, graph) = (loader.backend, &loader.arch.graph);
        let bias = key_bias(backend, graph, length)?;
        let positions =
            |texts: usize| Positions::new(backend, graph, 0, length, texts, bias.clone());
        let mut all = vec![positions(together)?];
        if !samples.len().is_multiple_of(together) {
            all.push(positions(samples.len() % together)?);
        }
        let tokens = (samples.len() * length) as u64;
        let native = plan.needs_native();
        let solver = Solver { loader, options, kept, tokens };
        let graph = &solver.loader.arch.graph;
        let half = solver.loader.backend.multiplies_bf16();
        let need = Need::of(graph, plan, options, together * length, half);
        let room = options.max_ram.map(|limit| need.leaves(limit)).transpose()?;
        Ok(Self { solver, plan, samples, length, together, positions: all, native, need, room })
    }

    pub(crate) fn quantize(
        &self,
        output: &mut Output<'_>,
        progress: &mut dyn Progress,
    ) -> Result<Vec<LayerReport>, Error> {
        let earlier = output.steps.earlier_blocks().to_vec();
        let mut reports: Vec<LayerReport> =
            earlier.iter().flat_map(|step| step.layers.clone()).collect();
        if earlier.len() == self.plan.by_step().count() {
            return Ok(reports);
        }
        let half = self.solver.loader.backend.multiplies_bf16();
        let (streams, held) = self.waits();
        let mut parking = Parking::new(self.room, half, output.folder(), streams, held);
        let (mut walks, passed) = self.begin(&mut parking, output)?;
        let mut meter = Meter::new(self.operations(passed, earlier.len()), progress);
        self.solver.loader.backend.return_memory();
        let mut saving = Saving::new(self.solver.options.save_every);
        for (block, stages) in self.plan.blocks.iter().enumerate().skip(passed) {
            if block < earlier.len() {
                self.pass(block, &mut walks, &mut parking, output, &mut meter)?;
                continue;
            }
            let (before, mut behind) = (reports.len(), Vec::new());
            for unit in self.units(stages.len()) {
                let started = Instant::now();
                let mut pass = Pass { walks: &mut walks, parking: &mut parking, behind };
                let mut finished = self.unit(block, unit, &mut pass, output, &mut meter)?;
                behind = pass.behind;
                close(&mut finished, started, &mut meter);
                reports.append(&mut finished);
            }
            self.solver.loader.checkpoint.release();
            output.finish_step(&reports[before..])?;
            if saving.is_due() && block + 1 < self.plan.blocks.len() {
                let saved = self.save(&mut walks, &mut parking, output);
                saving.done(saved, &mut meter);
            }
        }
        if let Some(head) = &self.plan.head
            && earlier.len() <= self.plan.blocks.len()
        {
            let started = Instant::now();
            let mut finished = self.head(head, &mut walks, &mut parking, output, &mut meter)?;
            close(&mut finished, started, &mut meter);
            output.finish_step(&finished)?;
            reports.append(&mut finished);
        }
        output.memory = self.need.report(parking.peaks());
        Ok(reports)
    }

    /// The embedded samples.
    fn start(&self, parking: &mut Parking) -> Result<Vec<Walk<B::Tensor>>, Error> {
        let (loader, interpreter) = (&self.solver.loader, self.interpreter());
        let mut loaded = None;
        let walk = |samples: &[Vec<u32>]| {
            let (table, rows) = loader.embed_rows(samples.iter().flatten())?;
            let embed = match loaded.take() {
                Some(embed) => EmbedWeights { table, ..embed },
                None => loader.embed_with(table)?,
            };
            let ids: Vec<u32> = samples.iter().flatten().map(|id| rows[id]).collect();
            let mut stream = interpreter.embed(&embed, &ids, 0, self.length)?;
            let mut native = if self.native { Some(stream.copy(loader.backend)?) } else { None };
            for stream in native.iter_mut().chain([&mut stream]) {
                parking.check_in(loader.backend, stream)?;
            }
            loaded = Some(embed);
            Ok(Walk { stream, native })
        };
        self.samples.chunks(self.together).map(walk).collect()
    }

    /// How many streams wait, and the most numbers that one leaves for the next stage.
    fn waits(&self) -> (usize, usize) {
        let streams = self.samples.len().div_ceil(self.together) * if self.native { 2 } else { 1 };
        let stages = self.solver.loader.arch.graph.blocks.iter().flat_map(|block| &block.stages);
        let widest = stages.filter_map(Stage::holds).max().unwrap_or(0);
        (streams, widest * self.together * self.length)
    }

    fn positions(&self, walk: usize) -> &Positions<B::Tensor> {
        let last = (walk + 1) * self.together > self.samples.len();
        &self.positions[usize::from(last).min(self.positions.len() - 1)]
    }

    /// How many samples are in a walk.
    fn texts(&self, walk: usize) -> f64 {
        self.positions(walk).texts as f64
    }

    /// The stages of a block that are solved together.
    fn units(&self, stages: usize) -> Vec<Range<usize>> {
        let size = unit_size(self.solver.options, stages);
        (0..stages).step_by(size).map(|start| start..start + size).collect()
    }

    /// Gathers, solves and moves every sample through the stages of a unit.
    fn unit(
        &self,
        block: usize,
        unit: Range<usize>,
        pass: &mut Pass<'_, 'a, B>,
        output: &mut Output<'_>,
        meter: &mut Meter<'_>,
    ) -> Result<Vec<LayerReport>, Error> {
        let loader = &self.solver.loader;
        let mut stages = Vec::with_capacity(unit.len());
        for at in unit.clone() {
            let stage = &self.solver.loader.arch.graph.blocks[block].stages[at];
            let linears = &self.plan.blocks[block][at];
            let runs = self.native || at + 1 < unit.end;
            let weights =
                if runs { loader.stage(stage)? } else { loader.without_linears(stage)? };
            let groups = groups(stage, self.solver.options.routing);
            let cost = self.cost(stage, linears, at + 1 == unit.end);
            stages.push(UnitStage { stage, linears, groups, weights, cost, solved: Vec::new() });
        }
        let mut reports = Vec::new();
        for round in rounds(&stages) {
            let mut sums = self.sums(&stages, &round)?;
            for walk in 0..pass.walks.len() {
                self.gather(&mut stages, &mut sums, &round, pass, walk, meter)?;
            }
            if round.last {
                // Originals give way before quantized ones come.
                stages.iter_mut().for_each(|at| at.weights.clear_linears());
            }
            loader.backend.return_memory();
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
            self.solver.upload(at.stage, at.linears, solved, &mut at.weights)?;
        }
        loader.backend.return_memory();
        pass.behind.append(&mut stages);
        let tokens = (self.samples.len() * self.length) as u64;
        let more = unit.end < self.plan.blocks[block].len();
        if more && self.stays_behind(&pass.behind, tokens, pass.parking.room()) {
            return Ok(reports);
        }
        if !more && block + 1 == self.plan.blocks.len() && self.plan.head.is_none() {
            // No one reads what the last stage of all would leave.
            for at in pass.behind.drain(..) {
                meter.add(at.cost.forward * self.samples.len() as f64, at.label());
            }
            return Ok(reports);
        }
        let (interpreter, backend) = (self.interpreter(), loader.backend);
        for (w, walk) in pass.walks.iter_mut().enumerate() {
            pass.parking.check_out(backend, &mut walk.stream)?;
            for at in &pass.behind {
                let stream = &mut walk.stream;
                interpreter.advance(at.stage, &at.weights, stream, self.positions(w), None)?;
                meter.add(at.cost.forward * self.texts(w), at.label());
            }
            pass.parking.check_in(backend, &mut walk.stream)?;
        }
        pass.behind.clear();
        Ok(reports)
    }

    /// Whether what these stages leave for the next would not fit: then samples stay before them,
    /// and go through them again whenever the next stage's input is wanted.
    fn stays_behind(&self, behind: &[UnitStage<'_, B>], tokens: u64, room: u64) -> bool {
        let simple = |at: &UnitStage<'_, B>| at.stage.experts.is_none();
        let half = self.solver.loader.backend.multiplies_bf16();
        let bytes = if half { 2 } else { 4 };
        let held = behind.last().and_then(|last| last.stage.holds());
        held.is_some_and(|width| {
            !self.native && behind.iter().all(simple) && width as u64 * tokens * bytes > room
        })
    }

    /// Runs one walk through a unit with original weights, as far as its last stage's input, and
    /// sums up what the groups of this round read. The walk itself stays where it is; its native
    /// stream passes in the last round.
    fn gather(
        &self,
        stages: &mut [UnitStage<'_, B>],
        sums: &mut [Sum<B::Tensor>],
        round: &Round,
        pass: &mut Pass<'_, 'a, B>,
        w: usize,
        meter: &mut Meter<'_>,
    ) -> Result<(), Error> {
        let (interpreter, backend) = (self.interpreter(), self.solver.loader.backend);
        let (positions, last) = (self.positions(w), stages.len() - 1);
        let walk = &mut pass.walks[w];
        pass.parking.lend(backend, &mut walk.stream)?;
        if let Some(native) = &mut walk.native {
            match round.last {
                true => pass.parking.check_out(backend, native)?,
                false => pass.parking.lend(backend, native)?,
            }
        }
        let mut ahead: Option<Stream<B::Tensor>> = None;
        for at in &pass.behind {
            let next = ahead.get_or_insert(walk.stream.copy(backend)?);
            interpreter.advance(at.stage, &at.weights, next, positions, None)?;
        }
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
                interpreter.advance(at.stage, &at.weights, native, positions, None)?;
            }
            if i < last {
                let mut next = match ahead.take() {
                    Some(stream) => stream,
                    None => walk.stream.copy(backend)?,
                };
                interpreter.advance(at.stage, &at.weights, &mut next, positions, None)?;
                ahead = Some(next);
            }
            meter.add(at.cost.gather * self.texts(w) / round.of as f64, at.label());
        }
        walk.stream.forget(backend)?;
        if let Some(native) = &mut walk.native {
            match round.last {
                true => pass.parking.check_in(backend, native)?,
                false => native.forget(backend)?,
            }
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
        walks: &mut [Walk<B::Tensor>],
        parking: &mut Parking,
        output: &mut Output<'_>,
        meter: &mut Meter<'_>,
    ) -> Result<Vec<LayerReport>, Error> {
        let (interpreter, loader) = (self.interpreter(), &self.solver.loader);
        let head = slice::from_ref(head);
        let cost = self.head_cost(head);
        let finish = loader.finish()?;
        let mut moments = self.moments(head, true)?;
        for (w, walk) in walks.iter_mut().enumerate() {
            if let Some(moments) = &mut moments {
                for stream in walk.native.iter_mut().chain([&mut walk.stream]) {
                    parking.lend(loader.backend, stream)?;
                }
                let x = interpreter.finish(&finish, &walk.stream)?;
                let native = walk.native.as_ref();
                let native = native.map(|n| interpreter.finish(&finish, n)).transpose()?;
                accumulate(loader.backend, moments, &x, native.as_ref())?;
                for stream in walk.native.iter_mut().chain([&mut walk.stream]) {
                    stream.forget(loader.backend)?;
                }
            }
            meter.add(cost.gather * self.texts(w), &head[0].place.name);
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
        if linears.iter().all(|l| l.to_solve().is_none()) {
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
}

/// Shares the time of a pass among its linears, and says that they are done.
fn close(finished: &mut [LayerReport], started: Instant, meter: &mut Meter<'_>) {
    let seconds = started.elapsed().as_secs_f64() / finished.len().max(1) as f64;
    for report in finished {
        report.seconds = seconds;
        meter.progress.layer(report);
    }
}
