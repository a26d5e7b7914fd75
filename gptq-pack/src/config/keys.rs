//! Look-up in a quantization config as the field writes it: any case, several spellings per key,
//! and values that later writers moved into `meta`.

use gptq_core::{Bits, GroupSize};
use serde_json::{Map, Value};

use crate::{Error, Width};

/// A JSON object and its `meta`, read by lower-case key. `null` counts as absent.
pub(crate) struct Keys<'a> {
    top: &'a Map<String, Value>,
    meta: Option<&'a Map<String, Value>>,
}

/// A value and the key under which the file has it.
pub(crate) type Entry<'a> = (&'a str, &'a Value);

impl<'a> Keys<'a> {
    pub(crate) fn new(json: &'a Value) -> Result<Self, Error> {
        let top = json.as_object().ok_or_else(|| Error::ConfigNotObject { found: kind(json) })?;
        let mut keys = Self { top, meta: None };
        keys.meta =
            keys.find_at_top(&["meta"])?.map(|entry| object(entry.0, entry.1)).transpose()?;
        Ok(keys)
    }

    pub(crate) fn meta(&self) -> Option<&'a Map<String, Value>> {
        self.meta
    }

    /// The value under any of a key's spellings, at top level or else in `meta`. Spellings that
    /// contradict each other are an error: readers differ in which one they believe.
    pub(crate) fn find(&self, spellings: &[&str]) -> Result<Option<Entry<'a>>, Error> {
        match (self.find_at_top(spellings)?, self.meta) {
            (None, Some(meta)) => find_in(meta, spellings),
            (found, _) => Ok(found),
        }
    }

    /// The same without `meta`.
    pub(crate) fn find_at_top(&self, spellings: &[&str]) -> Result<Option<Entry<'a>>, Error> {
        find_in(self.top, spellings)
    }

    pub(crate) fn bool(&self, spellings: &[&str]) -> Result<Option<bool>, Error> {
        self.find(spellings)?.map(|(key, value)| boolean(key, value)).transpose()
    }

    /// A name, in lower case, with the key under which the file has it.
    pub(crate) fn name(&self, spellings: &[&str]) -> Result<Option<(&'a str, String)>, Error> {
        let entry = self.find(spellings)?;
        entry.map(|(key, value)| Ok((key, string(key, value)?.to_lowercase()))).transpose()
    }

    /// What is at top level under none of these lower-case keys.
    pub(crate) fn others(&self, known: &[&str]) -> Map<String, Value> {
        let unknown = |key: &str| !known.contains(&key.to_lowercase().as_str());
        let others = self.top.iter().filter(|(key, _)| unknown(key));
        others.map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

fn find_in<'a>(
    map: &'a Map<String, Value>,
    spellings: &[&str],
) -> Result<Option<Entry<'a>>, Error> {
    let mut found = map.iter().map(|(key, value)| (key.as_str(), value)).filter(|(key, value)| {
        spellings.contains(&key.to_lowercase().as_str()) && !value.is_null()
    });
    let Some(first) = found.next() else { return Ok(None) };
    match found.find(|(_, value)| !same(value, first.1)) {
        Some(second) => Err(conflict(first, second)),
        None => Ok(Some(first)),
    }
}

/// Names are the same in any case.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::String(a), Value::String(b)) => a.eq_ignore_ascii_case(b),
        _ => a == b,
    }
}

pub(crate) fn conflict(first: Entry<'_>, second: Entry<'_>) -> Error {
    let says = |(key, value): Entry<'_>| format!("{key} is {value}");
    Error::ConfigConflict { first: says(first), second: says(second) }
}

pub(crate) fn boolean(key: &str, value: &Value) -> Result<bool, Error> {
    value.as_bool().ok_or_else(|| wrong(key, value, "true or false"))
}

pub(crate) fn number(key: &str, value: &Value) -> Result<f64, Error> {
    value.as_f64().ok_or_else(|| wrong(key, value, "a number"))
}

pub(crate) fn string<'a>(key: &str, value: &'a Value) -> Result<&'a str, Error> {
    value.as_str().ok_or_else(|| wrong(key, value, "a string"))
}

pub(crate) fn object<'a>(key: &str, value: &'a Value) -> Result<&'a Map<String, Value>, Error> {
    value.as_object().ok_or_else(|| wrong(key, value, "an object"))
}

pub(crate) fn bits(key: &str, value: &Value) -> Result<Bits, Error> {
    let bits = value.as_u64().and_then(|bits| u32::try_from(bits).ok());
    Ok(Bits::try_from(bits.ok_or_else(|| wrong(key, value, "2, 3, 4 or 8"))?)?)
}

pub(crate) fn group_size(key: &str, value: &Value) -> Result<GroupSize, Error> {
    let size = value.as_i64().ok_or_else(|| wrong(key, value, "-1 or a whole number above 0"))?;
    Ok(GroupSize::from_file(size)?)
}

/// Bits of a format that knows more widths than GPTQ's four.
pub(crate) fn width(key: &str, value: &Value) -> Result<Width, Error> {
    let bits = value.as_u64().and_then(|bits| u32::try_from(bits).ok());
    Width::try_from(bits.ok_or_else(|| wrong(key, value, "a whole number from 2 to 8"))?)
}

pub(crate) fn array<'a>(key: &str, value: &'a Value) -> Result<&'a [Value], Error> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| wrong(key, value, "a list"))
}

/// A list of names; absent is empty.
pub(crate) fn names<'a>(entry: Option<Entry<'a>>) -> Result<Vec<&'a str>, Error> {
    let Some((key, value)) = entry else { return Ok(Vec::new()) };
    array(key, value)?.iter().map(|name| string(key, name)).collect()
}

/// 32-bit signed words are the only ones that every reader knows.
pub(crate) fn pack_dtype(key: &str, value: &Value) -> Result<(), Error> {
    match string(key, value)? {
        "int32" => Ok(()),
        _ => Err(wrong(key, value, "\"int32\"")),
    }
}

pub(crate) fn wrong(key: &str, value: &Value, expected: &'static str) -> Error {
    Error::ConfigValue { key: key.to_owned(), found: value.to_string(), expected }
}

fn kind(json: &Value) -> &'static str {
    match json {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn top_level_wins_over_meta_and_null_is_absent() {
        let json = json!({"Sym": null, "W_Bit": 4, "meta": {"sym": false, "w_bit": 8}});
        let keys = Keys::new(&json).unwrap();
        assert_eq!(keys.bool(&["sym"]), Ok(Some(false)));
        assert_eq!(keys.find(&["bits", "w_bit"]).unwrap(), Some(("W_Bit", &json!(4))));
    }

    #[test]
    fn names_that_differ_in_case_are_the_same() {
        let json = json!({"checkpoint_format": "GPTQ_v2", "format": "gptq_v2"});
        let name = Keys::new(&json).unwrap().name(&["format", "checkpoint_format"]);
        assert_eq!(name, Ok(Some(("checkpoint_format", "gptq_v2".to_owned()))));
    }

    #[test]
    fn spellings_may_repeat_but_not_contradict_each_other() {
        let json = json!({"bits": 4, "wbits": 4, "w_bit": 3});
        let keys = Keys::new(&json).unwrap();
        assert_eq!(keys.find(&["bits", "wbits"]).unwrap(), Some(("bits", &json!(4))));
        let error = keys.find(&["bits", "wbits", "w_bit"]).unwrap_err();
        assert_eq!(error.to_string(), "bits is 4, but w_bit is 3; keep one of them");
    }
}
