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

impl CudaBackend {
    /// The kernel for many tokens, where heads are of a size that it is made for.
    fn tiles(&self, shape: &AttentionShape, length: usize) -> Option<&'static str> {
        if self.exact || length < MANY || shape.head_dim != shape.value_dim {
            return None;
        }
        match shape.head_dim {
            64 => Some(self.half.choose("attention_tiles_64_f16", "attention_tiles_64_bf16")),
            128 => Some(self.half.choose("attention_tiles_128_f16", "attention_tiles_128_bf16")),
            _ => None,
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
        // One token is too little work for a whole GPU: its keys are shared among blocks, so many as
        // the cache has room for, whatever it holds now: the launch stays the same.
        let shares = if q.rows == 1 { k.rows.div_ceil(SHARE).clamp(1, 32) } else { 1 };
        let (partials, counters) = match shares {
            1 => (None, 0),
            _ => {
                let partials = self.device.words(heads * shares * (2 + value_dim))?;
                (Some(partials), self.device.counters(heads)?)
            }
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
        let (name, grid, shared) = match self.tiles(shape, length) {
            Some(name) => (name, [heads, length.div_ceil(TILE), texts], 0),
            None => {
                let name = match value_dim.div_ceil(32) {
                    0..=2 => "attention_2",
                    3..=4 => "attention_4",
                    5..=8 => "attention_8",
                    _ => "attention_16",
                };
                (name, [heads, q.rows, shares], (head_dim + WARPS * value_dim) * 4)
            }
        };
        let [x, y, z] = grid.map(|n| n as u32);
        self.launch(
            name,
            [x, y, z],
            (WARPS * 32) as u32,
            shared as u32,
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
                    kind.into(),
                ]),
                Argument::Data(&keys),
            ],
        )?;
        Ok(out)
    }
}
