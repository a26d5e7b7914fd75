//! How llama.cpp calls the ways of cutting a text into words before byte pairs are merged. A file
//! names one; what each does is in the reader's code, so a wrong name means other tokens.

use serde_json::Value;

/// One cut of the text; several follow each other.
#[derive(Clone, Debug, PartialEq)]
enum Cut<'a> {
    /// The pattern of `ByteLevel`, GPT-2's.
    Gpt2,
    /// Every digit stands alone.
    Digits,
    /// A pattern whose matches stand alone.
    Pattern(&'a str),
}

struct Known {
    name: &'static str,
    cuts: &'static [Cut<'static>],
    /// A word that is a token is taken whole. The name decides this too.
    ignore_merges: bool,
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const KNOWN: &[Known] = &[
    Known { name: "gpt-2", cuts: &[Cut::Gpt2], ignore_merges: false },
    Known { name: "smollm", cuts: &[Cut::Digits, Cut::Gpt2], ignore_merges: false },
    Known { name: "llama-bpe", cuts: &[Cut::Pattern(LLAMA3)], ignore_merges: true },
    Known { name: "smaug-bpe", cuts: &[Cut::Pattern(LLAMA3)], ignore_merges: false },
    Known { name: "qwen2", cuts: &[Cut::Pattern(QWEN2)], ignore_merges: false },
    Known { name: "qwen35", cuts: &[Cut::Pattern(QWEN35)], ignore_merges: false },
    Known { name: "tekken", cuts: &[Cut::Pattern(TEKKEN)], ignore_merges: true },
];

/// The name for a `pre_tokenizer` of `tokenizer.json`, or what it does that has none.
pub(super) fn name(pre_tokenizer: &Value, ignore_merges: bool) -> Result<&'static str, String> {
    let mut cuts = Vec::new();
    read(pre_tokenizer, &mut cuts)?;
    let known = KNOWN.iter().find(|k| k.cuts == cuts && k.ignore_merges == ignore_merges);
    known.map(|known| known.name).ok_or_else(|| {
        let merges = if ignore_merges { " with ignore_merges" } else { "" };
        format!("cuts by {cuts:?}{merges}")
    })
}

/// Whether the text is turned into bytes, one character each.
pub(super) fn is_byte_level(pre_tokenizer: &Value) -> bool {
    let inner = pre_tokenizer["pretokenizers"].as_array();
    pre_tokenizer["type"] == "ByteLevel" || inner.is_some_and(|l| l.iter().any(is_byte_level))
}

fn read<'a>(step: &'a Value, cuts: &mut Vec<Cut<'a>>) -> Result<(), String> {
    let flag = |key: &str, default: bool| step[key].as_bool().unwrap_or(default);
    match step["type"].as_str().unwrap_or_default() {
        "Sequence" => {
            let inner = step["pretokenizers"].as_array();
            return inner.into_iter().flatten().try_for_each(|step| read(step, cuts));
        }
        "ByteLevel" if !flag("add_prefix_space", true) => {
            cuts.extend(flag("use_regex", true).then_some(Cut::Gpt2));
        }
        "Digits" if flag("individual_digits", false) => cuts.push(Cut::Digits),
        "Split" if step["behavior"] == "Isolated" && !flag("invert", false) => {
            let pattern = step["pattern"]["Regex"].as_str();
            cuts.push(Cut::Pattern(pattern.ok_or_else(|| format!("has the step {step}"))?));
        }
        _ => return Err(format!("has the step {step}")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn split(pattern: &str) -> Value {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        ]})
    }

    #[test]
    fn tokenizers_are_recognised_by_what_they_do() {
        let gpt2 = json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": true});
        assert_eq!(name(&gpt2, false), Ok("gpt-2"));
        let digits = json!({"type": "Digits", "individual_digits": true});
        let smollm = json!({"type": "Sequence", "pretokenizers": [digits, gpt2]});
        assert_eq!(name(&smollm, false), Ok("smollm"));
        assert_eq!(name(&split(LLAMA3), true), Ok("llama-bpe"));
        assert_eq!(name(&split(LLAMA3), false), Ok("smaug-bpe"));
        assert_eq!(name(&split(QWEN2), false), Ok("qwen2"));
        assert!([gpt2, smollm, split(QWEN2)].iter().all(is_byte_level));
    }

    #[test]
    fn what_is_unknown_is_said() {
        assert!(name(&split("[a-z]+"), false).unwrap_err().contains("[a-z]+"));
        assert!(name(&split(QWEN2), true).unwrap_err().contains("ignore_merges"));
        let prefix = json!({"type": "ByteLevel", "add_prefix_space": true});
        assert!(name(&prefix, false).unwrap_err().contains("add_prefix_space"));
        assert!(name(&json!({"type": "Whitespace"}), false).unwrap_err().contains("Whitespace"));
    }
}
