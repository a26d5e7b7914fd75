//! What families are built with: the numbers of one model, and the parts they share.

use std::path::Path;

use gptq_core::{Gate, NormKind, Pointwise, Window};
use serde_json::{Map, Value};

use super::block::BlockBuilder;
use crate::{
    Error, ModelConfig,
    config::ConfigReader,
    graph::{
        Attention, Block, Embed, EmbedScale, Graph, Head, HeadRope, LinearPlace, Matrix, NormSpec,
        Qkv, Small, Stored,
    },
    rope::Rope,
};

/// One model, while its graph is built.
pub(crate) struct Build<'a> {
    /// The config, with what its family leaves out filled in.
    pub(super) keys: &'a ConfigReader<'a>,
    /// The keys that the file has itself.
    pub(super) written: &'a Map<String, Value>,
    pub(super) config: &'a ModelConfig,
    /// Where `config.json` is, for messages.
    pub(super) file: &'a str,
    /// Tensors of the file, sorted; none if there is no file.
    pub(super) names: &'a [&'a str],
    /// What stands before names of blocks, embedding and final norm.
    pub(super) root: String,
    pub(super) embed: &'static str,
    pub(super) head: String,
}

/// Experts of all layers together: no graph of more is built.
const MOST_EXPERTS: usize = 1 << 17;
/// Channels of all heads together: no layer is wider.
const WIDEST: usize = 1 << 24;

/// Heads of queries, of keys and values, and their channels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) dim: usize,
}

/// The norms of a family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Norms {
    pub(super) kind: NormKind,
    pub(super) eps: f32,
    /// Weights are stored less one.
    pub(super) plus_one: bool,
    pub(super) bias: bool,
}

impl Norms {
    pub(super) fn rms(eps: f32) -> Self {
        Self { kind: NormKind::Rms, eps, plus_one: false, bias: false }
    }

    pub(super) fn layer(eps: f32) -> Self {
        Self { kind: NormKind::Layer, eps, plus_one: false, bias: true }
    }

    /// Over all `width` channels.
    pub(super) fn over(self, name: &str, width: usize) -> NormSpec {
        let small = |part: &str, plus_one| Small {
            plus_one,
            ..Small::row(format!("{name}.{part}"), width)
        };
        NormSpec {
            kind: self.kind,
            eps: self.eps,
            segment: width,
            weight: Some(small("weight", self.plus_one)),
            bias: self.bias.then(|| small("bias", false)),
        }
    }
}

impl<'a> Build<'a> {
    pub(super) fn hidden(&self) -> usize {
        self.config.hidden_size
    }

    pub(super) fn flag(&self, key: &str) -> Result<bool, Error> {
        Ok(self.keys.optional_flag(key)?.unwrap_or(false))
    }

    pub(super) fn count(&self, key: &str) -> Result<usize, Error> {
        self.keys.count(key)
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f32>, Error> {
        Ok(self.keys.optional_number(key)?.map(|n| n as f32))
    }

    /// A norm's `eps`, from a key that has a default.
    pub(super) fn eps(&self, key: &str) -> Result<f32, Error> {
        let eps = self.number(key)?.unwrap_or(1e-5);
        // The root of less than nothing is no number.
        if eps < 0.0 {
            return Err(self.keys.error(key, format!("is {eps}, but must not be negative")));
        }
        Ok(eps)
    }

    /// # Errors
    /// [`Error::Config`] for heads that do not divide.
    pub(super) fn heads(&self) -> Result<Heads, Error> {
        let keys = self.keys;
        let heads = self.config.heads;
        let kv_heads = keys.optional_count("num_key_value_heads")?.unwrap_or(heads);
        if kv_heads > heads || !heads.is_multiple_of(kv_heads) {
            return Err(keys.error(
                "num_key_value_heads",
                format!("is {kv_heads}, which does not divide num_attention_heads {heads}"),
            ));
        }
        let dim = match keys.optional_count("head_dim")? {
            Some(dim) => dim,
            None => self.even_heads()?,
        };
        if heads.checked_mul(dim).is_none_or(|width| width > WIDEST) {
            return Err(keys.error(
                "head_dim",
                format!("is {dim}, which with num_attention_heads {heads} is no layer's width"),
            ));
        }
        Ok(Heads { heads, kv_heads, dim })
    }

    /// Channels of a head where the heads share the width among them.
    pub(super) fn even_heads(&self) -> Result<usize, Error> {
        let (hidden, heads) = (self.hidden(), self.config.heads);
        match hidden % heads {
            0 if hidden > WIDEST => Err(self
                .keys
                .error("hidden_size", format!("is {hidden}, which is no layer's width"))),
            0 => Ok(hidden / heads),
            _ => Err(self.keys.error(
                "hidden_size",
                format!("is {hidden}, not a multiple of num_attention_heads {heads}"),
            )),
        }
    }

    /// How many experts there are, by any of the names in use.
    pub(super) fn experts(&self) -> Result<usize, Error> {
        // A file's own spelling comes before what a family leaves out.
        let names = ["num_local_experts", "num_experts", "n_routed_experts"];
        let written = names.into_iter().find(|name| self.written.contains_key(*name));
        let known = names.into_iter().find(|name| self.keys.get(name).is_some());
        let key = written.or(known).unwrap_or(names[0]);
        let (count, layers) = (self.count(key)?, self.config.layers);
        if count.saturating_mul(layers) > MOST_EXPERTS {
            let message = format!("is {count}, which in {layers} layers are too many to handle");
            return Err(self.keys.error(key, message));
        }
        let chosen = self.keys.optional_count("num_experts_per_tok")?.unwrap_or(1);
        if chosen > count {
            let message = format!("is {chosen}, but there are {count} experts");
            return Err(self.keys.error("num_experts_per_tok", message));
        }
        Ok(count)
    }

    /// The model's rotary embedding for heads of `dim` channels.
    pub(super) fn rope(&self, dim: usize) -> Result<Rope, Error> {
        Rope::read(self.keys, dim, self.config.max_position_embeddings)
    }

    /// An activation by the name in a config.
    pub(super) fn activation(&self, key: &str) -> Result<Pointwise, Error> {
        let name = self.keys.optional_text(key)?.unwrap_or_default();
        Ok(match name.as_str() {
            "silu" | "swish" => Pointwise::Silu,
            "gelu" => Pointwise::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Pointwise::GeluTanh,
            "relu" => Pointwise::Relu,
            _ => {
                return Err(self.keys.error(
                    key,
                    format!("is {name:?}, but silu, gelu, gelu_new, gelu_pytorch_tanh and relu are known"),
                ));
            }
        })
    }

    pub(super) fn gate(&self, key: &str) -> Result<Gate, Error> {
        Ok(Gate::Of(self.activation(key)?))
    }

    /// The window of a layer that slides, if the model has one.
    pub(super) fn sliding(&self) -> Result<Window, Error> {
        let width = self.keys.optional_count("sliding_window")?;
        Ok(width.map_or(Window::Full, Window::Sliding))
    }

    /// The same, where the model says whether it has one.
    pub(super) fn sliding_if_used(&self) -> Result<Window, Error> {
        if self.flag("use_sliding_window")? { self.sliding() } else { Ok(Window::Full) }
    }

    /// Which layers slide: as `layer_types` says, or else by the family's rule.
    pub(super) fn slides(&self, rule: impl Fn(usize) -> bool) -> Result<Vec<bool>, Error> {
        let layers = self.config.layers;
        match self.layer_types()? {
            Some(types) => Ok(types.iter().map(|ty| ty != "full_attention").collect()),
            None => Ok((0..layers).map(rule).collect()),
        }
    }

    fn layer_types(&self) -> Result<Option<Vec<String>>, Error> {
        let Some(value) = self.keys.get("layer_types") else { return Ok(None) };
        let known = ["full_attention", "sliding_attention", "chunked_attention"];
        let list = value.as_array().filter(|list| list.len() == self.config.layers);
        let text = |v: &Value| v.as_str().filter(|ty| known.contains(ty)).map(str::to_owned);
        let types = list.and_then(|list| list.iter().map(text).collect());
        types.map(Some).ok_or_else(|| {
            let message =
                format!("must be {} of {}, one per layer", self.config.layers, known.join(", "));
            self.keys.error("layer_types", message)
        })
    }

    /// A list of a number per layer, 0 or not.
    pub(super) fn per_layer(
        &self,
        key: &str,
        rule: impl Fn(usize) -> bool,
    ) -> Result<Vec<bool>, Error> {
        let layers = self.config.layers;
        match self.keys.optional_numbers(key)?.filter(|list| !list.is_empty()) {
            Some(list) if list.len() >= layers => Ok(list.iter().map(|&n| n != 0.0).collect()),
            Some(list) => {
                let message = format!("has {} entries for {layers} layers", list.len());
                Err(self.keys.error(key, message))
            }
            None => Ok((0..layers).map(rule).collect()),
        }
    }

    /// Causal attention over separate q, k and v, scaled by the root of their channels, all of which
    /// turn.
    pub(super) fn attention(&self, heads: Heads) -> Attention {
        Attention {
            heads: heads.heads,
            kv_heads: heads.kv_heads,
            head_dim: heads.dim,
            value_dim: heads.dim,
            qkv: Qkv::Separate,
            clip: None,
            q_norm: None,
            k_norm: None,
            norms_after_rope: false,
            rope: Some(HeadRope { table: 0, offset: 0, interleaved: false }),
            temperature: None,
            scale: 1.0 / (heads.dim as f32).sqrt(),
            softcap: None,
            window: Window::Full,
            alibi: false,
            sinks: None,
        }
    }

    /// Every block, by a function of the builder and its number.
    pub(super) fn blocks(
        &self,
        prefix: &str,
        each: impl Fn(&mut BlockBuilder<'_>, usize) -> Result<(), Error>,
    ) -> Result<Vec<Block>, Error> {
        let block = |layer: usize| {
            let name = format!("{}{prefix}.{layer}", self.root);
            // Before a config asks for more blocks than fit memory.
            let below = format!("{name}.");
            if !self.names.is_empty() && !self.has(&below) {
                let folder = Path::new(self.file).parent().unwrap_or(Path::new("."));
                return Err(Error::MissingTensor {
                    folder: folder.display().to_string(),
                    tensor: format!("{below}*"),
                    found: self.names.len(),
                });
            }
            let mut builder = BlockBuilder::new(self, name);
            each(&mut builder, layer)?;
            Ok(builder.finish())
        };
        (0..self.config.layers).map(block).collect()
    }

    /// A model of these blocks: plain embedding, a final norm, a head without bias.
    pub(super) fn graph(
        &self,
        blocks: Vec<Block>,
        final_norm: Option<NormSpec>,
        ropes: Vec<Rope>,
    ) -> Graph {
        let (hidden, vocab) = (self.hidden(), self.config.vocab_size);
        let place = LinearPlace {
            name: self.head.clone(),
            out_features: vocab,
            in_features: hidden,
            bias: false,
            stored: Stored::Plain,
        };
        Graph {
            embed: Embed {
                table: self.matrix(self.embed, vocab, hidden),
                scale: EmbedScale::One,
                project_in: None,
                positions: None,
                norm: None,
            },
            blocks,
            final_norm,
            project_out: None,
            head: Head { place, tied: self.config.tie_word_embeddings, scale: 1.0, softcap: None },
            ropes,
            alibi: None,
        }
    }

    /// A dense matrix below the root.
    pub(super) fn matrix(&self, name: &str, rows: usize, columns: usize) -> Matrix {
        Matrix { name: format!("{}{name}.weight", self.root), shape: [rows, columns] }
    }

    /// A norm below the root, over the whole width.
    pub(super) fn norm(&self, norms: Norms, name: &str) -> NormSpec {
        norms.over(&format!("{}{name}", self.root), self.hidden())
    }

    /// Refuses a setting that changes the arithmetic in a way that is not built.
    pub(super) fn refuse(&self, key: &str, wanted: bool) -> Result<(), Error> {
        match self.flag(key)? == wanted {
            true => Err(self.keys.error(key, format!("is {wanted}, which is not supported"))),
            false => Ok(()),
        }
    }

    /// Whether the file has a tensor whose name starts so.
    pub(super) fn has(&self, prefix: &str) -> bool {
        let first = self.names.partition_point(|name| *name < prefix);
        self.names.get(first).is_some_and(|name| name.starts_with(prefix))
    }
}
