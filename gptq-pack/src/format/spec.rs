//! [`LayerSpec`]: what must be known of a layer before its codes are.

use gptq_core::{GroupSize, QuantizedMatrix};

use crate::{Dtype, Width};

/// What a checkpoint's config and headers say about one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerSpec {
    /// Input columns.
    pub in_features: usize,
    /// Output rows.
    pub out_features: usize,
    /// Width of a stored code.
    pub width: Width,
    /// Inputs per group.
    pub group_size: GroupSize,
    /// Every zero point is `2^(b-1)`. compressed-tensors then stores none; Marlin never does.
    pub sym: bool,
    /// Some input `i` is in another group than `i / group_size`: `desc_act` without static groups.
    pub scattered: bool,
    /// How compressed-tensors stores scales. All others store `F16`.
    pub scale_dtype: Dtype,
    /// How the bias is stored, if there is one.
    pub bias: Option<Dtype>,
}

impl LayerSpec {
    /// The spec of a matrix, to be written with `F16` scales and without a bias. Cost: one pass
    /// over the zero points and group indices.
    pub fn of(q: &QuantizedMatrix) -> Self {
        let (width, groups) = (Width::from(q.bits), q.groups());
        let size = match groups {
            0 | 1 => None,
            // Where a run of group 0 ends, if groups are runs; otherwise the smallest size that
            // makes as many groups.
            _ => {
                let run = q.g_idx.iter().position(|&g| g != 0).unwrap_or(0);
                let fits = |&n: &usize| n > 0 && q.in_features().div_ceil(n) == groups;
                Some(run).filter(fits).or(Some(q.in_features().div_ceil(groups)))
            }
        };
        let size = size.and_then(std::num::NonZeroUsize::new);
        let mut spec = Self {
            in_features: q.in_features(),
            out_features: q.out_features(),
            width,
            group_size: size.map_or(GroupSize::PerChannel, GroupSize::Columns),
            sym: q.zeros.iter().all(|&zero| zero == width.middle()),
            scattered: false,
            scale_dtype: Dtype::F16,
            bias: None,
        };
        spec.scattered = !spec.is_natural(&q.g_idx);
        spec
    }

    /// Groups, counting a short last one.
    pub fn groups(&self) -> usize {
        self.group_size.groups(self.in_features)
    }

    /// Whether every input `i` belongs to group `i / group_size`.
    pub fn is_natural(&self, g_idx: &[u32]) -> bool {
        let size = self.group_size.columns(self.in_features);
        g_idx.iter().enumerate().all(|(i, &g)| i / size == g as usize)
    }
}
