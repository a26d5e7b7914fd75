//! Hugging Face model folders: read, mapped and checked; written, streamed and whole or not at all.

mod read;
mod staging;
mod tensor;
mod write;

pub use read::Checkpoint;
pub(crate) use read::read_json;
pub use staging::Staging;
pub use tensor::TensorView;
pub(crate) use write::write_json;
pub use write::{CheckpointWriter, TensorSpec, Written};
