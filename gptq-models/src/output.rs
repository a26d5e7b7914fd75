//! The folder a run leaves behind: packed layers proven on the way, everything else accounted for.

use std::{
    fs,
    path::{Path, PathBuf},
};

use gptq_core::{QuantConfig, QuantizedMatrix};
use serde_json::Value;

use crate::{
    Checkpoint, CheckpointWriter, Error, LayerReport, Ledger, MemoryReport, QuantizeOptions,
    Report, Staging,
    adapter::AdapterWriter,
    capsule::Capsules,
    checkpoint::write_json,
    graph::LinearPlace,
    memory::peak_bytes,
    plan::{Plan, speaks_gptq},
    proof::{Proven, encoded},
    quantized::pack_dtype,
    report::{Entry, Fate},
    resume::{Fingerprint, Steps},
    source,
    verify::{REPORT, hashes, seal},
};

/// An output folder being filled, step by step.
pub(crate) struct Output<'a> {
    pub(crate) steps: Steps,
    writer: CheckpointWriter,
    options: &'a QuantizeOptions,
    pub(crate) adapter: Option<AdapterWriter>,
    pub(crate) memory: MemoryReport,
    pub(crate) capsules: Capsules,
    /// Where the result will be.
    folder: PathBuf,
}

impl<'a> Output<'a> {
    /// Begins a run, or goes on with the same one if it was interrupted.
    pub(crate) fn create(
        out: &Path,
        checkpoint: &Checkpoint,
        run: Fingerprint,
        plan: &Plan,
        options: &'a QuantizeOptions,
    ) -> Result<Self, Error> {
        for name in &plan.dense {
            checkpoint.check_finite(name)?;
        }
        let staging = Staging::open(out)?;
        let mut adapter =
            options.eora.as_ref().map(|e| AdapterWriter::create(e, out)).transpose()?;
        let (dir, shard) = (staging.path().to_owned(), options.max_shard_bytes);
        // Anything but what the run had begun is begun again.
        let begun = CheckpointWriter::resume(&dir, &plan.outputs, shard).ok();
        let steps = Steps::begin(staging, run, options.restart, |staging, step| {
            let piece = match (&mut adapter, &step.adapter) {
                (Some(adapter), Some(piece)) => adapter.adopt(staging.beside(), piece)?,
                _ => true,
            };
            let whole = begun.as_ref().map(|begun| begun.adopt(&step.sha256)).transpose()?;
            Ok(piece && whole.unwrap_or(false))
        })?;
        let writer = match begun.filter(|_| steps.finished() > 0) {
            Some(begun) => begun,
            None => CheckpointWriter::create(&dir, &plan.outputs, shard)?,
        };
        let folder = out.parent().filter(|p| !p.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).into();
        let (memory, capsules) = (MemoryReport::default(), Capsules::beside(out));
        let mut output = Self { steps, writer, options, adapter, memory, capsules, folder };
        if output.steps.finished() == 0 {
            output.copy_tensors(checkpoint, plan)?;
            output.finish_step(&[])?;
        }
        Ok(output)
    }

    /// What no run changes.
    fn copy_tensors(&self, checkpoint: &Checkpoint, plan: &Plan) -> Result<(), Error> {
        for name in &plan.copies {
            let bytes = checkpoint.tensor(name)?.bytes;
            self.writer.put_pieces(name, bytes.len(), checkpoint.pieces(bytes))?;
        }
        for plain in &plan.plain {
            let values = match plain.bias {
                true => source::bias(checkpoint, &plain.place)?,
                false => Some(source::weight(checkpoint, &plain.place)?),
            };
            let values = values.unwrap_or_default();
            let values = values.as_slice().unwrap_or_default();
            self.writer.put(&plain.name(), &encoded(values, pack_dtype(plain.dtype)).0)?;
        }
        Ok(())
    }

    /// Finishes what is copied, a block, or the head: from here an interrupted run goes on.
    pub(crate) fn finish_step(&mut self, layers: &[LayerReport]) -> Result<(), Error> {
        let piece = |adapter: &mut AdapterWriter| {
            adapter.write_piece(self.steps.staging.beside(), self.steps.finished())
        };
        let piece = self.adapter.as_mut().map(piece).transpose()?;
        self.steps.finish(&self.writer, piece.flatten(), layers.to_vec())
    }

    /// A folder on the disk that the result goes to.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Packs a layer, writes it, reads the bytes back and unpacks them again: what is on disk is
    /// what was solved, integer by integer, or the run fails.
    pub(crate) fn write_layer(
        &mut self,
        place: &LinearPlace,
        config: &QuantConfig,
        quantized: &QuantizedMatrix,
    ) -> Result<(), Error> {
        let (format, spec) = (self.options.format, self.options.spec(place, config));
        let layer = Proven { name: &place.name, format, written_as: &spec, read_as: &spec };
        let failed = |source| Error::Packed { layer: place.name.clone(), source };
        layer.write(&self.writer, quantized, None, failed)
    }

    /// A layer that an earlier run has written.
    pub(crate) fn read_layer(
        &self,
        place: &LinearPlace,
        config: &QuantConfig,
    ) -> Result<QuantizedMatrix, Error> {
        let (format, spec) = (self.options.format, self.options.spec(place, config));
        let layer = Proven { name: &place.name, format, written_as: &spec, read_as: &spec };
        let failed = |source| Error::Packed { layer: place.name.clone(), source };
        Ok(layer.read(&self.writer, failed)?.0)
    }

    /// Writes configs, side files and the report, and gives the folder its name.
    pub(crate) fn finish(
        self,
        checkpoint: &Checkpoint,
        plan: Plan,
        layers: Vec<LayerReport>,
        options: &QuantizeOptions,
    ) -> Result<Report, Error> {
        let dir = self.steps.staging.path().to_owned();
        let written = self.writer.finish()?;
        let mut config = checkpoint.config().clone();
        if let Value::Object(config) = &mut config {
            config.insert("quantization_config".into(), plan.quantization.clone());
        }
        write_json(&dir.join("config.json"), &config)?;
        let beside = speaks_gptq(options.format);
        if beside {
            write_json(&dir.join("quantize_config.json"), &plan.quantization)?;
        }
        let adapter = match self.adapter {
            Some(adapter) => Some(adapter.finish(self.steps.staging.target(), &dir)?),
            None => None,
        };
        let ledger = Ledger { tensors: plan.tensors, files: copy_files(checkpoint, &dir, beside)? };
        let report = Report {
            adapter,
            tool: options.tool.clone(),
            settings: settings(&self.steps.run, &plan.quantization),
            calibration: options.calibration.clone(),
            layers,
            coverage: plan.coverage,
            notices: plan.notices,
            ledger,
            sha256: written.sha256,
            source_bytes: checkpoint.nbytes(),
            output_bytes: written.tensor_bytes,
            seconds: self.steps.seconds(),
            interruptions: self.steps.interruptions(),
            computed: options.computed.clone(),
            memory: MemoryReport { peak_bytes: peak_bytes(), ..self.memory },
            kept: self.steps.run.kept.clone(),
            source: self.steps.run.source.clone(),
            files: hashes::of_folder(&dir)?,
            seal: seal::OPEN.to_owned(),
        };
        seal::write(&dir.join(REPORT), &report)?;
        self.steps.staging.finish()?;
        Ok(report)
    }
}

/// The recipe, and the config that the result carries.
fn settings(run: &Fingerprint, quantization: &Value) -> Value {
    let mut settings = run.settings.clone();
    settings["quantization_config"] = quantization.clone();
    settings
}

/// Other renderings of the same weights, which the result must not carry along.
pub(crate) const WEIGHT_FILES: &[&str] = &[
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".gguf",
    ".h5",
    ".msgpack",
    ".ot",
    ".onnx",
    ".npz",
    ".ckpt",
    ".tflite",
];

/// Copies what is not weights and accounts for the rest.
fn copy_files(checkpoint: &Checkpoint, out: &Path, beside: bool) -> Result<Vec<Entry>, Error> {
    let source = checkpoint.dir();
    let mut names = Vec::new();
    for entry in fs::read_dir(source).map_err(|e| Error::io("list", source, e))? {
        names.push(entry.map_err(|e| Error::io("list", source, e))?.file_name());
    }
    names.sort_unstable();
    let weights: Vec<&Path> = checkpoint.weight_files().collect();
    let mut ledger = Vec::with_capacity(names.len());
    for name in names {
        let (from, to) = (source.join(&name), out.join(&name));
        let name = name.to_string_lossy().into_owned();
        let entry = |fate, reason| Entry::new(name.clone(), fate, reason);
        ledger.push(if name == "config.json" {
            entry(Fate::Rewritten, Some("carries quantization_config now"))
        } else if name == "quantize_config.json" && !beside {
            entry(Fate::Dropped, Some("config.json says how the result is stored"))
        } else if name == "quantize_config.json" || name == REPORT {
            entry(Fate::Rewritten, Some("describes the result now"))
        } else if weights.contains(&from.as_path()) {
            entry(Fate::Rewritten, Some("its tensors are accounted for one by one"))
        } else if name.ends_with(".safetensors.index.json") {
            entry(Fate::Dropped, Some("the result has an index of its own, if it needs one"))
        } else if is_no_file(&from)? {
            entry(Fate::Dropped, Some("no file; only files belong to the model"))
        } else if WEIGHT_FILES.iter().any(|suffix| name.to_lowercase().ends_with(suffix)) {
            entry(Fate::Dropped, Some("weights in a file the model is not read from"))
        } else {
            copy(&from, &to).map_err(|e| Error::io("copy", &from, e))?;
            entry(Fate::Copied, None)
        });
    }
    Ok(ledger)
}

/// Whether this is a folder, a pipe or a device. Links count as what they lead to, and one that leads
/// nowhere is an error: what it stood for may be needed.
pub(crate) fn is_no_file(path: &Path) -> Result<bool, Error> {
    Ok(!fs::metadata(path).map_err(|e| Error::io("read", path, e))?.is_file())
}

/// Contents without permissions: a read-only source must not make a result nobody can edit.
pub(crate) fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    let mut target = fs::File::create(to)?;
    std::io::copy(&mut fs::File::open(from)?, &mut target)?;
    target.sync_all()
}
