//! Going on where an interrupted run stopped.
//!
//! A run that was killed has left its finished blocks in the partial folder, and a [`Journal`] of
//! them. The same run, started again, takes them as they are and goes on with the next; samples are
//! brought there through the finished blocks' quantized weights, from the beginning or from where
//! they were saved last. That is the same arithmetic on the same numbers, so the result has the same
//! bytes.

mod journal;
mod steps;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

pub(crate) use journal::Piece;
pub(crate) use steps::Steps;

use crate::{Checkpoint, Error, Kept, QuantizeOptions, Recipe, checkpoint::hex, verify::hashes};

/// What makes a run the same run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Fingerprint {
    /// A [`Recipe`].
    pub(crate) settings: Value,
    /// SHA-256 of the source's weight files and config.
    pub(crate) source: BTreeMap<String, String>,
    /// SHA-256 of the calibration tokens.
    pub(crate) samples: String,
    /// What it takes over from an earlier result.
    pub(crate) kept: Option<Value>,
}

impl Fingerprint {
    /// Cost: every weight file is read and hashed.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn of(
        checkpoint: &Checkpoint,
        samples: &[Vec<u32>],
        options: &QuantizeOptions,
        kept: Option<&Kept<'_>>,
    ) -> Result<Self, Error> {
        let mut tokens = Sha256::new();
        for sample in samples {
            tokens.update((sample.len() as u64).to_le_bytes());
            sample.iter().for_each(|id| tokens.update(id.to_le_bytes()));
        }
        let settings = serde_json::to_value(Recipe::of(options))
            .map_err(|e| Error::input(format!("the settings cannot be written as JSON: {e}")))?;
        let source = hashes::of_source(checkpoint)?;
        let (samples, kept) = (hex(&tokens.finalize()), kept.map(Kept::to_json));
        Ok(Self { settings, source, samples, kept })
    }

    /// In what another run differs from this one.
    fn differences(&self, other: &Self) -> Vec<String> {
        let empty = serde_json::Map::new();
        let (mine, theirs) = (
            self.settings.as_object().unwrap_or(&empty),
            other.settings.as_object().unwrap_or(&empty),
        );
        let keys = mine.keys().chain(theirs.keys().filter(|key| !mine.contains_key(*key)));
        let changed = keys.filter(|key| mine.get(*key) != theirs.get(*key));
        let value = |of: Option<&Value>| of.unwrap_or(&Value::Null).to_string();
        let mut found: Vec<String> = changed
            .map(|key| {
                format!("{key} was {} and is {}", value(mine.get(key)), value(theirs.get(key)))
            })
            .collect();
        if self.source != other.source {
            found.push("the model's files are not the same".to_owned());
        }
        if self.kept != other.kept {
            found.push("what is kept of an earlier result is not the same".to_owned());
        }
        if self.samples != other.samples {
            found.push("the calibration tokens are not the same".to_owned());
        }
        found
    }
}
