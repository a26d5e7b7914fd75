//! Hugging Face model folders: read, mapped and checked; written, streamed and whole or not at all.

mod read;
mod staging;
mod write;

pub(crate) use read::read_json;
pub use read::{Checkpoint, TensorView};
pub use staging::Staging;
pub(crate) use write::write_json;
pub use write::{CheckpointWriter, TensorSpec, Written};
