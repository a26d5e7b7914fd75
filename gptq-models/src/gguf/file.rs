//! The container: key-value pairs and tensor headers first, then aligned data.
//!
//! ```text
//! "GGUF" │ version u32 │ tensors u64 │ pairs u64 │ pairs │ tensor headers │ pad │ data, each padded
//! ```
//!
//! Strings are a length (u64) and UTF-8; dimensions are stored innermost first; offsets count from
//! the beginning of the data. Everything is little-endian.

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use gptq_pack::gguf::BlockType;
use safetensors::Dtype;

use crate::{
    Error,
    checkpoint::{reserve, sync_folder},
};

const MAGIC: &[u8; 4] = b"GGUF";
const VERSION: u32 = 3;
/// What readers assume if nothing else is said.
const ALIGNMENT: u64 = 32;

/// A value of a key.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    Texts(Vec<String>),
}

impl Value {
    fn store(&self, out: &mut Vec<u8>) {
        let array = |item: u32, length: usize, out: &mut Vec<u8>| {
            out.extend(9u32.to_le_bytes());
            out.extend(item.to_le_bytes());
            out.extend((length as u64).to_le_bytes());
        };
        match self {
            Value::U32(v) => out.extend([4u32.to_le_bytes(), v.to_le_bytes()].concat()),
            Value::F32(v) => out.extend([6u32.to_le_bytes(), v.to_le_bytes()].concat()),
            Value::Bool(v) => out.extend([&7u32.to_le_bytes()[..], &[u8::from(*v)]].concat()),
            Value::Text(v) => {
                out.extend(8u32.to_le_bytes());
                store_text(v, out);
            }
            Value::I32s(list) => {
                array(5, list.len(), out);
                out.extend(list.iter().flat_map(|v| v.to_le_bytes()));
            }
            Value::F32s(list) => {
                array(6, list.len(), out);
                out.extend(list.iter().flat_map(|v| v.to_le_bytes()));
            }
            Value::Texts(list) => {
                array(8, list.len(), out);
                list.iter().for_each(|v| store_text(v, out));
            }
        }
    }
}

fn store_text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// What the elements of a tensor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TensorType {
    F32,
    F16,
    BF16,
    Blocks(BlockType),
}

impl TensorType {
    /// The type that keeps a checkpoint's floats as they are.
    pub(super) fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::BF16 => Some(Self::BF16),
            _ => None,
        }
    }

    /// Its number in a tensor header.
    fn code(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Blocks(BlockType::Q4_0) => 2,
            Self::Blocks(BlockType::Q4_1) => 3,
            Self::Blocks(BlockType::Q5_0) => 6,
            Self::Blocks(BlockType::Q8_0) => 8,
            Self::BF16 => 30,
        }
    }

    /// The `general.file_type` of files that are mostly of this type.
    pub(super) fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Blocks(BlockType::Q4_0) => 2,
            Self::Blocks(BlockType::Q4_1) => 3,
            Self::Blocks(BlockType::Q8_0) => 7,
            Self::Blocks(BlockType::Q5_0) => 8,
            Self::BF16 => 32,
        }
    }

    fn row_bytes(self, columns: usize) -> u64 {
        match self {
            Self::F32 => 4 * columns as u64,
            Self::F16 | Self::BF16 => 2 * columns as u64,
            Self::Blocks(ty) => ty.row_bytes(columns) as u64,
        }
    }
}

impl std::fmt::Display for TensorType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Blocks(ty) => ty.fmt(f),
            float => write!(f, "{float:?}"),
        }
    }
}

/// A tensor that will be written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Header {
    pub(super) name: String,
    pub(super) ty: TensorType,
    /// Outermost first, as everywhere here.
    pub(super) shape: Vec<usize>,
}

impl Header {
    pub(super) fn nbytes(&self) -> u64 {
        let (columns, outer) = self.shape.split_last().unwrap_or((&1, &[]));
        outer.iter().fold(self.ty.row_bytes(*columns), |n, &dim| n.saturating_mul(dim as u64))
    }
}

/// A GGUF file being filled in any order, under a temporary name. Dropped before
/// [`GgufFile::finish`], it is removed.
#[derive(Debug)]
pub(super) struct GgufFile {
    target: PathBuf,
    partial: PathBuf,
    /// Locked until it is finished or the process ends, however it ends.
    file: File,
    places: BTreeMap<String, Place>,
    bytes: u64,
    finished: bool,
}

#[derive(Debug)]
struct Place {
    offset: u64,
    length: u64,
    written: bool,
}

impl GgufFile {
    /// Whether `target` may be created: it must be absent.
    pub(super) fn check(target: &Path) -> Result<(), Error> {
        if fs::symlink_metadata(target).is_ok() {
            let message = "already exists; choose another name or remove it";
            return Err(Error::file(target, message));
        }
        if target.file_name().is_none() {
            return Err(Error::file(target, "is no place for a file; give it a name of its own"));
        }
        Ok(())
    }

    /// Writes everything but the data, and reserves the room for that.
    pub(super) fn create(
        target: &Path,
        pairs: &[(String, Value)],
        headers: &[Header],
    ) -> Result<Self, Error> {
        Self::check(target)?;
        let (mut bytes, mut offset) = (Vec::new(), 0u64);
        let mut places = BTreeMap::new();
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((headers.len() as u64).to_le_bytes());
        bytes.extend((pairs.len() as u64).to_le_bytes());
        for (key, value) in pairs {
            store_text(key, &mut bytes);
            value.store(&mut bytes);
        }
        for header in headers {
            store_text(&header.name, &mut bytes);
            bytes.extend((header.shape.len() as u32).to_le_bytes());
            header.shape.iter().rev().for_each(|&dim| bytes.extend((dim as u64).to_le_bytes()));
            bytes.extend(header.ty.code().to_le_bytes());
            bytes.extend(offset.to_le_bytes());
            let place = Place { offset, length: header.nbytes(), written: false };
            offset = place
                .offset
                .checked_add(place.length)
                .and_then(|end| end.checked_next_multiple_of(ALIGNMENT))
                .ok_or_else(|| Error::file(target, "would be larger than any file"))?;
            if places.insert(header.name.clone(), place).is_some() {
                return Err(Error::file(target, format!("would hold {} twice", header.name)));
            }
        }
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT as usize), 0);
        let data = bytes.len() as u64;
        places.values_mut().for_each(|place| place.offset += data);

        let (partial, file) = open_partial(target)?;
        let total = data + offset;
        let mut out = Self {
            target: target.to_owned(),
            partial,
            file,
            places,
            bytes: total,
            finished: false,
        };
        out.file
            .write_all(&bytes)
            .and_then(|()| out.file.set_len(total))
            .map_err(|e| Error::io("write the header of", &out.partial, e))?;
        reserve(&out.file, total, &out.partial)?;
        Ok(out)
    }

    /// Bytes of the file.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes one tensor.
    pub(super) fn put(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let place = self.places.get_mut(name);
        let place = place.filter(|p| p.length == bytes.len() as u64 && !p.written);
        let Some(place) = place else {
            let message =
                format!("tensor {name} of {} bytes is not the one announced", bytes.len());
            return Err(Error::file(&self.partial, message));
        };
        place.written = true;
        self.file
            .seek(SeekFrom::Start(place.offset))
            .and_then(|_| self.file.write_all(bytes))
            .map_err(|e| Error::io(&format!("write tensor {name} to"), &self.partial, e))
    }

    /// Reads a written tensor back from the file.
    pub(super) fn read_back(&mut self, name: &str) -> Result<Vec<u8>, Error> {
        let place = self.places.get(name).filter(|place| place.written).ok_or_else(|| {
            Error::file(&self.partial, format!("tensor {name} has not been written yet"))
        })?;
        let mut bytes = vec![0; place.length as usize];
        self.file
            .seek(SeekFrom::Start(place.offset))
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(|e| Error::io("read back", &self.partial, e))?;
        Ok(bytes)
    }

    /// Gives the file its name, once every tensor is there and on disk.
    pub(super) fn finish(mut self) -> Result<(), Error> {
        if let Some((name, _)) = self.places.iter().find(|(_, place)| !place.written) {
            return Err(Error::file(&self.partial, format!("tensor {name} was never written")));
        }
        self.file.sync_all().map_err(|e| Error::io("flush", &self.partial, e))?;
        Self::check(&self.target)?;
        fs::rename(&self.partial, &self.target)
            .map_err(|e| Error::io("rename", &self.partial, e))?;
        self.finished = true;
        sync_folder(parent(&self.target))
    }
}

impl Drop for GgufFile {
    fn drop(&mut self) {
        if !self.finished {
            // Nothing to be done if it fails: the next run may overwrite it.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// `{target}.partial`, empty. What a killed run left there is overwritten.
fn open_partial(target: &Path) -> Result<(PathBuf, File), Error> {
    let folder = parent(target);
    fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = target.with_file_name(name);
    // Opened, a link leads to somebody else's file, and a pipe waits for ever.
    if fs::symlink_metadata(&partial).is_ok_and(|found| !found.is_file()) {
        return Err(Error::file(&partial, "is in the way and no file; move it"));
    }
    let failed = |e| Error::io("create", &partial, e);
    let mut options = File::options();
    let mut file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&partial)
        .map_err(failed)?;
    // File systems without locks lose only the protection against a second run.
    if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
        return Err(Error::file(&partial, "is being written by another run; wait for it"));
    }
    let mut magic = Vec::new();
    (&mut file).take(MAGIC.len() as u64).read_to_end(&mut magic).map_err(failed)?;
    if !magic.is_empty() && magic != MAGIC {
        let message = "is in the way and was not left by an interrupted run; move it";
        return Err(Error::file(&partial, message));
    }
    file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
    Ok((partial, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(rows: usize) -> [Header; 1] {
        [Header { name: "a".into(), ty: TensorType::F16, shape: vec![rows, 3] }]
    }

    #[test]
    fn bytes_by_hand() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.gguf");
        let pairs = [("k".to_owned(), Value::Texts(vec!["v".into()]))];
        let mut file = GgufFile::create(&path, &pairs, &one(1)).unwrap();
        file.put("a", &[1, 2, 3, 4, 5, 6]).unwrap();
        assert_eq!(file.read_back("a").unwrap(), [1, 2, 3, 4, 5, 6]);
        assert!(!path.exists());
        file.finish().unwrap();
        let long = |n: u64| n.to_le_bytes().to_vec();
        let mut want = b"GGUF\x03\0\0\0".to_vec();
        want.extend([long(1), long(1)].concat());
        // Key, array of texts, one of them.
        want.extend([long(1), b"k".to_vec(), vec![9, 0, 0, 0, 8, 0, 0, 0], long(1)].concat());
        want.extend([long(1), b"v".to_vec()].concat());
        // Name, two dimensions, innermost first, type, offset.
        want.extend([long(1), b"a".to_vec(), vec![2, 0, 0, 0], long(3), long(1)].concat());
        want.extend([vec![1, 0, 0, 0], long(0)].concat());
        want.resize(want.len().next_multiple_of(32), 0);
        want.extend([1, 2, 3, 4, 5, 6]);
        want.resize(want.len().next_multiple_of(32), 0);
        assert_eq!(fs::read(&path).unwrap(), want);
    }

    #[test]
    fn tensors_are_those_announced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.gguf");
        let mut file = GgufFile::create(&path, &[], &one(2)).unwrap();
        assert!(file.read_back("a").is_err());
        assert!(file.put("b", &[0; 12]).is_err() && file.put("a", &[0; 11]).is_err());
        file.put("a", &[0; 12]).unwrap();
        assert!(file.put("a", &[0; 12]).is_err());
        let other = GgufFile::create(&path, &[], &one(1)).unwrap_err().to_string();
        assert!(other.contains("another run"), "{other}");
        drop(file);
        let never = GgufFile::create(&path, &[], &one(1)).unwrap().finish().unwrap_err();
        assert!(never.to_string().contains("tensor a was never written"), "{never}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_no_disk_holds_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.gguf");
        for rows in [1 << 58, usize::MAX] {
            let error = GgufFile::create(&path, &[], &one(rows)).unwrap_err().to_string();
            assert!(error.contains("x.gguf"), "{error}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn nothing_is_written_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("a.gguf"), dir.path().join("other.gguf"));
        fs::write(&other, "GGUF and years of work").unwrap();
        std::os::unix::fs::symlink(&other, dir.path().join("a.gguf.partial")).unwrap();
        let error = GgufFile::create(&path, &[], &one(1)).unwrap_err().to_string();
        assert!(error.contains("a.gguf.partial is in the way"), "{error}");
        assert_eq!(fs::read_to_string(&other).unwrap(), "GGUF and years of work");
    }
}
