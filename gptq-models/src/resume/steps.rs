//! [`Steps`]: what a run has finished, by this process or an earlier one.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Instant};

use safetensors::Dtype;

use super::{
    Fingerprint,
    journal::{Journal, Line, Piece, SavedSamples, Step},
};
use crate::{CheckpointWriter, Error, LayerReport, Staging, TensorSpec, checkpoint::sync_folder};

/// A run's steps in the partial folder: what is copied, each block, the head.
pub(crate) struct Steps {
    pub(crate) staging: Staging,
    journal: Journal,
    pub(crate) run: Fingerprint,
    earlier: Earlier,
    /// Steps finished by now, the earlier ones included.
    finished: usize,
    /// Steps that the journal tells of and that are not what it says.
    damaged: usize,
    started: Instant,
}

/// What an interrupted run has done.
#[derive(Debug, Default)]
struct Earlier {
    /// Finished steps, in their order.
    steps: Vec<Step>,
    /// Where samples were saved last.
    samples: Option<SavedSamples>,
    /// How often a run ended before it was done.
    interruptions: u32,
}

/// What a failed run leaves.
pub(crate) struct Remains {
    blocks: usize,
    of: usize,
    folder: String,
}

impl Remains {
    /// Says so behind the error.
    pub(crate) fn after(self, source: Error) -> Error {
        let Self { blocks, of, folder } = self;
        match blocks {
            0 => source,
            _ => Error::Interrupted { source: Box::new(source), blocks, of, folder },
        }
    }
}

impl Steps {
    /// Begins, or goes on after the steps that an earlier run has finished, as far as `adopt` finds
    /// them to be what its journal says. The folder is empty if there are none.
    ///
    /// # Errors
    /// [`Error::File`] if another run was interrupted there, saying in what they differ.
    pub(crate) fn begin(
        mut staging: Staging,
        run: Fingerprint,
        restart: bool,
        mut adopt: impl FnMut(&Staging, &Step) -> Result<bool, Error>,
    ) -> Result<Self, Error> {
        let started = Instant::now();
        let mut earlier = match staging.keeps() && !restart {
            true => Earlier::read(&staging, &run)?,
            false => Earlier::default(),
        };
        let mut whole = 0;
        while whole < earlier.steps.len() && adopt(&staging, &earlier.steps[whole])? {
            whole += 1;
        }
        let damaged = earlier.steps.len() - whole;
        earlier.steps.truncate(whole);
        earlier.samples = earlier.samples.filter(|samples| samples.blocks < whole);
        if whole == 0 {
            staging.clear()?;
        }
        let journal = Journal::create(&staging.journal(), &earlier.lines(&run))?;
        Ok(Self { finished: whole, damaged, staging, journal, run, earlier, started })
    }

    /// How many steps are finished.
    pub(crate) fn finished(&self) -> usize {
        self.finished
    }

    /// What a user should know of the run that this one goes on with, if it does.
    pub(crate) fn notice(&self) -> Option<String> {
        let blocks = self.blocks();
        match (self.earlier.interruptions, self.damaged) {
            (0, _) => None,
            (_, 0) => Some(format!("going on after block {blocks} of an interrupted run")),
            (_, damaged) => Some(format!(
                "an interrupted run had finished {} blocks, but {damaged} are not what it wrote; \
                 going on after block {blocks}",
                blocks + damaged
            )),
        }
    }

    /// Blocks that are finished, the head counted as one.
    pub(crate) fn blocks(&self) -> usize {
        self.finished.saturating_sub(1)
    }

    /// The linears that an earlier run quantized, by block.
    pub(crate) fn earlier_blocks(&self) -> &[Step] {
        self.earlier.steps.get(1..).unwrap_or_default()
    }

    /// How often the run ended before it was done.
    pub(crate) fn interruptions(&self) -> u32 {
        self.earlier.interruptions
    }

    /// Seconds of the run, interruptions left out.
    pub(crate) fn seconds(&self) -> f64 {
        let before = self.earlier.steps.last().map_or(0.0, |step| step.seconds);
        before + self.started.elapsed().as_secs_f64()
    }

    /// What remains of a run of so many blocks if it ends now.
    pub(crate) fn remains(&self, of: usize) -> Remains {
        let folder = self.staging.beside().display().to_string();
        Remains { blocks: self.blocks(), of, folder }
    }

    /// Brings to disk what was written since the last step, and writes down that it is there.
    pub(crate) fn finish(
        &mut self,
        writer: &CheckpointWriter,
        adapter: Option<Piece>,
        layers: Vec<LayerReport>,
    ) -> Result<(), Error> {
        let sha256 = writer.flush()?;
        self.journal.add(&Line::Step(Step { layers, sha256, adapter, seconds: self.seconds() }))?;
        self.finished += 1;
        if self.blocks() > 0 {
            self.staging.keep();
        }
        Ok(())
    }

    /// Samples that were saved, and the blocks they have passed; none if they are not what was
    /// saved.
    pub(crate) fn saved_samples(&self) -> Result<Option<(usize, CheckpointWriter)>, Error> {
        let Some(saved) = &self.earlier.samples else { return Ok(None) };
        let opened =
            CheckpointWriter::resume(&self.folder(saved.blocks), &specs(&saved.shapes), u64::MAX);
        Ok(match opened {
            Ok(samples) if samples.adopt(&saved.sha256)? => Some((saved.blocks, samples)),
            _ => None,
        })
    }

    /// Saves samples that have passed the blocks so far, in place of those saved before. `put`
    /// writes matrices of these names and shapes.
    ///
    /// # Errors
    /// Those of writing, a full disk say; then those saved before stay.
    pub(crate) fn save_samples(
        &mut self,
        shapes: BTreeMap<String, [usize; 2]>,
        put: impl FnOnce(&CheckpointWriter) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let written = self.write_samples(shapes, put);
        let useless = match &written {
            Ok(_) => self.earlier.samples.as_ref().map(|old| old.blocks),
            Err(_) => Some(self.blocks()),
        };
        // What cannot be removed only takes room until the run is finished.
        let _ = useless.map(|blocks| fs::remove_dir_all(self.folder(blocks)));
        self.earlier.samples = Some(written?);
        Ok(())
    }

    fn write_samples(
        &mut self,
        shapes: BTreeMap<String, [usize; 2]>,
        put: impl FnOnce(&CheckpointWriter) -> Result<(), Error>,
    ) -> Result<SavedSamples, Error> {
        let blocks = self.blocks();
        let folder = self.folder(blocks);
        fs::create_dir_all(&folder).map_err(|e| Error::io("create", &folder, e))?;
        let writer = CheckpointWriter::create(&folder, &specs(&shapes), u64::MAX)?;
        put(&writer)?;
        let samples = SavedSamples { blocks, shapes, sha256: writer.flush()? };
        sync_folder(&folder)?;
        self.journal.add(&Line::Samples(samples.clone()))?;
        Ok(samples)
    }

    fn folder(&self, blocks: usize) -> PathBuf {
        self.staging.beside().join(format!("samples-{blocks:05}"))
    }
}

impl Earlier {
    /// What a journal tells of the same run; nothing if no block was finished.
    fn read(staging: &Staging, run: &Fingerprint) -> Result<Self, Error> {
        let mut earlier = Self::default();
        let mut differences = Vec::new();
        let lines = Journal::read(&staging.journal())?;
        if !matches!(lines.first(), Some(Line::Run(_))) {
            return Err(Error::file(
                &staging.journal(),
                "is damaged in its first line, so nobody can tell whose blocks these are; lose them \
                 with --restart, or write to another folder",
            ));
        }
        for line in lines {
            match line {
                Line::Run(other) => differences = other.differences(run),
                Line::Step(step) => earlier.steps.push(step),
                Line::Samples(samples) => earlier.samples = Some(samples),
                Line::Interrupted => earlier.interruptions += 1,
            }
        }
        if earlier.steps.len() < 2 {
            return Ok(Self::default());
        }
        refuse_other(staging, &differences)?;
        earlier.interruptions += 1;
        Ok(earlier)
    }

    /// The journal that tells this.
    fn lines(&self, run: &Fingerprint) -> Vec<Line> {
        let steps = self.steps.iter().cloned().map(Line::Step);
        let samples = self.samples.iter().cloned().map(Line::Samples);
        let interruptions = (0..self.interruptions).map(|_| Line::Interrupted);
        [Line::Run(run.clone())]
            .into_iter()
            .chain(steps)
            .chain(samples)
            .chain(interruptions)
            .collect()
    }
}

fn refuse_other(staging: &Staging, differences: &[String]) -> Result<(), Error> {
    if differences.is_empty() {
        return Ok(());
    }
    Err(Error::file(
        staging.beside(),
        format!(
            "holds an interrupted run that this one cannot go on with: {}; repeat its settings, \
             lose it with --restart, or write to another folder",
            differences.join("; ")
        ),
    ))
}

fn specs(shapes: &BTreeMap<String, [usize; 2]>) -> Vec<TensorSpec> {
    let spec = |(name, shape): (&String, &[usize; 2])| TensorSpec {
        name: name.clone(),
        dtype: Dtype::F32,
        shape: shape.to_vec(),
    };
    shapes.iter().map(spec).collect()
}
