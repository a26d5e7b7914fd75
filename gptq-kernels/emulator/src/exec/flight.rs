//! Products of a warpgroup that one of its warps has issued and not yet waited for.
//!
//! A device may finish them at any time up to the wait. Here their results appear at the wait and
//! not before, and what they may still read must not change until then.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::descriptor::Descriptor;
use crate::inst::{GroupProduct, Slot};

/// No number, and another one for each register: what is under way shows if it is used or moved.
pub(super) fn poison(slot: Slot) -> u64 {
    u64::from(0x7fa0_0000 | (slot & 0x1f_ffff))
}

/// What registers that nobody has written hold.
const UNSET: u64 = 0x7fdf_ffff;

/// A register that products of the kernel read or write.
pub(super) struct Cell {
    pub(super) slot: Slot,
    /// What it held at the last fence, or when a wait gave it its value.
    pub(super) fenced: [u64; 32],
    /// Products under way that write it.
    pub(super) writers: u32,
    /// The value they will leave.
    pub(super) value: [f32; 32],
    /// Columns of their shape, and which of the accumulators it is there.
    pub(super) place: (usize, usize),
}

/// What a product may read, or write, as long as it is under way.
pub(super) struct Product {
    pub(super) d: Vec<Slot>,
    pub(super) a: Option<([Slot; 4], [[u64; 32]; 4])>,
    pub(super) shared: Vec<(Descriptor, usize)>,
}

/// A warp's part in its warpgroup's products.
pub(super) struct Flight {
    /// In the order of their slots.
    cells: Vec<Cell>,
    /// All four warps of the warpgroup are there.
    pub(super) complete: bool,
    pub(super) fenced: bool,
    /// Nothing has been waited for since the last fence.
    pub(super) fresh: bool,
    pub(super) open: Vec<Product>,
    pub(super) groups: VecDeque<Vec<Product>>,
    /// How many products there were, a digest of what they multiplied, and where the last was.
    issued: (u64, u64),
    pub(super) last: u32,
}

impl Flight {
    pub(super) fn new(slots: &[Slot], complete: bool) -> Self {
        let cell = |&slot: &Slot| Cell {
            slot,
            fenced: [0; 32],
            writers: 0,
            value: [0.0; 32],
            place: (0, 0),
        };
        Self {
            cells: slots.iter().map(cell).collect(),
            complete,
            fenced: false,
            fresh: false,
            open: Vec::new(),
            groups: VecDeque::new(),
            issued: (0, 0),
            last: 0,
        }
    }

    /// Begins a block: the registers hold nothing of use.
    pub(super) fn begin(&mut self, regs: &mut [u64], slots: usize) {
        (self.fenced, self.issued) = (false, (0, 0));
        for cell in &self.cells {
            for lane in regs.chunks_mut(slots).take(32) {
                lane[cell.slot as usize] = UNSET;
            }
        }
    }

    pub(super) fn cell(&mut self, slot: Slot) -> Result<&mut Cell, String> {
        let at = self.cells.binary_search_by_key(&slot, |cell| cell.slot);
        at.map(|at| &mut self.cells[at]).map_err(|_| "a register is not known".to_owned())
    }

    /// Takes note of all registers: products may read them as they are now.
    pub(super) fn fence(&mut self, regs: &[u64], slots: usize) {
        (self.fenced, self.fresh) = (true, true);
        for cell in &mut self.cells {
            for (kept, lane) in cell.fenced.iter_mut().zip(regs.chunks(slots)) {
                *kept = lane[cell.slot as usize];
            }
        }
    }

    /// Notes what all warps of the warpgroup must issue alike.
    pub(super) fn count(&mut self, product: &GroupProduct, operands: &[u64]) {
        let mut digest = DefaultHasher::new();
        (self.issued.1, product.columns, product.negate, operands).hash(&mut digest);
        self.issued = (self.issued.0 + 1, digest.finish());
    }

    pub(super) fn is_idle(&self) -> bool {
        self.open.is_empty() && self.groups.is_empty()
    }

    /// Whether both warps issued the same products.
    pub(super) fn agrees(&self, other: &Self) -> bool {
        self.issued == other.issued
    }

    pub(super) fn has_issued(&self) -> bool {
        self.issued.0 > 0
    }
}
