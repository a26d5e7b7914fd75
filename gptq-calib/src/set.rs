//! The calibration set and the record of where it came from.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::chat::ChatTemplate;
use crate::corpus::{Corpus, Source, hex};
use crate::sample::{SampleSpec, covered, window_starts};
use crate::{Error, Tokenizer};

/// The one way of drawing windows, as [`Provenance::sampling`] names it.
pub const SAMPLING: &str = "random windows, CPython random.randint";

/// Windows of token ids to calibrate on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CalibrationSet {
    /// `n_samples` windows of `seq_len` ids, in the order drawn.
    pub samples: Vec<Vec<u32>>,
    /// What was drawn from where.
    pub provenance: Provenance,
}

/// Enough to draw the same set again, and to tell whether somebody did. Made to be stored, as
/// JSON, beside the quantized model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// The files, in the order given.
    pub sources: Vec<Source>,
    /// Documents in them.
    pub documents: usize,
    /// Tokens in the whole text.
    pub text_tokens: usize,
    /// Windows drawn.
    pub n_samples: usize,
    /// Tokens per window.
    pub seq_len: usize,
    /// Seed of the draw.
    pub seed: u64,
    /// How windows were drawn: [`SAMPLING`].
    pub sampling: String,
    /// Tokens of the text that lie in at least one window. Far below `n_samples · seq_len`, the
    /// text was too short: windows overlap and the solver sees the same tokens again and again.
    pub covered_tokens: usize,
    /// [`ids_sha256`] of the windows.
    pub ids_sha256: String,
}

impl CalibrationSet {
    /// Reads files as [`Corpus::from_files`] does and draws windows from them.
    ///
    /// # Errors
    /// Those of [`Corpus::from_files`] and [`CalibrationSet::draw`].
    pub fn from_files(
        paths: &[&Path],
        tokenizer: &Tokenizer,
        template: Option<&ChatTemplate>,
        spec: &SampleSpec,
    ) -> Result<Self, Error> {
        Self::draw(&Corpus::from_files(paths, tokenizer, template)?, spec)
    }

    /// Draws windows from a text in memory; `name` stands for it in the provenance.
    ///
    /// # Errors
    /// [`Error::Tokenize`], and those of [`CalibrationSet::draw`].
    pub fn from_text(
        name: &str,
        text: &str,
        tokenizer: &Tokenizer,
        spec: &SampleSpec,
    ) -> Result<Self, Error> {
        Self::draw(&Corpus::from_text(name, text, tokenizer)?, spec)
    }

    /// Draws windows at [`window_starts`]. The same corpus and spec give the same set.
    ///
    /// # Errors
    /// [`Error::TooShort`] unless the corpus is longer than one window, [`Error::Setting`] if a
    /// number of `spec` is 0.
    pub fn draw(corpus: &Corpus, spec: &SampleSpec) -> Result<Self, Error> {
        let starts = window_starts(corpus.ids.len(), spec)?;
        let samples: Vec<Vec<u32>> =
            starts.iter().map(|&start| corpus.ids[start..start + spec.seq_len].to_vec()).collect();
        let provenance = Provenance {
            sources: corpus.sources.clone(),
            documents: corpus.documents,
            text_tokens: corpus.ids.len(),
            n_samples: spec.n_samples,
            seq_len: spec.seq_len,
            seed: spec.seed,
            sampling: SAMPLING.to_owned(),
            covered_tokens: covered(starts, spec.seq_len),
            ids_sha256: ids_sha256(&samples),
        };
        Ok(Self { samples, provenance })
    }
}

/// SHA-256, in hexadecimal, over the windows in order: for each its length, then its ids, all as
/// 32-bit little-endian words (a longer window's length keeps its low 32 bits).
///
/// ```
/// let one = gptq_calib::ids_sha256(&[vec![1, 2]]);
/// let two = gptq_calib::ids_sha256(&[vec![1], vec![2]]);
/// assert_ne!(one, two);
/// ```
#[must_use]
pub fn ids_sha256(samples: &[Vec<u32>]) -> String {
    let mut hash = Sha256::new();
    for sample in samples {
        hash.update((sample.len() as u32).to_le_bytes());
        for id in sample {
            hash.update(id.to_le_bytes());
        }
    }
    hex(&hash.finalize())
}
