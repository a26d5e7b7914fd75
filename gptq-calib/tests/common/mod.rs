//! A tokenizer small enough to write down, and text for it.

#![allow(dead_code, reason = "each test program uses its part")]

use gptq_calib::Tokenizer;

/// Words `w0` … `w9`, `<s>` (10) put in front. The file also carries a truncation and
/// a padding that must not act.
pub(crate) fn words() -> Tokenizer {
    let json = r#"{
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null,
                    "pad_id": 10, "pad_type_id": 0, "pad_token": "<s>"},
        "added_tokens": [{"id": 10, "content": "<s>", "single_word": false, "lstrip": false,
                          "rstrip": false, "normalized": false, "special": true}],
        "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                       {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [10], "tokens": ["<s>"]}}
        },
        "decoder": null,
        "model": {"type": "WordLevel", "unk_token": "w0",
                  "vocab": {"w0": 0, "w1": 1, "w2": 2, "w3": 3, "w4": 4,
                            "w5": 5, "w6": 6, "w7": 7, "w8": 8, "w9": 9}}
    }"#;
    Tokenizer::from_bytes(json.as_bytes()).unwrap()
}

/// Words `n0` … `n999`, with nothing put around a text.
pub(crate) fn numbers() -> Tokenizer {
    let vocab: Vec<String> = (0..1000).map(|i| format!("\"n{i}\": {i}")).collect();
    let json = format!(
        r#"{{"version": "1.0", "added_tokens": [], "pre_tokenizer": {{"type": "WhitespaceSplit"}},
            "model": {{"type": "WordLevel", "unk_token": "n0", "vocab": {{{}}}}}}}"#,
        vocab.join(", ")
    );
    Tokenizer::from_bytes(json.as_bytes()).unwrap()
}

/// `n` words of the digits of 1, 2, 3, …: text that does not repeat itself soon.
pub(crate) fn text(n: usize) -> String {
    let digits = (1..).flat_map(|i: usize| i.to_string().into_bytes());
    let words: Vec<String> = digits.take(n).map(|d| format!("w{}", d as char)).collect();
    words.join(" ")
}
