//! Going on with an interrupted run: samples are brought to where it stopped.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use gptq_core::Backend;
use gptq_pack::PackedBackend;
use ndarray::Array2;

use super::{Run, Walk};
use crate::{
    CheckpointWriter, Error,
    block::{Place, Stream},
    meter::Meter,
    output::Output,
    parking::Parking,
    source,
};

/// Samples, and how many blocks they have passed.
type Begun<B> = (Vec<Walk<<B as Backend>::Tensor>>, usize);

impl<B: PackedBackend> Run<'_, B> {
    /// The samples, and how many blocks they have passed: embedded, or as an earlier run saved them.
    pub(super) fn begin(
        &self,
        parking: &mut Parking,
        output: &Output<'_>,
    ) -> Result<Begun<B>, Error> {
        let Some((passed, saved)) = output.steps.saved_samples()? else {
            return Ok((self.start(parking)?, 0));
        };
        let backend = self.solver.loader.backend;
        let load = |w: usize, native: bool, parking: &mut Parking| {
            let mut stream = Stream::new(backend.zeros(0, 0)?);
            for place in Place::all() {
                if let Some(x) = read(&saved, &name(w, native, place))? {
                    stream.show(place, backend.take(x)?);
                }
            }
            parking.check_in(backend, &mut stream)?;
            Ok::<_, Error>(stream)
        };
        let mut walks = Vec::new();
        for w in 0..self.samples.len().div_ceil(self.together) {
            let native = if self.native { Some(load(w, true, parking)?) } else { None };
            walks.push(Walk { stream: load(w, false, parking)?, native });
        }
        Ok((walks, passed))
    }

    /// Sends every sample through a block that an earlier run has quantized.
    pub(super) fn pass(
        &self,
        block: usize,
        walks: &mut [Walk<B::Tensor>],
        parking: &mut Parking,
        output: &Output<'_>,
        meter: &mut Meter<'_>,
    ) -> Result<(), Error> {
        let (loader, interpreter) = (&self.solver.loader, self.interpreter());
        let stages = &loader.arch.graph.blocks[block].stages;
        for (stage, linears) in stages.iter().zip(&self.plan.blocks[block]) {
            let mut solved = Vec::with_capacity(linears.len());
            for linear in linears {
                solved.push(match &linear.config {
                    Some(config) => output.read_layer(&linear.place, config)?.dequantize(),
                    None => source::weight(loader.checkpoint, &linear.place)?,
                });
            }
            let originals = if self.native { Some(loader.stage(stage)?) } else { None };
            let mut weights = loader.without_linears(stage)?;
            self.solver.upload(stage, linears, solved, &mut weights)?;
            for (w, walk) in walks.iter_mut().enumerate() {
                let native = walk.native.as_mut().zip(originals.as_ref());
                for (stream, weights) in native.into_iter().chain([(&mut walk.stream, &weights)]) {
                    parking.check_out(loader.backend, stream)?;
                    interpreter.advance(stage, weights, stream, self.positions(w), None)?;
                    parking.check_in(loader.backend, stream)?;
                }
            }
            let label = linears.first().map_or("", |l| &l.place.name);
            meter.add(self.passing(self.cost(stage, linears, true)), label);
        }
        loader.checkpoint.release();
        Ok(())
    }

    /// Saves all samples where they are, between two blocks.
    pub(super) fn save(
        &self,
        walks: &mut [Walk<B::Tensor>],
        parking: &mut Parking,
        output: &mut Output<'_>,
    ) -> Result<(), Error> {
        let backend = self.solver.loader.backend;
        let mut shapes = BTreeMap::new();
        for (w, walk) in walks.iter().enumerate() {
            for (native, stream) in streams(walk) {
                for place in Place::all() {
                    if let Some((rows, columns)) = Parking::shape(backend, stream, place) {
                        shapes.insert(name(w, native, place), [rows, columns]);
                    }
                }
            }
        }
        output.steps.save_samples(shapes.clone(), |file| {
            for (w, walk) in walks.iter_mut().enumerate() {
                let native = walk.native.as_mut().map(|native| (true, native));
                for (native, stream) in native.into_iter().chain([(false, &mut walk.stream)]) {
                    parking.lend(backend, stream)?;
                    for place in Place::all() {
                        if let Some(x) = stream.shown(place) {
                            let name = name(w, native, place);
                            if shapes.contains_key(&name) {
                                write(file, &name, backend, x)?;
                            }
                        }
                    }
                    stream.forget(backend)?;
                }
            }
            Ok(())
        })
    }
}

fn streams<T>(walk: &Walk<T>) -> impl Iterator<Item = (bool, &Stream<T>)> {
    let native = walk.native.as_ref().map(|native| (true, native));
    native.into_iter().chain([(false, &walk.stream)])
}

fn name(walk: usize, native: bool, place: Place) -> String {
    format!("{walk}.{}.{}", if native { "native" } else { "quantized" }, place.index())
}

fn write<B: Backend>(
    file: &CheckpointWriter,
    name: &str,
    backend: &B,
    x: &B::Tensor,
) -> Result<(), Error> {
    let x = backend.look(x)?;
    let values = x.as_slice().unwrap_or_else(|| unreachable!("tensors are row-major"));
    file.put(name, bytemuck::cast_slice(values))
}

/// A matrix, if it was saved.
fn read(file: &CheckpointWriter, name: &str) -> Result<Option<Array2<f32>>, Error> {
    let Some(shape) = file.shape(name) else { return Ok(None) };
    let values = bytemuck::pod_collect_to_vec(&file.read_back(name)?);
    let x = Array2::from_shape_vec((shape[0], shape[1]), values);
    Ok(Some(x.unwrap_or_else(|_| unreachable!("as many numbers as the shape says"))))
}

/// When to save samples.
pub(super) struct Saving {
    every: Duration,
    /// How long it takes.
    takes: Duration,
    last: Instant,
}

impl Saving {
    /// Saving may take a twentieth of the time.
    const SHARE: u32 = 20;

    pub(super) fn new(every: Duration) -> Self {
        Self { every, takes: Duration::ZERO, last: Instant::now() }
    }

    pub(super) fn is_due(&mut self) -> bool {
        let due = self.last.elapsed() >= self.every.max(Self::SHARE * self.takes);
        if due {
            self.last = Instant::now();
        }
        due
    }

    /// A run does not fail because it could not be saved: it is told, and goes on.
    pub(super) fn done(&mut self, saved: Result<(), Error>, meter: &mut Meter<'_>) {
        self.takes = self.last.elapsed();
        self.last = Instant::now();
        if let Err(error) = saved {
            meter.progress.notice(&format!(
                "the samples could not be saved ({error}); the run goes on, but if it is \
                 interrupted, they must go through all finished blocks again"
            ));
            self.every = Duration::MAX;
        }
    }
}
