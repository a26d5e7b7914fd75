//! compressed-tensors `pack-quantized`: every output row is a stream of codes, and nothing is
//! transposed. Codes are signed there; stored, with `2^(b-1)` added, they are the unsigned ones.

use gptq_core::QuantizedMatrix;
use ndarray::{Array2, ArrayView2, Axis};

use super::{LayerSpec, Layout, Stored};
use crate::{
    Dtype, Error, RawTensor, Width, lane,
    names::Part,
    tensors::{Expected, encode, encode_floats},
    view::{natural_g_idx, read_g_idx},
};

pub(super) struct Compressed;

/// Each row as a stream of its own, one after the other.
fn pack_rows(width: Width, values: ArrayView2<'_, u8>) -> Vec<u32> {
    let row_words = lane::words_of(width.get(), values.ncols());
    let mut words = vec![0; values.nrows() * row_words];
    for (row, words) in values.outer_iter().zip(words.chunks_mut(row_words.max(1))) {
        lane::pack(width.bits(), row.iter().copied(), words);
    }
    words
}

/// The shape of the packed zero points: packed along the outputs.
fn zeros_shape(spec: &LayerSpec) -> [usize; 2] {
    [lane::words_of(spec.width.get(), spec.out_features), spec.groups()]
}

impl Layout for Compressed {
    fn parts(&self) -> &'static [Part] {
        &[
            Part::WeightPacked,
            Part::WeightScale,
            Part::WeightShape,
            Part::WeightZeroPoint,
            Part::WeightGIdx,
        ]
    }

    fn shapes(&self, spec: &LayerSpec) -> Vec<(Part, Dtype, Vec<usize>)> {
        let LayerSpec { in_features: ins, out_features: outs, .. } = *spec;
        let row_words = lane::words_of(spec.width.get(), ins);
        let mut shapes = vec![
            (Part::WeightPacked, Dtype::I32, vec![outs, row_words]),
            (Part::WeightScale, spec.scale_dtype, vec![outs, spec.groups()]),
            (Part::WeightShape, Dtype::I64, vec![2]),
        ];
        if !spec.sym {
            shapes.push((Part::WeightZeroPoint, Dtype::I32, zeros_shape(spec).to_vec()));
        }
        if spec.scattered {
            shapes.push((Part::WeightGIdx, Dtype::I32, vec![ins]));
        }
        shapes
    }

    fn check(&self, _: &QuantizedMatrix, _: &LayerSpec) -> Result<(), Error> {
        Ok(())
    }

    fn pack(
        &self,
        q: &QuantizedMatrix,
        spec: &LayerSpec,
    ) -> Result<Vec<RawTensor<'static>>, Error> {
        let scales: Vec<f32> = q.scales.iter().copied().collect();
        let shape = [spec.out_features, spec.in_features].map(|dim| dim as i64);
        // Packed along the outputs: each group is a stream, and the streams are columns.
        let zeros = Array2::from_shape_vec(
            [spec.groups(), zeros_shape(spec)[0]],
            pack_rows(spec.width, q.zeros.t()),
        )
        .map_or_else(|_| Vec::new(), |zeros| zeros.t().iter().copied().collect());
        self.shapes(spec)
            .into_iter()
            .map(|(part, dtype, dims)| {
                let bytes = match part {
                    Part::WeightPacked => words(&pack_rows(spec.width, q.codes.view())),
                    Part::WeightScale => encode_floats(part, dtype, spec.groups(), &scales)?,
                    Part::WeightShape => encode(&shape, i64::to_le_bytes).into_owned(),
                    Part::WeightZeroPoint => words(&zeros),
                    _ => words(&q.g_idx),
                };
                Ok(RawTensor { dtype, shape: dims, bytes: bytes.into() })
            })
            .collect()
    }

    fn unpack(&self, stored: Stored<'_, '_>, spec: &LayerSpec) -> Result<QuantizedMatrix, Error> {
        let LayerSpec { in_features: ins, out_features: outs, width, .. } = *spec;
        let (groups, row_words) = (spec.groups(), lane::words_of(width.get(), ins));
        let shape = read_shape(stored.need(Part::WeightShape)?)?;
        if shape != (outs, ins) {
            return Err(Error::SpecMismatch {
                what: "weight_shape",
                found: format!("{shape:?}"),
                expected: format!("{:?}", (outs, ins)),
            });
        }
        let packed = stored.need(Part::WeightPacked)?.words(Expected {
            part: Part::WeightPacked,
            shape: &[outs, row_words],
            rule: "rows are out_features, columns ⌈in_features · bits / 32⌉",
        })?;
        let scales = stored.need(Part::WeightScale)?.finite_floats(Expected {
            part: Part::WeightScale,
            shape: &[outs, groups],
            rule: "rows are out_features, columns ⌈in_features / group_size⌉",
        })?;
        let zeros = match stored.get(Part::WeightZeroPoint) {
            None if spec.sym => None,
            _ => Some(stored.need(Part::WeightZeroPoint)?.words(Expected {
                part: Part::WeightZeroPoint,
                shape: &zeros_shape(spec),
                rule: "rows are ⌈out_features · bits / 32⌉, columns ⌈in_features / group_size⌉",
            })?),
        };
        let g_idx = match stored.get(Part::WeightGIdx) {
            Some(tensor) => read_g_idx(Part::WeightGIdx, tensor, ins, groups)?.into_owned(),
            None => natural_g_idx(ins, spec.group_size.columns(ins))?,
        };
        let wide = |code: u8| code + width.offset();
        let mut codes = Array2::zeros((outs, ins));
        for (words, mut row) in packed.chunks(row_words).zip(codes.outer_iter_mut()) {
            let row = row.as_slice_mut().expect("rows of a new array are contiguous");
            lane::unpack_of(width.get(), words, row);
            row.iter_mut().for_each(|code| *code = wide(*code));
        }
        let mut all = Array2::from_elem((outs, groups), wide(width.middle()));
        for (g, mut column) in all.axis_iter_mut(Axis(1)).enumerate() {
            let Some(zeros) = &zeros else { break };
            let stream: Vec<u32> = zeros[g..].iter().step_by(groups).copied().collect();
            for (r, zero) in column.iter_mut().enumerate() {
                *zero = wide(lane::code_of(width.get(), &stream, r));
            }
        }
        Ok(QuantizedMatrix {
            bits: width.bits(),
            codes,
            scales: Array2::from_shape_fn((outs, groups), |(r, g)| scales[r * groups + g]),
            zeros: all,
            g_idx,
        })
    }

    fn dims(&self, stored: Stored<'_, '_>, _: Width) -> Result<(usize, usize), Error> {
        let (outs, ins) = read_shape(stored.need(Part::WeightShape)?)?;
        Ok((ins, outs))
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    encode(words, u32::to_le_bytes).into_owned()
}

/// Outputs and inputs.
fn read_shape(tensor: &RawTensor<'_>) -> Result<(usize, usize), Error> {
    let rule = "the outputs and the inputs of the weight";
    let part = Part::WeightShape;
    let dims = tensor.integers(Expected { part, shape: &[2], rule })?;
    let dim = |i: usize| usize::try_from(dims[i]).ok();
    match (dim(0), dim(1)) {
        (Some(outs), Some(ins)) => Ok((outs, ins)),
        _ => Err(Error::SpecMismatch {
            what: "weight_shape",
            found: format!("{dims:?}"),
            expected: "two sizes".to_owned(),
        }),
    }
}
