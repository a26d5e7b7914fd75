//! What a run leaves behind beside the model: figures per layer, and an account of every tensor
//! and file.

use std::{collections::BTreeMap, path::Path};

use gptq_core::QuantConfig;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, MemoryReport, checkpoint::read_json, verify::REPORT};

/// The contents of `gptq_report.json`. What an older one lacks reads as its default: empty, zero,
/// `None`, null.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Name and version of the program.
    pub tool: String,
    /// The settings of the run.
    pub settings: Value,
    /// Where the calibration tokens came from, and the hash of their ids; null for methods that
    /// need none.
    pub calibration: Value,
    /// If most layers are those of an earlier result: the seal of its report, and the rule that
    /// names what was done again.
    pub kept: Option<Value>,
    /// One entry per quantized linear, in the order of the run.
    pub layers: Vec<LayerReport>,
    /// Parameters in linears that were quantized, and in all that could have been.
    pub coverage: Coverage,
    /// The adapter that was computed along, if one was.
    pub adapter: Option<AdapterReport>,
    /// What a user should know before serving the result.
    pub notices: Vec<String>,
    /// Every source tensor and file.
    pub ledger: Ledger,
    /// SHA-256 of every written tensor, as hex.
    pub sha256: BTreeMap<String, String>,
    /// Bytes of the source's tensors.
    pub source_bytes: u64,
    /// Bytes of the result's tensors.
    pub output_bytes: u64,
    /// Wall-clock seconds of the whole run, interruptions left out.
    pub seconds: f64,
    /// How often it was interrupted and gone on with.
    pub interruptions: u32,
    /// What computed: precision of products and instruction set.
    pub computed: String,
    /// Where memory went.
    pub memory: MemoryReport,
    /// SHA-256 of the source's weight files and config, as hex.
    pub source: BTreeMap<String, String>,
    /// SHA-256 of every other file of the result, and of the headers of its weight files, as hex.
    pub files: BTreeMap<String, String>,
    /// SHA-256 of this report's own text, with 64 zeros in this place.
    pub seal: String,
}

/// One quantized linear.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LayerReport {
    /// Full name.
    pub name: String,
    /// Width of a code.
    pub bits: u32,
    /// Columns per group, -1 for whole rows.
    pub group_size: i64,
    /// `½ tr((W − Q) H (W − Q)ᵀ)` with `H = 2/tokens · XᵀX`, damped; null without inputs.
    pub loss: Option<f64>,
    /// The same for round-to-nearest.
    pub rtn_loss: Option<f64>,
    /// Share of the mean diagonal that was added to the Hessian.
    pub damp_percent: Option<f64>,
    /// Factorisations tried, the successful one included.
    pub damp_attempts: Option<u32>,
    /// How often the Hessian's diagonal was raised before any damping was enough: 0 as it should
    /// be.
    pub damp_floor: Option<u32>,
    /// Calibration tokens its Hessian saw.
    pub tokens: u64,
    /// Of an expert: tokens that the router sent it; null for linears that see all of them.
    pub routed_tokens: Option<u64>,
    /// Inputs that were zero on every token.
    pub dead_columns: usize,
    /// What stepped in for the method asked for; null for all but linears that could not be solved.
    pub fallback: Option<Fallback>,
    /// Seconds of the pass it was solved in, divided among that pass's linears.
    pub seconds: f64,
}

impl LayerReport {
    /// A linear that no Hessian had a say in.
    pub(crate) fn unsolved(name: &str, config: &QuantConfig) -> Self {
        Self {
            name: name.to_owned(),
            bits: config.bits.get(),
            group_size: config.group_size.to_file(),
            loss: None,
            rtn_loss: None,
            damp_percent: None,
            damp_attempts: None,
            damp_floor: None,
            tokens: 0,
            routed_tokens: None,
            dead_columns: 0,
            fallback: None,
            seconds: 0.0,
        }
    }
}

/// Why and how a linear was quantized without its inputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fallback {
    /// The strategy's name.
    pub strategy: String,
    /// What was wrong with its inputs.
    pub reason: String,
    /// Mean of `|W − Q|`.
    pub mean_abs_error: f64,
}

impl Report {
    /// The report in a folder that a run has written.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] if there is another kind of file.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(REPORT);
        serde_json::from_value(read_json(&path)?)
            .map_err(|e| Error::file(&path, format!("is no report of a quantization: {e}")))
    }

    /// The linears that could not be solved, and what was done instead.
    pub fn fallbacks(&self) -> impl Iterator<Item = (&str, &Fallback)> {
        self.layers.iter().filter_map(|l| Some((l.name.as_str(), l.fallback.as_ref()?)))
    }
}

/// An adapter that makes up for some of the error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterReport {
    /// Its folder, in PEFT layout.
    pub path: String,
    /// The rank asked for.
    pub rank: usize,
    /// Linears it corrects.
    pub modules: usize,
    /// Bytes of its tensors.
    pub bytes: u64,
}

/// How much of what could be quantized was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Coverage {
    /// Parameters quantized.
    pub quantized: u64,
    /// Parameters left dense because a rule says so.
    pub skipped: u64,
    /// Parameters of all linears in the graph.
    pub expected: u64,
}

/// An account of everything in the source folder.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Ledger {
    /// Every tensor of the source.
    pub tensors: Vec<Entry>,
    /// Every file and folder of the source.
    pub files: Vec<Entry>,
}

/// What became of one tensor or file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// What was done.
    pub fate: Fate,
    /// Why, where the fate does not speak for itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The fates there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// Replaced by packed tensors.
    Quantized,
    /// Copied byte for byte.
    Copied,
    /// Written anew for the result.
    Rewritten,
    /// Not in the result, for the reason given.
    Dropped,
}

impl Entry {
    pub(crate) fn new(name: impl Into<String>, fate: Fate, reason: Option<&str>) -> Self {
        Self { name: name.into(), fate, reason: reason.map(str::to_owned) }
    }
}
