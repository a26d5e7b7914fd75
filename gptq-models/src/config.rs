//! The numbers of a model, read from `config.json` in either of its spellings.

use serde_json::{Map, Value};

use crate::{Error, rope::Rope};

/// What a graph needs to know of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// `model_type` as written.
    pub model_type: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Channels per head.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f32,
    /// Rotary position embedding.
    pub rope: Rope,
    /// Context length the model was made for.
    pub max_position_embeddings: usize,
    /// The embedding is also the output projection.
    pub tie_word_embeddings: bool,
    /// q, k, v and o have biases.
    pub attention_bias: bool,
    /// gate, up and down have biases.
    pub mlp_bias: bool,
    /// Ids that end a text.
    pub eos_token_ids: Vec<u32>,
}

impl ModelConfig {
    /// # Errors
    /// [`Error::Config`] naming the key.
    pub(crate) fn read(reader: &ConfigReader<'_>) -> Result<Self, Error> {
        let hidden_size = reader.count("hidden_size")?;
        let heads = reader.count("num_attention_heads")?;
        let kv_heads = reader.optional_count("num_key_value_heads")?.unwrap_or(heads);
        if kv_heads > heads || heads % kv_heads != 0 {
            return Err(reader.error(
                "num_key_value_heads",
                format!("is {kv_heads}, which does not divide num_attention_heads {heads}"),
            ));
        }
        let head_dim = match reader.optional_count("head_dim")? {
            Some(head_dim) => head_dim,
            None if hidden_size % heads == 0 => hidden_size / heads,
            None => {
                return Err(reader.error(
                    "hidden_size",
                    format!("is {hidden_size}, not a multiple of num_attention_heads {heads}"),
                ));
            }
        };
        if heads.checked_mul(head_dim).is_none_or(|width| width > ConfigReader::LARGEST) {
            return Err(reader.error(
                "head_dim",
                format!(
                    "is {head_dim}, which with num_attention_heads {heads} is no layer's width"
                ),
            ));
        }
        let activation = reader.optional_text("hidden_act")?.unwrap_or_else(|| "silu".into());
        if !matches!(activation.as_str(), "silu" | "swish") {
            return Err(reader
                .error("hidden_act", format!("is {activation:?}, but this family needs silu")));
        }
        let max_position_embeddings =
            reader.optional_count("max_position_embeddings")?.unwrap_or(2048);
        Ok(Self {
            model_type: reader.text("model_type")?,
            hidden_size,
            intermediate_size: reader.count("intermediate_size")?,
            layers: reader.count("num_hidden_layers")?,
            heads,
            kv_heads,
            head_dim,
            vocab_size: reader.count("vocab_size")?,
            rms_norm_eps: reader.optional_number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            rope: Rope::read(reader, head_dim, max_position_embeddings)?,
            max_position_embeddings,
            tie_word_embeddings: reader.optional_flag("tie_word_embeddings")?.unwrap_or(false),
            attention_bias: reader.optional_flag("attention_bias")?.unwrap_or(false),
            mlp_bias: reader.optional_flag("mlp_bias")?.unwrap_or(false),
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
    const LARGEST: usize = 1 << 31;

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
