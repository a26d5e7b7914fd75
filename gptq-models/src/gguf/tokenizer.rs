//! The tokenizer's keys, from `tokenizer.json` and what stands beside it.
//!
//! A GGUF file holds tokens, their types, and either merges (`gpt2`: byte-level BPE) or scores
//! (`llama`: BPE on characters, with bytes for what is unknown). How text is cut into words is a
//! name only; see [`pre`].

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use serde_json::Value as Json;

use super::{file::Value, pre};
use crate::{
    Error,
    checkpoint::{read_json, read_text},
};

/// `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// The files a tokenizer consists of, parsed.
pub(super) struct TokenizerFiles<'a> {
    dir: &'a Path,
    /// `config.json`.
    config: &'a Json,
    /// `tokenizer.json`.
    main: Json,
    /// `tokenizer_config.json`, or null.
    side: Json,
    /// `chat_template.jinja`.
    template: Option<String>,
}

impl<'a> TokenizerFiles<'a> {
    /// # Errors
    /// [`Error::Io`] and [`Error::File`]; a folder without `tokenizer.json` among them.
    pub(super) fn read(dir: &'a Path, config: &'a Json) -> Result<Self, Error> {
        let main = dir.join("tokenizer.json");
        if !main.is_file() {
            let message = "is missing, but a GGUF file holds the tokenizer; put it there";
            return Err(Error::file(&main, message));
        }
        let side = dir.join("tokenizer_config.json");
        let side = if side.is_file() { read_json(&side)? } else { Json::Null };
        let template = dir.join("chat_template.jinja");
        let template = template.is_file().then(|| {
            let text = String::from_utf8(read_text(&template)?);
            text.map_err(|e| Error::file(&template, format!("is not UTF-8: {}", e.utf8_error())))
        });
        Ok(Self { dir, config, main: read_json(&main)?, side, template: template.transpose()? })
    }

    /// All keys, for an embedding of `vocab_size` rows. `pre` overrides the recognised name of the
    /// pre-tokenizer. What a reader will do differently is added to `notices`.
    ///
    /// # Errors
    /// [`Error::File`] for a tokenizer that GGUF readers have no model of.
    pub(super) fn pairs(
        &self,
        vocab_size: usize,
        pre: Option<&str>,
        notices: &mut Vec<String>,
    ) -> Result<Vec<(String, Value)>, Error> {
        let model = &self.main["model"];
        if model["type"] != "BPE" {
            return Err(
                self.error(format!("holds a {} model; only BPE can be written", model["type"]))
            );
        }
        let ids = self.ids()?;
        let (tokens, kinds) = self.tokens(&ids, vocab_size, notices)?;
        let merges = self.merges()?;
        let mut out = if pre::is_byte_level(&self.main["pre_tokenizer"]) {
            self.byte_level(merges, pre, notices)?
        } else if model["byte_fallback"] == true {
            self.characters(&tokens, &merges, notices)
        } else {
            return Err(self.error(
                "is neither byte-level nor has byte_fallback; such a BPE cannot be written".into(),
            ));
        };
        let kinds = kinds.into_iter().map(|kind| kind as i32).collect();
        out.push(("tokenizer.ggml.tokens".into(), Value::Texts(tokens)));
        out.push(("tokenizer.ggml.token_type".into(), Value::I32s(kinds)));
        out.extend(self.special(&ids, vocab_size, notices));
        if let Some(template) = self.chat_template() {
            out.push(("tokenizer.chat_template".into(), Value::Text(template)));
        }
        Ok(out)
    }

    fn error(&self, message: String) -> Error {
        Error::file(&self.dir.join("tokenizer.json"), message)
    }

    fn added(&self) -> impl Iterator<Item = &Json> {
        self.main["added_tokens"].as_array().into_iter().flatten()
    }

    /// Every token's id, of the model and added ones.
    fn ids(&self) -> Result<BTreeMap<&str, usize>, Error> {
        let vocab = self.main["model"]["vocab"].as_object();
        let vocab = vocab.ok_or_else(|| self.error("has no vocab of tokens and ids".into()))?;
        let vocab = vocab.iter().map(|(token, id)| (Some(token.as_str()), id.as_u64()));
        let added = self.added().map(|added| (added["content"].as_str(), added["id"].as_u64()));
        vocab
            .chain(added)
            .map(|(token, id)| Some((token?, usize::try_from(id?).ok()?)))
            .collect::<Option<_>>()
            .ok_or_else(|| self.error("holds a token without a text or an id".into()))
    }

    /// Tokens and their kinds, one for each row of the embedding.
    fn tokens(
        &self,
        ids: &BTreeMap<&str, usize>,
        vocab_size: usize,
        notices: &mut Vec<String>,
    ) -> Result<(Vec<String>, Vec<Kind>), Error> {
        let mut slots: Vec<Option<(&str, Kind)>> = vec![None; vocab_size];
        let unknown = self.main["model"]["unk_token"].as_str();
        for (&token, &id) in ids {
            let kind = match token {
                _ if Some(token) == unknown => Kind::Unknown,
                _ if is_byte(token) => Kind::Byte,
                _ => Kind::Normal,
            };
            let Some(slot) = slots.get_mut(id) else { continue };
            if let Some((other, _)) = slot.replace((token, kind)) {
                return Err(self.error(format!("gives {token:?} and {other:?} the id {id}")));
            }
        }
        for added in self.added() {
            let slot = added["id"].as_u64().and_then(|id| slots.get_mut(usize::try_from(id).ok()?));
            if let Some(Some((_, kind))) = slot
                && *kind != Kind::Unknown
            {
                let special = added["special"] == true;
                *kind = if special { Kind::Control } else { Kind::UserDefined };
            }
        }
        let outside = ids.values().filter(|&&id| id >= vocab_size).count();
        if outside > 0 {
            notices.push(format!(
                "{outside} tokens have ids beyond the embedding's {vocab_size} rows; they are left \
                 out"
            ));
        }
        let fill = |(id, slot): (usize, Option<(&str, Kind)>)| match slot {
            Some((token, kind)) => (token.to_owned(), kind),
            // Readers want every token's text to be its own.
            None => {
                let free = |name: &String| !ids.contains_key(name.as_str());
                let mut names = (0..).map(|n| format!("[PAD{id}{}]", "_".repeat(n)));
                (names.find(free).unwrap_or_default(), Kind::Unused)
            }
        };
        Ok(slots.into_iter().enumerate().map(fill).unzip())
    }

    /// Pairs in order, as `left right`.
    fn merges(&self) -> Result<Vec<String>, Error> {
        let merge = |merge: &Json| match merge {
            Json::String(pair) => Some(pair.clone()),
            pair => {
                let (left, right) = (pair[0].as_str()?, pair[1].as_str()?);
                (!left.contains(' ') && !right.contains(' ')).then(|| format!("{left} {right}"))
            }
        };
        let merges = self.main["model"]["merges"].as_array();
        merges
            .and_then(|list| list.iter().map(merge).collect())
            .ok_or_else(|| self.error("has no merges, or one that is not two texts".into()))
    }

    fn byte_level(
        &self,
        merges: Vec<String>,
        pre: Option<&str>,
        notices: &mut Vec<String>,
    ) -> Result<Vec<(String, Value)>, Error> {
        let ignores = self.main["model"]["ignore_merges"] == true;
        let name = match pre {
            Some(name) => name,
            None => pre::name(&self.main["pre_tokenizer"], ignores).map_err(|what| {
                self.error(format!(
                    "{what}, for which no name of llama.cpp is known here; if you know the one of \
                     this model (tokenizer.ggml.pre, deepseek-llm for example), state it with --gguf-pre"
                ))
            })?,
        };
        if !self.main["normalizer"].is_null() {
            notices.push(format!(
                "the tokenizer's normalizer ({}) has no place in GGUF; texts that it changes become \
                 other tokens",
                self.main["normalizer"]["type"]
            ));
        }
        Ok(vec![
            ("tokenizer.ggml.model".into(), Value::Text("gpt2".into())),
            ("tokenizer.ggml.pre".into(), Value::Text(name.to_owned())),
            ("tokenizer.ggml.merges".into(), Value::Texts(merges)),
        ])
    }

    /// Readers merge the pair whose result has the highest score: the earlier merge.
    fn characters(
        &self,
        tokens: &[String],
        merges: &[String],
        notices: &mut Vec<String>,
    ) -> Vec<(String, Value)> {
        let mut ranks: HashMap<String, usize> = HashMap::with_capacity(merges.len());
        for (rank, merge) in merges.iter().enumerate() {
            ranks.entry(merge.replacen(' ', "", 1)).or_insert(rank);
        }
        let score = |token: &String| -(*ranks.get(token).unwrap_or(&merges.len()) as f32);
        let steps = |json: &Json, inner: &str| -> Vec<Json> {
            match json[inner].as_array() {
                Some(list) => list.clone(),
                None if json.is_null() => Vec::new(),
                None => vec![json.clone()],
            }
        };
        let mut prefix = false;
        for step in steps(&self.main["normalizer"], "normalizers") {
            match step["type"].as_str().unwrap_or_default() {
                "Prepend" => prefix = true,
                "Replace" => {}
                _ => notices.push(format!(
                    "the tokenizer's normalizer {} has no place in GGUF; texts that it changes \
                     become other tokens",
                    step["type"]
                )),
            }
        }
        for step in steps(&self.main["pre_tokenizer"], "pretokenizers") {
            let scheme = step["prepend_scheme"].as_str();
            prefix |= step["type"] == "Metaspace"
                && scheme.map_or(step["add_prefix_space"] != false, |scheme| scheme != "never");
        }
        vec![
            ("tokenizer.ggml.model".into(), Value::Text("llama".into())),
            ("tokenizer.ggml.pre".into(), Value::Text("default".into())),
            ("tokenizer.ggml.scores".into(), Value::F32s(tokens.iter().map(score).collect())),
            ("tokenizer.ggml.add_space_prefix".into(), Value::Bool(prefix)),
        ]
    }

    /// Ids with a role, and what is put around a text.
    fn special(
        &self,
        ids: &BTreeMap<&str, usize>,
        vocab_size: usize,
        notices: &mut Vec<String>,
    ) -> Vec<(String, Value)> {
        let (first, last) = self.around();
        let declared = |role: &str| -> Vec<usize> {
            let named = &self.side[format!("{role}_token")];
            let named = named.as_str().or(named["content"].as_str());
            let named = named.and_then(|token| ids.get(token)).copied();
            let id = |id: &Json| id.as_u64().and_then(|id| usize::try_from(id).ok());
            let listed = match &self.config[format!("{role}_token_id")] {
                Json::Array(list) => list.iter().filter_map(id).collect(),
                one => Vec::from_iter(id(one)),
            };
            let mut all: Vec<usize> = named.into_iter().chain(listed).collect();
            all.retain(|&id| id < vocab_size);
            let mut seen = std::collections::HashSet::new();
            all.retain(|&id| seen.insert(id));
            all
        };
        let (bos, eos) = (first.or(declared("bos").first().copied()), declared("eos"));
        if eos.is_empty() {
            notices.push("no token ends a text; readers of GGUF will take one of their own".into());
        }
        if eos.len() > 2 {
            notices.push(format!(
                "of the tokens that end a text, {eos:?}, GGUF takes the first two; readers know \
                 some others by name"
            ));
        }
        let unknown = self.main["model"]["unk_token"].as_str().and_then(|token| ids.get(token));
        let roles = [
            ("bos_token_id", bos),
            ("eos_token_id", eos.first().copied()),
            ("eot_token_id", eos.get(1).copied()),
            ("unknown_token_id", unknown.copied().filter(|&id| id < vocab_size)),
            ("padding_token_id", declared("pad").first().copied()),
        ];
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let roles =
            roles.into_iter().filter_map(|(role, id)| Some((role, u32::try_from(id?).ok()?)));
        let mut out: Vec<_> = roles.map(|(role, id)| (key(role), Value::U32(id))).collect();
        let adds_eos = last.is_some() && last == eos.first().copied();
        out.push((key("add_bos_token"), Value::Bool(first.is_some())));
        out.push((key("add_eos_token"), Value::Bool(adds_eos)));
        out
    }

    /// The special tokens in front of a text and after it, as the post-processor puts them.
    fn around(&self) -> (Option<usize>, Option<usize>) {
        let post = &self.main["post_processor"];
        let one = std::slice::from_ref(post);
        let steps = post["processors"].as_array().map_or(one, Vec::as_slice);
        let template = steps.iter().find(|step| step["type"] == "TemplateProcessing");
        let Some(template) = template else { return (None, None) };
        let id = |piece: Option<&Json>| {
            let token = piece?["SpecialToken"]["id"].as_str()?;
            let id = template["special_tokens"][token]["ids"][0].as_u64()?;
            usize::try_from(id).ok()
        };
        let pieces = template["single"].as_array().map_or(&[][..], Vec::as_slice);
        (id(pieces.first()), id(pieces.last()))
    }

    fn chat_template(&self) -> Option<String> {
        let named = |list: &Json| -> Option<String> {
            let of = |t: &&Json| t["name"] == "default";
            Some(list.as_array()?.iter().find(of)?["template"].as_str()?.to_owned())
        };
        let inline = &self.side["chat_template"];
        let inline = inline.as_str().map(str::to_owned).or_else(|| named(inline));
        self.template.clone().or(inline)
    }
}

/// `<0x0A>` and the like.
fn is_byte(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|d| d.len() == 2 && d.bytes().all(|b| b.is_ascii_hexdigit()))
}
