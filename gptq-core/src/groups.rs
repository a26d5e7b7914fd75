//! Which grid a column is rounded to.

use ndarray::Array2;

use crate::{Grid, GroupSize, QuantConfig, grid};

/// The grids of one tile: chosen when a group is entered, or fixed before the loop.
pub(crate) struct Grids<'a> {
    config: &'a QuantConfig,
    groups: &'a [u32],
    fixed: Vec<Vec<Grid>>,
    current: (u32, Vec<Grid>),
}

impl<'a> Grids<'a> {
    /// Whole rows are fitted here, before dead columns are zeroed, as in the reference.
    pub(crate) fn prepare(tile: &Array2<f32>, groups: &'a [u32], config: &'a QuantConfig) -> Self {
        let all: Vec<usize> = (0..groups.len()).collect();
        let fixed = match config.group_size {
            GroupSize::PerChannel => vec![grid::fit(tile, &all, config)],
            GroupSize::Columns(_) => Vec::new(),
        };
        Self { config, groups, fixed, current: (u32::MAX, Vec::new()) }
    }

    /// Static groups are fitted here, after dead columns are zeroed, before the first update.
    pub(crate) fn fix_static(&mut self, tile: &Array2<f32>) {
        if !self.config.static_groups || !self.fixed.is_empty() {
            return;
        }
        let count = self.groups.iter().max().map_or(0, |&last| last + 1);
        let members =
            |g| -> Vec<usize> { (0..self.groups.len()).filter(|&p| self.groups[p] == g).collect() };
        self.fixed = (0..count).map(|g| grid::fit(tile, &members(g), self.config)).collect();
    }

    /// The grids of position `c`, given the weights as of the last block boundary.
    pub(crate) fn at(&mut self, c: usize, tile: &Array2<f32>) -> &[Grid] {
        let group = self.groups[c];
        if !self.fixed.is_empty() {
            return &self.fixed[group as usize];
        }
        if self.current.0 != group {
            let members: Vec<usize> =
                (c..self.groups.len()).take_while(|&p| self.groups[p] == group).collect();
            self.current = (group, grid::fit(tile, &members, self.config));
        }
        &self.current.1
    }
}
