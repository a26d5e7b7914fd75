//! Tokens that are chosen where their logits are.

use bytemuck::{cast_slice, cast_slice_mut};
use gptq_core::{Draw, Error};

use super::{
    CudaBackend, CudaTensor,
    device::Buffer,
    tape::Argument::{At, Real, Whole, Wide},
};

/// Threads of a row.
const THREADS: u32 = 1024;

/// As in `cuda/draw.cu`: places of a row.
const MOST_COLUMNS: usize = 1 << 24;

impl CudaBackend {
    pub(super) fn largest(&self, x: &CudaTensor) -> Result<Vec<u32>, Error> {
        let places = self.device.words(x.rows)?;
        let arguments = [At(x.buffer.at), At(places.at), Whole(x.columns as u32)];
        self.launch("argmax", [x.rows as u32, 1, 1], THREADS, 0, &arguments)?;
        self.places(&places, x.rows)
    }

    pub(super) fn drawn(
        &self,
        x: &CudaTensor,
        how: Draw,
        uniform: &[f64],
    ) -> Result<Vec<u32>, Error> {
        assert_eq!(x.rows, uniform.len(), "draw: one number per row");
        assert!(uniform.iter().all(|u| (0.0..1.0).contains(u)), "draw: numbers of [0, 1)");
        assert!(how.is_valid() && x.columns < MOST_COLUMNS, "draw: {how:?} of {}", x.columns);
        // Parts of 2⁶⁴, exactly: f64 has fewer digits.
        let part = |number: f64| (number * 2f64.powi(64)) as u64;
        let top_p = if how.top_p < 1.0 { part(how.top_p.into()).max(1) } else { 0 };
        let uniform: Vec<u64> = uniform.iter().copied().map(part).collect();
        let (uniform, _held) = self.data(cast_slice(&uniform))?;
        let places = self.device.words(x.rows)?;
        let arguments = [
            At(x.buffer.at),
            uniform,
            At(places.at),
            Whole(x.columns as u32),
            Real(how.temperature),
            Whole(how.top_k.min(x.columns) as u32),
            Wide(top_p),
        ];
        self.launch("draw", [x.rows as u32, 1, 1], THREADS, 0, &arguments)?;
        self.places(&places, x.rows)
    }

    fn places(&self, of: &Buffer, rows: usize) -> Result<Vec<u32>, Error> {
        let mut found = vec![0u32; rows];
        self.device.read(of, cast_slice_mut(&mut found))?;
        Ok(found)
    }
}
