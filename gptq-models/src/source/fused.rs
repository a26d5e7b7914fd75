//! Experts that share one tensor: which slice of it is a linear.

use ndarray::Array2;

use super::transposed;
use crate::{Checkpoint, Error, TensorView, graph::LinearPlace};

/// One linear of one expert as a slice of a tensor that holds all experts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FusedExpert {
    /// The tensor, of three dimensions in the order of `axes`; or else `{tensor}_blocks` of bytes
    /// \[experts, outputs, inputs / 32, 16\] and `{tensor}_scales` of bytes \[experts, outputs,
    /// inputs / 32\], which is MXFP4 as gpt-oss is published.
    pub tensor: String,
    /// The bias, \[experts, outputs\].
    pub bias: Option<String>,
    /// Which expert.
    pub expert: usize,
    /// Of how many.
    pub experts: usize,
    /// Order of the dimensions of `tensor`. MXFP4 has but one order.
    pub axes: Axes,
    /// Which of the outputs are this linear's.
    pub outputs: Outputs,
}

/// Order of the dimensions of a fused tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axes {
    /// \[experts, outputs, inputs\].
    OutIn,
    /// \[experts, inputs, outputs\].
    InOut,
}

/// Which outputs of a fused tensor are a linear's: gate and up often lie in one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outputs {
    /// All.
    All,
    /// Those below the middle.
    FirstHalf,
    /// Those from the middle on.
    SecondHalf,
    /// The outputs 0, 2, 4, …
    Even,
    /// The outputs 1, 3, 5, …
    Odd,
}

impl Outputs {
    /// Outputs of the whole tensor if this share has so many.
    pub(super) fn total(self, outputs: usize) -> usize {
        match self {
            Outputs::All => outputs,
            // What saturates is the shape of no tensor, and is refused as such.
            _ => outputs.saturating_mul(2),
        }
    }

    fn steps(self, outputs: usize) -> Steps {
        let (start, step) = match self {
            Outputs::All | Outputs::FirstHalf => (0, 1),
            Outputs::SecondHalf => (outputs, 1),
            Outputs::Even => (0, 2),
            Outputs::Odd => (1, 2),
        };
        Steps { start, step, count: outputs }
    }
}

/// The indices `start`, `start + step`, …
#[derive(Clone, Copy)]
pub(super) struct Steps {
    start: usize,
    step: usize,
    count: usize,
}

impl Steps {
    /// So many from the beginning of the `block`th block of that size.
    fn block(block: usize, count: usize) -> Self {
        Self { start: block * count, step: 1, count }
    }

    pub(super) fn at(&self, index: usize) -> usize {
        self.start + self.step * index
    }

    pub(super) fn iter(self) -> impl Iterator<Item = usize> {
        (0..self.count).map(move |index| self.at(index))
    }
}

/// Where an expert's weights may be.
pub(super) struct Names {
    pub(super) whole: String,
    pub(super) blocks: String,
    pub(super) scales: String,
}

impl FusedExpert {
    pub(super) fn tensor_names(&self) -> Names {
        let whole = self.tensor.clone();
        Names { blocks: format!("{whole}_blocks"), scales: format!("{whole}_scales"), whole }
    }

    /// This linear's rows of a tensor \[experts, outputs, …\], leading dimensions taken as one.
    pub(super) fn rows(&self, outputs: usize) -> Steps {
        let share = self.outputs.steps(outputs);
        Steps { start: self.expert * self.outputs.total(outputs) + share.start, ..share }
    }

    /// Refuses an expert beyond the last.
    pub(super) fn check(&self, place: &LinearPlace) -> Result<(), Error> {
        if self.expert < self.experts {
            return Ok(());
        }
        Err(Error::input(format!(
            "{} is expert {} of {}, but there are only {} experts",
            place.name, self.expert, self.tensor, self.experts
        )))
    }
}

/// Rows and columns of a tensor whose leading dimensions are taken as one.
pub(super) struct Slice<'a> {
    pub(super) view: TensorView<'a>,
    rows: Steps,
    columns: Steps,
    /// Whether the rows are inputs.
    transposed: bool,
}

impl<'a> Slice<'a> {
    pub(super) fn weight(
        view: TensorView<'a>,
        place: &LinearPlace,
        expert: &FusedExpert,
    ) -> Result<Self, Error> {
        expert.check(place)?;
        let (outs, ins) = (place.out_features, place.in_features);
        let total = expert.outputs.total(outs);
        let (shape, transposed) = match expert.axes {
            Axes::OutIn => ([expert.experts, total, ins], false),
            Axes::InOut => ([expert.experts, ins, total], true),
        };
        view.check_shape(&shape)?;
        view.check_floats()?;
        let (rows, columns) = match expert.axes {
            Axes::OutIn => (expert.rows(outs), Steps::block(0, ins)),
            Axes::InOut => (Steps::block(expert.expert, ins), expert.outputs.steps(outs)),
        };
        Ok(Self { view, rows, columns, transposed })
    }

    pub(super) fn read(&self) -> Result<Array2<f32>, Error> {
        let (rows, columns) = (self.rows, self.columns);
        let mut values = Vec::with_capacity(rows.count * columns.count);
        for row in rows.iter() {
            let row = self.view.row(row);
            let wanted = row.floats().skip(columns.start).step_by(columns.step);
            values.extend(wanted.take(columns.count));
        }
        if let Some(at) = values.iter().position(|v: &f32| !v.is_finite()) {
            let (row, column) = (at / columns.count, at % columns.count);
            return Err(self.view.not_finite(values[at], rows.at(row), columns.at(column)));
        }
        let matrix = self.view.matrix_of(rows.count, columns.count, values)?;
        Ok(if self.transposed { transposed(&matrix) } else { matrix })
    }
}

/// An expert's row and share of the bias of all experts.
pub(super) fn bias_row(
    checkpoint: &Checkpoint,
    place: &LinearPlace,
    expert: &FusedExpert,
    own: &str,
) -> Result<Array2<f32>, Error> {
    let Some(name) = &expert.bias else { return checkpoint.row(own, place.out_features) };
    expert.check(place)?;
    let Some(view) = checkpoint.get(name) else {
        // Fails, and names both.
        return checkpoint.row(&format!("{own} or {name}"), place.out_features);
    };
    view.check_shape(&[expert.experts, expert.outputs.total(place.out_features)])?;
    view.check_floats()?;
    let columns = expert.outputs.steps(place.out_features);
    Slice { view, rows: Steps::block(expert.expert, 1), columns, transposed: false }.read()
}
