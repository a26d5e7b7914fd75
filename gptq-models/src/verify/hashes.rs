//! Hashes of files, read once and piece by piece.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{REPORT, file_name};
use crate::{
    Checkpoint, Error,
    checkpoint::{hex, open},
};

/// Bytes read at a time.
const PIECE: usize = 1 << 20;

/// Every file of a result but its report, by name, those in folders below it as `folder/name`. Of
/// files with the model's tensors, which are hashed one by one, the header.
pub(crate) fn of_folder(dir: &Path) -> Result<BTreeMap<String, String>, Error> {
    let mut files = Vec::new();
    list(dir, "", &mut files)?;
    files.retain(|(name, _)| name != REPORT);
    let hash = |(name, path): (String, PathBuf)| {
        let hash = of_file(&path, &name)?;
        Ok((name, hash))
    };
    files.into_par_iter().map(hash).collect()
}

/// Names for a report, and paths, which names that are no text do not give back.
fn list(dir: &Path, below: &str, files: &mut Vec<(String, PathBuf)>) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(|e| Error::io("list", dir, e))? {
        let entry = entry.map_err(|e| Error::io("list", dir, e))?;
        let name = format!("{below}{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type().map_err(|e| Error::io("list", dir, e))?;
        match kind.is_dir() {
            true => list(&entry.path(), &format!("{name}/"), files)?,
            false => files.push((name, entry.path())),
        }
    }
    Ok(())
}

/// One file of a result: all of it, or the header where tensors follow.
fn of_file(path: &Path, name: &str) -> Result<String, Error> {
    hash(path, if only_header(name) { header_length(path)? } else { u64::MAX })
}

/// Whether a file holds tensors that are hashed one by one.
pub(super) fn only_header(name: &str) -> bool {
    name.ends_with(".safetensors") && !name.contains('/')
}

/// The weight files that a run read, and the config, whole.
pub(crate) fn of_source(checkpoint: &Checkpoint) -> Result<BTreeMap<String, String>, Error> {
    let config = checkpoint.dir().join("config.json");
    let files: Vec<&Path> = checkpoint.weight_files().chain([config.as_path()]).collect();
    let hash = |path: &Path| Ok((file_name(path), hash(path, u64::MAX)?));
    files.into_par_iter().map(hash).collect()
}

/// As a safetensors file states it, with the eight bytes that do; all of a file shorter than that.
fn header_length(path: &Path) -> Result<u64, Error> {
    let mut length = [0; 8];
    match open("read", path)?.read_exact(&mut length) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(u64::MAX),
        Err(e) => Err(Error::io("read", path, e)),
        Ok(()) => Ok(u64::from_le_bytes(length).saturating_add(8)),
    }
}

/// The first bytes of a file, at most `length`.
fn hash(path: &Path, length: u64) -> Result<String, Error> {
    let mut file = open("read", path)?.take(length);
    let mut all = || -> io::Result<String> {
        let (mut hasher, mut piece) = (Sha256::new(), vec![0; PIECE]);
        loop {
            match file.read(&mut piece)? {
                0 => return Ok(hex(&hasher.finalize())),
                n => hasher.update(&piece[..n]),
            }
        }
    };
    all().map_err(|e| Error::io("read", path, e))
}
