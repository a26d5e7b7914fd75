//! [`Journal`]: what a run has done so far, a line for each finished step.
//!
//! ```text
//! {SHA-256 of the rest of the line} {JSON}
//! ```
//!
//! A line is written when everything that it speaks of is on disk. Where a line is torn or damaged,
//! the journal ends: what comes after it is done again.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Fingerprint;
use crate::{
    Error, LayerReport,
    checkpoint::{hex, sync_folder},
};

/// One line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    /// The first: whose journal this is.
    Run(Fingerprint),
    /// A step is finished: what is copied comes first, then block by block, then the head.
    Step(Step),
    /// The samples behind some blocks are saved.
    Samples(SavedSamples),
    /// A run ended before it was done.
    Interrupted,
}

/// A finished step.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Step {
    /// The linears it quantized.
    pub(crate) layers: Vec<LayerReport>,
    /// SHA-256 of the tensors it wrote.
    pub(crate) sha256: BTreeMap<String, String>,
    /// What it adds to the adapter.
    pub(crate) adapter: Option<Piece>,
    /// Seconds of the whole run until then, interruptions left out.
    pub(crate) seconds: f64,
}

/// A file beside the journal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Piece {
    pub(crate) file: String,
    pub(crate) sha256: String,
}

/// Samples that are saved beside the journal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SavedSamples {
    /// Blocks that they have passed.
    pub(crate) blocks: usize,
    /// Matrices by name: rows and columns.
    pub(crate) shapes: BTreeMap<String, [usize; 2]>,
    pub(crate) sha256: BTreeMap<String, String>,
}

/// A journal that lines are added to.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
}

impl Journal {
    /// A new one that begins with these lines, in place of one that may be there.
    pub(crate) fn create(path: &Path, lines: &[Line]) -> Result<Self, Error> {
        let new = path.with_extension("new");
        let file = File::create(&new).map_err(|e| Error::io("create", &new, e))?;
        let mut journal = Self { file, path: path.to_owned() };
        lines.iter().try_for_each(|line| journal.add(line))?;
        fs::rename(&new, path).map_err(|e| Error::io("rename", &new, e))?;
        path.parent().map_or(Ok(()), sync_folder)?;
        Ok(journal)
    }

    /// The lines of one, as far as they are whole.
    pub(crate) fn read(path: &Path) -> Result<Vec<Line>, Error> {
        let text = fs::read(path).map_err(|e| Error::io("read", path, e))?;
        Ok(text.split_inclusive(|&byte| byte == b'\n').map_while(whole).collect())
    }

    /// Adds a line and brings it to disk.
    ///
    /// # Errors
    /// [`Error::Io`]; then the journal ends with the line before.
    pub(crate) fn add(&mut self, line: &Line) -> Result<(), Error> {
        let json = serde_json::to_string(line)
            .map_err(|e| Error::file(&self.path, format!("cannot be written as JSON: {e}")))?;
        let text = format!("{} {json}\n", hex(&Sha256::digest(&json)));
        let before = self.file.stream_position().map_err(|e| self.failed(e))?;
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data());
        written.map_err(|e| {
            // Half a line is no line; if it cannot even be cut off, readers will.
            let _ = self.file.set_len(before);
            let _ = self.file.seek(SeekFrom::Start(before));
            self.failed(e)
        })
    }

    fn failed(&self, e: std::io::Error) -> Error {
        Error::io("write", &self.path, e)
    }
}

/// A line that is neither torn nor damaged.
fn whole(line: &[u8]) -> Option<Line> {
    let (hash, json) = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?.split_once(' ')?;
    if hash != hex(&Sha256::digest(json)) {
        return None;
    }
    serde_json::from_str(json).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(steps: usize) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let mut journal =
            Journal::create(&path, &[Line::Run(Fingerprint::default()), Line::Interrupted])
                .unwrap();
        for step in 0..steps {
            let step = Step { seconds: step as f64, ..Step::default() };
            journal.add(&Line::Step(step)).unwrap();
        }
        fs::read(&path).unwrap()
    }

    fn read(text: &[u8]) -> usize {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        fs::write(&path, text).unwrap();
        Journal::read(&path).unwrap().len()
    }

    fn count(text: &[u8]) -> usize {
        text.iter().filter(|&&byte| byte == b'\n').count()
    }

    proptest! {
        /// However long a prefix reaches the disk, exactly its whole lines are read.
        #[test]
        fn a_torn_journal_is_its_whole_lines(steps in 0usize..6, cut in 0.0..1.0f64) {
            let text = written(steps);
            let cut = &text[..(cut * text.len() as f64) as usize];
            prop_assert_eq!(read(cut), count(cut));
        }

        /// A changed bit ends it before the line that has it.
        #[test]
        fn a_damaged_line_ends_it(steps in 0usize..6, at in 0.0..1.0f64, bit in 0u32..8) {
            let mut text = written(steps);
            let at = (at * text.len() as f64) as usize;
            let before = count(&text[..at]);
            text[at] ^= 1 << bit;
            prop_assert_eq!(read(&text), before);
        }
    }
}
