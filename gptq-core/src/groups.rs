//! Which grid a column is rounded to.

use ndarray::{Array2, Axis};

use crate::{Grid, GroupSize, QuantConfig, grid, sweep::Open};

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
        let fixed = match config.group_size {
            GroupSize::PerChannel => vec![grid::fit(tile.view(), config)],
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
        let fit = |g| {
            let members: Vec<usize> =
                (0..self.groups.len()).filter(|&p| self.groups[p] == g).collect();
            grid::fit(tile.select(Axis(0), &members).view(), self.config)
        };
        self.fixed = (0..count).map(fit).collect();
    }

    /// The grids of the column that the loop has reached.
    pub(crate) fn at(&mut self, open: &Open<'_, '_>) -> &[Grid] {
        let group = self.groups[open.column];
        if !self.fixed.is_empty() {
            return &self.fixed[group as usize];
        }
        if self.current.0 != group {
            let size = self.groups[open.column..].iter().take_while(|&&g| g == group).count();
            let grids = if self.config.fresh_scales {
                grid::fit(open.fresh(size).view(), self.config)
            } else {
                grid::fit(open.stale(size), self.config)
            };
            self.current = (group, grids);
        }
        &self.current.1
    }
}
