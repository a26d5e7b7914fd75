//! [`Checkpoint`]: a model folder whose tensors are mapped, not loaded.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
};

use memmap2::Mmap;
use ndarray::Array2;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use super::TensorView;
use crate::Error;

/// A model folder: `config.json` and `*.safetensors`, single or sharded.
///
/// Opening maps the files and checks every header: ranges tile the file exactly, shapes match
/// their bytes, the index and the shards agree. Tensors are read only when asked for.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    config: Value,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, Entry>,
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
        let (files, weight_map) = weight_files(dir)?;
        let mut checkpoint = Self {
            dir: dir.to_owned(),
            config,
            shards: Vec::with_capacity(files.len()),
            tensors: BTreeMap::new(),
        };
        for file in files {
            checkpoint.map_shard(&dir.join(file))?;
        }
        for (name, file) in &weight_map {
            let found = checkpoint.tensors.get(name).map(|e| &checkpoint.shards[e.shard].path);
            if found != Some(&dir.join(file)) {
                return Err(Error::file(
                    &dir.join(INDEX),
                    format!("places tensor {name} in {file}, but it is not there"),
                ));
            }
        }
        Ok(checkpoint)
    }

    fn map_shard(&mut self, path: &Path) -> Result<(), Error> {
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
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

const INDEX: &str = "model.safetensors.index.json";

/// The files to read, and the index's claims about which tensor lies where.
fn weight_files(dir: &Path) -> Result<(Vec<String>, BTreeMap<String, String>), Error> {
    let index = dir.join(INDEX);
    if index.is_file() {
        let map = read_weight_map(&index)?;
        let mut files: Vec<String> = map.values().cloned().collect();
        files.sort_unstable();
        files.dedup();
        return Ok((files, map));
    }
    if dir.join("model.safetensors").is_file() {
        return Ok((vec!["model.safetensors".into()], BTreeMap::new()));
    }
    let mut files: Vec<String> = list(dir)?;
    files.retain(|name| name.ends_with(".safetensors"));
    match files.len() {
        1 => Ok((files, BTreeMap::new())),
        0 => Err(Error::file(
            dir,
            "holds no model.safetensors and no model.safetensors.index.json; other weight formats \
             (.bin, .pth, .gguf) must be converted to safetensors first",
        )),
        n => Err(Error::file(
            dir,
            format!("holds {n} .safetensors files but no {INDEX} that says which belong together"),
        )),
    }
}

fn read_weight_map(index: &Path) -> Result<BTreeMap<String, String>, Error> {
    let json = read_json(index)?;
    let map = json.get("weight_map").and_then(Value::as_object).filter(|map| !map.is_empty());
    let map = map.ok_or_else(|| Error::file(index, "has no weight_map with entries"))?;
    let mut out = BTreeMap::new();
    for (tensor, file) in map {
        let name = file.as_str().filter(|name| is_plain_file_name(name)).ok_or_else(|| {
            Error::file(
                index,
                format!("places tensor {tensor} in {file}, which is not a file of this folder"),
            )
        })?;
        out.insert(tensor.clone(), name.to_owned());
    }
    Ok(out)
}

/// No path may lead out of the folder.
fn is_plain_file_name(name: &str) -> bool {
    Path::new(name).file_name().is_some_and(|f| f == name) && !name.contains(['/', '\\'])
}

fn list(dir: &Path) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| Error::io("list", dir, e))? {
        let entry = entry.map_err(|e| Error::io("list", dir, e))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

/// Reads a JSON file of bounded size.
pub(crate) fn read_json(path: &Path) -> Result<Value, Error> {
    const LARGEST: u64 = 256 << 20;
    let size = fs::metadata(path).map_err(|e| Error::io("read", path, e))?.len();
    if size > LARGEST {
        return Err(Error::file(path, format!("has {size} bytes, more than any JSON file here")));
    }
    let text = fs::read(path).map_err(|e| Error::io("read", path, e))?;
    serde_json::from_slice(&text).map_err(|e| Error::file(path, format!("is not JSON: {e}")))
}
