//! Opening files of folders that others made.
//!
//! Symbolic links are followed: the folders of download caches consist of them. What a link leads to
//! must be a regular file, because a pipe waits for ever and a device never ends.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
};

use crate::Error;

/// Bytes of the largest text that is read whole: a config, an index, a tokenizer, a report.
pub(crate) const LARGEST_TEXT: u64 = 256 << 20;

/// Opens a regular file; `action` is what the message says of one that cannot be.
///
/// # Errors
/// [`Error::Io`], [`Error::File`] if it is no regular file.
pub(crate) fn open(action: &str, path: &Path) -> Result<File, Error> {
    let failed = |e| Error::io(action, path, e);
    // Before it is opened, because opening a pipe waits for whoever writes into it.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(Error::file(path, "is no file but a folder, a pipe or a device; remove it"));
    }
    File::open(path).map_err(failed)
}

/// All of a regular file that is to hold a text, at most [`LARGEST_TEXT`].
///
/// # Errors
/// As [`open`], and [`Error::File`] with the size of one that is larger.
pub(crate) fn read_text(path: &Path) -> Result<Vec<u8>, Error> {
    let file = open("read", path)?;
    let mut bytes = Vec::new();
    let read = file.take(LARGEST_TEXT + 1).read_to_end(&mut bytes);
    read.map_err(|e| Error::io("read", path, e))?;
    if bytes.len() as u64 > LARGEST_TEXT {
        let size = fs::metadata(path).map_or(bytes.len() as u64, |m| m.len());
        return Err(Error::file(
            path,
            format!("has {size} bytes, but no text of a model has more than {LARGEST_TEXT}"),
        ));
    }
    Ok(bytes)
}
