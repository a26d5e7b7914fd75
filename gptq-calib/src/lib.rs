//! Calibration sets for GPTQ: text in, token ids out.
//!
//! A *calibration set* is a few windows of real text, by convention 128 windows of 2048 tokens,
//! whose activations tell the solver which rounding errors matter. This crate reads the text,
//! tokenizes it, draws the windows exactly as the paper's authors' code does for the same seed,
//! and keeps a record of what was drawn from where. It knows no model and never touches the
//! network, the clock or the environment.
//!
//! | step                        | file          | item                               |
//! |-----------------------------|---------------|------------------------------------|
//! | files to documents          | `read.rs`     | inside [`Corpus`]                  |
//! | chat messages to text       | `chat.rs`     | [`ChatTemplate`]                   |
//! | text to ids                 | `tokenize.rs` | [`Tokenizer`]                      |
//! | documents to one id stream  | `corpus.rs`   | [`Corpus`]                         |
//! | id stream to random windows | `sample.rs`   | [`sample_windows`], [`SampleSpec`] |
//! | windows and their origin    | `set.rs`      | [`CalibrationSet`], [`Provenance`] |
//! | what a set is worth        | `doctor.rs`   | [`diagnose`], [`Diagnosis`]        |
//! | windows for perplexity      | `windows.rs`  | [`disjoint_windows`], [`strided_windows`] |
//!
//! Start at [`CalibrationSet::from_files`].
//!
//! ```
//! use gptq_calib::{CalibrationSet, SampleSpec, Tokenizer};
//!
//! # fn main() -> Result<(), gptq_calib::Error> {
//! // Usually `Tokenizer::from_file("model/tokenizer.json".as_ref())`.
//! let tokenizer = Tokenizer::from_bytes(
//!     br#"{"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"},
//!         "model": {"type": "WordLevel", "unk_token": "?",
//!                   "vocab": {"?": 0, "to": 1, "be": 2, "or": 3, "not": 4}}}"#,
//! )?;
//! let spec = SampleSpec { n_samples: 4, seq_len: 3, seed: 0 };
//! let set = CalibrationSet::from_text("hamlet", "to be or not to be", &tokenizer, &spec)?;
//!
//! assert_eq!(set.samples.len(), 4);
//! assert!(set.samples.iter().all(|window| window.len() == 3));
//! assert_eq!(set.provenance.text_tokens, 6);
//! assert_eq!(set.provenance.sources[0].bytes, 18);
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod chat;
mod corpus;
mod doctor;
mod error;
mod file;
mod jinja;
mod read;
mod sample;
mod set;
mod tokenize;
mod windows;

pub use chat::{ChatTemplate, Message};
pub use corpus::{Corpus, Source};
pub use doctor::{Complaint, Diagnosis, Documents, Model, diagnose};
pub use error::{Error, LineError};
pub use sample::{SampleSpec, sample_windows, window_starts};
pub use set::{CalibrationSet, Provenance, SAMPLING, ids_sha256};
pub use tokenize::{DecodeStream, Tokenizer};
pub use windows::{StridedWindow, disjoint_windows, strided_windows};
