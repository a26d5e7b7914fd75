//! A model's chat template: messages to the text the model was trained on.

use std::io::ErrorKind;
use std::path::Path;

use minijinja::value::Serde;
use minijinja::{Environment, Value, context};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::{Error, file, jinja};

/// Files that may hold a template as the value of `chat_template`, in order.
const CONFIG_FILES: [&str; 2] = ["tokenizer_config.json", "chat_template.json"];
/// Files that may name the special tokens, in order.
const TOKEN_FILES: [&str; 2] = ["tokenizer_config.json", "special_tokens_map.json"];
const NAME: &str = "chat_template";

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    /// What is said.
    pub content: String,
}

/// A compiled chat template with the special tokens it may write.
///
/// Templates run with what Transformers gives them: trimmed blocks, Python's string and dict
/// methods, `raise_exception`, `tojson`, `tools` and `documents` set to none. `strftime_now` knows
/// only 26 July 2024, so that the same messages give the same ids on any day.
///
/// ```
/// use gptq_calib::{ChatTemplate, Message};
///
/// let template = ChatTemplate::from_source(
///     "{% for m in messages %}<{{ m.role }}>{{ m.content.strip() }}{{ eos_token }}{% endfor %}\
///      {% if add_generation_prompt %}<assistant>{% endif %}",
///     None,
///     Some("</s>"),
/// )?;
/// let message = Message { role: "user".into(), content: " Hi! ".into() };
/// assert_eq!(template.render(&[message], true)?, "<user>Hi!</s><assistant>");
/// # Ok::<(), gptq_calib::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    bos_token: Option<String>,
    eos_token: Option<String>,
}

impl ChatTemplate {
    /// Reads the template and tokens of a model directory: `chat_template.jinja`, else the key
    /// `chat_template` of `tokenizer_config.json` or `chat_template.json` (a string, or a list of
    /// named templates of which `default` is taken).
    ///
    /// # Errors
    /// [`Error::NoChatTemplate`] with the places searched, [`Error::BadChatTemplate`] if it is not
    /// valid Jinja, [`Error::Io`] and [`Error::ModelFile`] for files that cannot be understood.
    pub fn from_model_dir(dir: &Path) -> Result<Self, Error> {
        let configs = CONFIG_FILES.map(|file| read_json(&dir.join(file)));
        let source = match read_optional(&dir.join("chat_template.jinja"))? {
            Some(source) => source,
            None => {
                let mut found = None;
                for (file, config) in CONFIG_FILES.iter().zip(configs) {
                    if let (None, Some(config)) = (&found, config?) {
                        found = template_of(&config, &dir.join(file))?;
                    }
                }
                found.ok_or_else(|| Error::NoChatTemplate {
                    dir: dir.to_path_buf(),
                    looked: "chat_template.jinja, and the key chat_template in \
                             tokenizer_config.json and chat_template.json"
                        .to_owned(),
                })?
            }
        };
        let mut tokens = [None, None];
        for file in TOKEN_FILES {
            let Some(config) = read_json(&dir.join(file))? else { continue };
            for (token, key) in tokens.iter_mut().zip(["bos_token", "eos_token"]) {
                if token.is_none() {
                    *token = token_of(&config[key]);
                }
            }
        }
        Self::from_source(&source, tokens[0].as_deref(), tokens[1].as_deref())
    }

    /// Compiles a template given as text.
    ///
    /// # Errors
    /// [`Error::BadChatTemplate`] if it is not valid Jinja.
    pub fn from_source(
        source: &str,
        bos_token: Option<&str>,
        eos_token: Option<&str>,
    ) -> Result<Self, Error> {
        let failed =
            |error: minijinja::Error| Error::BadChatTemplate { message: error.to_string() };
        let mut env = jinja::environment().map_err(failed)?;
        env.add_template_owned(NAME, jinja::without_generation_marks(source)).map_err(failed)?;
        Ok(Self {
            env,
            bos_token: bos_token.map(str::to_owned),
            eos_token: eos_token.map(str::to_owned),
        })
    }

    /// The conversation as one text; with `add_generation_prompt` it ends where the assistant
    /// begins to speak. Templates write their special tokens themselves, so encode the result
    /// without adding any.
    ///
    /// # Errors
    /// [`Error::Chat`] if the template refuses the messages (unknown role, wrong order), fails, or
    /// does not come to an end: it may take ten million steps and write 64 MiB.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, Error> {
        let failed = |error: minijinja::Error| Error::Chat { message: error.to_string() };
        let token = |text: &Option<String>| text.as_deref().map_or(Value::UNDEFINED, Value::from);
        let template = self.env.get_template(NAME).map_err(failed)?;
        let context = context! {
            messages => Serde(messages),
            add_generation_prompt,
            bos_token => token(&self.bos_token),
            eos_token => token(&self.eos_token),
            tools => (),
            documents => (),
        };
        let mut out = jinja::Bounded::default();
        let written = template.render_captured_to(context, &mut out);
        out.into_text(written.map(drop).map_err(failed)).unwrap_or_else(|| {
            let message = format!("it writes more than {} bytes", jinja::LONGEST_TEXT);
            Err(Error::Chat { message })
        })
    }
}

/// `None` if there is no such file.
fn read_optional(path: &Path) -> Result<Option<String>, Error> {
    let bytes = match file::read(path, file::LARGEST_MODEL_FILE) {
        Ok(bytes) => bytes,
        Err(Error::Io { reason, .. }) if reason.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    String::from_utf8(bytes).map(Some).map_err(|error| Error::ModelFile {
        path: path.to_path_buf(),
        message: error.utf8_error().to_string(),
    })
}

fn read_json(path: &Path) -> Result<Option<Json>, Error> {
    let Some(text) = read_optional(path)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|error| Error::ModelFile {
        path: path.to_path_buf(),
        message: format!("not valid JSON: {error}"),
    })
}

fn template_of(config: &Json, path: &Path) -> Result<Option<String>, Error> {
    let wrong = |message: String| Error::ModelFile { path: path.to_path_buf(), message };
    match &config["chat_template"] {
        Json::Null => Ok(None),
        Json::String(source) => Ok(Some(source.clone())),
        Json::Array(named) => {
            let default = named.iter().find(|entry| entry["name"] == "default");
            match default.and_then(|entry| entry["template"].as_str()) {
                Some(source) => Ok(Some(source.to_owned())),
                None => {
                    let names: Vec<_> = named.iter().filter_map(|e| e["name"].as_str()).collect();
                    Err(wrong(format!(
                        "chat_template has no entry named default, only [{}]; put the one to use \
                         into chat_template.jinja",
                        names.join(", ")
                    )))
                }
            }
        }
        _ => Err(wrong("chat_template is neither a string nor a list of templates".to_owned())),
    }
}

/// Tokens are written plainly, or as an object with further flags.
fn token_of(value: &Json) -> Option<String> {
    value.as_str().or_else(|| value["content"].as_str()).map(str::to_owned)
}
