//! A kernel ready to run.

use crate::inst::{Inst, Slot};

/// What a slot of the register file holds before the first instruction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Init {
    Register,
    Constant(u64),
    Special(Special),
    /// Where dynamic shared memory begins.
    DynamicShared,
}

/// Registers that say where a thread is. The axis is 0, 1 or 2.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Special {
    Thread(u8),
    Threads(u8),
    Block(u8),
    Blocks(u8),
    Lane,
    Warp,
    Warps,
    MaskEqual,
    MaskBelow,
    MaskUpTo,
    MaskAbove,
    MaskFrom,
    DynamicSharedBytes,
    TotalSharedBytes,
}

impl Special {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let axis = |name: &str| match name {
            "x" => Some(0),
            "y" => Some(1),
            "z" => Some(2),
            _ => None,
        };
        if let Some((base, of)) = name.split_once('.') {
            let of = axis(of)?;
            return match base {
                "%tid" => Some(Self::Thread(of)),
                "%ntid" => Some(Self::Threads(of)),
                "%ctaid" => Some(Self::Block(of)),
                "%nctaid" => Some(Self::Blocks(of)),
                _ => None,
            };
        }
        Some(match name {
            "%laneid" => Self::Lane,
            "%warpid" => Self::Warp,
            "%nwarpid" => Self::Warps,
            "%lanemask_eq" => Self::MaskEqual,
            "%lanemask_lt" => Self::MaskBelow,
            "%lanemask_le" => Self::MaskUpTo,
            "%lanemask_gt" => Self::MaskAbove,
            "%lanemask_ge" => Self::MaskFrom,
            "%dynamic_smem_size" => Self::DynamicSharedBytes,
            "%total_smem_size" => Self::TotalSharedBytes,
            _ => return None,
        })
    }
}

/// A statement as written, for messages.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) line: usize,
    pub(crate) text: String,
}

/// One of an entry's parameters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parameter {
    /// Where it begins among the parameter bytes.
    pub offset: usize,
    /// Its bytes.
    pub size: usize,
}

pub(crate) struct Kernel {
    pub(crate) name: String,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) insts: Vec<Inst>,
    pub(crate) sources: Vec<Source>,
    pub(crate) slots: Vec<Init>,
    /// Slots that change from block to block, with their axis.
    pub(crate) block_slots: Vec<(Slot, u8)>,
    /// Registers that products of a warpgroup read or write, in order.
    pub(crate) group_slots: Vec<Slot>,
    pub(crate) static_shared: usize,
    pub(crate) local_bytes: usize,
    pub(crate) max_threads: Option<u32>,
}

impl Kernel {
    pub(crate) fn parameter_bytes(&self) -> usize {
        self.parameters.last().map_or(0, |last| last.offset + last.size)
    }
}
