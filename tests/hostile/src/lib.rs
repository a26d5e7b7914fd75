//! What is done with bytes nobody vouches for: a function per parser, that must come back whatever
//! it is given. libFuzzer calls them from `/fuzz`; `tests/seeds.rs` calls them on every seed, so
//! that what was found once stays fixed without a fuzzer.
//!
//! An input of several files is one file whose parts are separated by a line `%%`, so that seeds can
//! be read and written by hand. A part that is missing is a file that is not there.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a broken promise is a finding")]

mod folders;
mod layers;
mod texts;
mod tiny;

pub use folders::{adapter, checkpoint, report, safetensors};
pub use layers::packed;
pub use texts::{calibration, config, quantization, tokenizer};

/// A fuzz target, or what a test does in its place.
pub type Target = fn(&[u8]);

/// Every target, by the name of its seeds' folder.
pub const TARGETS: [(&str, Target); 9] = [
    ("adapter", adapter),
    ("calibration", calibration),
    ("checkpoint", checkpoint),
    ("config", config),
    ("packed", packed),
    ("quantization", quantization),
    ("report", report),
    ("safetensors", safetensors),
    ("tokenizer", tokenizer),
];

/// Stands between the parts of an input.
const SEPARATOR: &[u8] = b"\n%%\n";

/// The first `N` parts of an input; those that are missing are `None`.
fn parts<const N: usize>(bytes: &[u8]) -> [Option<&[u8]>; N] {
    let mut rest = Some(bytes);
    std::array::from_fn(|_| {
        let bytes = rest.take()?;
        let end = bytes.windows(SEPARATOR.len()).position(|window| window == SEPARATOR);
        rest = end.map(|end| &bytes[end + SEPARATOR.len()..]);
        Some(&bytes[..end.unwrap_or(bytes.len())])
    })
}
