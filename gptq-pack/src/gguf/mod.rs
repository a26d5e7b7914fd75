//! GGUF blocks: the layers of this crate in the encodings that llama.cpp and its relatives read.
//!
//! A row of a matrix is cut into blocks of 32 neighbours. A block holds integers `q` and one or two
//! half-precision numbers:
//!
//! | type | bytes | weight | integers |
//! |---|--:|---|---|
//! | [`Q4_0`](BlockType::Q4_0) | 18 | `d · (q − 8)` | 0 to 15 |
//! | [`Q4_1`](BlockType::Q4_1) | 20 | `d · q + m` | 0 to 15 |
//! | [`Q5_0`](BlockType::Q5_0) | 22 | `d · (q − 16)` | 0 to 31 |
//! | [`Q8_0`](BlockType::Q8_0) | 34 | `d · q` | −128 to 127 |
//!
//! A GPTQ layer is `scale · (code − zero)`, with scales in half precision already. So if every block
//! lies in one group, and `code − zero` is an integer that the type can hold, the layer moves over
//! without loss: [`encode`] keeps the integers and takes the scale as `d`. Symmetric layers of 2, 3
//! and 4 bits are `Q4_0`, asymmetric ones of up to 4 bits `Q5_0`, symmetric ones of 8 bits `Q8_0`.
//! Blocks that do not fit are rounded anew; [`Loss`] says what that costs.
//!
//! ```
//! use gptq_core::{Bits, QuantizedMatrix};
//! use gptq_pack::gguf::{self, BlockType, Loss};
//! use ndarray::Array2;
//!
//! let q = QuantizedMatrix {
//!     bits: Bits::B4,
//!     codes: Array2::from_shape_fn((2, 64), |(r, c)| ((r + c) % 16) as u8),
//!     scales: Array2::from_elem((2, 1), 0.5),
//!     zeros: Array2::from_elem((2, 1), 8),
//!     g_idx: vec![0; 64],
//! };
//! assert!(gguf::is_exact(&q, BlockType::Q4_0)?);
//! let bytes = gguf::encode(&q, BlockType::Q4_0)?;
//! assert_eq!(gguf::decode(&bytes, BlockType::Q4_0, 2, 64)?, q.dequantize());
//! assert!(Loss::of_blocks(&q, &bytes, BlockType::Q4_0)?.is_exact());
//! # Ok::<(), gptq_pack::Error>(())
//! ```

mod block;
mod grid;
mod loss;
mod round;

use gptq_core::QuantizedMatrix;
use ndarray::{Array2, ArrayView2};

pub use block::{BLOCK, BlockType};
pub use loss::Loss;

use crate::Error;
use grid::Grid;

/// A quantized matrix as blocks, row after row. Each block keeps its integers and its scale if the
/// type can hold them, and is rounded by the rules of [`encode_rows`] if not.
///
/// In `Q4_1` the integers of a layer of up to 4 bits are kept, and `m` is the nearest number to
/// `−d · k`, where `k` is the zero point or another one that the block's codes leave room for: the
/// one that half precision holds best.
///
/// Cost: one pass over the codes, on the caller's thread.
///
/// # Errors
/// [`Error::BlockWidth`] if the inputs are not a multiple of 32; [`Error::BlockGroups`] if a block
/// would span two groups; [`Error::HalfOverflow`] if a scale is beyond half precision; what
/// [`PackedLinear::pack`](crate::PackedLinearRef::pack) says of a matrix that contradicts itself.
pub fn encode(q: &QuantizedMatrix, ty: BlockType) -> Result<Vec<u8>, Error> {
    let grid = Grid::new(q)?;
    let mut out = Vec::with_capacity(q.out_features() * ty.row_bytes(q.in_features()));
    for row in 0..q.out_features() {
        grid.encode_row(row, ty, &mut out)?;
    }
    Ok(out)
}

/// Whether [`encode`] loses nothing: every weight comes back bit for bit. Stops at the first row
/// that does not.
///
/// # Errors
/// As [`encode`], but numbers beyond half precision are a loss and no error.
pub fn is_exact(q: &QuantizedMatrix, ty: BlockType) -> Result<bool, Error> {
    let grid = Grid::new(q)?;
    let mut bytes = Vec::with_capacity(ty.row_bytes(q.in_features()));
    let mut got = vec![0.0; q.in_features()];
    let mut want = got.clone();
    for row in 0..q.out_features() {
        bytes.clear();
        match grid.encode_row(row, ty, &mut bytes) {
            Err(Error::HalfOverflow { .. }) => return Ok(false),
            other => other?,
        }
        ty.decode_row(&bytes, &mut got);
        loss::dequantize_row(q, row, &mut want);
        if got != want {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Float rows (out × in) as blocks, rounded to nearest on the grid that the block's own weights
/// span. Lossy by nature; for weights that GPTQ has not seen.
///
/// `d` is the weight of largest magnitude over −8 (`Q4_0`) or −16 (`Q5_0`), the range over 15
/// (`Q4_1`, where `m` is the smallest weight), or the largest magnitude over 127 (`Q8_0`).
/// Integers are found with `d` as it was before it is stored in half precision: ggml's reference
/// quantizers, bit for bit.
///
/// # Errors
/// [`Error::BlockWidth`] if the inputs are not a multiple of 32; [`Error::NotFinite`] and
/// [`Error::HalfOverflow`] for a block whose `d` or `m` is beyond half precision.
pub fn encode_rows(w: ArrayView2<'_, f32>, ty: BlockType) -> Result<Vec<u8>, Error> {
    let (rows, columns) = w.dim();
    check_width(columns)?;
    let mut out = Vec::with_capacity(rows * ty.row_bytes(columns));
    let w = w.as_standard_layout();
    for (row, weights) in w.as_slice().into_iter().flat_map(|w| w.chunks(columns)).enumerate() {
        for (i, weights) in weights.as_chunks::<BLOCK>().0.iter().enumerate() {
            round::nearest(weights, ty).at(row, i * BLOCK)?.store(ty, &mut out);
        }
    }
    Ok(out)
}

/// The weights of blocks, out × in.
///
/// # Errors
/// [`Error::BlockWidth`] if the inputs are not a multiple of 32, [`Error::BlockBytes`] if there are
/// more or fewer bytes than that matrix needs.
pub fn decode(
    bytes: &[u8],
    ty: BlockType,
    out_features: usize,
    in_features: usize,
) -> Result<Array2<f32>, Error> {
    check_bytes(bytes, ty, out_features, in_features)?;
    let mut w = Array2::zeros((out_features, in_features));
    for (bytes, mut row) in bytes.chunks(ty.row_bytes(in_features)).zip(w.outer_iter_mut()) {
        ty.decode_row(bytes, row.as_slice_mut().expect("rows of a new array are contiguous"));
    }
    Ok(w)
}

fn check_width(in_features: usize) -> Result<(), Error> {
    if in_features == 0 || !in_features.is_multiple_of(BLOCK) {
        return Err(Error::BlockWidth { in_features });
    }
    Ok(())
}

fn check_bytes(bytes: &[u8], ty: BlockType, outs: usize, ins: usize) -> Result<(), Error> {
    check_width(ins)?;
    let expected = outs.checked_mul(ty.row_bytes(ins));
    if expected != Some(bytes.len()) {
        let found = bytes.len();
        return Err(Error::BlockBytes { ty, found, out_features: outs, in_features: ins });
    }
    Ok(())
}
