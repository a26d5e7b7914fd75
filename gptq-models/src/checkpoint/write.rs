//! [`CheckpointWriter`]: names and shapes first, bytes as they come, final names last.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use fs4::FileExt;
use safetensors::{
    Dtype,
    tensor::{Metadata, TensorInfo},
};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::Error;

/// A tensor that will be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    fn nbytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

/// Writes `model*.safetensors` of known names and shapes in any order. Headers are written first,
/// so memory does not grow with the model; files carry a temporary name until they are whole.
#[derive(Debug)]
pub struct CheckpointWriter {
    dir: PathBuf,
    shards: Vec<Shard>,
    places: HashMap<String, Place>,
    /// SHA-256 of every tensor written so far, as hex.
    hashes: Mutex<BTreeMap<String, String>>,
}

#[derive(Debug)]
struct Shard {
    name: String,
    /// One position at a time.
    file: Mutex<File>,
}

#[derive(Debug)]
struct Place {
    shard: usize,
    offset: u64,
    length: usize,
}

/// What was written.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// File names in the folder, the index included.
    pub files: Vec<String>,
    /// SHA-256 of every tensor's bytes, as hex, by name.
    pub sha256: BTreeMap<String, String>,
    /// Bytes of all tensors.
    pub tensor_bytes: u64,
}

impl CheckpointWriter {
    /// Assigns tensors to shards of at most `max_shard_bytes` of tensor data, in the given order,
    /// and writes every header.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::File`] if two tensors share a name.
    pub fn create(dir: &Path, specs: &[TensorSpec], max_shard_bytes: u64) -> Result<Self, Error> {
        let groups = assign(specs, max_shard_bytes);
        let mut writer = Self {
            dir: dir.to_owned(),
            shards: Vec::with_capacity(groups.len()),
            places: HashMap::with_capacity(specs.len()),
            hashes: Mutex::default(),
        };
        let count = groups.len();
        for (i, group) in groups.into_iter().enumerate() {
            let name = match count {
                1 => "model.safetensors".to_owned(),
                _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
            };
            writer.open_shard(name, group)?;
        }
        Ok(writer)
    }

    fn open_shard(&mut self, name: String, mut specs: Vec<&TensorSpec>) -> Result<(), Error> {
        // Wide elements first, so that every tensor is aligned to its element.
        specs.sort_by_key(|spec| std::cmp::Reverse(spec.dtype.bitsize()));
        let path = self.partial(&name);
        let mut offset = 0;
        let mut infos = Vec::with_capacity(specs.len());
        for spec in &specs {
            let end = offset + spec.nbytes();
            let info = TensorInfo {
                dtype: spec.dtype,
                shape: spec.shape.clone(),
                data_offsets: (offset, end),
            };
            infos.push((spec.name.clone(), info));
            offset = end;
        }
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let metadata = Metadata::new(Some(metadata), infos)
            .map_err(|e| Error::file(&path, format!("cannot describe its tensors: {e}")))?;
        let mut header = serde_json::to_vec(&metadata)
            .map_err(|e| Error::file(&path, format!("cannot write its header: {e}")))?;
        // Data begins at a multiple of 8.
        header.resize(header.len().next_multiple_of(8), b' ');

        let mut options = File::options();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(|e| Error::io("create", &path, e))?;
        let data = 8 + header.len() as u64;
        file.write_all(&(header.len() as u64).to_le_bytes())
            .and_then(|()| file.write_all(&header))
            .and_then(|()| file.set_len(data + offset as u64))
            .map_err(|e| Error::io("write the header of", &path, e))?;
        reserve(&file, data + offset as u64, &path)?;

        let mut offset = data;
        for spec in specs {
            let place = Place { shard: self.shards.len(), offset, length: spec.nbytes() };
            offset += place.length as u64;
            if self.places.insert(spec.name.clone(), place).is_some() {
                return Err(Error::file(&path, format!("would hold {} twice", spec.name)));
            }
        }
        self.shards.push(Shard { name, file: Mutex::new(file) });
        Ok(())
    }

    /// Writes one tensor. Several threads may write different ones at a time; the files do not
    /// depend on the order.
    ///
    /// # Errors
    /// [`Error::Io`] (a full disk, say), [`Error::File`] if the tensor is not expected, not of that
    /// length, or already written.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let place = self.places.get(name).filter(|place| place.length == bytes.len());
        let Some(place) = place.filter(|_| !self.is_written(name)) else {
            return Err(Error::file(
                &self.dir,
                format!("tensor {name} of {} bytes is not the one announced", bytes.len()),
            ));
        };
        let shard = &self.shards[place.shard];
        let written = shard.at(place.offset, |file| file.write_all(bytes));
        written.map_err(|e| {
            Error::io(&format!("write tensor {name} to"), &self.partial(&shard.name), e)
        })?;
        let hash = hex(&Sha256::digest(bytes));
        lock(&self.hashes).insert(name.to_owned(), hash);
        Ok(())
    }

    fn is_written(&self, name: &str) -> bool {
        lock(&self.hashes).contains_key(name)
    }

    /// Reads a written tensor back from the file.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::File`] if it has not been written.
    pub fn read_back(&self, name: &str) -> Result<Vec<u8>, Error> {
        let place = self.places.get(name).filter(|_| self.is_written(name));
        let place = place.ok_or_else(|| {
            Error::file(&self.dir, format!("tensor {name} has not been written yet"))
        })?;
        let shard = &self.shards[place.shard];
        let mut bytes = vec![0; place.length];
        let read = shard.at(place.offset, |file| file.read_exact(&mut bytes));
        read.map_err(|e| Error::io("read back", &self.partial(&shard.name), e))?;
        Ok(bytes)
    }

    /// Gives the files their names, once every tensor is there and on disk, and writes the index if
    /// there are several.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::File`] naming a tensor that was announced and never written.
    pub fn finish(self) -> Result<Written, Error> {
        let hashes = std::mem::take(&mut *lock(&self.hashes));
        if let Some(missing) = self.places.keys().find(|name| !hashes.contains_key(*name)) {
            return Err(Error::file(&self.dir, format!("tensor {missing} was never written")));
        }
        let mut files: Vec<String> = self.shards.iter().map(|s| s.name.clone()).collect();
        for shard in &self.shards {
            let (partial, path) = (self.partial(&shard.name), self.dir.join(&shard.name));
            lock(&shard.file).sync_all().map_err(|e| Error::io("flush", &partial, e))?;
            fs::rename(&partial, &path).map_err(|e| Error::io("rename", &partial, e))?;
        }
        let tensor_bytes = self.places.values().map(|p| p.length as u64).sum::<u64>();
        if files.len() > 1 {
            let map: BTreeMap<&str, &str> = self
                .places
                .iter()
                .map(|(name, p)| (name.as_str(), self.shards[p.shard].name.as_str()))
                .collect();
            let index = json!({"metadata": {"total_size": tensor_bytes}, "weight_map": map});
            let name = "model.safetensors.index.json";
            write_json(&self.dir.join(name), &index)?;
            files.push(name.to_owned());
        }
        Ok(Written { files, sha256: hashes, tensor_bytes })
    }

    fn partial(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.partial"))
    }
}

impl Shard {
    fn at<T>(&self, offset: u64, act: impl FnOnce(&mut File) -> io::Result<T>) -> io::Result<T> {
        let mut file = lock(&self.file);
        file.seek(SeekFrom::Start(offset))?;
        act(&mut file)
    }
}

/// A thread that panicked while it wrote has ended the run; what it left is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A disk too small is found now and not after hours. File systems that cannot reserve are trusted.
pub(crate) fn reserve(file: &File, bytes: u64, path: &Path) -> Result<(), Error> {
    match file.allocate(bytes) {
        Err(e) if e.kind() == std::io::ErrorKind::StorageFull => {
            Err(Error::io(&format!("reserve {bytes} bytes for"), path, e))
        }
        _ => Ok(()),
    }
}

/// Fills one shard after the other; a tensor larger than a shard gets one of its own.
fn assign(specs: &[TensorSpec], max_shard_bytes: u64) -> Vec<Vec<&TensorSpec>> {
    let mut groups: Vec<Vec<&TensorSpec>> = vec![Vec::new()];
    let mut filled = 0;
    for spec in specs {
        let size = spec.nbytes() as u64;
        let current = groups.len() - 1;
        if !groups[current].is_empty() && filled + size > max_shard_bytes {
            groups.push(vec![spec]);
            filled = size;
        } else {
            groups[current].push(spec);
            filled += size;
        }
    }
    groups
}

/// Writes indented JSON with a final newline and flushes it to disk.
pub(crate) fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), Error> {
    write_text(path, &json_text(path, value)?)
}

/// Indented JSON with a final newline, meant for this file.
pub(crate) fn json_text(path: &Path, value: &impl serde::Serialize) -> Result<String, Error> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::file(path, format!("cannot be written as JSON: {e}")))?;
    Ok(text + "\n")
}

/// Writes a file and flushes it to disk.
pub(crate) fn write_text(path: &Path, text: &str) -> Result<(), Error> {
    let mut file = File::create(path).map_err(|e| Error::io("create", path, e))?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.map_err(|e| Error::io("write", path, e))
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
