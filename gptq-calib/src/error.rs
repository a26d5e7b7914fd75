//! What can go wrong between a text file and a calibration set.

use std::path::PathBuf;

/// An error of this crate. Each message is complete by itself: it names the file, the numbers, the
/// rule and the way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused to hand over a file.
    #[error("cannot read {}: {reason}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
    /// A folder, a pipe or a device where a file should be.
    #[error(
        "{} is no file but a folder, a pipe or a device; write its contents to a file and name \
         that",
        path.display()
    )]
    NoFile {
        /// What was named.
        path: PathBuf,
    },
    /// A file larger than anything of its kind.
    #[error(
        "{} has {bytes} bytes, but files of this kind have at most {largest}; take a part of it",
        path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size, or what was read of it before reading stopped.
        bytes: u64,
        /// The most that is read.
        largest: u64,
    },
    /// No file was named at all.
    #[error("no calibration file was given; name at least one .txt or .jsonl file")]
    NoFiles,
    /// A compressed, binary or differently encoded file.
    #[error(
        "{} is not UTF-8 at byte {offset}; calibration text is plain UTF-8, so decompress or \
         convert the file first",
        path.display()
    )]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// First byte that starts no UTF-8 sequence, counted from 0.
        offset: usize,
    },
    /// A file of no characters, or of white space alone.
    #[error("{} holds no text; remove it from the list or fill it", path.display())]
    EmptyFile {
        /// The file.
        path: PathBuf,
    },
    /// One line of a JSON Lines file is not a document.
    #[error("{} line {line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: LineError,
    },
    /// A model's side file (`tokenizer_config.json`, …) does not say what it should.
    #[error("{}: {message}", path.display())]
    ModelFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A tokenizer definition the `tokenizers` crate does not accept.
    #[error("{name} is not a usable tokenizer definition: {message}")]
    TokenizerFile {
        /// The file, or a word for bytes in memory.
        name: String,
        /// What the parser said.
        message: String,
    },
    /// Encoding or decoding failed inside the tokenizer.
    #[error("the tokenizer cannot {action}: {message}")]
    Tokenize {
        /// "encode this text" or "decode these ids".
        action: &'static str,
        /// What it said.
        message: String,
    },
    /// The model came without a chat template.
    #[error(
        "no chat template in {} (looked for {looked}); this is likely a base model, so give it a \
         plain prompt, or add the template its chat version ships",
        dir.display()
    )]
    NoChatTemplate {
        /// The model directory.
        dir: PathBuf,
        /// The places searched, as one phrase.
        looked: String,
    },
    /// The chat template is not valid Jinja.
    #[error("the chat template does not compile: {message}")]
    BadChatTemplate {
        /// What the parser said, with the line.
        message: String,
    },
    /// The chat template refused these messages, or failed on them.
    #[error("the chat template cannot render these messages: {message}")]
    Chat {
        /// What the template or its interpreter said.
        message: String,
    },
    /// Not enough tokens for even one window.
    #[error(
        "the text has {tokens} tokens, but windows of {seq_len} need at least {needed}; shorten \
         the windows (--seqlen) or add text"
    )]
    TooShort {
        /// Tokens found.
        tokens: usize,
        /// Window length asked for, in tokens.
        seq_len: usize,
        /// Fewest tokens that would do.
        needed: usize,
    },
    /// A number outside its range.
    #[error("{name} is {value}, but must be {rule}")]
    Setting {
        /// Which setting.
        name: &'static str,
        /// Its value.
        value: usize,
        /// The range.
        rule: String,
    },
}

/// What is wrong with one line of a JSON Lines file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineError {
    /// Not JSON on its own.
    #[error(
        "not JSON ({message}); each line is one JSON object, and `jq -c '.[]'` turns an array \
         into such lines"
    )]
    NotJson {
        /// What the parser said.
        message: String,
    },
    /// JSON, but not an object.
    #[error(
        "found {found}, but each line is one JSON object; `jq -c '.[]'` turns an array into such \
         lines"
    )]
    NotAnObject {
        /// The kind of value found.
        found: &'static str,
    },
    /// None of the keys this crate reads.
    #[error("found the keys [{}], but a document needs text, messages or input_ids", keys.join(", "))]
    NoKnownKey {
        /// The keys found, in file order.
        keys: Vec<String>,
    },
    /// A known key with a value of the wrong kind.
    #[error("{key} is {found}, but must be {expected}")]
    WrongKind {
        /// Where in the object.
        key: String,
        /// The kind of value found.
        found: &'static str,
        /// The kind needed.
        expected: &'static str,
    },
    /// A token id the tokenizer does not know: the ids belong to another model.
    #[error(
        "input_ids[{position}] is {id}, but this tokenizer's ids end at {}; the ids were made \
         with another tokenizer, so give the text instead",
        vocab_size.saturating_sub(1)
    )]
    UnknownId {
        /// Index in `input_ids`.
        position: usize,
        /// The id.
        id: u64,
        /// One more than the largest id known.
        vocab_size: usize,
    },
    /// Chat messages without a template to write them with.
    #[error(
        "found messages, but no chat template is at hand; take a model directory that has one, \
         or give the conversation as text"
    )]
    NoChatTemplate,
    /// The chat template refused the messages.
    #[error("{message}")]
    Chat {
        /// What the template or its interpreter said.
        message: String,
    },
}
