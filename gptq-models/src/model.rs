//! [`Model`]: a whole model on one backend, dense or quantized, ready to run.

use gptq_core::Backend;
use gptq_pack::{CheckpointConfig, PackedBackend};
use ndarray::Array2;

use crate::{
    Architecture, Checkpoint, Error, ModelConfig,
    arch::LinearPlace,
    block::{Interpreter, LayerCache, Positions, Stream},
    quantization_config,
    quantized::is_packed,
    weights::{Linear, Loader, StageWeights},
    zero_points,
};

/// A model with its weights on a backend.
pub struct Model<B: PackedBackend> {
    backend: B,
    arch: Architecture,
    embed: B::Tensor,
    /// By block, then by stage.
    blocks: Vec<Vec<StageWeights<B>>>,
    final_norm: B::Tensor,
    /// `None` if the embedding serves.
    head: Option<Linear<B>>,
}

/// Keys and values of the tokens a generation has seen.
pub struct KvCache<B: Backend> {
    layers: Vec<LayerCache<B::Tensor>>,
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
    /// Loads every weight of a checkpoint, dense or packed in any format. Dense weights take four
    /// bytes each. Formats other than `gptq` and `gptq_v2` are repacked in memory, layer by layer.
    ///
    /// # Errors
    /// [`Error::ZeroPoints`] if the data contradict `checkpoint_format`;
    /// [`Checkpoint::with_zero_points`] overrides it.
    /// Whatever is wrong with the folder, named: see [`Error`].
    pub fn load(checkpoint: &Checkpoint, backend: B) -> Result<Self, Error> {
        let arch = Architecture::from_config(checkpoint.config(), &checkpoint.config_file())?;
        let quantization = quantization_config(checkpoint)?;
        if let Some(config) = &quantization {
            zero_points::check(checkpoint, config)?;
        }
        let loader = Loader {
            checkpoint,
            arch: &arch,
            quantization: quantization.as_ref(),
            backend: &backend,
        };
        let embed = loader.embed()?;
        let blocks = (0..arch.config.layers)
            .map(|b| (0..arch.graph.stages.len()).map(|s| loader.stage(b, s)).collect())
            .collect::<Result<_, Error>>()?;
        let final_norm = loader.final_norm()?;
        let head = loader.head()?;
        Ok(Self { blocks, embed, final_norm, head, arch, backend })
    }

    /// The model's numbers.
    pub fn config(&self) -> &ModelConfig {
        &self.arch.config
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
        let layers = (0..self.arch.config.layers)
            .map(|_| LayerCache::new(&self.backend, &self.arch, capacity))
            .collect::<Result<_, Error>>()?;
        Ok(KvCache { layers, capacity, filled: 0 })
    }

    /// Reads more tokens and returns the logits after the last of them.
    ///
    /// # Errors
    /// [`Error::Input`] for ids outside the vocabulary, no ids, or more than the cache has room
    /// for; and the backend's.
    pub fn next_logits(&self, ids: &[u32], cache: &mut KvCache<B>) -> Result<Vec<f32>, Error> {
        if ids.is_empty() || cache.filled + ids.len() > cache.capacity {
            return Err(Error::input(format!(
                "{} new tokens after {} do not fit a cache of {}",
                ids.len(),
                cache.filled,
                cache.capacity
            )));
        }
        let hidden = self.run(ids, Some(cache))?;
        cache.filled += ids.len();
        let last = self.logits_of(&hidden, &[ids.len() as u32 - 1])?;
        Ok(last.into_raw_vec_and_offset().0)
    }

    /// The model with every linear replaced, the head included if there is one.
    pub(crate) fn map_linears(
        mut self,
        mut change: impl FnMut(&B, &LinearPlace, Linear<B>) -> Result<Linear<B>, Error>,
    ) -> Result<Self, Error> {
        for (b, stages) in self.blocks.iter_mut().enumerate() {
            for (s, stage) in stages.iter_mut().enumerate() {
                let old = std::mem::take(&mut stage.linears).into_iter();
                let changed = old
                    .zip(self.arch.linears(b, s))
                    .map(|(linear, place)| change(&self.backend, &place, linear));
                stage.linears = changed.collect::<Result<_, _>>()?;
            }
        }
        let head = self.head.take().map(|head| change(&self.backend, &self.arch.head(), head));
        self.head = head.transpose()?;
        Ok(self)
    }

    fn run(&self, ids: &[u32], mut cache: Option<&mut KvCache<B>>) -> Result<B::Tensor, Error> {
        check_ids(ids, &self.arch.config)?;
        let past = cache.as_ref().map_or(0, |cache| cache.filled);
        let interpreter = Interpreter { backend: &self.backend, arch: &self.arch };
        let positions = Positions::new(&self.backend, &self.arch.config.rope, past, ids.len())?;
        let mut stream = Stream::new(self.backend.gather(&self.embed, ids)?);
        for (b, stages) in self.blocks.iter().enumerate() {
            for (s, weights) in stages.iter().enumerate() {
                let cache = cache.as_mut().map(|cache| &mut cache.layers[b]);
                interpreter.advance(s, weights, &mut stream, &positions, cache)?;
            }
        }
        interpreter.finish(&self.final_norm, &stream)
    }

    fn project(&self, hidden: &B::Tensor) -> Result<B::Tensor, Error> {
        match &self.head {
            Some(head) => head.apply(&self.backend, hidden),
            None => Ok(self.backend.linear(hidden, &self.embed, None)?),
        }
    }
}

impl<B: PackedBackend> Loader<'_, B> {
    pub(crate) fn embed(&self) -> Result<B::Tensor, Error> {
        let config = &self.arch.config;
        self.matrix(self.arch.graph.embed, (config.vocab_size, config.hidden_size))
    }

    /// Scale of the norm after the last block.
    pub(crate) fn final_norm(&self) -> Result<B::Tensor, Error> {
        self.row(self.arch.graph.final_norm, self.arch.config.hidden_size)
    }

    /// A head in the file is used even if the config says "tied": some files keep a copy.
    fn head(&self) -> Result<Option<Linear<B>>, Error> {
        let head = self.arch.head();
        let packed =
            |config: &CheckpointConfig| is_packed(self.checkpoint, config.format, &head.name);
        let stored = self.checkpoint.get(self.arch.graph.head).is_some()
            || self.quantization.is_some_and(packed);
        if self.arch.config.tie_word_embeddings && !stored {
            return Ok(None);
        }
        self.linear(&head).map(Some)
    }
}

/// Refuses ids that no row of the embedding answers to.
pub(crate) fn check_ids(ids: &[u32], config: &ModelConfig) -> Result<(), Error> {
    match ids.iter().position(|&id| id as usize >= config.vocab_size) {
        Some(at) => Err(Error::input(format!(
            "token id {} at position {at} is outside the vocabulary of {}; the tokenizer belongs \
             to another model",
            ids[at], config.vocab_size
        ))),
        None if ids.is_empty() => Err(Error::input("there are no tokens to run")),
        None => Ok(()),
    }
}
