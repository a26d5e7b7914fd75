//! Products of matrices in column-major order, by plain loops.

use super::code::Code;
use super::state::State;
use crate::exec::early::Lines;
use crate::number::round::{bf16_value, f16_value, to_bf16, to_f16};
use crate::types::Ty;

/// One operand: where it is, what it holds, and how far apart its columns are.
#[derive(Clone, Copy)]
pub(super) struct Matrix {
    pub(super) at: u64,
    pub(super) ty: Ty,
    pub(super) stride: usize,
    pub(super) transposed: bool,
    /// From one product of a batch to the next, in elements.
    pub(super) batch: i64,
}

/// `C = alpha A B + beta C`, as often as the batch says.
#[derive(Clone)]
pub(super) struct Gemm {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) alpha: f32,
    pub(super) beta: f32,
    pub(super) a: Matrix,
    pub(super) b: Matrix,
    pub(super) c: Matrix,
    pub(super) batches: usize,
}

impl Gemm {
    /// Where the result goes.
    pub(super) fn written(&self) -> Lines {
        let mut lines = Lines::default();
        for c in (0..self.batches).map(|batch| self.c.shifted(batch)) {
            (0..self.n).for_each(|column| lines.add(c.address(0, column), self.m * c.ty.size()));
        }
        lines
    }
}

impl Matrix {
    fn address(&self, row: usize, column: usize) -> u64 {
        let (row, column) = if self.transposed { (column, row) } else { (row, column) };
        self.at + ((column * self.stride + row) * self.ty.size()) as u64
    }

    /// The operand of another product of the batch.
    fn shifted(&self, batch: usize) -> Self {
        let by = self.batch * batch as i64 * self.ty.size() as i64;
        Self { at: self.at.wrapping_add_signed(by), ..*self }
    }

    /// Whether all of `rows` by `columns` is device memory.
    fn is_there(&self, state: &State, rows: usize, columns: usize) -> bool {
        let last = self.address(rows - 1, columns - 1) + self.ty.size() as u64;
        state.is_device(self.at, (last - self.at) as usize)
    }

    fn get(&self, row: usize, column: usize) -> f32 {
        let mut word = [0; 4];
        let size = self.ty.size();
        let from = self.address(row, column) as *const u8;
        // SAFETY: the matrix was found to lie in device memory, which the state guards.
        unsafe { std::ptr::copy_nonoverlapping(from, word.as_mut_ptr(), size) };
        let bits = u32::from_le_bytes(word);
        match self.ty {
            Ty::F16 => f16_value(bits.into()),
            Ty::Bf16 => bf16_value(bits.into()),
            _ => f32::from_bits(bits),
        }
    }

    fn set(&self, row: usize, column: usize, value: f32) {
        let bits = match self.ty {
            Ty::F16 => to_f16(value.into()) as u32,
            Ty::Bf16 => to_bf16(value.into()) as u32,
            _ => value.to_bits(),
        };
        let to = self.address(row, column) as *mut u8;
        // SAFETY: as above.
        unsafe {
            std::ptr::copy_nonoverlapping(bits.to_le_bytes().as_ptr(), to, self.ty.size());
        }
    }
}

pub(super) fn run(state: &mut State, gemm: &Gemm) -> Result<(), Code> {
    let Gemm { m, n, k, .. } = *gemm;
    if m == 0 || n == 0 {
        return Ok(());
    }
    for batch in 0..gemm.batches {
        let [a, b, c] = [gemm.a, gemm.b, gemm.c].map(|matrix| matrix.shifted(batch));
        let inputs = k == 0 || (a.is_there(state, m, k) && b.is_there(state, k, n));
        if !inputs || !c.is_there(state, m, n) {
            state.lost = Some(Code::ILLEGAL_ADDRESS);
            return Err(Code::ILLEGAL_ADDRESS);
        }
        // Columns of B and rows of A are read often: both are laid out for that once.
        let left: Vec<f32> = (0..m * k).map(|at| a.get(at / k, at % k)).collect();
        for column in 0..n {
            let right: Vec<f32> = (0..k).map(|at| b.get(at, column)).collect();
            for row in 0..m {
                let pairs = left[row * k..(row + 1) * k].iter().zip(&right);
                let sum: f64 = pairs.map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
                // With a zero factor the old values are not read: they may be anything.
                let old = if gemm.beta == 0.0 { 0.0 } else { gemm.beta * c.get(row, column) };
                c.set(row, column, gemm.alpha * sum as f32 + old);
            }
        }
    }
    Ok(())
}
