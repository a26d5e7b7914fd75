//! Whether a folder still is what its report says, byte by byte and number by number.

pub(crate) mod hashes;
pub(crate) mod seal;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    Checkpoint, Error, Fate,
    checkpoint::{hex, read_text},
    quantized::{StoredLayer, packed_names, quantization_config},
};

/// The report of a run, beside its result.
pub(crate) const REPORT: &str = "gptq_report.json";

/// What was compared, and what is wrong.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verification {
    /// Files whose contents, or headers, were compared with the report.
    pub files: usize,
    /// Tensors whose bytes were.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Packed layers whose scales, zero points and group indices were looked at.
    pub layers: usize,
    /// Files of the source that were compared; none without a source.
    pub source_files: usize,
    /// What is wrong; nothing if the folder is as it was written.
    pub findings: Vec<Finding>,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The file, without its folder.
    pub file: String,
    /// The tensor or layer, if it is about one.
    pub tensor: Option<String>,
    /// What is wrong.
    pub problem: String,
}

/// The part of a report that is compared.
#[derive(Deserialize)]
struct Record {
    sha256: BTreeMap<String, String>,
    #[serde(default)]
    files: BTreeMap<String, String>,
    #[serde(default)]
    source: BTreeMap<String, String>,
    ledger: LedgerRecord,
}

#[derive(Deserialize)]
struct LedgerRecord {
    tensors: Vec<EntryRecord>,
}

#[derive(Deserialize)]
struct EntryRecord {
    name: String,
    fate: Fate,
}

/// Compares the folder `dir`, a result of [`quantize`](crate::quantize) or
/// [`convert`](crate::convert()), with its `gptq_report.json`: the hash of every file and tensor,
/// that none is missing or new, that every tensor of the source is accounted for, and that every
/// number can be what it claims to be (finite weights and scales, group indices and zero points in
/// range). With the source's folder, that it still is the one the result was made from, and that
/// what was copied is the same.
///
/// A change of a single bit in any file, the report included, is a [`Finding`] that names the file
/// and, where there is one, the tensor.
///
/// Cost: every byte is hashed once, and read once more for the numbers, on the caller's threads.
///
/// # Errors
/// [`Error::Io`] if `dir` cannot be read; [`Error::File`] if it has no report or one without
/// hashes of files, as other programs' folders and those of older versions do.
///
/// ```no_run
/// let found = gptq_models::verify(std::path::Path::new("my-llama-gptq"), None)?;
/// assert!(found.findings.is_empty(), "{:?}", found.findings);
/// # Ok::<(), gptq_models::Error>(())
/// ```
pub fn verify(dir: &Path, source: Option<&Path>) -> Result<Verification, Error> {
    let mut found = Verification::default();
    let record = record(dir, &mut found.findings)?;
    if let Some(record) = &record {
        files(dir, record, &mut found)?;
    }
    match Checkpoint::open(dir) {
        Err(e) => found.add("config.json", None, e.to_string()),
        Ok(checkpoint) => {
            if let Some(record) = &record {
                tensors(&checkpoint, record, &mut found);
            }
            numbers(&checkpoint, &mut found);
            if let (Some(record), Some(source)) = (&record, source) {
                originals(&Checkpoint::open(source)?, &checkpoint, record, &mut found)?;
            }
        }
    }
    found.findings.sort();
    found.findings.dedup();
    Ok(found)
}

impl Verification {
    fn add(&mut self, file: &str, tensor: Option<&str>, problem: impl Into<String>) {
        let (file, tensor) = (file.to_owned(), tensor.map(str::to_owned));
        self.findings.push(Finding { file, tensor, problem: problem.into() });
    }
}

/// SHA-256 of the weight files and the config that a run would read, as hex by name: what reports
/// record as `source`. Cost: every byte is read and hashed.
///
/// # Errors
/// [`Error::Io`].
pub fn source_hashes(checkpoint: &Checkpoint) -> Result<BTreeMap<String, String>, Error> {
    hashes::of_source(checkpoint)
}

/// The report; `None` if it cannot be understood any more, which is a finding.
fn record(dir: &Path, findings: &mut Vec<Finding>) -> Result<Option<Record>, Error> {
    let path = dir.join(REPORT);
    let bytes = read_text(&path)?;
    let mut finding = |problem: String| {
        findings.push(Finding { file: REPORT.into(), tensor: None, problem });
    };
    let Ok(text) = String::from_utf8(bytes) else {
        finding("is not text any more".into());
        return Ok(None);
    };
    let sealed = seal::holds(&text);
    if sealed == Some(false) {
        finding("was changed after it was written: its seal is another".into());
    }
    match serde_json::from_str::<Record>(&text) {
        Ok(record) if sealed.is_none() && record.files.is_empty() => Err(Error::file(
            &path,
            "holds no hashes of files; gptq quantize and gptq convert of this version write them",
        )),
        Ok(record) => {
            if sealed.is_none() {
                finding("has no seal any more".into());
            }
            Ok(Some(record))
        }
        Err(e) => {
            finding(format!("cannot be understood: {e}"));
            Ok(None)
        }
    }
}

/// What became of a file since it was recorded.
enum Difference {
    Missing,
    Changed,
    New,
}

/// Files that are not as they were recorded, hashes by name.
fn differences<'a>(
    recorded: &'a BTreeMap<String, String>,
    there: &'a BTreeMap<String, String>,
) -> impl Iterator<Item = (&'a str, Difference)> {
    let known = recorded.iter().filter_map(|(name, hash)| match there.get(name) {
        None => Some((name.as_str(), Difference::Missing)),
        Some(other) if other != hash => Some((name.as_str(), Difference::Changed)),
        Some(_) => None,
    });
    let new = there.keys().filter(|name| !recorded.contains_key(*name));
    known.chain(new.map(|name| (name.as_str(), Difference::New)))
}

/// What is beside tensors.
fn files(dir: &Path, record: &Record, found: &mut Verification) -> Result<(), Error> {
    let there = hashes::of_folder(dir)?;
    found.files = record.files.len();
    for (name, difference) in differences(&record.files, &there) {
        let problem = match difference {
            Difference::Missing => "is missing",
            Difference::Changed if hashes::only_header(name) => {
                "its header was changed after it was written"
            }
            Difference::Changed => "was changed after it was written",
            Difference::New => "was not there when the report was written",
        };
        found.add(name, None, problem);
    }
    Ok(())
}

/// The bytes of tensors, and that there are these and no others.
fn tensors(checkpoint: &Checkpoint, record: &Record, found: &mut Verification) {
    let all: Vec<_> = checkpoint.tensors().collect();
    found.tensors = all.len();
    found.bytes = checkpoint.nbytes();
    let compare = |tensor: &crate::TensorView<'_>| {
        let problem = match record.sha256.get(tensor.name) {
            None => "is not in the report",
            Some(hash) if *hash != hex(&Sha256::digest(tensor.bytes)) => {
                "was changed after it was written: its hash is another"
            }
            Some(_) => return None,
        };
        Some((file_name(tensor.file), tensor.name.to_owned(), problem))
    };
    let changed: Vec<_> = all.par_iter().filter_map(compare).collect();
    for (file, tensor, problem) in changed {
        found.add(&file, Some(&tensor), problem);
    }
    let names: BTreeSet<&str> = all.iter().map(|tensor| tensor.name).collect();
    for name in record.sha256.keys().filter(|name| !names.contains(name.as_str())) {
        found.add(REPORT, Some(name), "is in the report, but no file holds it");
    }
    for entry in &record.ledger.tensors {
        if entry.fate == Fate::Copied && !names.contains(entry.name.as_str()) {
            found.add(REPORT, Some(&entry.name), "was copied by the ledger, but no file holds it");
        }
    }
}

/// Whether numbers can be what they claim to be.
fn numbers(checkpoint: &Checkpoint, found: &mut Verification) {
    let all: Vec<_> = checkpoint.tensors().collect();
    let finite = |tensor: &crate::TensorView<'_>| {
        let problem = tensor.check_finite().err()?.to_string();
        Some((file_name(tensor.file), Some(tensor.name.to_owned()), problem))
    };
    let mut problems: Vec<_> = all.par_iter().filter_map(finite).collect();
    match quantization_config(checkpoint) {
        Err(e) => problems.push(("config.json".into(), None, e.to_string())),
        Ok(None) => {}
        Ok(Some(config)) => {
            let names = packed_names(checkpoint, config.format);
            found.layers = names.len();
            let layer = |name: &&str| {
                let read = StoredLayer::named(checkpoint, &config, name);
                let problem = read.and_then(|layer| layer.read()).err()?.to_string();
                let codes = config.format.codes().of(name);
                let file = checkpoint.get(&codes).map(|tensor| file_name(tensor.file));
                Some((file.unwrap_or_default(), Some((*name).to_owned()), problem))
            };
            problems.extend(names.par_iter().filter_map(layer).collect::<Vec<_>>());
        }
    }
    for (file, tensor, problem) in problems {
        found.add(&file, tensor.as_deref(), problem);
    }
}

/// Whether the source is the one that was read, and whether all of it is accounted for.
fn originals(
    source: &Checkpoint,
    result: &Checkpoint,
    record: &Record,
    found: &mut Verification,
) -> Result<(), Error> {
    let there = hashes::of_source(source)?;
    found.source_files = record.source.len();
    for (name, difference) in differences(&record.source, &there) {
        let problem = match difference {
            Difference::Missing => "is missing in the source",
            Difference::Changed => "of the source is not the file that was read",
            Difference::New => "of the source was not read by the run",
        };
        found.add(name, None, problem);
    }
    let fates: BTreeMap<&str, Fate> =
        record.ledger.tensors.iter().map(|entry| (entry.name.as_str(), entry.fate)).collect();
    for tensor in source.tensors() {
        let file = file_name(tensor.file);
        match fates.get(tensor.name) {
            None => found.add(&file, Some(tensor.name), "of the source is not in the ledger"),
            Some(Fate::Copied) => {
                let same = result.get(tensor.name).is_some_and(|copy| copy.bytes == tensor.bytes);
                if !same {
                    found.add(&file, Some(tensor.name), "was copied, but the copy is another");
                }
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
