//! The operations of a forward pass. Each launch checks the shapes that bound what its kernel reads
//! and writes; operands that do not fit are the caller's bug and panic.

use bytemuck::{cast_slice, cast_slice_mut};
use gptq_core::{
    AttentionShape, Backend, Draw, Error, Gate, Norm, NormKind, Pointwise, RopeShape, ScoreTerms,
};
use ndarray::{Array2, ArrayView2};

use super::{
    CudaBackend, CudaTensor,
    device::{Buffer, failure},
    tape::{
        Argument::{self, At, Data, Real, Whole, Wide},
        MOST_DATA,
    },
};

/// Threads of a block of a kernel that has one for every number.
pub(super) const THREADS: u32 = 256;

impl CudaBackend {
    pub(super) fn launch(
        &self,
        name: &'static str,
        grid: [u32; 3],
        threads: u32,
        shared: u32,
        arguments: &[Argument<'_>],
    ) -> Result<(), Error> {
        self.device.tape().launch(&self.device, name, grid, threads, shared, arguments)
    }

    /// A thread for each of `many`.
    pub(super) fn each(
        &self,
        name: &'static str,
        many: usize,
        arguments: &[Argument<'_>],
    ) -> Result<(), Error> {
        self.launch(name, [blocks(name, many)?, 1, 1], THREADS, 0, arguments)
    }

    /// Numbers of the host as an argument. Where they are too many for the tape, they get a buffer,
    /// which must be held until the launch is on the tape.
    pub(super) fn data<'a>(
        &self,
        bytes: &'a [u8],
    ) -> Result<(Argument<'a>, Option<Buffer>), Error> {
        if bytes.len() <= MOST_DATA {
            return Ok((Data(bytes), None));
        }
        let buffer = self.device.words(bytes.len().div_ceil(4))?;
        self.device.write(&buffer, bytes)?;
        Ok((At(buffer.at), Some(buffer)))
    }
}

/// With a thread for each of `many`.
pub(super) fn blocks(name: &str, many: usize) -> Result<u32, Error> {
    u32::try_from(many.div_ceil(THREADS as usize))
        .map_err(|_| failure(format!("CUDA: {many} numbers are too many for {name}")))
}

pub(super) fn optional(tensor: Option<&CudaTensor>) -> Argument<'static> {
    At(tensor.map_or(0, |tensor| tensor.buffer.at))
}

fn function(f: Pointwise) -> [Argument<'static>; 2] {
    let (number, c) = match f {
        Pointwise::Scale(c) => (0, c),
        Pointwise::Clamp(c) => (1, c),
        Pointwise::SoftCap(c) => (2, c),
        Pointwise::Silu => (3, 0.0),
        Pointwise::Gelu => (4, 0.0),
        Pointwise::GeluTanh => (5, 0.0),
        Pointwise::Relu => (6, 0.0),
    };
    [Whole(number), Real(c)]
}

/// What a plain product reads: where, and the steps from row to row and along the sum.
pub(super) struct Factor<'a>(pub(super) &'a CudaTensor, pub(super) usize, pub(super) usize);

/// Runs of columns at equal distances: a part of a matrix, or of each of its heads.
#[derive(Default)]
struct Runs {
    start: u32,
    length: u32,
    /// From one run to the next, modulo 2³².
    step: u32,
}

impl Runs {
    fn of(index: &[u32]) -> Option<Self> {
        let start = *index.first()?;
        let from = |first: u32, run: &[u32]| {
            run.iter().zip(0..).take_while(|&(&c, i)| c == first.wrapping_add(i)).count()
        };
        let length = from(start, index);
        let step = index.get(length).map_or(0, |next| next.wrapping_sub(start));
        let mut runs = index.chunks(length).zip(0u32..);
        let fits =
            runs.all(|(run, i)| from(start.wrapping_add(i.wrapping_mul(step)), run) == run.len());
        fits.then_some(Self { start, length: length as u32, step })
    }
}

impl CudaBackend {
    /// `c = old · c + a · bᵀ + bias`.
    pub(super) fn matmul(
        &self,
        Factor(a, a_row, a_step): Factor<'_>,
        Factor(b, b_row, b_step): Factor<'_>,
        bias: Option<&CudaTensor>,
        c: &CudaTensor,
        (depth, old): (usize, f32),
    ) -> Result<(), Error> {
        let fits = |t: &CudaTensor, rows: usize, row: usize, step: usize| {
            depth == 0 || rows == 0 || (rows - 1) * row + (depth - 1) * step < t.len()
        };
        assert!(fits(a, c.rows, a_row, a_step) && fits(b, c.columns, b_row, b_step));
        assert!(bias.is_none_or(|bias| bias.len() >= c.columns));
        let grid = [c.columns.div_ceil(64) as u32, c.rows.div_ceil(64) as u32, 1];
        let whole = |n: usize| Whole(n as u32);
        self.launch(
            "matmul",
            grid,
            256,
            0,
            &[
                At(a.buffer.at),
                whole(a_row),
                whole(a_step),
                At(b.buffer.at),
                whole(b_row),
                whole(b_step),
                optional(bias),
                At(c.buffer.at),
                whole(c.rows),
                whole(c.columns),
                whole(depth),
                Real(old),
            ],
        )
    }
}

impl Backend for CudaBackend {
    type Tensor = CudaTensor;

    fn upload(&self, a: ArrayView2<'_, f32>) -> Result<CudaTensor, Error> {
        let tensor = self.tensor(a.nrows(), a.ncols())?;
        let standard = a.as_standard_layout();
        let bytes: &[u8] = cast_slice(standard.as_slice().unwrap_or_default());
        // What is small comes with every token: by the tape's own way.
        if bytes.len() <= 1 << 14 && !bytes.is_empty() {
            let many = tensor.len();
            self.each("copy", many, &[At(tensor.buffer.at), Data(bytes), Wide(many as u64)])?;
        } else {
            self.device.write(&tensor.buffer, bytes)?;
        }
        Ok(tensor)
    }

    fn download(&self, a: &CudaTensor) -> Result<Array2<f32>, Error> {
        assert!(a.kept.is_none(), "a cache is for attention alone");
        let mut values = vec![0f32; a.len()];
        self.device.read(&a.buffer, cast_slice_mut(&mut values))?;
        Array2::from_shape_vec((a.rows, a.columns), values).map_err(|e| failure(e.to_string()))
    }

    fn dim(&self, a: &CudaTensor) -> (usize, usize) {
        (a.rows, a.columns)
    }

    fn return_memory(&self) {
        // A failure here is met again by whatever needs the device next.
        let _ = self.device.release();
    }

    fn zeros(&self, rows: usize, columns: usize) -> Result<CudaTensor, Error> {
        let tensor = self.tensor(rows, columns)?;
        self.device.fill(&tensor.buffer, 0)?;
        Ok(tensor)
    }

    /// In halves, which attention's products round to in any case.
    fn cache(&self, rows: usize, columns: usize) -> Result<CudaTensor, Error> {
        if self.exact {
            return self.zeros(rows, columns);
        }
        let half = self.tensor(rows, columns.div_ceil(2))?;
        self.device.fill(&half.buffer, 0)?;
        Ok(CudaTensor { columns, kept: Some(self.half), ..half })
    }

    fn linear(
        &self,
        x: &CudaTensor,
        w: &CudaTensor,
        bias: Option<&CudaTensor>,
    ) -> Result<CudaTensor, Error> {
        assert_eq!(x.columns, w.columns, "linear: inputs of x and w");
        let y = self.tensor(x.rows, w.rows)?;
        let (x, w) = (Factor(x, x.columns, 1), Factor(w, w.columns, 1));
        let depth = x.0.columns;
        self.matmul(x, w, bias, &y, (depth, 0.0))?;
        Ok(y)
    }

    fn norm(&self, x: &CudaTensor, norm: &Norm<'_, CudaTensor>) -> Result<CudaTensor, Error> {
        assert!(norm.segment > 0 && x.columns.is_multiple_of(norm.segment), "norm: segments");
        let y = self.tensor_with_halves(x.rows, x.columns)?;
        let name = match norm.kind {
            NormKind::Rms => "norm_rms",
            NormKind::Layer => "norm_layer",
        };
        let length = |part: Option<&CudaTensor>| Whole(part.map_or(1, |part| part.len() as u32));
        let threads = (norm.segment.next_multiple_of(32) as u32).min(1024);
        let mut tape = self.device.tape();
        // A sum right before it is done on the way, unless it lies where results go.
        let (halves, kind) = y.halves();
        let here = [y.buffer.at, halves];
        let whole = x.rows <= MOST_ROWS;
        let sum = tape.take_back("add", |words| {
            whole && words[0] == x.buffer.at && !here.contains(&words[1])
        });
        let terms = sum.map_or(0, |words| words[1]);
        rows(x.rows, |first, many| {
            let offset = (first * x.columns * 4) as u64;
            tape.launch(
                &self.device,
                name,
                [(x.columns / norm.segment) as u32, many, 1],
                threads,
                0,
                &[
                    At(x.buffer.at + offset),
                    At(terms),
                    optional(norm.weight),
                    optional(norm.bias),
                    At(y.buffer.at + offset),
                    At(if kind == 0 { 0 } else { halves + offset / 2 }),
                    Whole(kind),
                    Whole(x.columns as u32),
                    Whole(norm.segment as u32),
                    length(norm.weight),
                    length(norm.bias),
                    Real(norm.eps),
                ],
            )
        })?;
        drop(tape);
        Ok(y)
    }

    fn rope(
        &self,
        x: &mut CudaTensor,
        cos: &CudaTensor,
        sin: &CudaTensor,
        shape: RopeShape,
    ) -> Result<(), Error> {
        self.turn(x, cos, sin, shape)
    }

    fn attention(
        &self,
        q: &CudaTensor,
        k: &CudaTensor,
        v: &CudaTensor,
        shape: &AttentionShape,
        terms: ScoreTerms<'_, CudaTensor>,
    ) -> Result<CudaTensor, Error> {
        self.attend(q, k, v, shape, terms)
    }

    fn apply(&self, x: &mut CudaTensor, f: Pointwise) -> Result<(), Error> {
        x.change();
        let [number, c] = function(f);
        self.each("apply", x.len(), &[At(x.buffer.at), Wide(x.len() as u64), number, c])
    }

    fn gated(&self, gate: &CudaTensor, up: &CudaTensor, f: Gate) -> Result<CudaTensor, Error> {
        assert_eq!(self.dim(gate), self.dim(up), "gated: gate and up");
        let y = self.tensor_with_halves(up.rows, up.columns)?;
        let (name, [a, b]) = match f {
            Gate::Of(f) => ("gated", function(f)),
            Gate::Clamped { limit, alpha } => ("gated_clamped", [Real(limit), Real(alpha)]),
        };
        let many = y.len();
        let (halves, kind) = y.halves();
        let from = [At(gate.buffer.at), At(up.buffer.at), At(y.buffer.at)];
        let how = [At(halves), Whole(kind), Wide(many as u64), a, b];
        self.each(name, many, &[&from[..], &how].concat())?;
        Ok(y)
    }

    fn add_assign(&self, x: &mut CudaTensor, y: &CudaTensor) -> Result<(), Error> {
        assert_eq!(self.dim(x), self.dim(y), "add_assign: shapes");
        x.change();
        self.each("add", x.len(), &[At(x.buffer.at), At(y.buffer.at), Wide(x.len() as u64)])
    }

    fn scale_rows(&self, x: &mut CudaTensor, factors: &[f32]) -> Result<(), Error> {
        assert_eq!(x.rows, factors.len(), "scale_rows: one factor per row");
        x.change();
        let (factors, _held) = self.data(cast_slice(factors))?;
        let (many, columns) = (x.len(), Whole(x.columns as u32));
        self.each("scale_rows", many, &[At(x.buffer.at), factors, Wide(many as u64), columns])
    }

    fn columns(&self, parts: &[&CudaTensor], index: &[u32]) -> Result<CudaTensor, Error> {
        let rows = parts.first().map_or(0, |part| part.rows);
        let all: usize = parts.iter().map(|part| part.columns).sum();
        assert!(parts.iter().all(|part| part.rows == rows), "columns: parts have the same rows");
        assert!(index.iter().all(|&c| (c as usize) < all), "columns: index");
        let out = self.tensor(rows, index.len())?;
        let length = Whole(index.len() as u32);
        // Most need not be sent for every token.
        let (runs, (index, _held)) = match Runs::of(index) {
            Some(runs) => (runs, (At(0), None)),
            None => (Runs::default(), self.data(cast_slice(index))?),
        };
        let mut first = 0;
        for part in parts {
            self.each(
                "columns",
                out.len(),
                &[
                    At(part.buffer.at),
                    index,
                    Whole(runs.start),
                    Whole(runs.length),
                    Whole(runs.step),
                    At(out.buffer.at),
                    Wide(out.len() as u64),
                    length,
                    Whole(first),
                    Whole(part.columns as u32),
                ],
            )?;
            first += part.columns as u32;
        }
        Ok(out)
    }

    fn scatter_add(
        &self,
        x: &mut CudaTensor,
        rows: &[u32],
        weights: &[f32],
        y: &CudaTensor,
    ) -> Result<(), Error> {
        assert_eq!(y.rows, rows.len(), "scatter_add: one target per row");
        assert_eq!(y.rows, weights.len(), "scatter_add: one weight per row");
        assert_eq!(x.columns, y.columns, "scatter_add: columns");
        assert!(rows.iter().all(|&r| (r as usize) < x.rows), "scatter_add: rows");
        x.change();
        let many = Whole(rows.len() as u32);
        let (rows, _held) = self.data(cast_slice(rows))?;
        let (weights, _held_too) = self.data(cast_slice(weights))?;
        self.each(
            "scatter_add",
            x.columns,
            &[At(x.buffer.at), rows, weights, At(y.buffer.at), many, Whole(x.columns as u32)],
        )
    }

    fn gather(&self, table: &CudaTensor, rows: &[u32]) -> Result<CudaTensor, Error> {
        assert!(rows.iter().all(|&r| (r as usize) < table.rows), "gather: rows");
        let out = self.tensor(rows.len(), table.columns)?;
        let (rows, _held) = self.data(cast_slice(rows))?;
        let (many, columns) = (out.len(), Whole(table.columns as u32));
        let from = [At(table.buffer.at), rows, At(out.buffer.at), Wide(many as u64), columns];
        self.each("gather", many, &from)?;
        Ok(out)
    }

    fn argmax(&self, x: &CudaTensor) -> Result<Vec<u32>, Error> {
        self.largest(x)
    }

    fn draw(&self, x: &CudaTensor, how: Draw, uniform: &[f64]) -> Result<Vec<u32>, Error> {
        self.drawn(x, how, uniform)
    }

    fn write_rows(
        &self,
        target: &mut CudaTensor,
        at: usize,
        rows: &CudaTensor,
    ) -> Result<(), Error> {
        self.keep(target, at, rows)
    }

    fn accumulate_gram(&self, h: &mut CudaTensor, x: &CudaTensor) -> Result<(), Error> {
        assert_eq!((h.rows, h.columns), (x.columns, x.columns), "accumulate_gram: shapes");
        let of = || Factor(x, 1, x.columns);
        self.matmul(of(), of(), None, h, (x.rows, 1.0))
    }

    fn accumulate_cross(
        &self,
        d: &mut CudaTensor,
        native: &CudaTensor,
        x: &CudaTensor,
    ) -> Result<(), Error> {
        assert_eq!((d.rows, d.columns), (x.columns, x.columns), "accumulate_cross: shapes");
        assert_eq!(self.dim(native), self.dim(x), "accumulate_cross: inputs");
        let apart = self.tensor(x.rows, x.columns)?;
        let many = Wide(x.len() as u64);
        let from = [At(native.buffer.at), At(x.buffer.at), At(apart.buffer.at), many];
        self.each("subtract", x.len(), &from)?;
        self.matmul(Factor(&apart, 1, x.columns), Factor(x, 1, x.columns), None, d, (x.rows, 1.0))
    }
}

/// Blocks of a grid in its second direction.
const MOST_ROWS: usize = 65535;

/// So many rows at a time as a grid takes.
pub(super) fn rows(
    rows: usize,
    mut launch: impl FnMut(usize, u32) -> Result<(), Error>,
) -> Result<(), Error> {
    let pieces = (0..rows).step_by(MOST_ROWS);
    pieces.into_iter().try_for_each(|first| launch(first, (rows - first).min(MOST_ROWS) as u32))
}
