//! [`Lines`]: memory in cache lines, on large pages where the system has them.

use std::{
    alloc::{Layout, alloc, dealloc, handle_alloc_error},
    fmt,
    ops::{Deref, DerefMut},
    ptr::NonNull,
    slice,
};

/// One cache line, one vector of AVX-512.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [u32; 16]);

/// A large page of x86-64. Smaller pages stop the hardware's prefetch at every 4 KiB.
const PAGE: usize = 2 << 20;

/// A fixed number of lines, owned.
pub(crate) struct Lines {
    start: NonNull<Line>,
    len: usize,
}

impl Lines {
    pub(crate) fn zeroed(len: usize) -> Self {
        if len == 0 {
            return Self { start: NonNull::dangling(), len };
        }
        let layout = Self::layout(len);
        // SAFETY: the size is not zero.
        let start = unsafe { alloc(layout) };
        let Some(start) = NonNull::new(start.cast::<Line>()) else { handle_alloc_error(layout) };
        if layout.align() == PAGE {
            prefer_large_pages(start.as_ptr().cast(), layout.size());
        }
        // SAFETY: just allocated with room for `len` lines, of which zero is a valid value.
        unsafe { start.as_ptr().write_bytes(0, len) };
        Self { start, len }
    }

    fn layout(len: usize) -> Layout {
        let lines = Layout::array::<Line>(len).expect("less than the address space");
        let align = if lines.size() >= PAGE / 2 { PAGE } else { lines.align() };
        lines.align_to(align).expect("a power of two")
    }
}

/// Advice that may be ignored, before the first touch.
fn prefer_large_pages(start: *mut u8, bytes: usize) {
    #[cfg(target_os = "linux")]
    {
        unsafe extern "C" {
            fn madvise(start: *mut u8, length: usize, advice: i32) -> i32;
        }
        const MADV_HUGEPAGE: i32 = 14;
        // SAFETY: the range is one live allocation that begins at a page; the advice changes no
        // contents, and a failure leaves everything as it was.
        unsafe { madvise(start, bytes, MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, bytes);
}

impl Deref for Lines {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        // SAFETY: `len` initialised lines that this owns.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [Line] {
        // SAFETY: as above, and borrowed mutably.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: allocated by `zeroed` with this layout.
            unsafe { dealloc(self.start.as_ptr().cast(), Self::layout(self.len)) };
        }
    }
}

impl Clone for Lines {
    fn clone(&self) -> Self {
        let mut lines = Self::zeroed(self.len);
        lines.copy_from_slice(self);
        lines
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} lines", self.len)
    }
}

// SAFETY: owns its memory and has no interior mutability.
unsafe impl Send for Lines {}
// SAFETY: as above.
unsafe impl Sync for Lines {}

/// Lines as smaller numbers.
pub(crate) fn halves(lines: &[Line; 2]) -> &[u16; 64] {
    // SAFETY: the same 128 bytes, any of which is valid, at less alignment.
    unsafe { &*lines.as_ptr().cast() }
}

/// See [`halves`].
pub(crate) fn halves_mut(lines: &mut [Line; 2]) -> &mut [u16; 64] {
    // SAFETY: as in `halves`, borrowed mutably.
    unsafe { &mut *lines.as_mut_ptr().cast() }
}

/// See [`halves`].
pub(crate) fn bytes(line: &Line) -> &[u8; 64] {
    // SAFETY: the same 64 bytes, any of which is valid, at less alignment.
    unsafe { &*(&raw const line.0).cast() }
}

/// See [`halves`].
pub(crate) fn bytes_mut(line: &mut Line) -> &mut [u8; 64] {
    // SAFETY: as in `bytes`, borrowed mutably.
    unsafe { &mut *(&raw mut line.0).cast() }
}
