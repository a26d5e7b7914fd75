//! [`Checkpoint`]: a model folder whose tensors are mapped, not loaded.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use gptq_pack::ZeroPointFormat;
use memmap2::Mmap;
use ndarray::Array2;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use super::{TensorView, file, weight_files::weight_files};
use crate::Error;

/// Bytes of a tensor that are read at a time where it is not wanted whole.
const PIECE: usize = 16 << 20;

/// A model folder: `config.json` and `*.safetensors`, single or sharded, under the names of
/// transformers or of AutoGPTQ.
///
/// Opening maps the files and checks every header: ranges tile the file exactly, shapes match
/// their bytes, the index and the shards agree. Tensors are read only when asked for.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    config: Value,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, Entry>,
    zero_points: Option<ZeroPointFormat>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    map: Mmap,
}

#[derive(Debug)]
struct Entry {
    shard: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    range: std::ops::Range<usize>,
}

impl Checkpoint {
    /// Opens a model folder.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::File`] naming the file and the rule it breaks.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        if !dir.is_dir() {
            return Err(Error::file(
                dir,
                "is not a folder; give a folder in Hugging Face layout, with config.json and \
                 *.safetensors",
            ));
        }
        let config = read_json(&dir.join("config.json"))?;
        let found = weight_files(dir, &config)?;
        let mut checkpoint = Self {
            dir: dir.to_owned(),
            config,
            shards: Vec::with_capacity(found.files.len()),
            tensors: BTreeMap::new(),
            zero_points: None,
        };
        for file in found.files {
            checkpoint.map_shard(&dir.join(file))?;
        }
        if let Some((index, weight_map)) = found.index {
            for (name, file) in &weight_map {
                let found = checkpoint.tensors.get(name).map(|e| &checkpoint.shards[e.shard].path);
                if found != Some(&dir.join(file)) {
                    let message = format!("places tensor {name} in {file}, but it is not there");
                    return Err(Error::file(&index, message));
                }
            }
        }
        Ok(checkpoint)
    }

    /// Gives the memory of what was read back to the system; read again, it comes from the file.
    pub(crate) fn release(&self) {
        #[cfg(unix)]
        for shard in &self.shards {
            #[allow(unsafe_code, reason = "pages of a map count as memory until they are dropped")]
            // SAFETY: the map is read-only and backed by its file, which dropped pages are read
            // from again.
            let dropped = unsafe { shard.map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
            // Pages that stay are only memory.
            drop(dropped);
        }
    }

    /// A tensor's bytes, some at a time; what was read of them is given back.
    pub(crate) fn pieces<'a>(&'a self, bytes: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        bytes.chunks(PIECE).inspect(|_| self.release())
    }

    /// Refuses the first NaN or infinity of a tensor.
    ///
    /// # Errors
    /// [`Error::NotFinite`], [`Error::MissingTensor`].
    pub(crate) fn check_finite(&self, name: &str) -> Result<(), Error> {
        let tensor = self.tensor(name)?;
        let finite = |bytes| TensorView { bytes, ..tensor.clone() }.all_finite();
        let all = self.pieces(tensor.bytes).all(finite);
        self.release();
        if all { Ok(()) } else { tensor.check_finite() }
    }

    fn map_shard(&mut self, path: &Path) -> Result<(), Error> {
        let file = file::open("open", path)?;
        #[allow(unsafe_code, reason = "a map is how checkpoints larger than memory are read")]
        // SAFETY: the map is read-only and private to this process. If another process truncates
        // the file meanwhile, reading faults; a checkpoint in use must not be changed.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("map", path, e))?;
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| {
            let size = map.len();
            Error::file(
                path,
                format!("is not a whole safetensors file ({size} bytes: {e}); fetch it again"),
            )
        })?;
        let data = 8 + header;
        for (name, info) in metadata.tensors() {
            let entry = Entry {
                shard: self.shards.len(),
                dtype: info.dtype,
                shape: info.shape.clone(),
                range: data + info.data_offsets.0..data + info.data_offsets.1,
            };
            if let Some(other) = self.tensors.insert(name.clone(), entry) {
                let first = self.shards[other.shard].path.display().to_string();
                return Err(Error::file(path, format!("holds tensor {name}, as does {first}")));
            }
        }
        self.shards.push(Shard { path: path.to_owned(), map });
        Ok(())
    }

    /// The same folder, its zero points read by this convention whatever `checkpoint_format` says:
    /// for files under a wrong name. `None` believes the file as long as its data agree.
    #[must_use]
    pub fn with_zero_points(mut self, convention: Option<ZeroPointFormat>) -> Self {
        self.zero_points = convention;
        self
    }

    /// The convention that [`with_zero_points`](Self::with_zero_points) chose.
    pub fn zero_points(&self) -> Option<ZeroPointFormat> {
        self.zero_points
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The parsed `config.json`.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// The path of `config.json`, for messages.
    pub fn config_file(&self) -> String {
        self.dir.join("config.json").display().to_string()
    }

    /// Every tensor, by name.
    pub fn tensors(&self) -> impl Iterator<Item = TensorView<'_>> {
        self.tensors.iter().map(|(name, entry)| self.view(name, entry))
    }

    /// One tensor, or none of that name.
    pub fn get(&self, name: &str) -> Option<TensorView<'_>> {
        self.tensors.get_key_value(name).map(|(name, entry)| self.view(name, entry))
    }

    /// One tensor.
    ///
    /// # Errors
    /// [`Error::MissingTensor`].
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>, Error> {
        self.get(name).ok_or_else(|| Error::MissingTensor {
            folder: self.dir.display().to_string(),
            tensor: name.to_owned(),
            found: self.tensors.len(),
        })
    }

    fn view<'a>(&'a self, name: &'a str, entry: &'a Entry) -> TensorView<'a> {
        let shard = &self.shards[entry.shard];
        TensorView {
            name,
            dtype: entry.dtype,
            shape: &entry.shape,
            bytes: &shard.map[entry.range.clone()],
            file: &shard.path,
        }
    }

    /// A weight matrix of known shape, as f32.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::Shape`], [`Error::Dtype`], [`Error::NotFinite`].
    pub fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Array2<f32>, Error> {
        self.check(name, &[rows, columns])?;
        self.tensor(name)?.to_matrix(rows, columns)
    }

    /// Proves from the header alone that a tensor is there, has this shape and holds floats.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::Shape`], [`Error::Dtype`].
    pub fn check(&self, name: &str, shape: &[usize]) -> Result<(), Error> {
        let view = self.tensor(name)?;
        view.check_shape(shape)?;
        view.check_floats()
    }

    /// A vector of known length, as f32, as a matrix of one row.
    ///
    /// # Errors
    /// As [`Checkpoint::matrix`].
    pub fn row(&self, name: &str, length: usize) -> Result<Array2<f32>, Error> {
        self.check(name, &[length])?;
        self.tensor(name)?.to_matrix(1, length)
    }

    /// Bytes of all tensors.
    pub fn nbytes(&self) -> u64 {
        self.tensors.values().map(|e| e.range.len() as u64).sum()
    }

    /// The weight files, in the order they were read.
    pub fn weight_files(&self) -> impl Iterator<Item = &Path> {
        self.shards.iter().map(|s| s.path.as_path())
    }
}

/// Reads a JSON file of bounded size.
pub(crate) fn read_json(path: &Path) -> Result<Value, Error> {
    let text = file::read_text(path)?;
    if text.starts_with("\u{feff}".as_bytes()) {
        return Err(Error::file(path, "begins with a byte order mark; save it as plain UTF-8"));
    }
    serde_json::from_slice(&text).map_err(|e| Error::file(path, format!("is not JSON: {e}")))
}
