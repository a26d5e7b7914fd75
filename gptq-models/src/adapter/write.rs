//! Writing an adapter: matrices are collected while linears are quantized, and written at the end.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use gptq_core::LowRank;
use ndarray::Array2;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{A, B, CONFIG, EoraOptions, PREFIX, WEIGHTS};
use crate::{
    AdapterReport, Error, Staging,
    checkpoint::{hex, write_json},
    resume::Piece,
};

/// An adapter in the making.
pub(crate) struct AdapterWriter {
    rank: usize,
    /// Where it will be, for the report.
    target: PathBuf,
    place: Place,
    modules: BTreeMap<String, LowRank>,
    /// Those that no piece holds yet.
    fresh: BTreeMap<String, LowRank>,
}

/// Where to write until the run is whole.
enum Place {
    /// Below the output folder: whole when that is.
    Inside(PathBuf),
    /// A folder of its own.
    Apart(Staging),
}

impl AdapterWriter {
    /// # Errors
    /// [`Error::OutputExists`] if a folder of its own is taken.
    pub(crate) fn create(options: &EoraOptions, out: &Path) -> Result<Self, Error> {
        let target = options.out.clone().unwrap_or_else(|| out.join("eora"));
        let place = match target.strip_prefix(out) {
            Ok(inside) if inside.as_os_str().is_empty() => {
                return Err(Error::file(
                    &target,
                    "is the output folder itself; give the adapter one of its own",
                ));
            }
            Ok(inside) => Place::Inside(inside.to_owned()),
            Err(_) => Place::Apart(Staging::create(&target)?),
        };
        let (modules, fresh) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { rank: options.rank, target, place, modules, fresh })
    }

    pub(crate) fn rank(&self) -> usize {
        self.rank
    }

    pub(crate) fn add(&mut self, linear: &str, low_rank: LowRank) {
        self.fresh.insert(linear.to_owned(), low_rank);
    }

    /// Writes what was added since the last piece into the folder of an unfinished run.
    pub(crate) fn write_piece(&mut self, dir: &Path, step: usize) -> Result<Option<Piece>, Error> {
        if self.fresh.is_empty() {
            return Ok(None);
        }
        let file = format!("adapter-{step:05}");
        let path = dir.join(&file);
        write_tensors(&path, &self.fresh)?;
        self.modules.append(&mut self.fresh);
        let written = fs::read(&path).map_err(|e| Error::io("read back", &path, e))?;
        Ok(Some(Piece { file, sha256: hex(&Sha256::digest(written)) }))
    }

    /// Takes over a piece of an earlier run, if it still is what that run wrote.
    pub(crate) fn adopt(&mut self, dir: &Path, piece: &Piece) -> Result<bool, Error> {
        let path = dir.join(&piece.file);
        let bytes = fs::read(&path).unwrap_or_default();
        if hex(&Sha256::digest(&bytes)) != piece.sha256 {
            return Ok(false);
        }
        let failed = |e| Error::file(&path, format!("is not a whole safetensors file: {e}"));
        let tensors = SafeTensors::deserialize(&bytes).map_err(failed)?;
        let matrix = |name: String| {
            let tensor = tensors.tensor(&name).map_err(failed)?;
            let values = bytemuck::pod_collect_to_vec(tensor.data());
            let shape = [tensor.shape().first(), tensor.shape().get(1)].map(|n| *n.unwrap_or(&0));
            Array2::from_shape_vec(shape, values).map_err(|e| Error::file(&path, e.to_string()))
        };
        for name in tensors.names() {
            let Some(linear) = name.strip_prefix(PREFIX).and_then(|name| name.strip_suffix(A))
            else {
                continue;
            };
            let a = matrix(name.to_owned())?;
            let b = matrix(format!("{PREFIX}{linear}{B}"))?;
            self.modules.insert(linear.to_owned(), LowRank { a, b });
        }
        Ok(true)
    }

    /// Writes the adapter of the model that will be at `out` and is still at `staged`. Numbers are
    /// F32: halves would lose what small corrections are made of.
    pub(crate) fn finish(mut self, out: &Path, staged: &Path) -> Result<AdapterReport, Error> {
        self.modules.append(&mut self.fresh);
        let dir = match &self.place {
            Place::Inside(inside) => staged.join(inside),
            Place::Apart(staging) => staging.path().to_owned(),
        };
        fs::create_dir_all(&dir).map_err(|e| Error::io("create", &dir, e))?;
        let bytes = write_tensors(&dir.join(WEIGHTS), &self.modules)?;
        write_json(&dir.join(CONFIG), &self.config(out))?;
        if let Place::Apart(staging) = self.place {
            staging.finish()?;
        }
        Ok(AdapterReport {
            path: self.target.display().to_string(),
            rank: self.rank,
            modules: self.modules.len(),
            bytes,
        })
    }

    /// As PEFT writes it. `lora_alpha` is the rank everywhere, so that nothing is scaled.
    fn config(&self, out: &Path) -> Value {
        let leaf = |name: &String| name.rsplit('.').next().map(str::to_owned);
        let leaves: BTreeSet<String> = self.modules.keys().filter_map(leaf).collect();
        let ranks = self.modules.iter().map(|(name, m)| (name, m.a.nrows()));
        let smaller: BTreeMap<&String, usize> =
            ranks.filter(|&(_, rank)| rank != self.rank).collect();
        json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": out.display().to_string(),
            "inference_mode": true,
            "r": self.rank,
            "lora_alpha": self.rank,
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": false,
            "modules_to_save": null,
            "target_modules": leaves,
            "rank_pattern": smaller,
            "alpha_pattern": smaller,
        })
    }
}

/// Returns the bytes of all tensors.
fn write_tensors(path: &Path, modules: &BTreeMap<String, LowRank>) -> Result<u64, Error> {
    let mut tensors: Vec<(String, &Array2<f32>, Vec<u8>)> = Vec::new();
    for (name, module) in modules {
        for (suffix, matrix) in [(A, &module.a), (B, &module.b)] {
            let bytes = matrix.iter().flat_map(|x| x.to_le_bytes()).collect();
            tensors.push((format!("{PREFIX}{name}{suffix}"), matrix, bytes));
        }
    }
    let failed = |e| Error::file(path, format!("cannot describe its tensors: {e}"));
    let mut views = Vec::with_capacity(tensors.len());
    for (name, matrix, bytes) in &tensors {
        let view = TensorView::new(Dtype::F32, matrix.shape().to_vec(), bytes).map_err(failed)?;
        views.push((name, view));
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let file = safetensors::serialize(views, Some(metadata)).map_err(failed)?;
    File::create(path)
        .and_then(|mut out| out.write_all(&file).and_then(|()| out.sync_all()))
        .map_err(|e| Error::io("write", path, e))?;
    Ok(tensors.iter().map(|(_, _, bytes)| bytes.len() as u64).sum())
}
