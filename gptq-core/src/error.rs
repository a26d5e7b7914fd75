//! What can go wrong with one layer.

use ndarray::Array2;

/// A Hessian that cannot be factored, as it was before: columns in the order of the layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Unsolved {
    /// H, in × in.
    pub hessian: Array2<f32>,
    /// What GPTAQ makes up for, in × in; see [`Hessian::cross`](crate::Hessian::cross).
    pub cross: Option<Array2<f32>>,
}

/// An error of the solver. Messages are clauses; whoever knows the layer's name puts it in front.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A width no checkpoint format knows.
    #[error("bits is {bits}, but GPTQ checkpoints hold 2, 3, 4 or 8 bits")]
    UnsupportedBits {
        /// The width asked for.
        bits: u32,
    },
    /// Zero, or a negative number other than -1.
    #[error("group_size is {group_size}, but must be -1 (whole rows) or at least 1")]
    UnsupportedGroupSize {
        /// The size asked for.
        group_size: i64,
    },
    /// Settings that contradict each other.
    #[error("{message}")]
    Config {
        /// The rule and the way out.
        message: String,
    },
    /// Two operands do not fit together.
    #[error("{what} is {found:?}, expected {expected:?}")]
    Shape {
        /// Which operand.
        what: &'static str,
        /// Its shape.
        found: [usize; 2],
        /// The shape the other operands imply.
        expected: [usize; 2],
    },
    /// A NaN or infinity where only finite numbers make sense.
    #[error(
        "{what} holds {value} at row {row}, column {column}; the source or its inputs are damaged"
    )]
    NotFinite {
        /// Which operand.
        what: &'static str,
        /// The first offending value.
        value: f32,
        /// Its row.
        row: usize,
        /// Its column.
        column: usize,
    },
    /// A Hessian was asked for before any input was seen.
    #[error("the Hessian has seen no input; feed calibration tokens before solving")]
    NoInput,
    /// Cholesky met a non-positive pivot.
    #[error("matrix is not positive definite: pivot {pivot} at column {column}")]
    NonPositivePivot {
        /// Column in processing order.
        column: usize,
        /// The value found where a positive one is needed.
        pivot: f32,
    },
    /// No damping below 1 made the Hessian positive definite, not even on a raised diagonal.
    #[error(
        "hessian not positive definite at column {column} after {attempts} attempts (the last \
         with damp_percent {last_percent:.4} on a diagonal raised by a tenth of its largest \
         entry); use more or more varied calibration text, or skip this layer"
    )]
    NotPositiveDefinite {
        /// Column of the last failure, in processing order.
        column: usize,
        /// How many dampings there are to try.
        attempts: u32,
        /// The last of them.
        last_percent: f64,
        /// What could not be solved, so that it can be looked at.
        unsolved: Option<Box<Unsolved>>,
    },
    /// A scale that half precision cannot hold.
    #[error("scale {scale} of output row {row} exceeds half precision (65504); skip this layer")]
    ScaleOverflow {
        /// The scale.
        scale: f32,
        /// Its output row.
        row: usize,
    },
    /// An error of a backend: device lost, out of memory.
    #[error("backend: {message}")]
    Backend {
        /// What the backend said.
        message: String,
    },
}
