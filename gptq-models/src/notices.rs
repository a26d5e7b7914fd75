//! What a user should know before hours are spent.

use gptq_core::Bits;
use gptq_pack::Format;

use crate::{
    Error, Method, QuantizeOptions,
    graph::Stored,
    plan::{LinearPlan, Plan},
};

/// What common servers will not take, said before hours are spent.
pub(crate) fn notices(plan: &Plan, options: &QuantizeOptions) -> Result<Vec<String>, Error> {
    let mut out = Vec::new();
    let mut note = |message: String| {
        if !out.contains(&message) {
            out.push(message);
        }
    };
    if options.method == Method::Gptq && plan.needs_native() {
        note("GPTAQ runs the original model beside the quantized one: activations take twice the memory, passes over the samples twice the time".into());
    }
    for LinearPlan { place, config, .. } in plan.linears() {
        for key in options.unknown_keys(&place.name)? {
            note(format!("dynamic: {key} is no setting here; it is kept in the file and ignored"));
        }
        let Some(config) = config else { continue };
        if let Some(caveat) = options.format.caveat(&options.spec(place, config)) {
            note(caveat.to_owned());
        }
        // What follows is about servers that read GPTQ.
        if options.format.zero_format().is_none() {
            continue;
        }
        if matches!(place.stored, Stored::Fused(_)) {
            note("experts load in GPTQModel, vLLM and here; transformers 5 keeps all of a layer in one tensor, does not find them, and starts from random ones".into());
            if place.name.contains(".block_sparse_moe.") {
                note("Mixtral's experts keep the names of its files (block_sparse_moe, w1 to w3), as vLLM reads them; GPTQModel 7 looks for mlp.experts, gate_proj to down_proj".into());
            }
        }
        let (bits, group) = (config.bits.get(), config.group_size.to_file());
        if !matches!(config.bits, Bits::B4 | Bits::B8) {
            note(format!(
                "{bits}-bit layers load in transformers, GPTQModel and here; vLLM and SGLang take only 4 and 8 bits"
            ));
        }
        if !config.sym {
            note("asymmetric layers load in transformers, GPTQModel and here; vLLM and SGLang take only sym GPTQ".into());
            if options.format == Format::Gptq {
                note("asymmetric layers in the gptq (v1) format keep zero points of at least 1, because readers disagree on a stored -1; --format gptq_v2 has no such limit".into());
            }
        }
        if ![-1, 32, 64, 128].contains(&group) {
            note(format!(
                "group_size {group} is outside what vLLM and SGLang take: -1, 32, 64, 128"
            ));
        }
        if group > 0 && place.in_features % group as usize != 0 {
            note(format!(
                "{} has {} inputs, not a multiple of group_size {group}; vLLM and SGLang refuse \
                 it, a smaller group_size would not",
                short(&place.name),
                place.in_features
            ));
        }
        if place.in_features % 32 != 0 || place.out_features % 32 != 0 {
            note(format!(
                "{} is {} × {}; most readers want multiples of 32, so skip it with a dynamic rule \
                 if yours refuses",
                short(&place.name),
                place.out_features,
                place.in_features
            ));
        }
    }
    Ok(out)
}

/// A layer's name without its block, so that a notice appears once for all blocks.
fn short(name: &str) -> &str {
    let after_index = name.split_inclusive('.').scan(0, |at, part| {
        *at += part.len();
        Some((*at, part))
    });
    let index = |part: &str| part.trim_end_matches('.').parse::<usize>().is_ok();
    let cut = after_index.filter(|(_, part)| index(part)).map(|(at, _)| at).last();
    cut.and_then(|at| name.get(at..)).unwrap_or(name)
}
