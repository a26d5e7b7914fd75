//! A file per family: the numbers it reads, the names it uses, and the order of its parts.

mod bloom;
mod cohere;
mod deepseek;
mod falcon;
mod gemma;
mod glm4;
mod gpt2;
mod gpt_neox;
mod gpt_oss;
mod gptj;
mod granite;
mod granitemoe;
mod llama;
mod llama4;
mod mistral;
mod mixtral;
mod mpt;
mod olmo2;
mod olmo3;
mod opt;
mod phi;
mod phi3;
mod qwen;
mod qwen_moe;
mod seed_oss;
mod smollm3;
mod stablelm;
mod starcoder2;

use super::Family;

pub(super) const ALL: &[Family] = &[
    llama::LLAMA,
    opt::OPT,
    bloom::BLOOM,
    mistral::MISTRAL,
    mixtral::MIXTRAL,
    qwen::QWEN2,
    qwen::QWEN2_VL,
    qwen::QWEN3,
    qwen_moe::QWEN2_MOE,
    qwen_moe::QWEN3_MOE,
    gemma::GEMMA,
    gemma::GEMMA2,
    gemma::GEMMA3,
    phi::PHI,
    phi3::PHI3,
    glm4::GLM4,
    gpt_neox::GPT_NEOX,
    gpt2::GPT2,
    gptj::GPTJ,
    falcon::FALCON,
    mpt::MPT,
    olmo2::OLMO2,
    olmo3::OLMO3,
    granite::GRANITE,
    granitemoe::GRANITEMOE,
    stablelm::STABLELM,
    starcoder2::STARCODER2,
    smollm3::SMOLLM3,
    seed_oss::SEED_OSS,
    cohere::COHERE,
    cohere::COHERE2,
    deepseek::DEEPSEEK_V2,
    deepseek::DEEPSEEK_V3,
    gpt_oss::GPT_OSS,
    llama4::LLAMA4,
];

/// How most families of today name their ends.
const MODEL: Family = Family {
    model_types: &[],
    root: "model.",
    embed: "embed_tokens",
    heads: &["lm_head"],
    defaults: || serde_json::json!({}),
    build: llama::build,
};
