//! Reading files that others made: regular ones only, and none larger than memory should hold.

use std::{fs::File, io::Read, path::Path};

use crate::Error;

/// Bytes of the largest calibration file. Tokenized whole, it would take some 100 GB of memory.
pub(crate) const LARGEST_CORPUS: u64 = 1 << 30;

/// Bytes of the largest tokenizer, chat template or config.
pub(crate) const LARGEST_MODEL_FILE: u64 = 256 << 20;

/// All of a regular file of at most `largest` bytes. Symbolic links are followed, as the folders of
/// download caches need.
///
/// # Errors
/// [`Error::Io`], [`Error::NoFile`] for a folder, a pipe or a device, [`Error::TooLarge`].
pub(crate) fn read(path: &Path, largest: u64) -> Result<Vec<u8>, Error> {
    let failed = |reason| Error::Io { path: path.to_path_buf(), reason };
    // Before it is opened, because opening a pipe waits for whoever writes into it.
    let found = std::fs::metadata(path).map_err(failed)?;
    if !found.is_file() {
        return Err(Error::NoFile { path: path.to_path_buf() });
    }
    let too_large = |bytes| Error::TooLarge { path: path.to_path_buf(), bytes, largest };
    if found.len() > largest {
        return Err(too_large(found.len()));
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(largest + 1).read_to_end(&mut bytes))
        .map_err(failed)?;
    // A file may grow, or be one of those that the system makes up and calls empty.
    if bytes.len() as u64 > largest {
        return Err(too_large(bytes.len() as u64));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bounded_by_what_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, [7; 9]).unwrap();
        assert_eq!(read(&path, 9).unwrap(), [7; 9]);
        let error = read(&path, 8).unwrap_err().to_string();
        assert!(error.contains("9 bytes") && error.contains("at most 8"), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn files_that_claim_to_be_empty_are_bounded_too() {
        // The system says 0 bytes of it.
        let error = read(Path::new("/proc/self/maps"), 8).unwrap_err().to_string();
        assert!(error.contains("at most 8"), "{error}");
    }

    #[test]
    fn a_folder_is_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let error = read(dir.path(), 8).unwrap_err().to_string();
        assert!(error.contains("is no file"), "{error}");
    }
}
