//! The families that are known, and the one match from `config.json` to them.

mod llama;

use serde_json::Value;

pub use llama::LLAMA;

use crate::{
    Error,
    config::{ConfigReader, ModelConfig},
    graph::{Bias, LayerGraph, Slot, Width},
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

    /// Every linear that quantization is for, in the order it is reached.
    pub fn all_linears(&self) -> impl Iterator<Item = LinearPlace> {
        (0..self.config.layers)
            .flat_map(move |b| (0..self.graph.stages.len()).map(move |s| (b, s)))
            .flat_map(move |(b, s)| self.linears(b, s))
    }
}

fn known_model_types() -> String {
    let names: Vec<&str> = FAMILIES.iter().flat_map(|g| g.model_types).copied().collect();
    names.join(", ")
}
