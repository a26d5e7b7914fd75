//! The one door to the `tokenizers` crate.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use tokenizers::{
    DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
};

use crate::{Error, file};

/// A tokenizer as `tokenizer.json` describes it, without any truncation or padding stored there.
///
/// ```
/// let tokenizer = gptq_calib::Tokenizer::from_bytes(
///     br#"{"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"},
///         "model": {"type": "WordLevel", "unk_token": "?", "vocab": {"?": 0, "hello": 1}}}"#,
/// )?;
/// assert_eq!(tokenizer.encode("hello world", true)?, [1, 0]);
/// assert_eq!(tokenizer.decode(&[1, 1], false)?, "hello hello");
/// # Ok::<(), gptq_calib::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    vocab_size: usize,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NoFile`] and [`Error::TooLarge`] if the file cannot be read,
    /// [`Error::TokenizerFile`] if it is not a tokenizer definition; all name the file.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let bytes = file::read(path, file::LARGEST_MODEL_FILE)?;
        Self::parse(&path.display().to_string(), &bytes)
    }

    /// Reads the bytes of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::TokenizerFile`] if they are not a tokenizer definition.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        Self::parse("tokenizer in memory", bytes)
    }

    fn parse(name: &str, bytes: &[u8]) -> Result<Self, Error> {
        let failed = |message: String| Error::TokenizerFile { name: name.to_owned(), message };
        let mut inner = contained(|| tokenizers::Tokenizer::from_bytes(bytes)).map_err(failed)?;
        // A stored limit of 512 tokens would silently cut a whole book to one window.
        inner.with_truncation(None).map_err(|error| failed(error.to_string()))?;
        inner.with_padding(None);
        let largest = inner.get_vocab(true).into_values().max();
        let vocab_size = largest.map_or(0, |id| id as usize + 1);
        Ok(Self { inner, vocab_size })
    }

    /// The ids of `text`. `add_special_tokens` asks for what the tokenizer puts around a text,
    /// such as one BOS in front; text that already carries them (a rendered chat) wants `false`.
    ///
    /// # Errors
    /// [`Error::Tokenize`] if the tokenizer's model cannot express the text.
    ///
    /// Costs about 400 bytes of working memory per token while it runs.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, Error> {
        let encoding = contained(|| self.inner.encode_fast(text, add_special_tokens))
            .map_err(|message| Error::Tokenize { action: "encode this text", message })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `ids`. Ids outside the vocabulary are left out, as are special tokens if
    /// `skip_special_tokens`.
    ///
    /// # Errors
    /// [`Error::Tokenize`] if the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, Error> {
        contained(|| self.inner.decode(ids, skip_special_tokens)).map_err(decode_error)
    }

    /// Text for ids that arrive one at a time, see [`DecodeStream`].
    pub fn decode_stream(&self, skip_special_tokens: bool) -> DecodeStream<'_> {
        DecodeStream {
            tokenizer: self,
            inner: self.inner.decode_stream(skip_special_tokens),
            held: Vec::new(),
            skip_special_tokens,
        }
    }

    /// One more than the largest id, added tokens included: the rows an embedding must have. A
    /// model's own `vocab_size` may be larger, by padding, but not smaller.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Ids that stand for no text: BOS, EOS, padding, turns of a conversation. In ascending order.
    #[must_use]
    pub fn special_ids(&self) -> Vec<u32> {
        let added = self.inner.get_added_tokens_decoder();
        let special = added.into_iter().filter(|(_, token)| token.special);
        let mut ids: Vec<u32> = special.map(|(id, _)| id).collect();
        ids.sort_unstable();
        ids
    }

    /// What the tokenizer puts before a text when it is asked to, such as a BOS.
    ///
    /// # Errors
    /// [`Error::Tokenize`] if it cannot encode a letter.
    pub fn prefix(&self) -> Result<Vec<u32>, Error> {
        let (with, without) = (self.encode("a", true)?, self.encode("a", false)?);
        let first = without.first().and_then(|id| with.iter().position(|other| other == id));
        Ok(with.get(..first.unwrap_or(0)).unwrap_or_default().to_vec())
    }

    /// The id of `token`, spelled as the vocabulary spells it (`</s>`, `<|im_end|>`).
    #[must_use]
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }
}

fn decode_error(message: String) -> Error {
    Error::Tokenize { action: "decode these ids", message }
}

/// The crate panics on some definitions that contradict themselves. What a file holds is an error
/// whichever way it comes to light.
fn contained<T>(work: impl FnOnce() -> Result<T, tokenizers::Error>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_or_else(
        |panic| {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            let text = text.unwrap_or_else(|| "no reason given".to_owned());
            Err(format!("tokenizer.json contradicts itself ({text})"))
        },
        |result| result.map_err(|error| error.to_string()),
    )
}

/// Turns generated ids into text as they come, never in the middle of a character: a character
/// spread over several tokens appears with its last one.
#[expect(missing_debug_implementations, reason = "the wrapped stream has none")]
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    inner: tokenizers::DecodeStream<
        'a,
        ModelWrapper,
        NormalizerWrapper,
        PreTokenizerWrapper,
        PostProcessorWrapper,
        DecoderWrapper,
    >,
    /// Ids taken in since text last came out.
    held: Vec<u32>,
    skip_special_tokens: bool,
}

impl DecodeStream<'_> {
    /// Takes one id and returns the text it completes, if any.
    ///
    /// # Errors
    /// [`Error::Tokenize`] if the tokenizer's decoder fails or revises text already given out.
    pub fn push(&mut self, id: u32) -> Result<Option<String>, Error> {
        self.held.push(id);
        let text = contained(|| self.inner.step(id)).map_err(decode_error)?;
        if text.is_some() {
            self.held.clear();
        }
        Ok(text)
    }

    /// What is left when generation stops in the middle of a character, with U+FFFD for the
    /// missing part; usually `None`.
    ///
    /// # Errors
    /// [`Error::Tokenize`] if the tokenizer's decoder fails.
    pub fn finish(self) -> Result<Option<String>, Error> {
        let rest = self.tokenizer.decode(&self.held, self.skip_special_tokens)?;
        Ok(Some(rest).filter(|text| !text.is_empty()))
    }
}
