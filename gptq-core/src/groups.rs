//! Which grid a column is rounded to.

use ndarray::{Array2, Axis};

use crate::{
    GroupSize, Linalg, QuantConfig,
    grid::{self, RowGrids},
    sweep::Open,
};

/// The grids of one tile, by group: chosen when a group is entered, or fixed before the loop.
pub(crate) struct Grids<'a> {
    config: &'a QuantConfig,
    groups: &'a [u32],
    linalg: &'a dyn Linalg,
    of_group: Vec<Option<RowGrids>>,
}

impl<'a> Grids<'a> {
    /// Whole rows are fitted here, before dead columns are zeroed, as in the reference.
    pub(crate) fn prepare(
        tile: &Array2<f32>,
        groups: &'a [u32],
        config: &'a QuantConfig,
        linalg: &'a dyn Linalg,
    ) -> Self {
        let mut of_group = vec![None; groups.iter().max().map_or(0, |&last| last as usize + 1)];
        if config.group_size == GroupSize::PerChannel {
            of_group.fill(Some(grid::fit(tile.view(), config, linalg)));
        }
        Self { config, groups, linalg, of_group }
    }

    /// Static groups are fitted here, after dead columns are zeroed, before the first update.
    pub(crate) fn fix_static(&mut self, tile: &Array2<f32>) {
        if !self.config.static_groups {
            return;
        }
        for (g, grids) in self.of_group.iter_mut().enumerate() {
            grids.get_or_insert_with(|| {
                let members: Vec<usize> =
                    (0..self.groups.len()).filter(|&p| self.groups[p] as usize == g).collect();
                grid::fit(tile.select(Axis(0), &members).view(), self.config, self.linalg)
            });
        }
    }

    /// The grids of the column that the loop has reached.
    pub(crate) fn at(&mut self, open: &Open<'_, '_>) -> &RowGrids {
        let group = self.groups[open.column];
        self.of_group[group as usize].get_or_insert_with(|| {
            let size = self.groups[open.column..].iter().take_while(|&&g| g == group).count();
            if self.config.fresh_scales {
                grid::fit(open.fresh(size).view(), self.config, self.linalg)
            } else {
                grid::fit(open.stale(size), self.config, self.linalg)
            }
        })
    }

    /// Every group that was entered, with its grids.
    pub(crate) fn chosen(&self) -> impl Iterator<Item = (usize, &RowGrids)> {
        self.of_group.iter().enumerate().filter_map(|(g, grids)| Some((g, grids.as_ref()?)))
    }
}
