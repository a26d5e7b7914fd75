//! What can go wrong with a model: always with the file, the tensor, the rule and the numbers.

use std::path::Path;

/// An error about a checkpoint, a graph or a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was attempted.
        action: String,
        /// On which file.
        path: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A file or folder breaks a rule.
    #[error("{path} {message}")]
    File {
        /// Which one.
        path: String,
        /// The rule, the numbers and the way out.
        message: String,
    },
    /// A key of a configuration file.
    #[error("{file}: {key} {message}")]
    Config {
        /// The file.
        file: String,
        /// The key.
        key: String,
        /// What is wrong with it.
        message: String,
    },
    /// No graph for this family.
    #[error("{file}: model_type is {model_type:?}, but the known families are: {known}")]
    UnknownArchitecture {
        /// The configuration file.
        file: String,
        /// What it says.
        model_type: String,
        /// What it could say.
        known: String,
    },
    /// A tensor the graph needs is nowhere.
    #[error(
        "{folder}: tensor {tensor} is missing (the folder holds {found} tensors); the download is \
         incomplete or config.json belongs to another model"
    )]
    MissingTensor {
        /// The model folder.
        folder: String,
        /// The tensor.
        tensor: String,
        /// Tensors that are there.
        found: usize,
    },
    /// A tensor has another shape than the configuration implies.
    #[error("{file}: tensor {tensor} has shape {found:?}, but config.json implies {expected:?}")]
    Shape {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape it should have.
        expected: Vec<usize>,
    },
    /// A tensor has an element type that makes no sense here.
    #[error("{file}: tensor {tensor} is {found}, but must be {expected}")]
    Dtype {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its type.
        found: String,
        /// The types that do.
        expected: &'static str,
    },
    /// A NaN or infinity in a weight.
    #[error(
        "{file}: tensor {tensor} holds {value} at [{row}, {column}]; the file is damaged, fetch it \
         again"
    )]
    NotFinite {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The first such value.
        value: f32,
        /// Its row.
        row: usize,
        /// Its column.
        column: usize,
    },
    /// The output folder is taken.
    #[error("{path} already exists and is not an empty folder; choose another name or remove it")]
    OutputExists {
        /// The folder.
        path: String,
    },
    /// The solver failed on a layer.
    #[error("{layer}: {source}")]
    Layer {
        /// The linear, or the linears that share an input.
        layer: String,
        /// The solver's error.
        source: gptq_core::Error,
    },
    /// The solver failed on a layer, and what it failed on is kept.
    #[error("{layer}: {source}; {kept}")]
    Unsolved {
        /// The linear, or the linears that share an input.
        layer: String,
        /// The solver's error.
        source: gptq_core::Error,
        /// Where, and what to do with it.
        kept: String,
    },
    /// A packed layer makes no sense.
    #[error("{layer}: {source}")]
    Packed {
        /// The linear.
        layer: String,
        /// The format's error.
        source: gptq_pack::Error,
    },
    /// The config says one width, the shapes of a layer's tensors another.
    #[error("{layer}: {source}; the config says bits {stated}, but the shapes fit bits {fits}")]
    Scheme {
        /// The file and the linear.
        layer: String,
        /// The shape that does not fit.
        source: Box<gptq_pack::Error>,
        /// The width that the config gives this layer.
        stated: u32,
        /// The width that all its shapes fit.
        fits: u32,
    },
    /// A quantization config makes no sense.
    #[error("{file}: {source}")]
    QuantizationConfig {
        /// The file.
        file: String,
        /// The format's error.
        source: gptq_pack::Error,
    },
    /// Zero points are not stored as the config says, or not at all.
    #[error("{folder}: {message}")]
    ZeroPoints {
        /// The model folder.
        folder: String,
        /// What was declared, what was found, the evidence and the way out.
        message: String,
    },
    /// What was written is not what was solved.
    #[error("{layer}: what was read back from disk differs from what was solved: {message}")]
    Verify {
        /// The linear.
        layer: String,
        /// The difference.
        message: String,
    },
    /// A run failed, but what it has finished remains.
    #[error(
        "{source}\n{blocks} of {of} blocks are finished and kept in {folder}: when the reason is gone, \
         the same command goes on from there"
    )]
    Interrupted {
        /// Why.
        source: Box<Error>,
        /// Blocks that need not be done again.
        blocks: usize,
        /// All blocks.
        of: usize,
        /// Where they are.
        folder: String,
    },
    /// Token ids or settings of a run make no sense.
    #[error("{message}")]
    Input {
        /// The rule, the numbers and the way out.
        message: String,
    },
    /// The backend failed outside of any layer.
    #[error(transparent)]
    Backend(#[from] gptq_core::Error),
}

impl Error {
    pub(crate) fn io(action: &str, path: &Path, source: std::io::Error) -> Self {
        Error::Io { action: action.to_owned(), path: path.display().to_string(), source }
    }

    pub(crate) fn file(path: &Path, message: impl Into<String>) -> Self {
        Error::File { path: path.display().to_string(), message: message.into() }
    }

    pub(crate) fn input(message: impl Into<String>) -> Self {
        Error::Input { message: message.into() }
    }
}
