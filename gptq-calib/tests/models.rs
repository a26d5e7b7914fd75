//! What is read from a model directory: chat templates, and tokenizers for generated text.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod common;

use gptq_calib::{ChatTemplate, Error, Message, Tokenizer};

fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(dir.path().join(name), content).unwrap();
    }
    dir
}

fn render(files: &[(&str, &str)]) -> Result<String, Error> {
    let message = Message { role: "user".to_owned(), content: "hi".to_owned() };
    ChatTemplate::from_model_dir(directory(files).path())?.render(&[message], true)
}

#[test]
fn template_as_a_file_of_its_own() {
    let out = render(&[
        ("chat_template.jinja", "{{ bos_token }}{{ messages[0]['content'] }}{{ eos_token }}"),
        (
            "tokenizer_config.json",
            r#"{"chat_template": "unused", "bos_token": {"content": "<s>"}}"#,
        ),
        ("special_tokens_map.json", r#"{"bos_token": "unused", "eos_token": "</s>"}"#),
    ]);
    assert_eq!(out.unwrap(), "<s>hi</s>");
}

#[test]
fn template_in_the_tokenizer_config() {
    let config = r#"{"chat_template": "{{ bos_token }}{% if add_generation_prompt %}>{% endif %}",
                     "bos_token": "<s>", "eos_token": null}"#;
    assert_eq!(render(&[("tokenizer_config.json", config)]).unwrap(), "<s>>");
}

#[test]
fn named_templates() {
    let config = r#"{"chat_template": [{"name": "tool_use", "template": "no"},
                                       {"name": "default", "template": "yes"}]}"#;
    assert_eq!(render(&[("tokenizer_config.json", config)]).unwrap(), "yes");
    let config = r#"{"chat_template": [{"name": "tool_use", "template": "no"}]}"#;
    let error = render(&[("tokenizer_config.json", config)]).unwrap_err().to_string();
    assert!(
        error.contains("only [tool_use]") && error.contains("tokenizer_config.json"),
        "{error}"
    );
}

#[test]
fn no_template() {
    let error = render(&[("tokenizer_config.json", "{}")]).unwrap_err();
    assert!(matches!(error, Error::NoChatTemplate { .. }));
    let message = error.to_string();
    for part in ["chat_template.jinja", "tokenizer_config.json", "plain prompt"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn broken_files_are_named() {
    let error = render(&[("tokenizer_config.json", "{")]).unwrap_err();
    assert!(matches!(error, Error::ModelFile { .. }));
    let error = render(&[("tokenizer_config.json", r#"{"chat_template": 3}"#)]).unwrap_err();
    assert!(matches!(error, Error::ModelFile { .. }));
    let error = render(&[("chat_template.jinja", "{% if %}")]).unwrap_err();
    assert!(matches!(error, Error::BadChatTemplate { .. }));
    let error = render(&[("chat_template.jinja", "{{ raise_exception('never') }}")]).unwrap_err();
    assert!(matches!(&error, Error::Chat { message } if message.contains("never")), "{error}");
}

/// The shape of the common ChatML template, with whitespace control and Python methods.
#[test]
fn a_template_as_models_ship_it() {
    let template = "{%- if messages[0].role == 'system' %}
    {{- messages[0].content }}
{%- endif %}
{%- for message in messages[::-1] %}
    {%- set index = loop.index0 %}
{%- endfor %}
{% for message in messages %}
    {% if loop.first and tools is none and message.get('name') is none %}
<|im_start|>{{ message['role'] + '\\n' + message['content'].rstrip() + '<|im_end|>' }}
    {% endif %}
{% endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
";
    let out = render(&[("chat_template.jinja", template)]).unwrap();
    assert_eq!(out, "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
}

#[test]
fn special_tokens_are_found_and_skipped() {
    let tokenizer = common::words();
    assert_eq!(tokenizer.vocab_size(), 11);
    assert_eq!(tokenizer.token_id("<s>"), Some(10));
    assert_eq!(tokenizer.token_id("</s>"), None);
    assert_eq!(tokenizer.encode("w1 <s> w9", true).unwrap(), [10, 1, 10, 9]);
    assert_eq!(tokenizer.decode(&[10, 1, 9], true).unwrap(), "w1 w9");
    assert_eq!(tokenizer.decode(&[10, 1, 9], false).unwrap(), "<s> w1 w9");
}

/// Byte-level vocabularies spell byte 0xC3 `Ã` and 0xA9 `©`; together they are `é`.
#[test]
fn streamed_text_never_breaks_a_character() {
    let tokenizer = Tokenizer::from_bytes(
        r#"{"version": "1.0", "added_tokens": [],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false,
                              "trim_offsets": true, "use_regex": true},
            "decoder": {"type": "ByteLevel", "add_prefix_space": false,
                        "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "merges": [], "vocab": {"a": 0, "Ã": 1, "©": 2, "Ġ": 3}}}"#
            .as_bytes(),
    )
    .unwrap();
    let ids = tokenizer.encode("aé a", false).unwrap();
    assert_eq!(ids, [0, 1, 2, 3, 0]);

    let mut stream = tokenizer.decode_stream(true);
    let pieces: Vec<_> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    let pieces: Vec<_> = pieces.iter().map(Option::as_deref).collect();
    assert_eq!(pieces, [Some("a"), None, Some("é"), Some(" "), Some("a")]);
    assert_eq!(stream.finish().unwrap(), None);

    let mut cut = tokenizer.decode_stream(true);
    assert_eq!(cut.push(0).unwrap().as_deref(), Some("a"));
    assert_eq!(cut.push(1).unwrap(), None);
    assert_eq!(cut.finish().unwrap().as_deref(), Some("\u{fffd}"));
}
