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
    pub(crate) fn nbytes(&self) -> usize {
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
    hashes: Mutex<Hashes>,
}

/// SHA-256 of tensors as hex, by name.
#[derive(Debug, Default)]
struct Hashes {
    /// Of every tensor written so far.
    all: BTreeMap<String, String>,
    /// Of those that may not be on disk yet.
    fresh: BTreeMap<String, String>,
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
    shape: Vec<usize>,
}

/// One file: what stands in front, and where tensors go.
struct Layout<'a> {
    /// With the eight bytes that tell its length.
    header: Vec<u8>,
    /// With their offsets in the file.
    tensors: Vec<(&'a TensorSpec, u64)>,
    /// Of the whole file.
    length: u64,
}

impl<'a> Layout<'a> {
    fn of(mut specs: Vec<&'a TensorSpec>, path: &Path) -> Result<Self, Error> {
        // Wide elements first, so that every tensor is aligned to its element.
        specs.sort_by_key(|spec| std::cmp::Reverse(spec.dtype.bitsize()));
        let mut end = 0;
        let mut ranges = Vec::with_capacity(specs.len());
        for spec in &specs {
            ranges.push((end, end + spec.nbytes()));
            end += spec.nbytes();
        }
        let info = |(spec, &data_offsets): (&&TensorSpec, &(usize, usize))| {
            let info = TensorInfo { dtype: spec.dtype, shape: spec.shape.clone(), data_offsets };
            (spec.name.clone(), info)
        };
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let metadata = Metadata::new(Some(metadata), specs.iter().zip(&ranges).map(info).collect())
            .map_err(|e| Error::file(path, format!("cannot describe its tensors: {e}")))?;
        let mut json = serde_json::to_vec(&metadata)
            .map_err(|e| Error::file(path, format!("cannot write its header: {e}")))?;
        // Data begins at a multiple of 8.
        json.resize(json.len().next_multiple_of(8), b' ');
        let header = [&(json.len() as u64).to_le_bytes(), &json[..]].concat();
        let data = header.len() as u64;
        let offsets = ranges.iter().map(|(start, _)| data + *start as u64);
        Ok(Self {
            tensors: specs.into_iter().zip(offsets).collect(),
            header,
            length: data + end as u64,
        })
    }
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
        Self::with_shards(dir, specs, max_shard_bytes, |writer, name, layout| {
            let path = writer.partial(name);
            let mut options = File::options();
            let file = options.read(true).write(true).create(true).truncate(true).open(&path);
            let mut file = file.map_err(|e| Error::io("create", &path, e))?;
            file.write_all(&layout.header)
                .and_then(|()| file.set_len(layout.length))
                .map_err(|e| Error::io("write the header of", &path, e))?;
            reserve(&file, layout.length, &path)?;
            Ok(file)
        })
    }

    /// Goes on with what a writer of the same tensors left, whole or not. Nothing of it counts as
    /// written until it is [adopted](Self::adopt).
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] if a file is not what such a writer makes.
    pub(crate) fn resume(
        dir: &Path,
        specs: &[TensorSpec],
        max_shard_bytes: u64,
    ) -> Result<Self, Error> {
        Self::with_shards(dir, specs, max_shard_bytes, |writer, name, layout| {
            let (partial, whole) = (writer.partial(name), dir.join(name));
            if !partial.exists() && whole.exists() {
                fs::rename(&whole, &partial).map_err(|e| Error::io("rename", &whole, e))?;
            }
            let file = File::options().read(true).write(true).open(&partial);
            let mut file = file.map_err(|e| Error::io("open", &partial, e))?;
            let mut header = vec![0; layout.header.len()];
            let size = file.metadata().map_err(|e| Error::io("read", &partial, e))?.len();
            let read = if size == layout.length { file.read_exact(&mut header) } else { Ok(()) };
            read.map_err(|e| Error::io("read", &partial, e))?;
            match header == layout.header {
                true => Ok(file),
                false => Err(Error::file(&partial, "is not what the interrupted run had begun")),
            }
        })
    }

    fn with_shards(
        dir: &Path,
        specs: &[TensorSpec],
        max_shard_bytes: u64,
        open: impl Fn(&Self, &str, &Layout<'_>) -> Result<File, Error>,
    ) -> Result<Self, Error> {
        let groups = assign(specs, max_shard_bytes);
        let mut writer = Self {
            dir: dir.to_owned(),
            shards: Vec::with_capacity(groups.len()),
            places: HashMap::with_capacity(specs.len()),
            hashes: Mutex::default(),
        };
        let count = groups.len();
        for (shard, group) in groups.into_iter().enumerate() {
            let name = match count {
                1 => "model.safetensors".to_owned(),
                _ => format!("model-{:05}-of-{count:05}.safetensors", shard + 1),
            };
            let path = writer.partial(&name);
            let layout = Layout::of(group, &path)?;
            let file = Mutex::new(open(&writer, &name, &layout)?);
            for (spec, offset) in layout.tensors {
                let (length, shape) = (spec.nbytes(), spec.shape.clone());
                let place = Place { shard, offset, length, shape };
                if writer.places.insert(spec.name.clone(), place).is_some() {
                    return Err(Error::file(&path, format!("would hold {} twice", spec.name)));
                }
            }
            writer.shards.push(Shard { name, file });
        }
        Ok(writer)
    }

    /// Writes one tensor. Several threads may write different ones at a time; the files do not
    /// depend on the order.
    ///
    /// # Errors
    /// [`Error::Io`] (a full disk, say), [`Error::File`] if the tensor is not expected, not of that
    /// length, or already written.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.put_pieces(name, bytes.len(), std::iter::once(bytes))
    }

    /// The same, of pieces that together have this length.
    pub(crate) fn put_pieces<'b>(
        &self,
        name: &str,
        length: usize,
        pieces: impl Iterator<Item = &'b [u8]>,
    ) -> Result<(), Error> {
        let place = self.places.get(name).filter(|place| place.length == length);
        let Some(place) = place.filter(|_| !self.is_written(name)) else {
            return Err(Error::file(
                &self.dir,
                format!("tensor {name} of {length} bytes is not the one announced"),
            ));
        };
        let shard = &self.shards[place.shard];
        let (mut offset, mut hasher) = (place.offset, Sha256::new());
        for piece in pieces {
            shard.at(offset, |file| file.write_all(piece)).map_err(|e| {
                Error::io(&format!("write tensor {name} to"), &self.partial(&shard.name), e)
            })?;
            hasher.update(piece);
            offset += piece.len() as u64;
        }
        let hash = hex(&hasher.finalize());
        let mut hashes = lock(&self.hashes);
        hashes.fresh.insert(name.to_owned(), hash.clone());
        hashes.all.insert(name.to_owned(), hash);
        Ok(())
    }

    /// Brings everything to disk. Returns the hashes of what was written since the last time.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn flush(&self) -> Result<BTreeMap<String, String>, Error> {
        for shard in &self.shards {
            let synced = lock(&shard.file).sync_data();
            synced.map_err(|e| Error::io("flush", &self.partial(&shard.name), e))?;
        }
        Ok(std::mem::take(&mut lock(&self.hashes).fresh))
    }

    /// Takes tensors of an earlier writer for written, if each still has its hash. Cost: they are
    /// read and hashed.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn adopt(&self, hashes: &BTreeMap<String, String>) -> Result<bool, Error> {
        for (name, hash) in hashes {
            let Some(place) = self.places.get(name) else { return Ok(false) };
            if hex(&Sha256::digest(self.read(place)?)) != *hash {
                return Ok(false);
            }
        }
        lock(&self.hashes).all.extend(hashes.clone());
        Ok(true)
    }

    fn is_written(&self, name: &str) -> bool {
        lock(&self.hashes).all.contains_key(name)
    }

    /// The dimensions of a tensor that was announced.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.places.get(name).map(|place| &place.shape[..])
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
        self.read(place)
    }

    fn read(&self, place: &Place) -> Result<Vec<u8>, Error> {
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
        let hashes = std::mem::take(&mut lock(&self.hashes).all);
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
