//! Operands as tiles of bf16.

use std::{mem::MaybeUninit, ops::Range};

use ndarray::{Array2, ArrayView2, s};
use rayon::prelude::*;

use super::{
    super::isa::{Isa, Kernel},
    turn::turn,
};

/// Rows of a left tile, columns of a right one.
pub(super) const ROWS: usize = 16;

/// Values along k in a tile.
pub(super) const DEPTH: usize = 32;

/// Strips that are packed together.
const GROUP: usize = 8;

/// 16 lines of 64 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct BfTile(pub(super) [u16; ROWS * DEPTH]);

/// Which operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
}

/// An operand, ready for the kernels. Missing rows and values are zeros.
#[derive(Clone, Debug)]
pub(crate) struct Packed {
    /// Whose kernels read the tiles.
    isa: Isa,
    side: Side,
    /// Strips, an even number of them, × steps.
    tiles: Vec<BfTile>,
    rows: usize,
    depth: usize,
    steps: usize,
}

impl Packed {
    /// Packs `a`, rows (or columns of a right operand) × k, any strides, on the caller's pool.
    pub(crate) fn new(isa: Isa, a: ArrayView2<'_, f32>, side: Side) -> Self {
        Self::with(isa, side, a, |steps, tiles| {
            let groups = tiles.par_chunks_mut(GROUP * steps).enumerate();
            groups.for_each(|(group, tiles)| isa.run(Strips { a, side, group, steps, tiles }));
        })
    }

    /// The same on the calling thread.
    pub(crate) fn here(isa: Isa, a: ArrayView2<'_, f32>, side: Side) -> Self {
        Self::with(isa, side, a, |steps, tiles| {
            let groups = tiles.chunks_mut(GROUP * steps).enumerate();
            groups.for_each(|(group, tiles)| isa.run(Strips { a, side, group, steps, tiles }));
        })
    }

    /// Both sides of the product of `a` with its own transpose: what is read serves twice.
    pub(crate) fn both(isa: Isa, a: ArrayView2<'_, f32>) -> [Self; 2] {
        let mut right = None;
        let left = Self::with(isa, Side::Left, a, |steps, left| {
            right = Some(Self::with(isa, Side::Right, a, |_, right| {
                let left = left.par_chunks_mut(GROUP * steps);
                let groups = left.zip(right.par_chunks_mut(GROUP * steps)).enumerate();
                groups.for_each(|(group, (left, right))| {
                    isa.run(Strips { a, side: Side::Left, group, steps, tiles: left });
                    for (left, right) in left.iter().zip(right) {
                        // SAFETY: written just now.
                        turn(right.write(unsafe { left.assume_init() }));
                    }
                });
            }));
        });
        let empty = || Self::with(isa, Side::Right, a, |_, _| ());
        [left, right.unwrap_or_else(empty)]
    }

    fn with(
        isa: Isa,
        side: Side,
        a: ArrayView2<'_, f32>,
        fill: impl FnOnce(usize, &mut [MaybeUninit<BfTile>]),
    ) -> Self {
        let (rows, depth) = a.dim();
        let (strips, steps) = (rows.div_ceil(ROWS).next_multiple_of(2), depth.div_ceil(DEPTH));
        let mut tiles = Vec::with_capacity(strips * steps);
        if steps > 0 {
            fill(steps, &mut tiles.spare_capacity_mut()[..strips * steps]);
        }
        // SAFETY: every group of strips writes all of its tiles, and groups cover them all.
        unsafe { tiles.set_len(strips * steps) };
        Self { isa, side, tiles, rows, depth, steps }
    }

    /// What was packed, as rounded.
    pub(crate) fn unpacked(&self) -> Array2<f32> {
        Array2::from_shape_fn((self.rows, self.depth), |(r, k)| {
            let tile = &self.tiles[r / ROWS * self.steps + k / DEPTH].0;
            let (line, pair) = match self.side {
                Side::Left => (r % ROWS, k % DEPTH / 2),
                Side::Right => (k % DEPTH / 2, r % ROWS),
            };
            f32::from_bits(u32::from(tile[line * DEPTH + 2 * pair + k % 2]) << 16)
        })
    }

    /// Bytes that a product reads.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val::<[BfTile]>(&self.tiles)
    }

    pub(crate) fn isa(&self) -> Isa {
        self.isa
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn steps(&self) -> usize {
        self.steps
    }

    /// The same steps of a strip and of the next.
    pub(super) fn pair(&self, strip: usize, steps: Range<usize>) -> [&[BfTile]; 2] {
        let of = |strip: usize| &self.tiles[strip * self.steps..][steps.clone()];
        [of(strip), of(strip + 1)]
    }
}

/// Neighbouring strips, packed together: what lies side by side in memory is read together.
struct Strips<'a> {
    a: ArrayView2<'a, f32>,
    side: Side,
    group: usize,
    steps: usize,
    tiles: &'a mut [MaybeUninit<BfTile>],
}

impl Kernel for Strips<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        // In the order in which `a` lies in memory: the hardware prefetches few rows at a time.
        let along_rows = self.a.strides()[1] == 1;
        let strips = self.tiles.len() / self.steps;
        for i in 0..self.tiles.len() {
            let (strip, step) = if along_rows {
                (i / self.steps, i % self.steps)
            } else {
                (i % strips, i / strips)
            };
            let row = (self.group * GROUP + strip) * ROWS;
            let tile = self.tiles[strip * self.steps + step].write(BfTile([0; ROWS * DEPTH]));
            fill(tile, self.a, row, step * DEPTH, self.side);
        }
    }
}

/// One tile; what `a` lacks stays zero.
#[inline(always)]
fn fill(tile: &mut BfTile, a: ArrayView2<'_, f32>, row: usize, start: usize, side: Side) {
    let (rows, depth) = a.dim();
    let rows = row.min(rows)..rows.min(row + ROWS);
    let values = start..depth.min(start + DEPTH);
    let whole = rows.len() == ROWS && values.len() == DEPTH;
    let lines = tile.0.as_chunks_mut::<DEPTH>().0.iter_mut();
    let natural = if whole && a.strides()[1] == 1 {
        for (line, r) in lines.zip(rows) {
            let row = a.row(r).to_slice().expect("rows without gaps");
            round_line(line, &row[values.clone()]);
        }
        Side::Left
    } else if whole && a.strides()[0] == 1 {
        for (line, k) in lines.zip(values.step_by(2)) {
            let column = |k: usize| {
                let column = a.column(k).to_slice().expect("columns without gaps");
                &column[rows.clone()]
            };
            round_pairs(line, column(k), column(k + 1));
        }
        Side::Right
    } else {
        for (line, r) in lines.zip(rows) {
            let mut copy = [0f32; DEPTH];
            let row = a.slice(s![r, values.clone()]);
            copy.iter_mut().zip(row).for_each(|(copy, &x)| *copy = x);
            round_line(line, &copy);
        }
        Side::Left
    };
    if natural != side {
        turn(tile);
    }
}

/// To the nearest bf16, of two equally near to the even one; NaN stays NaN.
#[inline(always)]
fn round(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16;
    if x.is_nan() { 0x7FC0 } else { rounded }
}

/// Neighbours along k become pairs by lying next to each other.
#[inline(always)]
fn round_line(line: &mut [u16; DEPTH], values: &[f32]) {
    for (line, &x) in line.iter_mut().zip(values) {
        *line = round(x) as u16;
    }
}

/// Pairs of two lines along k.
#[inline(always)]
fn round_pairs(line: &mut [u16; DEPTH], even: &[f32], odd: &[f32]) {
    let mut pairs = [0u32; ROWS];
    for ((pair, &even), &odd) in pairs.iter_mut().zip(even).zip(odd) {
        *pair = round(even) | round(odd) << 16;
    }
    for (line, pair) in line.as_chunks_mut::<2>().0.iter_mut().zip(pairs) {
        *line = [pair as u16, (pair >> 16) as u16];
    }
}
