//! Hugging Face model folders: read, mapped and checked; written, streamed and whole or not at all.

mod file;
mod read;
mod staging;
mod tensor;
mod weight_files;
mod write;

pub(crate) use file::{open, read_text};
pub use read::Checkpoint;
pub(crate) use read::read_json;
pub use staging::Staging;
pub(crate) use staging::sync_folder;
pub use tensor::TensorView;
pub use write::{CheckpointWriter, TensorSpec, Written};
pub(crate) use write::{hex, json_text, reserve, write_json, write_text};
