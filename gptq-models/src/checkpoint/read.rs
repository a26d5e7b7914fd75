//! [`Checkpoint`]: a model folder whose tensors are mapped, not loaded.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use memmap2::Mmap;
use ndarray::Array2;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

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

/// One tensor as it lies in its file.
#[derive(Clone, Debug)]
pub struct TensorView<'a> {
    /// Its name.
    pub name: &'a str,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first.
    pub shape: &'a [usize],
    /// Little-endian elements, row-major.
    pub bytes: &'a [u8],
    /// The file it comes from.
    pub file: &'a Path,
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

impl TensorView<'_> {
    fn check_shape(&self, expected: &[usize]) -> Result<(), Error> {
        if self.shape == expected {
            return Ok(());
        }
        Err(Error::Shape {
            file: self.file.display().to_string(),
            tensor: self.name.to_owned(),
            found: self.shape.to_vec(),
            expected: expected.to_vec(),
        })
    }

    fn check_floats(&self) -> Result<(), Error> {
        if matches!(self.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            return Ok(());
        }
        Err(Error::Dtype {
            file: self.file.display().to_string(),
            tensor: self.name.to_owned(),
            found: format!("{:?}", self.dtype),
            expected: "F32, F16 or BF16",
        })
    }

    /// All elements as f32; nothing if they are not floats.
    fn floats(&self) -> Box<dyn Iterator<Item = f32> + '_> {
        // Chunks rather than casts: nothing promises that a tensor is aligned in its file.
        let halves = self.bytes.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b));
        match self.dtype {
            Dtype::F32 => {
                Box::new(self.bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)))
            }
            Dtype::F16 => Box::new(halves.map(|h| f16::from_bits(h).to_f32())),
            Dtype::BF16 => Box::new(halves.map(|h| bf16::from_bits(h).to_f32())),
            _ => Box::new(std::iter::empty()),
        }
    }

    /// Refuses the first NaN or infinity.
    ///
    /// # Errors
    /// [`Error::NotFinite`].
    pub(crate) fn check_finite(&self) -> Result<(), Error> {
        let columns = self.shape.last().copied().unwrap_or(1).max(1);
        match self.floats().enumerate().find(|(_, v)| !v.is_finite()) {
            None => Ok(()),
            Some((index, value)) => Err(Error::NotFinite {
                file: self.file.display().to_string(),
                tensor: self.name.to_owned(),
                value,
                row: index / columns,
                column: index % columns,
            }),
        }
    }

    fn to_matrix(&self, rows: usize, columns: usize) -> Result<Array2<f32>, Error> {
        self.check_finite()?;
        Array2::from_shape_vec((rows, columns), self.floats().collect())
            .map_err(|e| Error::file(self.file, format!("tensor {}: {e}", self.name)))
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
