//! [`Model`]: a whole model on one backend, dense or quantized, ready to run.

use std::sync::Arc;

use gptq_core::{Backend, Draw};
use gptq_pack::PackedBackend;
use ndarray::Array2;

use crate::{
    Architecture, Checkpoint, Error, ModelConfig,
    awake::awake,
    block::{EmbedWeights, FinishWeights, Interpreter, LayerCache, Positions, Routing, key_bias},
    graph::LinearPlace,
    quantization_config,
    quantized::unexplained,
    weights::{Linear, Loader, StageWeights},
    zero_points,
};

/// A model with its weights on a backend.
pub struct Model<B: PackedBackend> {
    backend: B,
    arch: Architecture,
    embed: EmbedWeights<B::Tensor>,
    /// By block, then by stage.
    blocks: Vec<Vec<StageWeights<B>>>,
    finish: FinishWeights<B::Tensor>,
    head: Linear<B>,
    /// Whether the head is the embedding, in another layout.
    tied: bool,
}

/// Keys and values of the tokens a generation has seen.
pub struct KvCache<B: Backend> {
    /// By block; none for a block without attention.
    layers: Vec<Option<LayerCache<B::Tensor>>>,
    /// For all keys that there is room for.
    key_bias: Option<Arc<B::Tensor>>,
    capacity: usize,
    filled: usize,
}

impl<B: Backend> KvCache<B> {
    /// Tokens seen.
    pub fn len(&self) -> usize {
        self.filled
    }

    /// Whether nothing was seen yet.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }
}

impl<B: PackedBackend> Model<B> {
    /// Loads every weight of a checkpoint, dense or packed in any format. The embedding takes four
    /// bytes per weight, linears what the backend makes of them. Formats other than `gptq` and `gptq_v2` are repacked in memory, layer by layer.
    ///
    /// # Errors
    /// [`Error::ZeroPoints`] if the data contradict `checkpoint_format`;
    /// [`Checkpoint::with_zero_points`] overrides it.
    /// Whatever is wrong with the folder, named: see [`Error`].
    pub fn load(checkpoint: &Checkpoint, backend: B) -> Result<Self, Error> {
        let arch = Architecture::of(checkpoint)?;
        let quantization = quantization_config(checkpoint)?;
        match &quantization {
            Some(config) => zero_points::check(checkpoint, config)?,
            None => unexplained(checkpoint, |_| true)?,
        }
        let loader = Loader {
            checkpoint,
            arch: &arch,
            quantization: quantization.as_ref(),
            backend: &backend,
        };
        let embed = loader.embed()?;
        let blocks = arch.graph.blocks.iter();
        let blocks = blocks
            .map(|block| block.stages.iter().map(|stage| loader.prepared(stage)).collect())
            .collect::<Result<_, Error>>()?;
        let finish = loader.finish()?;
        let own = loader.head()?;
        let tied = own.is_none();
        let head = match own {
            Some(head) => head,
            None => {
                let table = backend.download(&embed.table)?;
                Linear::Prepared(backend.prepare_dense(table.view(), None)?)
            }
        };
        Ok(Self { blocks, embed, finish, head, tied, arch, backend })
    }

    /// The model's numbers.
    pub fn config(&self) -> &ModelConfig {
        &self.arch.config
    }

    /// The backend it runs on.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Bytes of the weights of linears, the head included: what one token reads, if no experts
    /// are skipped.
    pub fn linear_bytes(&self) -> u64 {
        let stages = self.blocks.iter().flatten();
        let linears =
            stages.flat_map(|stage| stage.linears.iter().chain(stage.experts.iter().flatten()));
        let prepared = linears.chain([&self.head]).map(Linear::prepared);
        prepared.map(|linear| self.backend.packed_bytes(linear)).sum()
    }

    /// Logits of a whole sequence, tokens × vocabulary. No cache; positions start at 0.
    ///
    /// # Errors
    /// [`Error::Input`] for ids outside the vocabulary, and the backend's.
    pub fn logits(&self, ids: &[u32]) -> Result<Array2<f32>, Error> {
        let hidden = self.hidden(ids)?;
        Ok(self.backend.download(&self.project(&hidden)?)?)
    }

    /// Output of the final norm for a whole sequence, tokens × hidden, on the backend.
    pub(crate) fn hidden(&self, ids: &[u32]) -> Result<B::Tensor, Error> {
        self.run(ids, None)
    }

    /// Logits of some tokens of [`Model::hidden`]'s output.
    pub(crate) fn logits_of(&self, hidden: &B::Tensor, rows: &[u32]) -> Result<Array2<f32>, Error> {
        let hidden = self.backend.gather(hidden, rows)?;
        Ok(self.backend.download(&self.project(&hidden)?)?)
    }

    /// An empty cache with room for `capacity` tokens.
    ///
    /// # Errors
    /// The backend's.
    pub fn cache(&self, capacity: usize) -> Result<KvCache<B>, Error> {
        let cache = |block: &crate::graph::Block| {
            let attention = block.stages.iter().find_map(|stage| stage.attention());
            attention.map(|a| LayerCache::new(&self.backend, a, capacity)).transpose()
        };
        let layers = self.arch.graph.blocks.iter().map(cache).collect::<Result<_, Error>>()?;
        let key_bias = key_bias(&self.backend, &self.arch.graph, capacity)?;
        Ok(KvCache { layers, key_bias, capacity, filled: 0 })
    }

    /// Reads more tokens and returns the logits after the last of them.
    ///
    /// # Errors
    /// [`Error::Input`] for ids outside the vocabulary, no ids, or more than the cache has room
    /// for; and the backend's.
    pub fn next_logits(&self, ids: &[u32], cache: &mut KvCache<B>) -> Result<Vec<f32>, Error> {
        let last = self.next(ids, cache, |logits| self.backend.download(logits))?;
        Ok(last.into_raw_vec_and_offset().0)
    }

    /// Reads more tokens and returns the one that is most likely after them: the logits stay where
    /// they are.
    ///
    /// # Errors
    /// As [`Model::next_logits`].
    pub fn next_token(&self, ids: &[u32], cache: &mut KvCache<B>) -> Result<u32, Error> {
        let tokens = self.next(ids, cache, |logits| self.backend.argmax(logits))?;
        Ok(tokens[0])
    }

    /// Reads more tokens and returns the one that `uniform`, a number of [0, 1), draws from those
    /// that may follow: the logits stay where they are.
    ///
    /// # Errors
    /// As [`Model::next_logits`], and [`Error::Input`] for senseless numbers.
    pub fn draw_token(
        &self,
        ids: &[u32],
        cache: &mut KvCache<B>,
        how: Draw,
        uniform: f64,
    ) -> Result<u32, Error> {
        if !(how.is_valid() && (0.0..1.0).contains(&uniform)) {
            return Err(Error::input(format!(
                "temperature is {}, top_p {} and the random number {uniform}, but need temperature \
                 above 0, top_p in (0, 1] and a number in [0, 1)",
                how.temperature, how.top_p
            )));
        }
        let tokens = self.next(ids, cache, |logits| self.backend.draw(logits, how, &[uniform]))?;
        Ok(tokens[0])
    }

    fn next<R>(
        &self,
        ids: &[u32],
        cache: &mut KvCache<B>,
        see: impl FnOnce(&B::Tensor) -> Result<R, gptq_core::Error>,
    ) -> Result<R, Error> {
        if ids.is_empty() || cache.filled + ids.len() > cache.capacity {
            return Err(Error::input(format!(
                "{} new tokens after {} do not fit a cache of {}",
                ids.len(),
                cache.filled,
                cache.capacity
            )));
        }
        awake(|| {
            let hidden = self.run(ids, Some(cache))?;
            cache.filled += ids.len();
            // Of one token there is nothing to choose from.
            let last = match ids.len() {
                1 => hidden,
                many => self.backend.gather(&hidden, &[many as u32 - 1])?,
            };
            Ok(see(&self.project(&last)?)?)
        })
    }

    /// The model with every linear replaced, the head included unless it is the embedding.
    pub(crate) fn map_linears(
        mut self,
        mut change: impl FnMut(&B, &LinearPlace, Linear<B>) -> Result<Linear<B>, Error>,
    ) -> Result<Self, Error> {
        for (block, stages) in self.arch.graph.blocks.iter().zip(&mut self.blocks) {
            for (stage, weights) in block.stages.iter().zip(stages) {
                let StageWeights { linears, experts, .. } = weights;
                let mut places = stage.all_linears();
                for list in std::iter::once(linears).chain(experts) {
                    let old = std::mem::take(list).into_iter();
                    let changed = old
                        .zip(&mut places)
                        .map(|(linear, place)| change(&self.backend, place, linear));
                    *list = changed.collect::<Result<_, _>>()?;
                }
            }
        }
        if !self.tied {
            self.head = change(&self.backend, self.arch.head(), self.head)?;
        }
        Ok(self)
    }

    fn run(&self, ids: &[u32], mut cache: Option<&mut KvCache<B>>) -> Result<B::Tensor, Error> {
        let past = cache.as_ref().map_or(0, |cache| cache.filled);
        check_ids(ids, past, &self.arch)?;
        let (backend, graph) = (&self.backend, &self.arch.graph);
        let interpreter = Interpreter { backend, arch: &self.arch, routing: Routing::Routed };
        let bias = match &cache {
            Some(cache) => cache.key_bias.clone(),
            None => key_bias(backend, graph, ids.len())?,
        };
        let positions = Positions::new(backend, graph, past, ids.len(), 1, bias)?;
        let mut stream = interpreter.embed(&self.embed, ids, past, ids.len())?;
        for (b, (block, stages)) in graph.blocks.iter().zip(&self.blocks).enumerate() {
            for (stage, weights) in block.stages.iter().zip(stages) {
                let cache = cache.as_mut().and_then(|cache| cache.layers[b].as_mut());
                interpreter.advance(stage, weights, &mut stream, &positions, cache)?;
            }
        }
        interpreter.finish(&self.finish, &stream)
    }

    fn project(&self, hidden: &B::Tensor) -> Result<B::Tensor, Error> {
        let mut logits = self.head.apply(&self.backend, hidden)?;
        let (backend, arch) = (&self.backend, &self.arch);
        Interpreter { backend, arch, routing: Routing::Routed }.logits(&mut logits)?;
        Ok(logits)
    }
}

/// Refuses ids that no row of the embedding answers to, and more of them than there are learned
/// positions.
pub(crate) fn check_ids(ids: &[u32], past: usize, arch: &Architecture) -> Result<(), Error> {
    let vocab_size = arch.config.vocab_size;
    let positions = arch.graph.embed.positions.as_ref();
    let longest = positions.map_or(usize::MAX, |(table, first)| table.shape[0] - first);
    match ids.iter().position(|&id| id as usize >= vocab_size) {
        Some(at) => Err(Error::input(format!(
            "token id {} at position {at} is outside the vocabulary of {vocab_size}; the tokenizer \
             belongs to another model",
            ids[at]
        ))),
        None if ids.is_empty() => Err(Error::input("there are no tokens to run")),
        None if past + ids.len() > longest => Err(Error::input(format!(
            "a text of {} tokens does not fit the model, which has learned {longest} positions; \
             take shorter ones",
            past + ids.len()
        ))),
        None => Ok(()),
    }
}
