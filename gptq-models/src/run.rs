//! The loop over blocks: gather what the inputs say, solve, and go on with the quantized weights.
//!
//! A block is cut into units. All linears of a unit are solved from one pass over the samples: a
//! unit is one stage if the run is true-sequential, so that each stage sees the error of those
//! before it, and the whole block if not. GPTAQ compares the inputs with those of the original
//! model, which then runs beside the quantized one.

use std::{ops::Range, slice, time::Instant};

use gptq_core::Moments;
use gptq_pack::PackedBackend;

use crate::{
    Error, LayerReport, Progress, QuantizeOptions,
    block::{Interpreter, Positions, Stream},
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
        let positions = Positions::new(loader.backend, &loader.arch.config.rope, 0, length)?;
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
        let embed = self.solver.loader.embed()?;
        let walk = |sample: &Vec<u32>| {
            let stream = Stream::new(backend.gather(&embed, sample)?);
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
        for stage in unit.clone() {
            let linears = &self.plan.blocks[block][stage];
            let runs = self.native || stage + 1 < unit.end;
            let weights = if runs {
                loader.stage(block, stage)?
            } else {
                StageWeights { norm: loader.stage_norm(block, stage)?, linears: Vec::new() }
            };
            let cost = self.cost(linears, stage + 1 == unit.end);
            stages.push(UnitStage {
                stage,
                linears,
                weights,
                moments: self.moments(linears)?,
                cost,
            });
        }
        for walk in &mut *walks {
            self.gather(&mut stages, walk, meter)?;
        }
        let mut reports = Vec::new();
        for at in &mut stages {
            // Originals give way before quantized ones come.
            at.weights.linears.clear();
            let moments = at.moments.take();
            let (weights, mut finished) = self.solver.quantize(at.linears, moments, output)?;
            at.weights.linears = self.solver.upload(at.linears, &weights)?;
            reports.append(&mut finished);
            meter.add(at.cost.solve, at.label());
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
    /// sums up what each stage reads. The sample itself stays where it is; its native stream passes.
    fn gather(
        &self,
        stages: &mut [UnitStage<'_, B>],
        walk: &mut Walk<B::Tensor>,
        meter: &mut Meter<'_>,
    ) -> Result<(), Error> {
        let (interpreter, backend) = (self.interpreter(), self.solver.loader.backend);
        let last = stages.len() - 1;
        let mut ahead: Option<Stream<B::Tensor>> = None;
        for (i, at) in stages.iter_mut().enumerate() {
            let norm = at.weights.norm.as_ref();
            if let Some(moments) = &mut at.moments {
                let x =
                    interpreter.input(at.stage, norm, ahead.as_ref().unwrap_or(&walk.stream))?;
                let native = walk.native.as_ref();
                let native = native.map(|n| interpreter.input(at.stage, norm, n)).transpose()?;
                accumulate(backend, moments, &x, native.as_deref())?;
            }
            if let Some(native) = &mut walk.native {
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
            meter.add(at.cost.gather, at.label());
        }
        Ok(())
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
        let norm = loader.final_norm()?;
        let mut moments = self.moments(head)?;
        for walk in walks {
            if let Some(moments) = &mut moments {
                let x = interpreter.finish(&norm, &walk.stream)?;
                let native = walk.native.as_ref();
                let native = native.map(|n| interpreter.finish(&norm, n)).transpose()?;
                accumulate(loader.backend, moments, &x, native.as_ref())?;
            }
            meter.add(cost.gather, &head[0].place.name);
        }
        let (_, reports) = self.solver.quantize(head, moments, output)?;
        meter.add(cost.solve, &head[0].place.name);
        Ok(reports)
    }

    /// Empty sums, unless rules skip the stage whole: nobody would solve it.
    fn moments(&self, linears: &[LinearPlan]) -> Result<Option<Moments<B::Tensor>>, Error> {
        if linears.iter().all(|l| l.config.is_none()) {
            return Ok(None);
        }
        let width = linears.first().map_or(0, |l| l.place.in_features);
        let zeros = || self.solver.loader.backend.zeros(width, width);
        let cross = if self.native { Some(zeros()?) } else { None };
        Ok(Some(Moments { gram: zeros()?, cross, tokens: 0 }))
    }

    fn interpreter(&self) -> Interpreter<'_, B> {
        let loader = &self.solver.loader;
        Interpreter { backend: loader.backend, arch: loader.arch }
    }

    fn cost(&self, linears: &[LinearPlan], last: bool) -> Cost {
        let originals = usize::from(self.native) + usize::from(!last);
        Cost::of(linears, self.length, originals, self.native)
    }

    fn head_cost(&self, head: &[LinearPlan]) -> Cost {
        Cost { forward: 0.0, ..Cost::of(head, self.length, 0, self.native) }
    }

    fn operations(&self) -> f64 {
        let mut total = 0.0;
        for stages in &self.plan.blocks {
            for unit in self.units(stages.len()) {
                for stage in unit.clone() {
                    let cost = self.cost(&stages[stage], stage + 1 == unit.end);
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
    stage: usize,
    linears: &'a [LinearPlan],
    /// Original linears while inputs are gathered, none where nothing runs through them; quantized
    /// ones afterwards.
    weights: StageWeights<B>,
    moments: Option<Moments<B::Tensor>>,
    cost: Cost,
}

impl<B: PackedBackend> UnitStage<'_, B> {
    fn label(&self) -> &str {
        self.linears.first().map_or("", |l| &l.place.name)
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
