//! Documents out of files.

use std::path::Path;

use serde_json::{Map, Value};

use crate::chat::{ChatTemplate, Message};
use crate::{Error, LineError};

/// One document, as far towards ids as its file had taken it.
#[derive(Debug, PartialEq)]
pub(crate) enum Document {
    /// Plain text.
    Text(String),
    /// A rendered conversation, which carries its own special tokens.
    Chat(String),
    /// Token ids, to be taken as they are.
    Ids(Vec<u32>),
}

/// What a document may need besides its line.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    /// Writes `messages` out as text.
    pub(crate) template: Option<&'a ChatTemplate>,
    /// Ids must lie below this.
    pub(crate) vocab_size: usize,
}

/// The documents in `bytes`, the content of `path`: one per line of a JSON Lines file, else one.
pub(crate) fn documents(
    path: &Path,
    bytes: Vec<u8>,
    context: Context<'_>,
) -> Result<Vec<Document>, Error> {
    let text = String::from_utf8(bytes).map_err(|error| Error::NotUtf8 {
        path: path.to_path_buf(),
        offset: error.utf8_error().valid_up_to(),
    })?;
    // A byte order mark says how the file is encoded; it is no part of the text.
    let content = text.strip_prefix('\u{feff}').unwrap_or(&text);
    if content.trim().is_empty() {
        return Err(Error::EmptyFile { path: path.to_path_buf() });
    }
    if !is_json_lines(path) {
        return Ok(vec![Document::Text(content.to_owned())]);
    }
    content
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| {
            document(line, context).map_err(|problem| Error::Line {
                path: path.to_path_buf(),
                line: index + 1,
                problem,
            })
        })
        .collect()
}

/// `.json` counts too: data sets are often JSON Lines under that name, and a real JSON file gets
/// an error that says so, where reading its braces as prose would go unnoticed.
fn is_json_lines(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default();
    ["jsonl", "ndjson", "json"].iter().any(|known| extension.eq_ignore_ascii_case(known))
}

fn document(line: &str, context: Context<'_>) -> Result<Document, LineError> {
    let object: Map<String, Value> = match serde_json::from_str(line) {
        Ok(Value::Object(object)) => object,
        Ok(other) => return Err(LineError::NotAnObject { found: kind(&other) }),
        Err(error) => return Err(LineError::NotJson { message: error.to_string() }),
    };
    // A key with null is a key left out: tables exported as JSON fill every column.
    let get = |key: &str| object.get(key).filter(|value| !value.is_null());
    if let Some(value) = get("text") {
        return string("text", value).map(Document::Text);
    }
    if let Some(value) = get("messages") {
        let messages = messages(value)?;
        let template = context.template.ok_or(LineError::NoChatTemplate)?;
        let text = template
            .render(&messages, false)
            .map_err(|error| LineError::Chat { message: error.to_string() })?;
        return Ok(Document::Chat(text));
    }
    if let Some(value) = get("input_ids") {
        return ids(value, context.vocab_size).map(Document::Ids);
    }
    Err(LineError::NoKnownKey { keys: object.keys().cloned().collect() })
}

fn messages(value: &Value) -> Result<Vec<Message>, LineError> {
    array("messages", value)?
        .iter()
        .enumerate()
        .map(|(index, message)| {
            let field = |name: &str| {
                let value = message.get(name).unwrap_or(&Value::Null);
                string(&format!("messages[{index}].{name}"), value)
            };
            Ok(Message { role: field("role")?, content: field("content")? })
        })
        .collect()
}

fn ids(value: &Value, vocab_size: usize) -> Result<Vec<u32>, LineError> {
    array("input_ids", value)?
        .iter()
        .enumerate()
        .map(|(position, value)| {
            let id = value.as_u64().ok_or_else(|| LineError::WrongKind {
                key: format!("input_ids[{position}]"),
                found: kind(value),
                expected: "a token id (a whole number, not negative)",
            })?;
            u32::try_from(id)
                .ok()
                .filter(|&id| (id as usize) < vocab_size)
                .ok_or(LineError::UnknownId { position, id, vocab_size })
        })
        .collect()
}

fn string(key: &str, value: &Value) -> Result<String, LineError> {
    match value {
        Value::String(text) => Ok(text.clone()),
        other => Err(LineError::WrongKind {
            key: key.to_owned(),
            found: kind(other),
            expected: "a string",
        }),
    }
}

fn array<'a>(key: &str, value: &'a Value) -> Result<&'a [Value], LineError> {
    match value {
        Value::Array(items) => Ok(items),
        other => Err(LineError::WrongKind {
            key: key.to_owned(),
            found: kind(other),
            expected: "a list",
        }),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a truth value",
        Value::Number(number) if number.is_u64() => "a number",
        Value::Number(number) if number.is_i64() => "a negative number",
        Value::Number(_) => "a fraction",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, content: &str) -> Result<Vec<Document>, Error> {
        let context = Context { template: None, vocab_size: 10 };
        documents(Path::new(name), content.as_bytes().to_vec(), context)
    }

    #[test]
    fn a_text_file_is_one_document() {
        let found = read("a.txt", "\u{feff}one\r\n\n{\"text\": 1}\n").unwrap();
        assert_eq!(found, [Document::Text("one\r\n\n{\"text\": 1}\n".to_owned())]);
    }

    #[test]
    fn a_line_is_one_document() {
        let lines =
            "{\"text\": \"a\", \"input_ids\": [1]}\r\n\n{\"text\": null, \"input_ids\": [1, 9]}\n";
        for name in ["a.jsonl", "a.NDJSON", "a.json"] {
            let found = read(name, lines).unwrap();
            assert_eq!(found, [Document::Text("a".to_owned()), Document::Ids(vec![1, 9])]);
        }
    }
}
