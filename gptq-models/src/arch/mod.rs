//! The families that are known, and the way from `config.json` to a graph.

mod block;
mod build;
mod families;

use serde_json::{Map, Value};

pub(crate) use build::Build;

use crate::{
    Checkpoint, Error,
    config::{ConfigReader, ModelConfig},
    graph::{Graph, LinearPlace},
};

/// Everything that distinguishes one family of models.
#[derive(Debug)]
pub struct Family {
    /// `model_type` values of `config.json` that it serves.
    pub model_types: &'static [&'static str],
    /// What stands before the names of blocks, embedding and final norm.
    pub(crate) root: &'static str,
    /// Token embedding, below the root.
    pub(crate) embed: &'static str,
    /// Output head, as files spell it.
    pub(crate) heads: &'static [&'static str],
    /// What keys mean that `config.json` leaves out.
    pub(crate) defaults: fn() -> Value,
    /// From the numbers of one model to its graph.
    pub(crate) build: fn(&Build<'_>) -> Result<Graph, Error>,
}

/// Every family this crate can run.
pub const FAMILIES: &[Family] = families::ALL;

/// A graph with the numbers of one model.
#[derive(Clone, Debug)]
pub struct Architecture {
    /// The structure.
    pub graph: Graph,
    /// The numbers.
    pub config: ModelConfig,
}

/// Wrappers around a text model: what files of theirs put before its names.
const WRAPPERS: [&str; 3] = ["", "language_model.", "model.language_model."];

impl Architecture {
    /// Finds the family of a checkpoint, reads its numbers and the names its tensors go by.
    ///
    /// Models of images and text are known by their text model: `text_config` says which it is.
    ///
    /// # Errors
    /// As [`from_config`](Self::from_config).
    pub fn of(checkpoint: &Checkpoint) -> Result<Self, Error> {
        let names: Vec<&str> = checkpoint.tensors().map(|tensor| tensor.name).collect();
        Self::read(checkpoint.config(), &checkpoint.config_file(), &names)
    }

    /// Finds the family of a parsed `config.json` and reads its numbers. Names are those that files
    /// of the family usually have.
    ///
    /// # Errors
    /// [`Error::UnknownArchitecture`] with the families that are known; [`Error::Config`] naming
    /// the key that is missing or makes no sense.
    pub fn from_config(config: &Value, file: &str) -> Result<Self, Error> {
        Self::read(config, file, &[])
    }

    fn read(config: &Value, file: &str, names: &[&str]) -> Result<Self, Error> {
        let (family, model_type, text) = find(config, file)?;
        let mut merged = (family.defaults)();
        if let Value::Object(merged) = &mut merged {
            let outer = ["tie_word_embeddings", "eos_token_id"];
            let outer = outer.into_iter().filter_map(|key| Some((key, config.get(key)?)));
            merged.extend(outer.map(|(key, value)| (key.to_owned(), value.clone())));
            merged.extend(text.iter().map(|(key, value)| (key.clone(), value.clone())));
            merged.insert("model_type".into(), model_type.into());
        }
        let reader = ConfigReader::new(&merged, file);
        let config = ModelConfig::read(&reader)?;
        let (root, head) = (root(family, names), head(family, names));
        let build = Build {
            keys: &reader,
            written: text,
            config: &config,
            file,
            names,
            root,
            embed: family.embed,
            head,
        };
        let graph = (family.build)(&build)?;
        Ok(Self { graph, config })
    }

    /// `model.layers.3` and the like.
    pub fn block_name(&self, block: usize) -> &str {
        &self.graph.blocks[block].name
    }

    /// The linears of one stage of one block, those of all tokens first.
    pub fn linears(&self, block: usize, stage: usize) -> impl Iterator<Item = &LinearPlace> {
        self.graph.blocks[block].stages[stage].all_linears()
    }

    /// The output head, as if it were untied.
    pub fn head(&self) -> &LinearPlace {
        &self.graph.head.place
    }

    /// Every linear of the blocks, in the order it is reached.
    pub fn all_linears(&self) -> impl Iterator<Item = &LinearPlace> {
        self.graph.all_linears()
    }
}

/// The family, its `model_type`, and the object that holds the text model's keys.
fn find<'a>(
    config: &'a Value,
    file: &str,
) -> Result<(&'static Family, String, &'a Map<String, Value>), Error> {
    let reader = ConfigReader::new(config, file);
    let outer = reader.text("model_type")?;
    let known = |name: &str| FAMILIES.iter().find(|f| f.model_types.contains(&name));
    let Some(object) = config.as_object() else {
        return Err(reader.error("model_type", "is missing"));
    };
    let text = object.get("text_config").and_then(Value::as_object);
    let inner = text.and_then(|text| text.get("model_type")).and_then(Value::as_str);
    let nested = text.and_then(|text| {
        // A text config may leave its type to the wrapper.
        let name = inner.unwrap_or(&outer);
        Some((known(name)?, name.to_owned(), text))
    });
    let found = nested.or_else(|| Some((known(&outer)?, outer.clone(), object)));
    found.ok_or_else(|| Error::UnknownArchitecture {
        file: file.to_owned(),
        model_type: inner.map_or_else(|| outer.clone(), |inner| format!("{outer}, {inner}")),
        known: known_model_types(),
    })
}

/// What stands before the embedding's name in this file.
fn root(family: &Family, names: &[&str]) -> String {
    let whole = WRAPPERS.iter().map(|wrapper| format!("{wrapper}{}", family.root));
    let inside = family.root.strip_prefix("model.").unwrap_or("");
    let bare = WRAPPERS.iter().rev().map(|wrapper| format!("{wrapper}{inside}"));
    let mut roots = whole.chain(bare);
    let found = roots.find(|root| {
        let embed = format!("{root}{}.weight", family.embed);
        names.contains(&embed.as_str())
    });
    found.unwrap_or_else(|| family.root.to_owned())
}

fn head(family: &Family, names: &[&str]) -> String {
    let spelled = family.heads.iter().flat_map(|head| WRAPPERS.map(|w| format!("{w}{head}")));
    let mut spelled = spelled.peekable();
    let usual = spelled.peek().cloned().unwrap_or_default();
    let mut held = spelled.filter(|head| {
        let below = format!("{head}.");
        names.iter().any(|name| name.starts_with(&below))
    });
    held.next().unwrap_or(usual)
}

/// Names of the families, for messages.
pub(crate) fn known_model_types() -> String {
    let names: Vec<&str> = FAMILIES.iter().flat_map(|f| f.model_types).copied().collect();
    names.join(", ")
}
