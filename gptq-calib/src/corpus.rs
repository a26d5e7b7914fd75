//! Files to one stream of token ids.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::chat::ChatTemplate;
use crate::read::{self, Context, Document};
use crate::{Error, Tokenizer, file};

/// What stands between two text documents, as in the reference's WikiText-2.
const SEPARATOR: &str = "\n\n";

/// A file that text came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// File name without its folder: the folder says more about a person than about the data.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 of the bytes, in hexadecimal.
    pub sha256: String,
}

/// Text turned into one stream of token ids, to draw calibration windows from or to measure
/// perplexity on.
///
/// - Neighbouring text documents are joined by a blank line and tokenized as one text, with what
///   the tokenizer puts around a text (one BOS at the very start, for a tokenizer that has it).
/// - A conversation is tokenized by itself, with no tokens but those its template wrote.
/// - `input_ids` are taken as they are.
///
/// The parts follow each other in the order of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corpus {
    /// The token ids.
    pub ids: Vec<u32>,
    /// The files read, in order.
    pub sources: Vec<Source>,
    /// Documents read: lines of JSON Lines files, and whole text files.
    pub documents: usize,
    /// Tokens of each document, in order. Texts that were joined share their tokens by characters.
    pub lengths: Vec<usize>,
    /// Documents that were conversations, written with the model's template.
    pub conversations: usize,
}

impl Corpus {
    /// Reads and tokenizes files.
    ///
    /// A `.jsonl`, `.ndjson` or `.json` file holds one JSON object per line, with `text` (a
    /// string), else `messages` (a list of objects with `role` and `content`, which needs
    /// `template`), else `input_ids` (a list of ids of this tokenizer); blank lines are skipped.
    /// Any other file is one document of UTF-8 text.
    ///
    /// # Errors
    /// [`Error::NoFiles`], [`Error::Io`], [`Error::NoFile`], [`Error::TooLarge`] for more than a
    /// gigabyte, [`Error::NotUtf8`] with the byte, [`Error::EmptyFile`],
    /// [`Error::Line`] with the line and what is wrong there, and [`Error::Tokenize`].
    ///
    /// Everything is held in memory at once: about twice the files' size, and about 400 bytes per
    /// token of the longest text while it is tokenized (1.9 GB for 16 MB of English was measured,
    /// so 100 MB take some 12 GB). The default set covers at most 262,144 tokens: a few megabytes
    /// of text are plenty.
    pub fn from_files(
        paths: &[&Path],
        tokenizer: &Tokenizer,
        template: Option<&ChatTemplate>,
    ) -> Result<Self, Error> {
        if paths.is_empty() {
            return Err(Error::NoFiles);
        }
        let context = Context { template, vocab_size: tokenizer.vocab_size() };
        let mut builder = Builder::new(tokenizer);
        for path in paths {
            let bytes = file::read(path, file::LARGEST_CORPUS)?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            builder.sources.push(source(&name, &bytes));
            for document in read::documents(path, bytes, context)? {
                builder.add(document)?;
            }
        }
        builder.finish()
    }

    /// Tokenizes one text from memory; `name` stands for it in the provenance.
    ///
    /// # Errors
    /// [`Error::Tokenize`].
    pub fn from_text(name: &str, text: &str, tokenizer: &Tokenizer) -> Result<Self, Error> {
        let ids = tokenizer.encode(text, true)?;
        let (sources, lengths) = (vec![source(name, text.as_bytes())], vec![ids.len()]);
        Ok(Self { ids, sources, documents: 1, lengths, conversations: 0 })
    }
}

fn source(name: &str, bytes: &[u8]) -> Source {
    Source { name: name.to_owned(), bytes: bytes.len() as u64, sha256: hex(&Sha256::digest(bytes)) }
}

/// Two lower-case digits per byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

struct Builder<'a> {
    tokenizer: &'a Tokenizer,
    ids: Vec<u32>,
    sources: Vec<Source>,
    documents: usize,
    /// Text documents since the last other one, joined.
    text: Option<String>,
    /// Characters of each of them.
    joined: Vec<usize>,
    lengths: Vec<usize>,
    conversations: usize,
}

impl<'a> Builder<'a> {
    fn new(tokenizer: &'a Tokenizer) -> Self {
        Self {
            tokenizer,
            ids: Vec::new(),
            sources: Vec::new(),
            documents: 0,
            text: None,
            joined: Vec::new(),
            lengths: Vec::new(),
            conversations: 0,
        }
    }

    fn add(&mut self, document: Document) -> Result<(), Error> {
        self.documents += 1;
        match document {
            Document::Text(more) => {
                self.joined.push(more.chars().count());
                match &mut self.text {
                    Some(text) => {
                        text.push_str(SEPARATOR);
                        text.push_str(&more);
                    }
                    None => self.text = Some(more),
                }
            }
            Document::Chat(text) => {
                self.encode_text()?;
                self.conversations += 1;
                let ids = self.tokenizer.encode(&text, false)?;
                self.lengths.push(ids.len());
                self.ids.extend(ids);
            }
            Document::Ids(ids) => {
                self.encode_text()?;
                self.lengths.push(ids.len());
                self.ids.extend(ids);
            }
        }
        Ok(())
    }

    fn encode_text(&mut self) -> Result<(), Error> {
        if let Some(text) = self.text.take() {
            let ids = self.tokenizer.encode(&text, true)?;
            self.lengths.extend(shared(ids.len(), &self.joined));
            self.joined.clear();
            self.ids.extend(ids);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Corpus, Error> {
        self.encode_text()?;
        Ok(Corpus {
            ids: self.ids,
            sources: self.sources,
            documents: self.documents,
            lengths: self.lengths,
            conversations: self.conversations,
        })
    }
}

/// Tokens dealt out by characters, so that nothing is lost.
fn shared(tokens: usize, characters: &[usize]) -> Vec<usize> {
    let all = characters.iter().sum::<usize>().max(1) as u128;
    let (mut before, mut dealt) = (0u128, 0);
    let share = |&n: &usize| {
        before += n as u128;
        let until = (tokens as u128 * before / all) as usize;
        let own = until - dealt;
        dealt = until;
        own
    };
    characters.iter().map(share).collect()
}
