//! Host memory that stands for device memory.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error};

/// What real allocations are aligned to.
const ALIGNMENT: usize = 256;

/// A piece of memory whose address is what the device program sees.
pub(crate) struct Block {
    start: *mut u8,
    layout: Layout,
    bytes: usize,
}

// SAFETY: the memory belongs to the block alone; what reads and writes it holds the block's owner.
unsafe impl Send for Block {}
// SAFETY: as above: shared references only give the address and the length.
unsafe impl Sync for Block {}

impl Block {
    /// Memory filled with one byte.
    pub(crate) fn new(bytes: usize, fill: u8) -> Self {
        let size = bytes.max(1).next_multiple_of(ALIGNMENT);
        let Ok(layout) = Layout::from_size_align(size, ALIGNMENT) else {
            handle_alloc_error(Layout::new::<u8>())
        };
        // SAFETY: the layout's size is not zero.
        let start = unsafe { if fill == 0 { alloc_zeroed(layout) } else { alloc(layout) } };
        if start.is_null() {
            handle_alloc_error(layout);
        }
        if fill != 0 {
            // SAFETY: the memory is `size` bytes long and ours.
            unsafe { start.write_bytes(fill, size) };
        }
        Self { start, layout, bytes }
    }

    pub(crate) fn address(&self) -> u64 {
        self.start as u64
    }

    /// Bytes asked for: what lies behind them is padding that no access may touch.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the memory is this long, initialised, and borrowed through the block.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.bytes) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: the memory came from the same layout.
        unsafe { dealloc(self.start, self.layout) };
    }
}
