//! Where a linear's weights are.

use crate::source::Stored;

/// One linear: where it is and what it must look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearPlace {
    /// Full name, without `.weight`.
    pub name: String,
    /// Output rows.
    pub out_features: usize,
    /// Input columns.
    pub in_features: usize,
    /// Whether the model adds a bias.
    pub bias: bool,
    /// How the file stores it where it is not packed.
    pub stored: Stored,
}
