//! A report that vouches for itself: its last field is the hash of the text around it.

use std::path::Path;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    Error,
    checkpoint::{hex, json_text, write_text},
};

/// What stands in the field while the text is hashed.
pub(crate) const OPEN: &str = "0000000000000000000000000000000000000000000000000000000000000000";

const FIELD: &str = "\"seal\": \"";

/// Writes a report whose last field is `seal: OPEN`, sealed.
pub(crate) fn write(path: &Path, report: &impl Serialize) -> Result<(), Error> {
    let text = json_text(path, report)?;
    let sealed = match position(&text) {
        None => text,
        Some(at) => {
            let seal = hex(&Sha256::digest(&text));
            [&text[..at], &seal, &text[at + seal.len()..]].concat()
        }
    };
    write_text(path, &sealed)
}

/// Whether the text is the one that was sealed; `None` if it carries no seal.
pub(super) fn holds(text: &str) -> Option<bool> {
    let at = position(text)?;
    let (seal, rest) = text[at..].split_at_checked(OPEN.len())?;
    let open = [&text[..at], OPEN, rest].concat();
    Some(hex(&Sha256::digest(&open)) == seal)
}

/// Where the hash begins.
fn position(text: &str) -> Option<usize> {
    text.rfind(FIELD).map(|at| at + FIELD.len())
}
