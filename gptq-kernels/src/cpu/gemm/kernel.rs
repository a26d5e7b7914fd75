//! A strip of rows times a strip of columns.

use ndarray::ArrayViewMut2;

use super::super::isa::Isa;

/// Numbers of the largest block of any kernel.
const LARGEST: usize = 12 * 32;

/// A micro-kernel that this CPU can run; only [`MicroKernel::best`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MicroKernel {
    Plain,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl MicroKernel {
    pub(super) fn best(isa: Isa) -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if isa.has_avx512() {
                return MicroKernel::Avx512;
            }
            if isa.has_avx2() {
                return MicroKernel::Avx2;
            }
        }
        let _ = isa;
        MicroKernel::Plain
    }

    /// Rows of a strip of `a` and columns of a strip of `b`: their sums fill the registers, and a
    /// strip of `b` is no larger than the nearest cache.
    pub(super) fn strips(self) -> (usize, usize) {
        match self {
            MicroKernel::Plain => (6, 16),
            #[cfg(target_arch = "x86_64")]
            MicroKernel::Avx2 => (6, 16),
            #[cfg(target_arch = "x86_64")]
            MicroKernel::Avx512 => (12, 32),
        }
    }

    /// `c = left · right` or `c += left · right`, of packed strips; rows of c have no gaps.
    pub(super) fn block(
        self,
        left: &[f32],
        right: &[f32],
        depth: usize,
        mut c: ArrayViewMut2<'_, f32>,
        add: bool,
    ) {
        let (m, n) = c.dim();
        let (height, width) = self.strips();
        assert!(n == 1 || c.strides()[1] == 1, "product: rows of the result have gaps");
        assert_eq!(
            left.len(),
            m.next_multiple_of(height) * depth,
            "product: left is packed otherwise"
        );
        assert_eq!(right.len(), n.next_multiple_of(width) * depth, "product: so is right");
        let stride = c.strides()[0];
        for (j, right) in right.chunks_exact(width * depth).enumerate() {
            for (i, left) in left.chunks_exact(height * depth).enumerate() {
                let (rows, columns) = (height.min(m - i * height), width.min(n - j * width));
                if rows == height && columns == width {
                    let target = &mut c[(i * height, j * width)];
                    // SAFETY: the whole block lies in c, borrowed mutably, with this stride.
                    unsafe { self.run(left, right, target, stride, add) };
                    continue;
                }
                let mut whole = [0f32; LARGEST];
                // SAFETY: the local block holds the rows and columns of any kernel.
                unsafe { self.run(left, right, whole.as_mut_ptr(), width as isize, false) };
                for (r, whole) in whole.chunks(width).take(rows).enumerate() {
                    for (k, &x) in whole[..columns].iter().enumerate() {
                        let target = &mut c[(i * height + r, j * width + k)];
                        *target = if add { *target + x } else { x };
                    }
                }
            }
        }
    }

    /// # Safety
    /// `c` is valid for a whole block with `stride` numbers from row to row; `left` and `right` are
    /// strips of the same depth.
    unsafe fn run(self, left: &[f32], right: &[f32], c: *mut f32, stride: isize, add: bool) {
        match self {
            // SAFETY: the caller's promise.
            MicroKernel::Plain => unsafe { plain(left, right, c, stride, add) },
            // SAFETY: the caller's promise, and `best` saw the instructions.
            #[cfg(target_arch = "x86_64")]
            MicroKernel::Avx2 => unsafe { avx2(left, right, c, stride, add) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            MicroKernel::Avx512 => unsafe { avx512(left, right, c, stride, add) },
        }
    }
}

/// # Safety
/// As [`MicroKernel::run`].
unsafe fn plain(left: &[f32], right: &[f32], c: *mut f32, stride: isize, add: bool) {
    const ROWS: usize = 6;
    const WIDTH: usize = 16;
    let mut sums = [[0f32; WIDTH]; ROWS];
    let (left, right) = (left.as_chunks::<ROWS>().0, right.as_chunks::<WIDTH>().0);
    for (a, b) in left.iter().zip(right) {
        for (sums, a) in sums.iter_mut().zip(a) {
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum += a * b;
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (k, sum) in sums.iter().enumerate() {
            // SAFETY: within the caller's block.
            unsafe {
                let c = c.offset(stride * r as isize).add(k);
                *c = if add { *c + sum } else { *sum };
            }
        }
    }
}

/// One kernel for both widths of registers: sums of `$rows` rows × `$count` vectors.
#[cfg(target_arch = "x86_64")]
macro_rules! vector_kernel {
    ($name:ident, $features:literal, $rows:literal, $count:literal, $lanes:literal, $zero:ident, $load:ident,
     $broadcast:ident, $fma:ident, $plus:ident, $store:ident) => {
        /// # Safety
        /// As [`MicroKernel::run`], on a CPU with these instructions.
        #[target_feature(enable = $features)]
        unsafe fn $name(left: &[f32], right: &[f32], c: *mut f32, stride: isize, add: bool) {
            use std::arch::x86_64::*;
            if add {
                // What is added to is wanted at the end, and often further away than the strips.
                for at in (0..$rows * $count).step_by(16 / $lanes) {
                    let line = c.wrapping_offset(stride * (at / $count) as isize);
                    _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(at % $count * $lanes).cast());
                }
            }
            let mut sums = [[$zero(); $count]; $rows];
            let (left, right) =
                (left.as_chunks::<$rows>().0, right.as_chunks::<{ $count * $lanes }>().0);
            for (a, b) in left.iter().zip(right) {
                let mut vectors = [$zero(); $count];
                for (v, vector) in vectors.iter_mut().enumerate() {
                    // SAFETY: `b` has as many numbers as are loaded.
                    *vector = unsafe { $load(b.as_ptr().add(v * $lanes)) };
                }
                for (sums, &a) in sums.iter_mut().zip(a) {
                    let a = $broadcast(a);
                    for (sum, b) in sums.iter_mut().zip(vectors) {
                        *sum = $fma(a, b, *sum);
                    }
                }
            }
            for (r, sums) in sums.into_iter().enumerate() {
                for (v, sum) in sums.into_iter().enumerate() {
                    // SAFETY: within the caller's block.
                    unsafe {
                        let c = c.offset(stride * r as isize).add(v * $lanes);
                        $store(c, if add { $plus($load(c), sum) } else { sum });
                    }
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
vector_kernel!(
    avx2,
    "avx2,fma",
    6,
    2,
    8,
    _mm256_setzero_ps,
    _mm256_loadu_ps,
    _mm256_set1_ps,
    _mm256_fmadd_ps,
    _mm256_add_ps,
    _mm256_storeu_ps
);
#[cfg(target_arch = "x86_64")]
vector_kernel!(
    avx512,
    "avx512f",
    12,
    2,
    16,
    _mm512_setzero_ps,
    _mm512_loadu_ps,
    _mm512_set1_ps,
    _mm512_fmadd_ps,
    _mm512_add_ps,
    _mm512_storeu_ps
);
