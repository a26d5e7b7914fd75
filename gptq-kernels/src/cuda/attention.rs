//! Attention's launch.

use gptq_core::{AttentionShape, Error, ScoreTerms, Window};

use super::{
    CudaBackend, CudaTensor,
    device::failure,
    tape::{Argument, pair},
};

/// As in `cuda/attention.cu`.
const WARPS: usize = 4;

/// Queries of a block of `cuda/attention_tiles.cu`, and how many make it worth while.
const TILE: usize = 64;
const MANY: usize = 16;
const MOST_VALUES: usize = 512;

/// Keys that are worth a block of their own.
const SHARE: usize = 256;

/// Heads of a block of `cuda/attention_step.cu`, keys of one, and how many share a text.
const HEADS: usize = 16;
const KEYS: usize = 64;
const MOST_SHARES: usize = 64;

/// Which kernel, in how many shares of the keys, and how much memory these take.
struct Cut {
    kernel: &'static str,
    grid: [usize; 3],
    /// Bytes of shared memory.
    shared: usize,
    /// Words for what shares have, and counters for where they meet; none for a single one.
    partials: usize,
    counters: usize,
}

impl CudaBackend {
    /// For many tokens, where heads are of a size that tensor cores are used for.
    fn in_tiles(&self, shape: &AttentionShape, length: usize) -> Option<Cut> {
        if self.exact || length < MANY || shape.head_dim != shape.value_dim {
            return None;
        }
        let kernel = match shape.head_dim {
            64 => self.half.choose("attention_tiles_64_f16", "attention_tiles_64_bf16"),
            128 => self.half.choose("attention_tiles_128_f16", "attention_tiles_128_bf16"),
            _ => return None,
        };
        let grid = [shape.heads, length.div_ceil(TILE), shape.texts];
        Some(Cut { kernel, grid, shared: 0, partials: 0, counters: 0 })
    }

    /// For one token over a cache of such heads.
    fn in_a_step(
        &self,
        shape: &AttentionShape,
        q: &CudaTensor,
        cache: [&CudaTensor; 2],
    ) -> Option<Cut> {
        let &AttentionShape { heads, kv_heads, head_dim, value_dim, .. } = shape;
        let kept = cache.iter().all(|part| part.kept == Some(self.half));
        if self.exact || !kept || q.rows != 1 || head_dim != value_dim || heads % kv_heads != 0 {
            return None;
        }
        let kernel = match head_dim {
            64 => self.half.choose("attention_step_64_f16", "attention_step_64_bf16"),
            128 => self.half.choose("attention_step_128_f16", "attention_step_128_bf16"),
            _ => return None,
        };
        let sets = kv_heads * (heads / kv_heads).div_ceil(HEADS);
        // As many as the cache has room for, whatever it holds now, so that the launch stays the
        // same; and as many as run at a time.
        let room = (2 * self.device.multiprocessors as usize / sets).clamp(1, MOST_SHARES);
        let shares = cache[0].rows.div_ceil(KEYS).clamp(1, room);
        let partials = sets * shares * HEADS * (2 + head_dim);
        Some(Cut { kernel, grid: [sets, shares, 1], shared: 0, partials, counters: sets })
    }

    /// For all the rest.
    fn in_general(shape: &AttentionShape, q: &CudaTensor, k: &CudaTensor) -> Cut {
        let &AttentionShape { heads, head_dim, value_dim, .. } = shape;
        let kernel = match value_dim.div_ceil(32) {
            0..=2 => "attention_2",
            3..=4 => "attention_4",
            5..=8 => "attention_8",
            _ => "attention_16",
        };
        // One token is too little work for a whole GPU.
        let shares = if q.rows == 1 { k.rows.div_ceil(SHARE).clamp(1, 32) } else { 1 };
        Cut {
            kernel,
            grid: [heads, q.rows, shares],
            shared: (head_dim + WARPS * value_dim) * 4,
            partials: if shares == 1 { 0 } else { heads * shares * (2 + value_dim) },
            counters: if shares == 1 { 0 } else { heads },
        }
    }

    pub(super) fn attend(
        &self,
        q: &CudaTensor,
        k: &CudaTensor,
        v: &CudaTensor,
        shape: &AttentionShape,
        terms: ScoreTerms<'_, CudaTensor>,
    ) -> Result<CudaTensor, Error> {
        let &AttentionShape { heads, kv_heads, head_dim, value_dim, keys, texts, .. } = shape;
        let length = q.rows / texts;
        assert_eq!(q.columns, heads * head_dim, "attention: queries");
        assert!(k.columns == kv_heads * head_dim && v.columns == kv_heads * value_dim);
        assert!(k.kept == v.kept, "attention: kinds of keys and values");
        assert!(k.rows >= texts * keys && v.rows >= texts * keys && keys >= length);
        assert!(terms.key_bias.is_none_or(|bias| bias.rows == heads && bias.columns >= keys));
        assert!(terms.sinks.is_none_or(|sinks| sinks.len() == heads));
        if value_dim > MOST_VALUES {
            return Err(failure(format!(
                "CUDA: heads of {value_dim} values; these kernels take {MOST_VALUES} at most: use \
                 --device cpu"
            )));
        }
        let out = self.tensor_with_halves(q.rows, heads * value_dim)?;
        let cut = self.in_tiles(shape, length).or_else(|| self.in_a_step(shape, q, [k, v]));
        let cut = cut.unwrap_or_else(|| Self::in_general(shape, q, k));
        let (partials, counters) = match cut.partials {
            0 => (None, 0),
            words => (Some(self.device.words(words)?), self.device.counters(cut.counters)?),
        };
        let (window, size) = match shape.window {
            Window::Full => (0, 0),
            Window::Sliding(n) => (1, n as u32),
            Window::Chunked(n) => (2, n as u32),
        };
        let keys = (keys as u32).to_le_bytes();
        let (halves, kind) = out.halves();
        let bias_columns = terms.key_bias.map_or(0, |bias| bias.columns as u32);
        // A grid has at most 65535 blocks in its second direction; texts are not cut.
        if q.rows > 65535 {
            return Err(failure(format!("CUDA: attention of {} tokens at a time", q.rows)));
        }
        let of = |tensor: Option<&CudaTensor>| tensor.map_or(0, |tensor| tensor.buffer.at);
        let [x, y, z] = cut.grid.map(|n| n as u32);
        self.launch(
            cut.kernel,
            [x, y, z],
            (WARPS * 32) as u32,
            cut.shared as u32,
            &[
                Argument::Struct(&[
                    q.buffer.at,
                    k.buffer.at,
                    v.buffer.at,
                    of(terms.key_bias),
                    of(terms.sinks),
                    out.buffer.at,
                    halves,
                    partials.as_ref().map_or(0, |buffer| buffer.at),
                    counters,
                    pair(heads as u32, kv_heads as u32),
                    pair(head_dim as u32, value_dim as u32),
                    pair(length as u32, bias_columns),
                    pair(window, size),
                    pair(shape.scale.to_bits(), shape.softcap.unwrap_or(0.0).to_bits()),
                    pair(kind, k.kept()),
                ]),
                Argument::Data(&keys),
            ],
        )?;
        Ok(out)
    }
}
