//! Device memory: host blocks by address, with a limit.

use std::collections::{BTreeMap, BTreeSet};

use crate::block::Block;

/// Fresh memory holds this everywhere: no number, in any float format.
const FRESH: u8 = 0xff;
/// Larger blocks stay as the system gives them, so that their pages need not exist.
const LARGEST_FILLED: usize = 64 << 20;

/// What a device can address, each allocation by itself.
pub struct Memory {
    blocks: BTreeMap<u64, Block>,
    /// Blocks that are the host's and do not count.
    host: BTreeSet<u64>,
    capacity: u64,
    used: u64,
}

impl Memory {
    /// Memory of so many bytes, all free.
    pub fn new(capacity: u64) -> Self {
        Self { blocks: BTreeMap::new(), host: BTreeSet::new(), capacity, used: 0 }
    }

    /// Bytes in all.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Bytes not allocated.
    pub fn free_bytes(&self) -> u64 {
        self.capacity - self.used
    }

    /// A new allocation's address; none if it does not fit.
    pub fn alloc(&mut self, bytes: usize) -> Option<u64> {
        if bytes as u64 > self.free_bytes() {
            return None;
        }
        let block = Block::new(bytes, if bytes > LARGEST_FILLED { 0 } else { FRESH });
        let address = block.address();
        self.used += bytes as u64;
        self.blocks.insert(address, block);
        Some(address)
    }

    /// Memory of the host that the device reaches too; it does not count.
    pub(crate) fn alloc_host(&mut self, bytes: usize) -> u64 {
        let block = Block::new(bytes, 0);
        let address = block.address();
        self.blocks.insert(address, block);
        self.host.insert(address);
        address
    }

    /// Gives an allocation back; false if there is none at the address.
    pub fn free(&mut self, address: u64) -> bool {
        let Some(block) = self.blocks.remove(&address) else { return false };
        if !self.host.remove(&address) {
            self.used -= block.len() as u64;
        }
        true
    }

    /// Whether all bytes lie in one allocation.
    pub fn contains(&self, address: u64, bytes: usize) -> bool {
        let Some((start, block)) = self.blocks.range(..=address).next_back() else { return false };
        let end = start + block.len() as u64;
        address.checked_add(bytes as u64).is_some_and(|last| last <= end)
    }

    /// The bytes at an address, if they lie in one allocation.
    pub fn bytes(&mut self, address: u64, bytes: usize) -> Option<&mut [u8]> {
        if !self.contains(address, bytes) {
            return None;
        }
        let (start, block) = self.blocks.range_mut(..=address).next_back()?;
        let at = (address - start) as usize;
        block.bytes_mut().get_mut(at..at + bytes)
    }

    /// Writes bytes at an address; false if they do not lie in one allocation.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> bool {
        self.bytes(address, bytes.len()).map(|to| to.copy_from_slice(bytes)).is_some()
    }

    /// Start and end of every allocation, in order.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        self.blocks.iter().map(|(&start, block)| (start, start + block.len() as u64))
    }
}
