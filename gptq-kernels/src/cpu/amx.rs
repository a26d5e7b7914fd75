//! Tiles: eight registers of 16 rows × 64 bytes, and products of them (Intel AMX).
//!
//! The compiler has no stable names for these instructions, so they are written in assembly.

use std::{arch::asm, sync::OnceLock};

/// Rows of a tile.
pub(crate) const ROWS: usize = 16;

/// Bytes of a row of a tile.
pub(crate) const BYTES: usize = 64;

/// Whether the CPU has tiles, and the system lets this process use them.
pub(crate) fn usable() -> bool {
    static USABLE: OnceLock<bool> = OnceLock::new();
    *USABLE.get_or_init(|| has_instructions() && permitted())
}

fn has_instructions() -> bool {
    let leaf = core::arch::x86_64::__cpuid_count(7, 0);
    let (bf16, tile, int8) = (1 << 22, 1 << 24, 1 << 25);
    leaf.edx & (bf16 | tile | int8) == bf16 | tile | int8
}

/// Linux gives tile registers only to processes that ask: `arch_prctl(ARCH_REQ_XCOMP_PERM,
/// XTILEDATA)`. The answer holds for all threads.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XTILEDATA: i64 = 18;
    let result: i64;
    // SAFETY: the call touches no memory of ours; an unknown request is answered by an error.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XTILEDATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// Tile registers of this thread, all 16 × 64 bytes, given back when this is dropped.
pub(crate) struct Tiles(());

impl Tiles {
    /// # Safety
    /// [`usable`] must have said yes.
    pub(crate) unsafe fn configure() -> Self {
        #[repr(C, align(64))]
        struct Config {
            palette: u8,
            start_row: u8,
            reserved: [u8; 14],
            row_bytes: [u16; 16],
            rows: [u8; 16],
        }
        let mut config = Config {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        config.row_bytes[..8].fill(BYTES as u16);
        config.rows[..8].fill(ROWS as u8);
        // SAFETY: the caller's promise, and 64 readable bytes in the format of palette 1.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) };
        Self(())
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: tiles were configured, so the instruction exists.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}
