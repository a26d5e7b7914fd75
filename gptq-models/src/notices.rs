//! What a user should know before hours are spent.

use gptq_pack::Format;

use crate::{
    Architecture, Error, Method, QuantizeOptions,
    check::{self, facts::Facts},
    graph::Stored,
    plan::{LinearPlan, Plan},
};

/// What common engines will not take, and what is odd about the settings.
pub(crate) fn notices(
    plan: &Plan,
    arch: Option<&Architecture>,
    options: &QuantizeOptions,
) -> Result<Vec<String>, Error> {
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
        let reads_gptq = options.format.zero_format().is_some();
        if reads_gptq
            && matches!(place.stored, Stored::Fused(_))
            && place.name.contains(".block_sparse_moe.")
        {
            note("Mixtral's experts keep the names of its files (block_sparse_moe, w1 to w3), as vLLM reads them; GPTQModel 7 looks for mlp.experts, gate_proj to down_proj".into());
        }
        if !config.sym && options.format == Format::Gptq {
            note("asymmetric layers in the gptq (v1) format keep zero points of at least 1, because readers disagree on a stored -1; --format gptq_v2 has no such limit".into());
        }
    }
    let facts = Facts::of_plan(plan, arch, options, 1)?;
    check::notices(&facts).into_iter().for_each(note);
    Ok(out)
}
