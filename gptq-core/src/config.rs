//! What to quantize to, and how: [`QuantConfig`] and the types of its fields.

use std::num::NonZeroUsize;

use crate::{Damping, Error};

/// Width of one code. The field's checkpoints know exactly these four.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bits {
    /// 4 levels.
    B2,
    /// 8 levels.
    B3,
    /// 16 levels.
    B4,
    /// 256 levels.
    B8,
}

impl Bits {
    /// Every width, narrowest first.
    pub const ALL: [Bits; 4] = [Bits::B2, Bits::B3, Bits::B4, Bits::B8];

    /// The width in bits.
    pub const fn get(self) -> u32 {
        match self {
            Bits::B2 => 2,
            Bits::B3 => 3,
            Bits::B4 => 4,
            Bits::B8 => 8,
        }
    }

    /// The largest code, `2^bits - 1`.
    pub const fn maxq(self) -> u8 {
        ((1u32 << self.get()) - 1) as u8
    }
}

impl TryFrom<u32> for Bits {
    type Error = Error;

    fn try_from(bits: u32) -> Result<Self, Error> {
        Bits::ALL.into_iter().find(|b| b.get() == bits).ok_or(Error::UnsupportedBits { bits })
    }
}

/// How many input columns share one scale and zero point. Files write [`GroupSize::PerChannel`]
/// as `-1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GroupSize {
    /// One grid for a whole output row.
    PerChannel,
    /// One grid for each run of this many columns; the last run may be shorter.
    Columns(NonZeroUsize),
}

impl GroupSize {
    /// Columns per group in a layer `in_features` wide.
    pub fn columns(self, in_features: usize) -> usize {
        match self {
            GroupSize::PerChannel => in_features.max(1),
            GroupSize::Columns(n) => n.get(),
        }
    }

    /// Groups in a layer `in_features` wide, counting a short last one.
    pub fn groups(self, in_features: usize) -> usize {
        in_features.div_ceil(self.columns(in_features))
    }

    /// The number that configuration files carry: `-1` for a whole row.
    pub fn to_file(self) -> i64 {
        match self {
            GroupSize::PerChannel => -1,
            GroupSize::Columns(n) => n.get() as i64,
        }
    }

    /// Reads the number that configuration files carry.
    ///
    /// # Errors
    /// [`Error::UnsupportedGroupSize`] for zero and for anything below `-1`.
    pub fn from_file(group_size: i64) -> Result<Self, Error> {
        match group_size {
            -1 => Ok(GroupSize::PerChannel),
            n => usize::try_from(n)
                .ok()
                .and_then(NonZeroUsize::new)
                .map(GroupSize::Columns)
                .ok_or(Error::UnsupportedGroupSize { group_size }),
        }
    }
}

/// The order in which columns are quantized. Early columns can pass their error on to many others,
/// so columns that matter should come early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActOrder {
    /// As stored.
    Natural,
    /// `desc_act`: by decreasing diagonal of the Hessian over the whole layer. Groups follow that
    /// order, so `g_idx` is scattered unless [`QuantConfig::static_groups`] is set.
    DescAct,
    /// `act_group_aware` (GAR): by decreasing diagonal inside each group, and groups by their
    /// largest entry. Groups stay contiguous, so `g_idx` is trivial and no server notices.
    GroupAware,
}

/// Where scales are rounded before the weights are quantized with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScaleDtype {
    /// Kept as computed; what the reference solvers do.
    F32,
    /// Rounded to half precision first, so that the codes are optimal for the scales a checkpoint
    /// stores.
    F16,
}

/// The grid search over shrunken ranges that the field calls `mse`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GridSearch {
    /// Exponent of the error that is minimised; the reference uses 2.4.
    pub norm: f32,
    /// Candidates per unit of shrinkage.
    pub grid: u32,
    /// Largest shrinkage tried, as a share of the range.
    pub maxshrink: f32,
    /// Try both zero points around the exact one at 2 bits, asymmetric, as GPTQModel does since
    /// 7.3.4; the paper's code tries the nearer one alone.
    pub both_zeros: bool,
}

impl Default for GridSearch {
    fn default() -> Self {
        Self { norm: 2.4, grid: 100, maxshrink: 0.8, both_zeros: true }
    }
}

/// Everything that decides the result of quantizing one layer.
///
/// ```
/// use gptq_core::{ActOrder, Bits, QuantConfig};
///
/// let config = QuantConfig { bits: Bits::B3, act_order: ActOrder::DescAct, ..Default::default() };
/// config.validate().unwrap();
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QuantConfig {
    /// Width of a code.
    pub bits: Bits,
    /// Columns that share a scale.
    pub group_size: GroupSize,
    /// Symmetric grid: the zero point is always `2^(bits-1)`.
    pub sym: bool,
    /// Order of the columns: `desc_act`, `act_group_aware` or neither.
    pub act_order: ActOrder,
    /// Choose every group's grid from the original weights before the first column is quantized.
    pub static_groups: bool,
    /// Added to the Hessian's diagonal before it is factored: `damp_percent` and its increments.
    pub damping: Damping,
    /// Search shrunken ranges for the smallest error (`mse`); `None` takes the full range.
    pub mse: Option<GridSearch>,
    /// Columns per lazy update. The paper and every peer use 128.
    pub block_size: NonZeroUsize,
    /// Precision of the scales the codes are made for.
    pub scale_dtype: ScaleDtype,
    /// GPTAQ (Li et al. 2025): how much of the error that earlier layers left in the inputs the
    /// weights make up for. 0 is GPTQ, the paper's code takes 0.25; needs
    /// [`crate::Hessian::add_batch_with_native`].
    pub gptaq_alpha: f32,
    /// FOEM: the share by which each column is drawn back to its original weights before it is
    /// rounded. 0 is GPTQ, the paper's code takes 0.2; in [0, 1).
    pub foem_beta: f32,
    /// Choose a group's grid from its weights as they stand when its first column is reached. The
    /// reference takes them as of the last multiple of `block_size`: without the errors of earlier
    /// columns in the same block.
    pub fresh_scales: bool,
    /// Smallest zero point of an asymmetric grid. Files of the `gptq` (v1) format store `zero - 1`
    /// and readers disagree on what a stored `-1` means, so a layer bound for v1 asks for 1 here.
    pub min_zero: u8,
}

impl Default for QuantConfig {
    /// 4 bits, symmetric, groups of 128, GAR: what every server loads.
    fn default() -> Self {
        Self {
            bits: Bits::B4,
            group_size: GroupSize::Columns(const { NonZeroUsize::new(128).unwrap() }),
            sym: true,
            act_order: ActOrder::GroupAware,
            static_groups: false,
            damping: Damping::default(),
            mse: None,
            block_size: const { NonZeroUsize::new(128).unwrap() },
            scale_dtype: ScaleDtype::F32,
            gptaq_alpha: 0.0,
            foem_beta: 0.0,
            fresh_scales: false,
            min_zero: 0,
        }
    }
}

impl QuantConfig {
    /// Refuses settings that contradict each other.
    ///
    /// # Errors
    /// [`Error::Config`] with the rule and the way out.
    pub fn validate(&self) -> Result<(), Error> {
        let rule = |message: &str| Err(Error::Config { message: message.to_owned() });
        if self.act_order == ActOrder::GroupAware {
            if self.group_size == GroupSize::PerChannel {
                return rule(
                    "act_group_aware orders columns inside groups, but group_size is -1 (whole \
                     rows); choose a group_size or turn act_group_aware off",
                );
            }
            if self.static_groups {
                return rule(
                    "act_group_aware and static_groups both fix the groups; turn one of them off",
                );
            }
        }
        if self.min_zero > self.bits.maxq() / 2 {
            return rule("min_zero must leave at least half of the levels above it");
        }
        if let Some(search) = self.mse
            && !(search.norm > 0.0 && search.grid > 0 && (0.0..1.0).contains(&search.maxshrink))
        {
            return rule("mse needs a norm above 0, a grid above 0 and maxshrink in [0, 1)");
        }
        if !(self.gptaq_alpha.is_finite() && self.gptaq_alpha >= 0.0) {
            return rule("gptaq_alpha must be 0 (off) or a finite number above; 0.25 is usual");
        }
        if !(0.0..1.0).contains(&self.foem_beta) {
            return rule("foem_beta must be in [0, 1): 0 is off, 0.2 is usual");
        }
        self.damping.validate()
    }
}
