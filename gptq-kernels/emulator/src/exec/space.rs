//! Where generic addresses lead. Host addresses are far below both windows.

use crate::inst::Space;

pub(crate) const SHARED_BASE: u64 = 1 << 56;
pub(crate) const LOCAL_BASE: u64 = 2 << 56;
const WINDOW: u64 = 1 << 32;

/// The space a generic address points to, and the address there.
pub(crate) fn resolve(address: u64) -> (Space, u64) {
    match address & !(WINDOW - 1) {
        SHARED_BASE => (Space::Shared, address - SHARED_BASE),
        LOCAL_BASE => (Space::Local, address - LOCAL_BASE),
        _ => (Space::Global, address),
    }
}
