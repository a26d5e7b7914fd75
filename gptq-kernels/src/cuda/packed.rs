//! Linears that are laid out once and multiplied often.

use std::sync::Arc;

use bytemuck::cast_slice;
use gptq_core::{Bits, Error};
use gptq_pack::{PackedBackend, PackedLinearRef, marlin::MarlinRef};
use ndarray::ArrayView2;
use rayon::prelude::*;

use super::{
    CudaBackend, CudaTensor,
    blas::Product,
    device::Buffer,
    half::Half,
    kernels::{Codes, dequantize_name},
    layout::{self, DEEP, Order, STAGE, Tiles, WIDE},
    ops::{Factor, optional, rows},
    tape::Argument::{At, Real, Whole, Wide},
    together::MOST_LINEARS,
};

/// Tokens from which on weights are unpacked once and cuBLAS multiplies.
const MANY: usize = 512;

/// A linear on a GPU, with its bias.
pub struct CudaPacked {
    pub(super) outputs: usize,
    inputs: usize,
    pub(super) bias: Option<CudaTensor>,
    weights: Weights,
    bytes: u64,
}

enum Weights {
    Packed(Packed),
    /// outputs × k, of halves.
    Halves {
        w: Buffer,
        k: usize,
        half: Half,
    },
    Full(CudaTensor),
}

pub(super) struct Packed {
    pub(super) bits: Bits,
    pub(super) half: Half,
    pub(super) codes: Buffer,
    pub(super) scales: Buffer,
    pub(super) zeros: Option<Buffer>,
    pub(super) unit: f32,
    pub(super) groups: usize,
    pub(super) tiles_per_group: usize,
    pub(super) k_tiles: usize,
    /// Tiles from one to the next along outputs, and along inputs.
    pub(super) steps: [u32; 2],
    /// The input of each column; none where they stand in their own order.
    order: Option<Arc<Sorted>>,
}

/// An order of inputs, on both sides.
struct Sorted {
    order: Order,
    index: Buffer,
}

impl Packed {
    /// Whether both can be of one launch.
    fn fits(&self, other: &Self) -> bool {
        let same = match (&self.order, &other.order) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a.order == b.order,
            _ => false,
        };
        same && self.bits == other.bits
            && self.half == other.half
            && self.zeros.is_some() == other.zeros.is_some()
            && (self.groups, self.tiles_per_group, self.k_tiles)
                == (other.groups, other.tiles_per_group, other.k_tiles)
    }

    pub(super) fn codes(&self) -> Codes {
        Codes { bits: self.bits, symmetric: self.zeros.is_none(), half: self.half }
    }
}

/// x in halves: tokens × k.
pub(super) struct Halved {
    pub(super) at: u64,
    k: usize,
    /// Memory of its own, until the product is on the tape.
    _own: Option<Buffer>,
}

impl CudaBackend {
    fn buffer_of(&self, bytes: &[u8]) -> Result<Buffer, Error> {
        let buffer = self.device.words(bytes.len().div_ceil(4))?;
        self.device.write(&buffer, bytes)?;
        Ok(buffer)
    }

    fn tensor_of(
        &self,
        bytes: &[u8],
        (rows, columns): (usize, usize),
    ) -> Result<CudaTensor, Error> {
        Ok(CudaTensor { buffer: self.buffer_of(bytes)?, rows, columns, halves: None, kept: None })
    }

    fn halved(
        &self,
        x: &CudaTensor,
        order: Option<&Sorted>,
        (half, k): (Half, usize),
    ) -> Result<Halved, Error> {
        if let (Some((made, halves)), None) = (&x.halves, order)
            && (*made, x.columns) == (half, k)
        {
            return Ok(Halved { at: halves.at, k, _own: None });
        }
        let halves = self.device.words(x.rows * k / 2)?;
        let name = half.choose("halve_f16", "halve_bf16");
        let index = At(order.map_or(0, |order| order.index.at));
        rows(x.rows, |first, many| {
            self.launch(
                name,
                [(k / 2).div_ceil(256) as u32, many, 1],
                256,
                0,
                &[
                    At(x.buffer.at + (first * x.columns * 4) as u64),
                    index,
                    At(halves.at + (first * k * 2) as u64),
                    Whole(x.columns as u32),
                    Whole(k as u32),
                ],
            )
        })?;
        Ok(Halved { at: halves.at, k, _own: Some(halves) })
    }

    /// The weights in halves, outputs × k, and k.
    fn unpacked(&self, packed: &Packed, outputs: usize) -> Result<(Buffer, usize), Error> {
        let k = packed.k_tiles * DEEP;
        let n_tiles = outputs.div_ceil(WIDE);
        let to = self.device.words(outputs * k / 2)?;
        self.launch(
            dequantize_name(packed.bits, packed.half),
            [packed.k_tiles.div_ceil(8) as u32, n_tiles as u32, 1],
            256,
            0,
            &[
                At(packed.codes.at),
                At(packed.scales.at),
                At(packed.zeros.as_ref().map_or(0, |zeros| zeros.at)),
                At(to.at),
                Whole(outputs as u32),
                Whole(n_tiles as u32),
                Whole(packed.k_tiles as u32),
                Whole(packed.tiles_per_group as u32),
                Whole(packed.groups as u32),
                Whole(packed.steps[0]),
                Whole(packed.steps[1]),
            ],
        )?;
        Ok((to, k))
    }

    fn product_of_halves(
        &self,
        halved: &Halved,
        (w, half, unit): (&Buffer, Half, f32),
        bias: Option<&CudaTensor>,
        out: &CudaTensor,
    ) -> Result<(), Error> {
        let (tokens, outputs) = (out.rows, out.columns);
        if self.device.blas.is_some() && tokens > 8 {
            let product = Product {
                x: halved.at,
                w: w.at,
                c: out.buffer.at,
                tokens: tokens as u32,
                outputs: outputs as u32,
                k: halved.k as u32,
                half,
                unit: unit.to_bits(),
            };
            self.device.tape().product(&self.device, product)?;
            return match bias {
                Some(bias) => self.add_bias(out, bias),
                None => Ok(()),
            };
        }
        let name = half.choose("dense_matvec_f16", "dense_matvec_bf16");
        self.launch(
            name,
            [outputs.div_ceil(8) as u32, tokens.div_ceil(8) as u32, 1],
            256,
            0,
            &[
                At(halved.at),
                At(w.at),
                optional(bias),
                At(out.buffer.at),
                Whole(tokens as u32),
                Whole(outputs as u32),
                Whole(halved.k as u32),
            ],
        )
    }

    /// The weights unpacked first, for very many tokens.
    fn unpacked_product(
        &self,
        halved: &Halved,
        layer: &CudaPacked,
        packed: &Packed,
        out: &CudaTensor,
    ) -> Result<(), Error> {
        let (w, _) = self.unpacked(packed, layer.outputs)?;
        let how = (&w, packed.half, packed.unit);
        self.product_of_halves(halved, how, layer.bias.as_ref(), out)
    }

    /// f32 throughout.
    fn full(
        &self,
        x: &CudaTensor,
        w: &CudaTensor,
        bias: Option<&CudaTensor>,
        out: &CudaTensor,
    ) -> Result<(), Error> {
        let (a, b) = (Factor(x, x.columns, 1), Factor(w, w.columns, 1));
        self.matmul(a, b, bias, out, (x.columns, 0.0))
    }

    fn add_bias(&self, out: &CudaTensor, bias: &CudaTensor) -> Result<(), Error> {
        let many = out.len();
        let columns = Whole(out.columns as u32);
        let (to, from) = (At(out.buffer.at), At(bias.buffer.at));
        self.each("add_to_rows", many, &[to, from, Wide(many as u64), columns])
    }

    fn scaled(
        &self,
        from: &Buffer,
        order: Option<&Sorted>,
        (half, k, unit): (Half, usize, f32),
        out: &CudaTensor,
    ) -> Result<(), Error> {
        let name = half.choose("widen_f16", "widen_bf16");
        let index = At(order.map_or(0, |order| order.index.at));
        rows(out.rows, |first, many| {
            self.launch(
                name,
                [(k / 2).div_ceil(256) as u32, many, 1],
                256,
                0,
                &[
                    At(from.at + (first * k * 2) as u64),
                    index,
                    At(out.buffer.at + (first * out.columns * 4) as u64),
                    Whole(out.columns as u32),
                    Whole(k as u32),
                    Real(unit),
                ],
            )
        })
    }

    fn bias_of(&self, bias: Option<&[f32]>) -> Result<Option<CudaTensor>, Error> {
        let upload = |bias: &[f32]| self.tensor_of(cast_slice(bias), (1, bias.len()));
        bias.map(upload).transpose()
    }
}

impl PackedBackend for CudaBackend {
    type Packed = CudaPacked;

    fn prepare(&self, layer: &PackedLinearRef<'_>) -> Result<CudaPacked, Error> {
        let matrix = layer.unpack();
        let order = Order::of(&matrix.g_idx, matrix.groups());
        let inputs = layer.in_features();
        // Groups of very different sizes would be mostly holes.
        if self.exact || order.index.len() > 2 * inputs + 128 {
            return self.prepare_dense(matrix.dequantize().view(), layer.bias());
        }
        let tiles = Tiles::new(&matrix, &order, self.half);
        let of_zeros = tiles.zeros.as_ref().map_or(0, Vec::len);
        let bytes = 4 * tiles.codes.len() + 2 * (tiles.scales.len() + of_zeros);
        let natural = order.is_natural(inputs);
        let (tiles_per_group, k_tiles) = (order.tiles_per_group, order.k_tiles());
        let sorted = |order: Order| -> Result<_, Error> {
            Ok(Arc::new(Sorted { index: self.buffer_of(cast_slice(&order.index))?, order }))
        };
        let packed = Packed {
            bits: matrix.bits,
            half: self.half,
            codes: self.buffer_of(cast_slice(&tiles.codes))?,
            scales: self.buffer_of(cast_slice(&tiles.scales))?,
            zeros: tiles.zeros.map(|zeros| self.buffer_of(cast_slice(&zeros))).transpose()?,
            unit: tiles.unit,
            groups: matrix.groups(),
            tiles_per_group,
            k_tiles,
            steps: [k_tiles as u32, 1],
            order: if natural { None } else { Some(sorted(order)?) },
        };
        Ok(CudaPacked {
            outputs: layer.out_features(),
            inputs,
            bias: self.bias_of(layer.bias())?,
            weights: Weights::Packed(packed),
            bytes: bytes as u64,
        })
    }

    /// Where stages are whole and groups are whole tiles.
    fn prepare_marlin(&self, layer: &MarlinRef<'_>) -> Result<Option<CudaPacked>, Error> {
        let (outputs, inputs, of_group) =
            (layer.out_features(), layer.in_features(), layer.group_columns());
        if self.exact || !inputs.is_multiple_of(DEEP * STAGE) || !of_group.is_multiple_of(DEEP) {
            return Ok(None);
        }
        let groups = inputs / of_group;
        let scale = |r: usize, g: usize| layer.scales()[g * outputs + r].to_f32();
        let (scales, unit) = layout::scales((outputs, groups), self.half, scale);
        let packed = Packed {
            bits: Bits::B4,
            half: self.half,
            codes: self.buffer_of(cast_slice(layer.words()))?,
            scales: self.buffer_of(cast_slice(&scales))?,
            zeros: None,
            unit,
            groups,
            tiles_per_group: of_group / DEEP,
            k_tiles: inputs / DEEP,
            steps: [1, (outputs / WIDE) as u32],
            order: None,
        };
        Ok(Some(CudaPacked {
            outputs,
            inputs,
            bias: self.bias_of(layer.bias())?,
            weights: Weights::Packed(packed),
            bytes: (4 * layer.words().len() + 2 * scales.len()) as u64,
        }))
    }

    fn prepare_dense(
        &self,
        weight: ArrayView2<'_, f32>,
        bias: Option<&[f32]>,
    ) -> Result<CudaPacked, Error> {
        let (outputs, inputs) = weight.dim();
        let (weights, bytes) = if self.exact {
            let standard = weight.as_standard_layout();
            let bytes = cast_slice(standard.as_slice().unwrap_or_default());
            let tensor = self.tensor_of(bytes, (outputs, inputs))?;
            (Weights::Full(tensor), 4 * outputs * inputs)
        } else {
            let k = inputs.next_multiple_of(8);
            let mut halves = vec![0u16; outputs * k];
            halves.par_chunks_mut(k.max(1)).enumerate().for_each(|(r, to)| {
                for (to, &w) in to.iter_mut().zip(weight.row(r)) {
                    *to = self.half.bits(w);
                }
            });
            let w = self.buffer_of(cast_slice(&halves))?;
            (Weights::Halves { w, k, half: self.half }, 2 * outputs * k)
        };
        let bias = self.bias_of(bias)?;
        Ok(CudaPacked { outputs, inputs, bias, weights, bytes: bytes as u64 })
    }

    fn linears(&self, x: &CudaTensor, layers: &[&CudaPacked]) -> Result<Vec<CudaTensor>, Error> {
        assert!(layers.iter().all(|layer| layer.inputs == x.columns), "linears: inputs");
        let tokens = x.rows;
        let outs = layers.iter().map(|layer| self.tensor(tokens, layer.outputs));
        let outs = outs.collect::<Result<Vec<_>, _>>()?;
        let mut at = 0;
        while at < layers.len() {
            let (layer, out) = (layers[at], &outs[at]);
            match &layer.weights {
                Weights::Full(w) => self.full(x, w, layer.bias.as_ref(), out)?,
                Weights::Halves { w, k, half } => {
                    let halved = self.halved(x, None, (*half, *k))?;
                    self.product_of_halves(&halved, (w, *half, 1.0), layer.bias.as_ref(), out)?;
                }
                Weights::Packed(packed) => {
                    let fitting = layers[at..].iter().take(MOST_LINEARS).map_while(|layer| {
                        match &layer.weights {
                            Weights::Packed(other) if other.fits(packed) => Some((*layer, other)),
                            _ => None,
                        }
                    });
                    let fitting: Vec<_> = fitting.collect();
                    let (order, k) = (packed.order.as_deref(), packed.k_tiles * DEEP);
                    let halved = self.halved(x, order, (packed.half, k))?;
                    let outs: Vec<_> = outs[at..at + fitting.len()].iter().collect();
                    if tokens >= MANY && self.device.blas.is_some() {
                        for ((layer, packed), out) in fitting.iter().zip(outs) {
                            self.unpacked_product(&halved, layer, packed, out)?;
                        }
                    } else {
                        self.together(&halved, &fitting, &outs)?;
                    }
                    at += fitting.len() - 1;
                }
            }
            at += 1;
        }
        Ok(outs)
    }

    fn dequantize(&self, layer: &CudaPacked) -> Result<CudaTensor, Error> {
        let out = self.tensor(layer.outputs, layer.inputs)?;
        match &layer.weights {
            Weights::Packed(packed) => {
                let (halves, k) = self.unpacked(packed, layer.outputs)?;
                let how = (packed.half, k, packed.unit);
                self.scaled(&halves, packed.order.as_deref(), how, &out)?;
            }
            Weights::Halves { w, k, half } => self.scaled(w, None, (*half, *k, 1.0), &out)?,
            Weights::Full(w) => {
                let many = Wide(out.len() as u64);
                self.each("copy", out.len(), &[At(out.buffer.at), At(w.buffer.at), many])?;
            }
        }
        Ok(out)
    }

    fn packed_bytes(&self, layer: &CudaPacked) -> u64 {
        layer.bytes
    }
}
