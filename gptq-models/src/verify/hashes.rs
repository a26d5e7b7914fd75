//! Hashes of files, read once and piece by piece.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{REPORT, file_name};
use crate::{Checkpoint, Error, checkpoint::hex};

/// Bytes read at a time.
const PIECE: usize = 1 << 20;

/// Every file of a result but its report, by name, those in folders below it as `folder/name`. Of
/// files with the model's tensors, which are hashed one by one, the header.
pub(crate) fn of_folder(dir: &Path) -> Result<BTreeMap<String, String>, Error> {
    let mut names = Vec::new();
    list(dir, "", &mut names)?;
    names.retain(|name| name != REPORT);
    let hash = |name: String| Ok((name.clone(), of_file(dir, &name)?));
    names.into_par_iter().map(hash).collect()
}

fn list(dir: &Path, below: &str, names: &mut Vec<String>) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(|e| Error::io("list", dir, e))? {
        let entry = entry.map_err(|e| Error::io("list", dir, e))?;
        let name = format!("{below}{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type().map_err(|e| Error::io("list", dir, e))?;
        match kind.is_dir() {
            true => list(&entry.path(), &format!("{name}/"), names)?,
            false => names.push(name),
        }
    }
    Ok(())
}

/// One file of a result: all of it, or the header where tensors follow.
fn of_file(dir: &Path, name: &str) -> Result<String, Error> {
    let path = dir.join(name);
    hash(&path, if only_header(name) { header_length(&path)? } else { u64::MAX })
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
    match File::open(path).and_then(|mut file| file.read_exact(&mut length)) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(u64::MAX),
        Err(e) => Err(Error::io("read", path, e)),
        Ok(()) => Ok(u64::from_le_bytes(length).saturating_add(8)),
    }
}

/// The first bytes of a file, at most `length`.
fn hash(path: &Path, length: u64) -> Result<String, Error> {
    let all = || -> io::Result<String> {
        let mut file = File::open(path)?.take(length);
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
