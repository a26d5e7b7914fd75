//! The families that are known, and the one match from `config.json` to them.

mod llama;

use serde_json::Value;

pub use llama::LLAMA;

use crate::{
    Error,
    config::{ConfigReader, ModelConfig},
    graph::{Bias, LayerGraph, Reads, Slot, Width},
};

/// Every graph this crate can run.
pub const FAMILIES: &[&LayerGraph] = &[&LLAMA];

/// A graph with the numbers of one model.
#[derive(Clone, Debug)]
pub struct Architecture {
    /// The structure.
    pub graph: &'static LayerGraph,
    /// The numbers.
    pub config: ModelConfig,
}

/// One linear of one block: where it is and what it must look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearPlace {
    /// Full name, without `.weight`.
    pub name: String,
    /// Output rows.
    pub out_features: usize,
    /// Input columns.
    pub in_features: usize,
    /// Whether the model adds a bias.
    pub bias: bool,
}

impl Architecture {
    /// Finds the family of a parsed `config.json` and reads its numbers.
    ///
    /// # Errors
    /// [`Error::UnknownArchitecture`] with the families that are known; [`Error::Config`] naming
    /// the key that is missing or makes no sense.
    pub fn from_config(config: &Value, file: &str) -> Result<Self, Error> {
        let reader = ConfigReader::new(config, file);
        let model_type = reader.text("model_type")?;
        let graph = FAMILIES.iter().find(|g| g.model_types.contains(&model_type.as_str()));
        let graph = graph.ok_or_else(|| Error::UnknownArchitecture {
            file: file.to_owned(),
            model_type: model_type.clone(),
            known: known_model_types(),
        })?;
        Ok(Self { graph, config: ModelConfig::read(&reader)? })
    }

    /// The channels of a width.
    pub fn width(&self, width: Width) -> usize {
        let c = &self.config;
        match width {
            Width::Hidden => c.hidden_size,
            Width::Heads => c.heads * c.head_dim,
            Width::KvHeads => c.kv_heads * c.head_dim,
            Width::Intermediate => c.intermediate_size,
        }
    }

    /// `model.layers.3` and the like.
    pub fn block_name(&self, block: usize) -> String {
        format!("{}.{block}", self.graph.block_prefix)
    }

    /// The linears of one stage of one block.
    pub fn linears(&self, block: usize, stage: usize) -> Vec<LinearPlace> {
        let stage = &self.graph.stages[stage];
        let place = |slot: &Slot| LinearPlace {
            name: format!("{}.{}", self.block_name(block), slot.name),
            out_features: self.width(slot.output),
            in_features: self.width(stage.input),
            bias: match slot.bias {
                Bias::Attention => self.config.attention_bias,
                Bias::Mlp => self.config.mlp_bias,
            },
        };
        stage.linears.iter().map(place).collect()
    }

    /// The output head, as if it were untied.
    pub fn head(&self) -> LinearPlace {
        LinearPlace {
            name: self.graph.head.trim_end_matches(".weight").to_owned(),
            out_features: self.config.vocab_size,
            in_features: self.config.hidden_size,
            bias: false,
        }
    }

    /// Every linear of the blocks, in the order it is reached.
    pub fn all_linears(&self) -> impl Iterator<Item = LinearPlace> {
        (0..self.config.layers)
            .flat_map(move |b| (0..self.graph.stages.len()).map(move |s| (b, s)))
            .flat_map(move |(b, s)| self.linears(b, s))
    }
}

/// A tensor of the graph that is not a linear to quantize.
pub(crate) struct DenseTensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
}

impl Architecture {
    /// Embedding, norms, biases and an untied head: what a model needs beside its linears.
    pub(crate) fn dense_tensors(&self) -> impl Iterator<Item = DenseTensor> {
        let (graph, c) = (self.graph, &self.config);
        let whole = [
            (graph.embed, vec![c.vocab_size, c.hidden_size]),
            (graph.final_norm, vec![c.hidden_size]),
        ];
        let head =
            (!c.tie_word_embeddings).then(|| (graph.head, vec![c.vocab_size, c.hidden_size]));
        let whole = whole.into_iter().chain(head);
        whole
            .map(|(name, shape)| DenseTensor { name: name.to_owned(), shape })
            .chain((0..c.layers).flat_map(|block| self.dense_of_block(block)))
    }

    fn dense_of_block(&self, block: usize) -> Vec<DenseTensor> {
        let mut out = Vec::new();
        for (s, stage) in self.graph.stages.iter().enumerate() {
            if let Reads::RmsNorm(name) = stage.reads {
                let name = format!("{}.{name}", self.block_name(block));
                out.push(DenseTensor { name, shape: vec![self.width(stage.input)] });
            }
            for place in self.linears(block, s).into_iter().filter(|place| place.bias) {
                let name = format!("{}.bias", place.name);
                out.push(DenseTensor { name, shape: vec![place.out_features] });
            }
        }
        out
    }
}

fn known_model_types() -> String {
    let names: Vec<&str> = FAMILIES.iter().flat_map(|g| g.model_types).copied().collect();
    names.join(", ")
}
