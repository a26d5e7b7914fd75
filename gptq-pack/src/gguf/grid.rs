//! A quantized matrix block by block, on the grid it already has.

use gptq_core::QuantizedMatrix;
use half::f16;
use ndarray::CowArray;

use super::{
    block::{BLOCK, Block, BlockType},
    check_width, round,
};
use crate::{Error, linear};

/// A matrix whose blocks each lie in one group.
pub(super) struct Grid<'a> {
    q: &'a QuantizedMatrix,
    /// Row-major, so that a block is a slice.
    codes: CowArray<'a, u8, ndarray::Ix2>,
}

impl<'a> Grid<'a> {
    pub(super) fn new(q: &'a QuantizedMatrix) -> Result<Self, Error> {
        // The format that holds every zero point: here none is stored.
        linear::check_matrix(q)?;
        check_width(q.in_features())?;
        for (i, groups) in q.g_idx.as_chunks::<BLOCK>().0.iter().enumerate() {
            if let Some(j) = groups.iter().position(|&g| g != groups[0]) {
                let (first, column) = (i * BLOCK, i * BLOCK + j);
                let groups = [groups[0], groups[j]];
                return Err(Error::BlockGroups { first, column, groups });
            }
        }
        Ok(Self { q, codes: q.codes.as_standard_layout() })
    }

    /// The codes, the zero point and the scale of every block of a row.
    fn blocks(&self, row: usize) -> impl Iterator<Item = (&[u8; BLOCK], u8, f32)> {
        let codes = &self.codes.as_slice().unwrap_or_default()[row * self.q.in_features()..];
        let groups = self.q.g_idx.iter().step_by(BLOCK);
        let (scales, zeros) = (self.q.scales.row(row), self.q.zeros.row(row));
        codes
            .as_chunks()
            .0
            .iter()
            .zip(groups)
            .map(move |(codes, &g)| (codes, zeros[g as usize], scales[g as usize]))
    }

    pub(super) fn encode_row(
        &self,
        row: usize,
        ty: BlockType,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        for (i, (codes, zero, scale)) in self.blocks(row).enumerate() {
            let block = keep(codes, zero, scale, ty)
                .unwrap_or_else(|| round::nearest(&weights(codes, zero, scale), ty));
            block.at(row, i * BLOCK)?.store(ty, out);
        }
        Ok(())
    }
}

fn weights(codes: &[u8; BLOCK], zero: u8, scale: f32) -> [f32; BLOCK] {
    codes.map(|code| scale * (f32::from(code) - f32::from(zero)))
}

/// The block with the integers it has, if the type can hold them.
fn keep(codes: &[u8; BLOCK], zero: u8, scale: f32, ty: BlockType) -> Option<Block> {
    let level = |code: u8| i16::from(code) - i16::from(zero);
    let span = codes.iter().fold((u8::MAX, u8::MIN), |(a, b), &c| (a.min(c), b.max(c)));
    // The integers that weight 0 may be, so that all others are within 0 ..= largest.
    let (first, last) = (-level(span.0), ty.largest() - level(span.1));
    let d = f16::from_f32(scale);
    let minimum = |k: i16| -d.to_f32() * f32::from(k);
    let center = match ty.center() {
        Some(center) => (first..=last).contains(&center).then_some(center)?,
        // The true zero point before any other that is as good.
        None => (first..=last).min_by(|&a, &b| {
            let cost = |k: i16| (f16::from_f32(minimum(k)).to_f32() - minimum(k)).abs();
            let away = |k: i16| k.abs_diff(i16::from(zero));
            cost(a).total_cmp(&cost(b)).then(away(a).cmp(&away(b)))
        })?,
    };
    let m = if ty.center().is_some() { f16::ZERO } else { f16::from_f32(minimum(center)) };
    Some(Block { d, m, q: codes.map(|code| (level(code) + center) as u8) })
}
