//! Two strips times two strips.

use ndarray::ArrayViewMut2;

use super::{
    super::isa::Isa,
    MICRO,
    pack::{BfTile, ROWS},
};

/// A micro-kernel that this CPU can run; only [`best`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MicroKernel {
    /// Products of whole tiles.
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// Products of pairs, 16 columns at once.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
}

/// The fastest of an instruction set, if it has any.
pub(crate) fn best(isa: Isa) -> Option<MicroKernel> {
    #[cfg(target_arch = "x86_64")]
    {
        if isa.has_amx() {
            return Some(MicroKernel::Amx);
        }
        if isa.has_bf16() {
            return Some(MicroKernel::Avx512Bf16);
        }
    }
    let _ = isa;
    None
}

/// A micro-kernel on a thread that is set up for it.
pub(super) struct Session(MicroKernel);

impl MicroKernel {
    /// Rows and columns of the result per task, whose operands share the second cache. Vectors take
    /// longer for it than tiles and lose less by smaller tasks.
    pub(super) fn block(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            MicroKernel::Amx => 256,
            #[cfg(target_arch = "x86_64")]
            MicroKernel::Avx512Bf16 => 128,
        }
    }

    /// Tiles along k between two visits of the result: the `right` of a micro-kernel stays in the
    /// nearest cache, or next to it where visits cost more than reading.
    pub(super) fn steps(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            MicroKernel::Amx => 16,
            #[cfg(target_arch = "x86_64")]
            MicroKernel::Avx512Bf16 => 32,
        }
    }

    /// Sets this thread up, works, and cleans up.
    pub(super) fn session(self, work: impl FnOnce(&Session)) {
        match self {
            #[cfg(target_arch = "x86_64")]
            MicroKernel::Amx => {
                // SAFETY: only `best` makes this value, where the CPU and the system allow tiles.
                let _tiles = unsafe { super::super::amx::Tiles::configure() };
                work(&Session(self));
            }
            #[cfg(target_arch = "x86_64")]
            MicroKernel::Avx512Bf16 => work(&Session(self)),
        }
    }
}

impl Session {
    /// `c[at..at + size] = left · right`, or that added to it.
    #[inline]
    pub(super) fn run(
        &self,
        left: [&[BfTile]; 2],
        right: [&[BfTile]; 2],
        c: &mut ArrayViewMut2<'_, f32>,
        at: (usize, usize),
        size: (usize, usize),
        add: bool,
    ) {
        let steps = left[0].len();
        assert!(left[1].len() == steps && right.iter().all(|r| r.len() == steps));
        if size == (MICRO, MICRO) {
            assert_eq!(c.strides()[1], 1, "bf16 product: rows of the result have gaps");
            // The last element, so that the whole block is known to lie in c.
            let _ = &c[(at.0 + MICRO - 1, at.1 + MICRO - 1)];
            let (stride, first) = (c.strides()[0], &mut c[at]);
            // SAFETY: a whole block of rows without gaps, borrowed mutably; strips of equal length.
            unsafe { self.whole(left, right, first, stride, add) };
            return;
        }
        let mut block = c.slice_mut(ndarray::s![at.0..at.0 + size.0, at.1..at.1 + size.1]);
        let mut whole = [[0f32; MICRO]; MICRO];
        if add {
            for (whole, row) in whole.iter_mut().zip(block.rows()) {
                whole.iter_mut().zip(row).for_each(|(whole, &c)| *whole = c);
            }
        }
        // SAFETY: the local block is whole.
        unsafe { self.whole(left, right, whole.as_mut_ptr().cast(), MICRO as isize, add) };
        for (whole, row) in whole.iter().zip(block.rows_mut()) {
            whole.iter().zip(row).for_each(|(&whole, c)| *c = whole);
        }
    }

    /// # Safety
    /// `c` is valid for a block of 32 × 32 with `stride` numbers from row to row; all strips have
    /// the same length.
    unsafe fn whole(
        &self,
        left: [&[BfTile]; 2],
        right: [&[BfTile]; 2],
        c: *mut f32,
        stride: isize,
        add: bool,
    ) {
        match self.0 {
            // SAFETY: the caller's promise; a session proves that the instructions exist and that
            // tiles are configured.
            #[cfg(target_arch = "x86_64")]
            MicroKernel::Amx => unsafe { amx(left, right, c, stride, add) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            MicroKernel::Avx512Bf16 => unsafe { avx512(left, right, c, stride, add) },
        }
    }
}

/// # Safety
/// As [`Session::whole`], on a thread whose tiles are configured.
#[cfg(target_arch = "x86_64")]
unsafe fn amx(left: [&[BfTile]; 2], right: [&[BfTile]; 2], c: *mut f32, stride: isize, add: bool) {
    use std::arch::asm;
    let bytes = stride * 4;
    let below = c.wrapping_offset(stride * ROWS as isize);
    // SAFETY: tiles 0–3 are read from and written to the caller's block; 4–7 are read from strips
    // of `steps` tiles of 1024 bytes each, the loop counts them.
    unsafe {
        if add {
            asm!(
                "tileloadd tmm0, [{c} + {s}]",
                "tileloadd tmm1, [{c} + {s} + 64]",
                "tileloadd tmm2, [{d} + {s}]",
                "tileloadd tmm3, [{d} + {s} + 64]",
                c = in(reg) c, d = in(reg) below, s = in(reg) bytes,
                options(nostack, readonly),
            );
        } else {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                options(nostack, nomem),
            );
        }
        if !left[0].is_empty() {
            asm!(
                "2:",
                "tileloadd tmm4, [{a} + {s}]",
                "tileloadd tmm6, [{x} + {s}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{y} + {s}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{b} + {s}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a}, 1024", "add {b}, 1024", "add {x}, 1024", "add {y}, 1024",
                "dec {n}",
                "jnz 2b",
                a = inout(reg) left[0].as_ptr() => _,
                b = inout(reg) left[1].as_ptr() => _,
                x = inout(reg) right[0].as_ptr() => _,
                y = inout(reg) right[1].as_ptr() => _,
                n = inout(reg) left[0].len() => _,
                s = in(reg) 64usize,
                options(nostack, readonly),
            );
        }
        asm!(
            "tilestored [{c} + {s}], tmm0",
            "tilestored [{c} + {s} + 64], tmm1",
            "tilestored [{d} + {s}], tmm2",
            "tilestored [{d} + {s} + 64], tmm3",
            c = in(reg) c, d = in(reg) below, s = in(reg) bytes,
            options(nostack),
        );
    }
}

/// # Safety
/// As [`Session::whole`], on a CPU with these instructions.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn avx512(
    left: [&[BfTile]; 2],
    right: [&[BfTile]; 2],
    c: *mut f32,
    stride: isize,
    add: bool,
) {
    use std::arch::x86_64::*;
    /// Rows whose sums fit the registers.
    const HEIGHT: usize = 8;
    for (strip, left) in left.into_iter().enumerate() {
        for top in (0..ROWS).step_by(HEIGHT) {
            let row = |r: usize| c.wrapping_offset(stride * (strip * ROWS + top + r) as isize);
            let mut sums = [[_mm512_setzero_ps(); 2]; HEIGHT];
            if add {
                for (r, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: a row of the block has 32 numbers.
                    *sums = unsafe { [_mm512_loadu_ps(row(r)), _mm512_loadu_ps(row(r).add(16))] };
                }
            }
            for ((left, x), y) in left.iter().zip(right[0]).zip(right[1]) {
                let pairs = left.0.as_ptr().cast::<i32>();
                for p in 0..ROWS {
                    // SAFETY: line p of a tile is 64 bytes; pair p of row r is within its tile.
                    unsafe {
                        let line = |tile: &BfTile| {
                            let line = tile.0.as_ptr().add(p * 32);
                            std::mem::transmute::<__m512i, __m512bh>(_mm512_load_si512(line.cast()))
                        };
                        let (x, y) = (line(x), line(y));
                        for (r, sums) in sums.iter_mut().enumerate() {
                            let pair = _mm512_set1_epi32(*pairs.add((top + r) * ROWS + p));
                            let pair = std::mem::transmute::<__m512i, __m512bh>(pair);
                            sums[0] = _mm512_dpbf16_ps(sums[0], pair, x);
                            sums[1] = _mm512_dpbf16_ps(sums[1], pair, y);
                        }
                    }
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                // SAFETY: as where it was read.
                unsafe {
                    _mm512_storeu_ps(row(r), sums[0]);
                    _mm512_storeu_ps(row(r).add(16), sums[1]);
                }
            }
        }
    }
}
