//! Opening a model folder the way every command does.

use std::path::Path;

use gptq_calib::Tokenizer;
use gptq_kernels::CpuBackend;
use gptq_models::{Architecture, Checkpoint, Model};

use crate::failure::Failure;

/// Context length nobody asked to exceed.
const SEQLEN: usize = 2048;

pub(crate) fn load(dir: &Path) -> Result<Model<CpuBackend>, Failure> {
    Ok(Model::load(&Checkpoint::open(dir)?, CpuBackend::new())?)
}

pub(crate) fn tokenizer(dir: &Path) -> Result<Tokenizer, Failure> {
    Ok(Tokenizer::from_file(&dir.join("tokenizer.json"))?)
}

/// Tokens per sequence: as asked, or 2048 within the model's context.
pub(crate) fn seqlen(asked: Option<usize>, checkpoint: &Checkpoint) -> Result<usize, Failure> {
    if let Some(seqlen) = asked {
        return Ok(seqlen);
    }
    let arch = Architecture::from_config(checkpoint.config(), &checkpoint.config_file())?;
    Ok(SEQLEN.min(arch.config.max_position_embeddings))
}
