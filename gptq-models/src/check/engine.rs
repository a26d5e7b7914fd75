//! The programs that load results.

use std::{fmt, str::FromStr};

use serde::Serialize;

use crate::Error;

/// A program that loads quantized models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Engine {
    /// vLLM.
    #[serde(rename = "vllm")]
    Vllm,
    /// SGLang.
    #[serde(rename = "sglang")]
    Sglang,
    /// Text Generation Inference.
    #[serde(rename = "tgi")]
    Tgi,
    /// transformers with optimum and GPTQModel.
    #[serde(rename = "transformers")]
    Transformers,
    /// ExLlamaV2.
    #[serde(rename = "exllamav2")]
    ExllamaV2,
    /// mistral.rs.
    #[serde(rename = "mistralrs")]
    MistralRs,
    /// llama.cpp, by way of its converter.
    #[serde(rename = "llama.cpp")]
    LlamaCpp,
}

impl Engine {
    /// Every engine that rules are known of.
    pub const ALL: [Engine; 7] = [
        Engine::Vllm,
        Engine::Sglang,
        Engine::Tgi,
        Engine::Transformers,
        Engine::ExllamaV2,
        Engine::MistralRs,
        Engine::LlamaCpp,
    ];

    /// The name that users type.
    pub const fn as_str(self) -> &'static str {
        match self {
            Engine::Vllm => "vllm",
            Engine::Sglang => "sglang",
            Engine::Tgi => "tgi",
            Engine::Transformers => "transformers",
            Engine::ExllamaV2 => "exllamav2",
            Engine::MistralRs => "mistralrs",
            Engine::LlamaCpp => "llama.cpp",
        }
    }

    /// Whether several devices cut its matrices between them; rules about parts are not known of
    /// the others.
    pub const fn shares_matrices(self) -> bool {
        matches!(self, Engine::Vllm | Engine::Sglang | Engine::Tgi)
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Engine {
    type Err = Error;

    /// Reads [`as_str`](Self::as_str).
    fn from_str(s: &str) -> Result<Self, Error> {
        Engine::ALL.into_iter().find(|engine| engine.as_str() == s).ok_or_else(|| {
            let names: Vec<&str> = Engine::ALL.iter().map(|engine| engine.as_str()).collect();
            Error::input(format!("{s} is no known target; known are {}", names.join(", ")))
        })
    }
}
