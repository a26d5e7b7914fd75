//! Several linears of one input. Their strips are one list of tasks, so that threads meet once; the
//! input is gathered and rounded once for all layers that want it in the same order.

use std::{borrow::Cow, mem::MaybeUninit};

use ndarray::{Array2, ArrayView1, ArrayView2, ArrayViewMut2, Axis, s};

use super::{
    super::{
        gemm::{Tile, tiles},
        isa::Isa,
        precision::Precision,
        share::share,
    },
    CpuPacked, Weights,
    bytes::{Bytes, TOKENS},
    dense, exact, expand, int8,
    quads::LANE,
    slots::Slots,
    tiles::{STRIP, Strip, Tiles},
};
#[cfg(target_arch = "x86_64")]
use super::{amx, panel};

/// Up to this many tokens, reading packed words once per token is cheaper than expanding them.
const FEW: usize = 4;

/// Bytes of activations that stay in a core's cache while strips of weights pass.
const CACHE: usize = 1 << 20;

/// Activations as a layer wants them.
enum Input<'x> {
    Bytes(Bytes),
    Floats(Cow<'x, Array2<f32>>),
}

pub(crate) fn linears(
    isa: Isa,
    precision: Precision,
    x: &Array2<f32>,
    layers: &[&CpuPacked],
) -> Vec<Array2<f32>> {
    let mut inputs: Vec<(Option<&Slots>, Input<'_>)> = Vec::new();
    let mut of_layer = Vec::with_capacity(layers.len());
    for layer in layers {
        let slots = match &layer.weights {
            Weights::Packed(tiles) => Some(&tiles.slots),
            _ => None,
        };
        let known = inputs.iter().position(|(known, _)| *known == slots);
        of_layer.push(known.unwrap_or_else(|| {
            inputs.push((slots, input(isa, precision, slots, x)));
            inputs.len() - 1
        }));
    }
    let empty = |layer: &&CpuPacked| Array2::uninit((x.nrows(), layer.out_features));
    let mut outputs: Vec<Array2<MaybeUninit<f32>>> = layers.iter().map(empty).collect();
    let mut tasks = Vec::new();
    for ((layer, y), &input) in layers.iter().zip(&mut outputs).zip(&of_layer) {
        let tokens = (CACHE / layer.in_features.max(1) / TOKENS * TOKENS).max(TOKENS);
        let width = match &inputs[input].1 {
            Input::Bytes(_) if x.nrows() == 1 => int8::strips(isa) * STRIP,
            _ => STRIP,
        };
        let task = |tile| (*layer, &inputs[input].1, tile);
        if x.nrows() > tokens {
            tasks.extend(tiles(filled(y.view_mut()), tokens, width).into_iter().map(task));
            continue;
        }
        // Cutting these the general way would take a fiftieth of the time of one token.
        let strips = y.axis_chunks_iter_mut(Axis(1), width).enumerate();
        let tile = |(i, strip)| Tile { row: 0, column: i * width, view: filled(strip) };
        tasks.extend(strips.map(|strip| task(tile(strip))));
    }
    share(tasks, |(layer, input, tile)| task(isa, layer, input, tile));
    // SAFETY: tiles cover an output, and a task writes the whole of its tile.
    outputs.into_iter().map(|y| unsafe { y.assume_init() }).collect()
}

/// What will be a matrix, when tasks have written it; they do not read it before.
fn filled(mut y: ArrayViewMut2<'_, MaybeUninit<f32>>) -> ArrayViewMut2<'_, f32> {
    // SAFETY: the same memory, for as long; numbers of any bits are valid, and no one looks at these
    // before they are written.
    unsafe { y.raw_view_mut().cast::<f32>().deref_into_view_mut() }
}

fn input<'x>(
    isa: Isa,
    precision: Precision,
    slots: Option<&Slots>,
    x: &'x Array2<f32>,
) -> Input<'x> {
    match slots {
        Some(slots) if precision == Precision::Int8 => {
            Input::Bytes(Bytes::new(isa, slots, x.view()))
        }
        Some(slots) if slots.reorders() => Input::Floats(Cow::Owned(gather(slots, x))),
        _ => Input::Floats(Cow::Borrowed(x)),
    }
}

fn gather(slots: &Slots, x: &Array2<f32>) -> Array2<f32> {
    let mut out = Array2::zeros((x.nrows(), slots.lanes() * LANE));
    for (mut out, x) in out.rows_mut().into_iter().zip(x.rows()) {
        let x = slots.gather(x);
        out.iter_mut().zip(&*x).for_each(|(out, &x)| *out = x);
    }
    out
}

/// One strip of one layer, for some tokens.
fn task(isa: Isa, layer: &CpuPacked, input: &Input<'_>, tile: Tile<'_>) {
    let Tile { row, column, view: mut y } = tile;
    let (tokens, strip) = (y.nrows(), column / STRIP);
    if layer.in_features == 0 {
        y.fill(0.0);
        return add_bias(layer, column, y);
    }
    match (&layer.weights, input) {
        (Weights::Packed(tiles), Input::Bytes(x)) => {
            if let Some(strip_of_many) = for_many(isa, tokens) {
                let mut sums = vec![[0.0; STRIP]; tokens.next_multiple_of(TOKENS)];
                strip_of_many(isa, tiles, strip, x, row, &mut sums);
                return finish(layer, column, &sums, y);
            }
            if tokens == 1 {
                let mut sums = [[0.0; STRIP]; int8::STRIPS];
                let sums = &mut sums[..y.ncols().div_ceil(STRIP)];
                int8::one_token(isa, tiles, strip, x, row, sums);
                return finish(layer, column, sums, y);
            }
            let mut sums = vec![[0.0; STRIP]; tokens];
            int8::strip(isa, tiles, strip, x, row, &mut sums);
            finish(layer, column, &sums, y);
        }
        (Weights::Packed(tiles), Input::Floats(x)) if tokens <= FEW => {
            for (t, y) in y.rows_mut().into_iter().enumerate() {
                let x = x.row(row + t);
                let mut sums = [[0.0; STRIP]];
                exact::strip(isa, tiles, strip, x.to_slice().expect("row-major"), &mut sums[0]);
                finish(layer, column, &sums, y.insert_axis(Axis(0)));
            }
        }
        (Weights::Packed(tiles), Input::Floats(x)) => {
            expand::strip(isa, tiles, strip, some(x, row, tokens), y.view_mut());
            add_bias(layer, column, y);
        }
        (Weights::Dense(weights), Input::Floats(x)) => {
            dense::strip(isa, weights, strip, some(x, row, tokens), y.view_mut());
            add_bias(layer, column, y);
        }
        _ => unreachable!("dense layers read numbers, and those for many tokens go another way"),
    }
}

/// `y = W · x` for one strip and some neighbouring tokens, padded.
type StripOfMany = fn(Isa, &Tiles, usize, &Bytes, usize, &mut [Strip<f32>]);

/// What unpacks once for so many tokens, where this CPU has it and they are worth it.
fn for_many(isa: Isa, tokens: usize) -> Option<StripOfMany> {
    #[cfg(target_arch = "x86_64")]
    {
        if isa.has_amx() && tokens >= amx::WORTHWHILE {
            return Some(amx::strip);
        }
        if isa.has_vnni() && tokens >= panel::WORTHWHILE {
            return Some(panel::strip);
        }
    }
    let _ = (isa, tokens);
    None
}

fn some(x: &Array2<f32>, first: usize, tokens: usize) -> ArrayView2<'_, f32> {
    x.slice(s![first..first + tokens, ..])
}

fn finish(layer: &CpuPacked, column: usize, sums: &[Strip<f32>], mut y: ArrayViewMut2<'_, f32>) {
    let (outputs, strips) = (y.ncols(), y.ncols().div_ceil(STRIP));
    for (mut y, sums) in y.rows_mut().into_iter().zip(sums.chunks_exact(strips)) {
        y.assign(&ArrayView1::from(&sums.as_flattened()[..outputs]));
    }
    add_bias(layer, column, y);
}

fn add_bias(layer: &CpuPacked, column: usize, mut y: ArrayViewMut2<'_, f32>) {
    if let Some(bias) = &layer.bias {
        y += &ArrayView1::from(&bias[column..column + y.ncols()]);
    }
}
