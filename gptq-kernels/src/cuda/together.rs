//! One launch for packed linears of one input: how it is cut, and the `Job` that its kernel reads.

use gptq_core::Error;

use super::{
    CudaBackend, CudaTensor,
    kernels::{self, FEW, Shape},
    layout::{DEEP, STAGE, WIDE},
    packed::{CudaPacked, Halved, Packed},
    tape::{Argument::Struct, pair},
};

/// Linears of one launch, as in `cuda/job.cuh`.
pub(super) const MOST_LINEARS: usize = 4;

const THREADS: u32 = 256;

/// Tokens of one launch at most: more would take much memory for the parts of their sums.
const MOST_TOKENS: usize = 512;

/// How a launch is cut.
struct Cut {
    kernel: &'static str,
    grid: [usize; 2],
    /// Stages that are divided among how many blocks.
    stages: [usize; 2],
    shared: u32,
    /// Words for the parts of sums that blocks have.
    partials: usize,
    /// Who adds them up.
    sums: Sums,
}

enum Sums {
    /// The last block of each column, by so many counters.
    Last { counters: usize },
    /// A kernel of its own.
    After { kernel: &'static str, grid: [usize; 3] },
}

impl CudaBackend {
    /// Linears that fit each other, at most [`MOST_LINEARS`].
    pub(super) fn together(
        &self,
        halved: &Halved,
        layers: &[(&CudaPacked, &Packed)],
        outs: &[&CudaTensor],
    ) -> Result<(), Error> {
        let tokens = outs[0].rows;
        (0..tokens).step_by(MOST_TOKENS).try_for_each(|first_token| {
            let many = MOST_TOKENS.min(tokens - first_token);
            self.some_together(halved, layers, outs, (first_token, many))
        })
    }

    fn some_together(
        &self,
        halved: &Halved,
        layers: &[(&CudaPacked, &Packed)],
        outs: &[&CudaTensor],
        (first_token, tokens): (usize, usize),
    ) -> Result<(), Error> {
        let (_, first) = layers[0];
        let shape = Shape::for_tokens(tokens, first.codes(), self.device.limits());
        let wide = if tokens <= FEW { 1 } else { shape.wide };
        let mut words = Vec::with_capacity(8 * MOST_LINEARS + 6);
        let mut columns = 0;
        for ((layer, packed), out) in layers.iter().zip(outs) {
            let n_tiles = layer.outputs.div_ceil(WIDE);
            columns += n_tiles.div_ceil(wide);
            words.extend([
                packed.codes.at,
                packed.scales.at,
                packed.zeros.as_ref().map_or(0, |zeros| zeros.at),
                layer.bias.as_ref().map_or(0, |bias| bias.buffer.at),
                out.buffer.at + (first_token * layer.outputs * 4) as u64,
                pair(layer.outputs as u32, n_tiles as u32),
                pair(columns as u32, packed.unit.to_bits()),
                pair(packed.steps[0], packed.steps[1]),
            ]);
        }
        words.resize(8 * MOST_LINEARS, 0);
        let cut = match tokens {
            ..=FEW => self.cut_for_few(tokens, columns, first),
            _ => self.cut(shape, tokens, columns, first)?,
        };
        let [stages, blocks] = cut.stages;
        let partials = self.device.words(cut.partials)?;
        let counters = match cut.sums {
            Sums::Last { counters } => self.device.counters(counters)?,
            Sums::After { .. } => 0,
        };
        words.extend([
            halved.at + (first_token * first.k_tiles * DEEP * 2) as u64,
            partials.at,
            counters,
            pair(tokens as u32, first.k_tiles as u32),
            pair(first.tiles_per_group as u32, first.groups as u32),
            pair((stages / blocks) as u32, (stages % blocks) as u32),
        ]);
        let grid = [cut.grid[0] as u32, cut.grid[1] as u32, 1];
        self.launch(cut.kernel, grid, THREADS, cut.shared, &[Struct(&words)])?;
        match cut.sums {
            Sums::Last { .. } => Ok(()),
            Sums::After { kernel, grid } => {
                self.launch(kernel, grid.map(|n| n as u32), THREADS, 0, &[Struct(&words)])
            }
        }
    }

    /// Equal shares of all stages for as many blocks as run at a time.
    fn cut(
        &self,
        shape: Shape,
        tokens: usize,
        columns: usize,
        first: &Packed,
    ) -> Result<Cut, Error> {
        let rows = tokens.div_ceil(8 * shape.eights);
        let kernel = shape.kernel(first.codes());
        let shared = shape.shared(first.codes());
        let fit = self.device.blocks_together(kernel, THREADS, shared)?.min(shape.blocks);
        let room = self.device.multiprocessors as usize * fit;
        let units = columns * first.k_tiles / STAGE;
        // No more than run at a time, or the last few would run alone.
        let blocks = (room / rows).clamp(1, units.max(1));
        let part = 16 * shape.eights * 32 * shape.wide;
        Ok(Cut {
            kernel,
            grid: [blocks, rows],
            stages: [units, blocks],
            shared,
            partials: rows * (blocks + columns) * part,
            sums: Sums::After {
                kernel: shape.sums(),
                grid: [part / THREADS as usize, columns, rows],
            },
        })
    }

    /// A block for each column of tiles, or for each part of its depth.
    fn cut_for_few(&self, tokens: usize, columns: usize, first: &Packed) -> Cut {
        let stages = first.k_tiles / STAGE;
        let multiprocessors = self.device.multiprocessors as usize;
        let parts = kernels::parts(columns, stages, multiprocessors, self.device.limits().early);
        let whole = first.groups == 1 || first.tiles_per_group.is_multiple_of(STAGE);
        Cut {
            kernel: kernels::matvec_name(first.codes(), whole),
            grid: [columns, parts],
            stages: [stages, parts],
            shared: kernels::matvec_shared(tokens, stages.div_ceil(parts)),
            partials: columns * parts * FEW * WIDE,
            sums: Sums::Last { counters: columns },
        }
    }
}
