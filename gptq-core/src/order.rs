//! In which order columns are quantized, and which group each then belongs to.

use std::cmp::Ordering;

use ndarray::{Array2, ArrayView1, Axis, s};
use rayon::prelude::*;

use crate::{ActOrder, GroupSize, QuantConfig};

/// Processing position → original column, from the Hessian's diagonal.
pub(crate) fn permutation(
    diagonal: ArrayView1<'_, f32>,
    act_order: ActOrder,
    group_size: GroupSize,
) -> Vec<usize> {
    let n = diagonal.len();
    match act_order {
        ActOrder::Natural => (0..n).collect(),
        ActOrder::DescAct => sorted_descending((0..n).collect(), |c| diagonal[c]),
        ActOrder::GroupAware => {
            let size = group_size.columns(n);
            let local =
                |g: usize| sorted_descending((g * size..(g + 1) * size).collect(), |c| diagonal[c]);
            // After the local sort a group's largest entry is its first.
            let groups: Vec<Vec<usize>> = (0..n / size).map(local).collect();
            let order = sorted_descending((0..groups.len()).collect(), |g| diagonal[groups[g][0]]);
            let tail = n / size * size..n;
            order.into_iter().flat_map(|g| groups[g].clone()).chain(tail).collect()
        }
    }
}

/// Stable, so that equal entries keep their order on every machine.
fn sorted_descending(mut indices: Vec<usize>, key: impl Fn(usize) -> f32) -> Vec<usize> {
    indices.sort_by(|&a, &b| key(b).partial_cmp(&key(a)).unwrap_or(Ordering::Equal));
    indices
}

/// The group of each processing position. Groups are runs of processed columns under `desc_act`,
/// and runs of stored columns otherwise; GAR keeps the two the same.
pub(crate) fn group_of_position(perm: &[usize], config: &QuantConfig) -> Vec<u32> {
    let size = config.group_size.columns(perm.len());
    let scattered = config.act_order == ActOrder::DescAct && !config.static_groups;
    let group = |(position, &column): (usize, &usize)| {
        (if scattered { position } else { column } / size) as u32
    };
    perm.iter().enumerate().map(group).collect()
}

/// `a[order, order]`, without a second matrix.
pub(crate) fn reorder(a: &mut Array2<f32>, order: &[usize]) {
    // Along each cycle of the permutation, rows move up; the first waits outside.
    let mut placed = vec![false; order.len()];
    for first in 0..order.len() {
        let waiting = a.row(first).to_owned();
        let mut at = first;
        while !std::mem::replace(&mut placed[at], true) {
            let from = order[at];
            if from == first {
                a.row_mut(at).assign(&waiting);
            } else {
                let (mut to, row) = a.multi_slice_mut((s![at, ..], s![from, ..]));
                to.assign(&row);
            }
            at = from;
        }
    }
    let rows: Vec<_> = a.axis_iter_mut(Axis(0)).collect();
    rows.into_par_iter().for_each(|mut row| {
        let stored = row.to_owned();
        row.iter_mut().zip(order).for_each(|(to, &column)| *to = stored[column]);
    });
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use ndarray::array;

    use super::*;

    #[test]
    fn group_aware_order_of_a_known_diagonal() {
        // Worked by GPTQModel's rules: local order, group score = maximum, tail last.
        let d = array![3., 4., 1., 2., 2., 8., 7., 0.5, 9., 4., 4., 4.5, 6., 10.];
        let size = GroupSize::Columns(NonZeroUsize::new(4).unwrap());
        let perm = permutation(d.view(), ActOrder::GroupAware, size);
        assert_eq!(perm, [8, 11, 9, 10, 5, 6, 4, 7, 1, 0, 3, 2, 12, 13]);
        let config = QuantConfig { group_size: size, ..Default::default() };
        let groups = group_of_position(&perm, &config);
        assert_eq!(groups, [2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0, 3, 3]);
    }

    #[test]
    fn reordering_in_place_is_selecting() {
        let a = Array2::from_shape_fn((9, 9), |(i, j)| (10 * i + j) as f32);
        for step in [1, 2, 4, 5, 7, 8] {
            for shift in 0..9 {
                let order: Vec<usize> = (0..9).map(|i| (step * i + shift) % 9).collect();
                let mut b = a.clone();
                reorder(&mut b, &order);
                assert_eq!(b, a.select(Axis(0), &order).select(Axis(1), &order));
            }
        }
        // Two cycles, and one that stays.
        let (order, mut b) = ([3, 2, 1, 0, 4, 6, 7, 8, 5], a.clone());
        reorder(&mut b, &order);
        assert_eq!(b, a.select(Axis(0), &order).select(Axis(1), &order));
    }
}
