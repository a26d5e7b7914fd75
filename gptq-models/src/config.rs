//! The numbers of a model, read from `config.json` in either of its spellings.

use serde_json::{Map, Value};

use crate::Error;

/// The numbers that every model has.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// `model_type` of the text model.
    pub model_type: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Context length the model was made for.
    pub max_position_embeddings: usize,
    /// The embedding is also the output projection.
    pub tie_word_embeddings: bool,
    /// Ids that end a text.
    pub eos_token_ids: Vec<u32>,
}

impl ModelConfig {
    /// # Errors
    /// [`Error::Config`] naming the key.
    pub(crate) fn read(reader: &ConfigReader<'_>) -> Result<Self, Error> {
        let longest = reader.spelled(&["max_position_embeddings", "n_positions", "max_seq_len"])?;
        let layers = reader.count_of(&["num_hidden_layers", "n_layer", "n_layers"])?;
        if layers > ConfigReader::MOST_LAYERS {
            let most = ConfigReader::MOST_LAYERS;
            let message = format!("is {layers}, but no model has more than {most} blocks");
            return Err(reader.error("num_hidden_layers", message));
        }
        Ok(Self {
            model_type: reader.text("model_type")?,
            hidden_size: reader.count_of(&["hidden_size", "n_embd", "n_embed", "d_model"])?,
            layers,
            heads: reader.count_of(&["num_attention_heads", "n_head", "n_heads"])?,
            vocab_size: reader.count("vocab_size")?,
            max_position_embeddings: longest.unwrap_or(2048),
            tie_word_embeddings: reader.optional_flag("tie_word_embeddings")?.unwrap_or(false),
            eos_token_ids: reader.ids("eos_token_id")?,
        })
    }
}

/// Typed access to a JSON object, with errors that name file and key. `null` counts as absent.
pub(crate) struct ConfigReader<'a> {
    object: Option<&'a Map<String, Value>>,
    file: &'a str,
    /// What stands before a key in messages: `rope_scaling.` for a nested object.
    prefix: &'a str,
}

impl<'a> ConfigReader<'a> {
    /// No dimension of a tensor is larger.
    pub(crate) const LARGEST: usize = 1 << 31;
    /// No model has more blocks: some lists have an entry for each before any file is looked at.
    const MOST_LAYERS: usize = 4096;

    pub(crate) fn new(config: &'a Value, file: &'a str) -> Self {
        Self { object: config.as_object(), file, prefix: "" }
    }

    /// A reader of the nested object at `key`, if there is a non-empty one.
    pub(crate) fn nested(&self, key: &str, prefix: &'a str) -> Option<ConfigReader<'a>> {
        let object = self.get(key)?.as_object().filter(|o| !o.is_empty())?;
        Some(ConfigReader { object: Some(object), file: self.file, prefix })
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.object?.get(key).filter(|v| !v.is_null())
    }

    pub(crate) fn error(&self, key: &str, message: impl Into<String>) -> Error {
        Error::Config {
            file: self.file.to_owned(),
            key: format!("{}{key}", self.prefix),
            message: message.into(),
        }
    }

    fn required<T>(&self, key: &str, found: Option<T>) -> Result<T, Error> {
        found.ok_or_else(|| self.error(key, "is missing"))
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        read(value)
            .map(Some)
            .ok_or_else(|| self.error(key, format!("is {value}, but must be {expected}")))
    }

    /// A count under the first of several names that is there.
    pub(crate) fn spelled(&self, keys: &[&str]) -> Result<Option<usize>, Error> {
        let found = keys.iter().find(|key| self.get(key).is_some());
        found.map_or(Ok(None), |key| self.optional_count(key))
    }

    fn count_of(&self, keys: &[&str]) -> Result<usize, Error> {
        self.required(keys.first().unwrap_or(&""), self.spelled(keys)?)
    }

    pub(crate) fn count(&self, key: &str) -> Result<usize, Error> {
        self.required(key, self.optional_count(key)?)
    }

    /// A positive integer that a tensor's dimension could be.
    pub(crate) fn optional_count(&self, key: &str) -> Result<Option<usize>, Error> {
        self.typed(key, "an integer from 1 to 2^31", |v| {
            let n = usize::try_from(v.as_u64()?).ok()?;
            (1..=Self::LARGEST).contains(&n).then_some(n)
        })
    }

    pub(crate) fn optional_number(&self, key: &str) -> Result<Option<f64>, Error> {
        self.typed(key, "a number", |v| v.as_f64().filter(|n| n.is_finite()))
    }

    pub(crate) fn optional_flag(&self, key: &str) -> Result<Option<bool>, Error> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub(crate) fn text(&self, key: &str) -> Result<String, Error> {
        self.required(key, self.optional_text(key)?)
    }

    pub(crate) fn optional_text(&self, key: &str) -> Result<Option<String>, Error> {
        self.typed(key, "a string", |v| v.as_str().map(str::to_owned))
    }

    /// Numbers for each rotated channel pair.
    pub(crate) fn optional_numbers(&self, key: &str) -> Result<Option<Vec<f64>>, Error> {
        self.typed(key, "a list of numbers", |v| v.as_array()?.iter().map(Value::as_f64).collect())
    }

    /// One id, a list of ids, or none.
    fn ids(&self, key: &str) -> Result<Vec<u32>, Error> {
        let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        let read = |v: &Value| match v {
            Value::Array(list) => list.iter().map(id).collect(),
            one => id(one).map(|id| vec![id]),
        };
        Ok(self.typed(key, "a token id or a list of them", read)?.unwrap_or_default())
    }
}
