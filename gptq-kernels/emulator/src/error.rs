//! What can go wrong, said in full.

/// A failure of parsing, of launching, or of the kernel itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text holds something that the emulator does not know.
    #[error("line {line}: {reason}: `{text}`")]
    Parse {
        /// Line of the PTX text, from 1.
        line: usize,
        /// The statement.
        text: String,
        /// Why it was refused.
        reason: String,
    },
    /// The launch itself is wrong: no such kernel, too many threads, parameters of the wrong size.
    #[error("launch: {0}")]
    Launch(String),
    /// The kernel did something that it must not do.
    #[error("{0}")]
    Fault(Box<Fault>),
}

/// A kernel's own error: where it happened and what it was.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "kernel {kernel}, block {block:?}, thread {thread:?}, line {line}: `{instruction}`: {what}"
)]
pub struct Fault {
    /// The entry's name.
    pub kernel: String,
    /// The block's coordinates.
    pub block: [u32; 3],
    /// The thread's coordinates in its block.
    pub thread: [u32; 3],
    /// Line of the PTX text, from 1.
    pub line: usize,
    /// The instruction as written.
    pub instruction: String,
    /// The error.
    pub what: String,
}
