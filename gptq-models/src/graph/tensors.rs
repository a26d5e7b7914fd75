//! Tensors of a graph that are not linears to quantize.

use gptq_core::NormKind;

/// A dense matrix that is used as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Name in the file.
    pub name: String,
    /// Rows and columns.
    pub shape: [usize; 2],
}

/// One small tensor, made of one in the file or of several of the same shape, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Small {
    /// Names in the file; the first stands for all.
    pub names: Vec<String>,
    /// Shape of each.
    pub shape: Vec<usize>,
    /// Columns of what is made of them.
    pub columns: usize,
    /// 1 is added to every entry.
    pub plus_one: bool,
}

impl Small {
    /// A vector.
    pub fn row(name: String, length: usize) -> Self {
        Self { names: vec![name], shape: vec![length], columns: length, plus_one: false }
    }

    /// A matrix.
    pub fn matrix(name: String, rows: usize, columns: usize) -> Self {
        Self { names: vec![name], shape: vec![rows, columns], columns, plus_one: false }
    }

    /// What it is called among the tensors of its stage.
    pub(crate) fn key(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }
}

/// A norm by name; see [`gptq_core::Norm`].
#[derive(Clone, Debug, PartialEq)]
pub struct NormSpec {
    /// How a segment is normalised.
    pub kind: NormKind,
    /// Added to the mean square, or to the variance.
    pub eps: f32,
    /// Channels that are normalised together.
    pub segment: usize,
    /// Factors.
    pub weight: Option<Small>,
    /// Added last.
    pub bias: Option<Small>,
}

impl NormSpec {
    pub(crate) fn small(&self) -> impl Iterator<Item = &Small> {
        self.weight.iter().chain(&self.bias)
    }
}
