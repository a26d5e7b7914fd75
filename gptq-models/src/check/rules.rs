//! Every rule of every engine, as data: what was read in their sources, and when.
//!
//! A rule that changed upstream is changed here, with its source and date; nothing else knows
//! engines by name.

use gptq_pack::{
    Dtype,
    Format::{self, Awq, CompressedTensors, Gptq, GptqV2},
    names::Part::{GIdx, QWeight, QZeros, Scales},
};

use super::{
    Severity::{self, Refuses, Warns},
    engine::Engine::{self, ExllamaV2, LlamaCpp, MistralRs, Sglang, Tgi, Transformers, Vllm},
    law::{
        Law::{self, *},
        Rule,
        When::{self, *},
    },
};

const READ: &str = "2026-11-22";

const V1_V2: When = When::Format(&[Gptq, GptqV2]);
const V2: When = When::Format(&[GptqV2]);
const CT: When = When::Format(&[CompressedTensors]);
const SERVED: &[Format] = &[Gptq, GptqV2, Awq, CompressedTensors];

const SYM_4_8: Law = Grids(&[(4, true), (8, true)]);
const MARLIN_GROUPS: Law = GroupSizes(&[-1, 32, 64, 128]);
const MARLIN_TILES: Law = Tiles(&[(128, 64), (64, 128)]);

const VLLM_CONFIG: &str = "vllm-project/vllm 055e47c quantization/auto_gptq.py";
const VLLM_MARLIN: &str = "vllm-project/vllm 055e47c mixed_precision/marlin.py, exllama.py";
const VLLM_NAMES: &str = "vllm-project/vllm 02239f5 quantization/utils/gptq_utils.py";
const VLLM_TILES: &str = "vllm-project/vllm 007d500 quantization/utils/marlin_utils.py";
const SGLANG_CONFIG: &str = "sgl-project/sglang 0cdfa2f quantization/gptq/gptq.py";
const SGLANG_LINEAR: &str = "sgl-project/sglang 0848df5 gptq/schemes/gptq_linear.py";
const SGLANG_KERNELS: &str = "sgl-project/sglang 11dc314 gpu/quantization/gptq_kernels.py";
const TGI_GPTQ: &str = "huggingface/text-generation-inference 0229c71 layers/gptq/__init__.py";
const TGI_MARLIN: &str = "huggingface/text-generation-inference 1629d0b layers/marlin/gptq.py";
const OPTIMUM: &str = "huggingface/optimum 0541873 optimum/gptq/quantizer.py";
const GPTQMODEL: &str = "GPTQModel 7.3.4, its loader and kernels";
const EXLLAMA: &str = "turboderp-org/exllamav2 74982b3 exllamav2/module.py, q_matrix.cu";
const MISTRALRS: &str = "EricLBuehler/mistral.rs 00521d9 mistralrs-quant/src/gptq/gptq_cuda.rs";
const LLAMACPP: &str = "ggml-org/llama.cpp 2bbcf7f conversion/base.py, dequant_model";

const fn rule(
    engine: Engine,
    severity: Severity,
    name: &'static str,
    when: &'static [When],
    law: Law,
    why: &'static str,
    source: &'static str,
) -> Rule {
    Rule { engine, name, severity, when, law, why, source, read: READ }
}

/// The rules, by engine.
#[rustfmt::skip]
pub(crate) const RULES: &[Rule] = &[
    rule(Vllm, Refuses, "format", &[], Formats(SERVED), "no loader knows the tensors", VLLM_CONFIG),
    rule(Vllm, Refuses, "keys", &[V1_V2], Keys(&["quant_method", "bits", "group_size", "desc_act", "sym"]), "the config cannot be read", VLLM_CONFIG),
    rule(Vllm, Refuses, "bits", &[V1_V2], SYM_4_8, "GPTQ runs on Marlin only (asymmetric layers load as awq or compressed-tensors)", VLLM_CONFIG),
    rule(Vllm, Refuses, "bits", &[CT], Grids(&[(4, true), (8, true), (4, false), (8, false)]), "WNA16 knows no other width", "vllm-project/vllm compressed_tensors_wNa16.py"),
    rule(Vllm, Refuses, "group_size", &[V1_V2], MARLIN_GROUPS, "Marlin has no such groups", VLLM_CONFIG),
    rule(Vllm, Refuses, "group_size", &[], WholeGroups, "scales cannot be shared by devices, or have another shape", VLLM_MARLIN),
    rule(Vllm, Refuses, "packing", &[V1_V2], WholeWords, "packed tensors cannot be cut", VLLM_MARLIN),
    rule(Vllm, Refuses, "desc_act", &[V1_V2, Ordered, InputsCut], Tiles(&[(128, 64)]), "neither Marlin nor ExLlama takes it", VLLM_MARLIN),
    rule(Vllm, Warns, "desc_act", &[V1_V2, Ordered], Tiles(&[(128, 64)]), "only ExLlama takes it, with --dtype float16", VLLM_MARLIN),
    rule(Vllm, Warns, "tiles", &[V1_V2], Tiles(&[(128, 64)]), "padded by newer releases, refused by those before", VLLM_TILES),
    rule(Vllm, Warns, "tiles", &[V1_V2, Expert], ExpertTiles, "experts run on the slower WNA16 kernel", VLLM_TILES),
    rule(Vllm, Refuses, "tensor parallel", &[], Shares, "the model cannot be cut so", VLLM_MARLIN),
    rule(Vllm, Warns, "tensor parallel", &[], KnownFamily, "look at group_size and shapes yourself", VLLM_MARLIN),
    rule(Vllm, Refuses, "fused layers", &[], OneScheme, "they are loaded as one matrix", VLLM_NAMES),
    rule(Vllm, Refuses, "dynamic", &[V1_V2], SameUnderJoinedName, "rules are looked up by the joined name; write one that matches it too", VLLM_NAMES),
    rule(Vllm, Refuses, "g_idx", &[V1_V2, Ordered], OneOrder, "one g_idx is kept for all of them: wrong answers", VLLM_CONFIG),
    rule(Vllm, Refuses, "g_idx", &[V1_V2], OrderSaid, "g_idx is thrown away then: wrong answers", VLLM_CONFIG),

    rule(Sglang, Refuses, "format", &[], Formats(SERVED), "no loader is known to take the tensors", SGLANG_CONFIG),
    rule(Sglang, Refuses, "keys", &[V1_V2], Keys(&["quant_method", "bits", "group_size", "desc_act"]), "the config cannot be read", SGLANG_CONFIG),
    rule(Sglang, Refuses, "bits", &[V1_V2, Expert], SYM_4_8, "experts need Marlin", SGLANG_CONFIG),
    rule(Sglang, Warns, "bits", &[V1_V2], SYM_4_8, "slower ExLlama kernels, float16 only", SGLANG_CONFIG),
    rule(Sglang, Refuses, "group_size", &[V1_V2, Expert], MARLIN_GROUPS, "experts need Marlin", SGLANG_CONFIG),
    rule(Sglang, Warns, "group_size", &[V1_V2], MARLIN_GROUPS, "slower ExLlama kernels, float16 only", SGLANG_CONFIG),
    rule(Sglang, Refuses, "zero points", &[V2, NotMarlin], Never, "zero points of gptq_v2 are not told to the kernel: wrong answers", SGLANG_KERNELS),
    rule(Sglang, Refuses, "group_size", &[], WholeGroups, "inputs and groups do not match", SGLANG_LINEAR),
    rule(Sglang, Refuses, "packing", &[V1_V2], WholeWords, "packed tensors cannot be cut", SGLANG_LINEAR),
    rule(Sglang, Refuses, "tiles", &[V1_V2, Marlin], MARLIN_TILES, "Marlin has no such tiles, and nothing else is tried", SGLANG_KERNELS),
    rule(Sglang, Refuses, "tensor parallel", &[], Shares, "the model cannot be cut so", SGLANG_LINEAR),
    rule(Sglang, Warns, "tensor parallel", &[], KnownFamily, "look at group_size and shapes yourself", SGLANG_LINEAR),
    rule(Sglang, Warns, "desc_act", &[V1_V2, Ordered, InputsCut], Never, "slower: inputs of a device are not in order", SGLANG_LINEAR),
    rule(Sglang, Refuses, "fused layers", &[], OneScheme, "they are loaded as one matrix", SGLANG_CONFIG),
    rule(Sglang, Warns, "dynamic", &[V1_V2], SameUnderJoinedName, "rules may be looked up by the joined name (not verified)", SGLANG_CONFIG),
    rule(Sglang, Refuses, "g_idx", &[V1_V2, Ordered], OneOrder, "one g_idx is kept for all of them: wrong answers", SGLANG_LINEAR),
    rule(Sglang, Refuses, "g_idx", &[V1_V2], OrderSaid, "g_idx is thrown away then: wrong answers", SGLANG_KERNELS),

    rule(Tgi, Refuses, "format", &[], Formats(SERVED), "no loader is known to take the tensors", TGI_GPTQ),
    rule(Tgi, Refuses, "keys", &[V1_V2], Keys(&["quant_method", "bits", "group_size"]), "the config cannot be read", TGI_GPTQ),
    rule(Tgi, Refuses, "bits", &[V1_V2], Grids(&[(2, true), (4, true), (8, true), (2, false), (4, false), (8, false)]), "no kernel has this width", TGI_GPTQ),
    rule(Tgi, Warns, "bits", &[V1_V2, NotMarlin], Never, "slower kernels than Marlin", TGI_MARLIN),
    rule(Tgi, Refuses, "zero points", &[V2, NotMarlin], Never, "zero points of gptq_v2 are read as those of gptq: wrong answers", TGI_GPTQ),
    rule(Tgi, Refuses, "tensors", &[V1_V2], Parts(&[QWeight, QZeros, Scales, GIdx]), "they are asked for by name", TGI_GPTQ),
    rule(Tgi, Refuses, "group_size", &[], WholeGroups, "inputs and groups do not match", TGI_MARLIN),
    rule(Tgi, Refuses, "packing", &[V1_V2], WholeWords, "packed tensors cannot be cut", TGI_GPTQ),
    rule(Tgi, Refuses, "tiles", &[V1_V2, Marlin], MARLIN_TILES, "Marlin has no such tiles, and nothing else is tried", TGI_MARLIN),
    rule(Tgi, Refuses, "tensor parallel", &[], Shares, "the model cannot be cut so", TGI_GPTQ),
    rule(Tgi, Warns, "tensor parallel", &[], KnownFamily, "look at group_size and shapes yourself", TGI_GPTQ),
    rule(Tgi, Refuses, "dynamic", &[V1_V2], BaseScheme, "dynamic is not read: one scheme for all", TGI_GPTQ),
    rule(Tgi, Refuses, "dynamic", &[V1_V2], NoneDense(None), "dynamic is not read: packed tensors are asked for", TGI_GPTQ),
    rule(Tgi, Refuses, "g_idx", &[V1_V2], OneOrder, "it is compared and must be the same", TGI_GPTQ),
    rule(Tgi, Refuses, "g_idx", &[V1_V2, Marlin], OrderSaid, "g_idx is thrown away then: wrong answers", TGI_MARLIN),
    rule(Tgi, Warns, "experts", &[V1_V2, Expert], Never, "mixtures with GPTQ were not verified", TGI_GPTQ),

    rule(Transformers, Warns, "format", &[], Formats(SERVED), "not verified for this format", OPTIMUM),
    rule(Transformers, Refuses, "keys", &[V1_V2], Keys(&["quant_method", "bits"]), "the config cannot be read", OPTIMUM),
    rule(Transformers, Warns, "zero points", &[When::Format(&[Gptq]), Asymmetric], Never, "GPTQModel's own loader takes asymmetric layers of format gptq only from GPTQModel; gptq_v2 from anyone", GPTQMODEL),
    rule(Transformers, Refuses, "dynamic", &[V1_V2], BaseScheme, "dynamic is not read: one scheme for all", OPTIMUM),
    rule(Transformers, Refuses, "dynamic", &[V1_V2], NoneDense(Some("modules_in_block_to_quantize")), "dynamic is not read: every linear of a block is taken for packed", OPTIMUM),
    rule(Transformers, Refuses, "lm_head", &[V1_V2, Head], Never, "only linears of blocks are taken for packed; the head starts from random numbers", OPTIMUM),
    rule(Transformers, Refuses, "experts", &[V1_V2, OneTensor], Never, "transformers 5 keeps the experts of a layer in one tensor, does not find these, and starts from random numbers", "transformers 5, tried"),
    rule(Transformers, Warns, "shape", &[V1_V2], Multiples(32), "most kernels want multiples of 32; skip the layer if yours refuses", GPTQMODEL),

    rule(ExllamaV2, Refuses, "format", &[], Formats(&[Gptq, GptqV2]), "only qweight of GPTQ is looked for", EXLLAMA),
    rule(ExllamaV2, Refuses, "bits", &[V1_V2], Grids(&[(4, true), (4, false)]), "codes are taken for 4-bit ones", EXLLAMA),
    rule(ExllamaV2, Refuses, "group_size", &[V1_V2], GroupPowers, "the size is guessed from shapes, as a power of two", EXLLAMA),
    rule(ExllamaV2, Refuses, "tensors", &[V1_V2], Parts(&[QWeight, QZeros, Scales]), "they are asked for by name", EXLLAMA),
    rule(ExllamaV2, Refuses, "shape", &[V1_V2], InputsBelow(65_536), "permutations have 16 bits", EXLLAMA),
    rule(ExllamaV2, Warns, "shape", &[V1_V2], Multiples(32), "kernels want multiples of 32 (not verified)", EXLLAMA),

    rule(MistralRs, Refuses, "format", &[], Formats(&[Gptq, GptqV2, Awq]), "no loader knows the tensors", MISTRALRS),
    rule(MistralRs, Warns, "format", &[When::Format(&[Awq])], Never, "awq was not verified", MISTRALRS),
    rule(MistralRs, Refuses, "keys", &[V1_V2], Keys(&["quant_method", "bits", "group_size"]), "the config cannot be read", MISTRALRS),
    rule(MistralRs, Refuses, "bits", &[V1_V2], SYM_4_8, "sym is not read, and the default build with Marlin throws zero points away: wrong answers", MISTRALRS),
    rule(MistralRs, Warns, "bits", &[V1_V2], Grids(&[(4, true), (4, false)]), "8 bits look broken (not verified)", MISTRALRS),
    rule(MistralRs, Warns, "zero points", &[V2], Never, "builds without Marlin read zero points of gptq_v2 as those of gptq", MISTRALRS),
    rule(MistralRs, Refuses, "group_size", &[V1_V2], Grouped, "it is read as an unsigned number", MISTRALRS),
    rule(MistralRs, Refuses, "group_size", &[V1_V2], WholeGroups, "inputs and groups do not match", MISTRALRS),
    rule(MistralRs, Refuses, "tensors", &[V1_V2], Parts(&[QWeight, QZeros, Scales, GIdx]), "without all four the layer is taken for an empty one", MISTRALRS),
    rule(MistralRs, Refuses, "scales", &[V1_V2], Law::Scales(&[Dtype::F16]), "they are asked for as F16", MISTRALRS),
    rule(MistralRs, Warns, "desc_act", &[V1_V2, Ordered], Never, "weights are put in order, activations are not: looks wrong (not verified)", MISTRALRS),
    rule(MistralRs, Refuses, "dynamic", &[V1_V2], BaseScheme, "dynamic is not read: one scheme for all", MISTRALRS),
    rule(MistralRs, Refuses, "dynamic", &[V1_V2], NoneDense(None), "a layer without packed tensors is taken for an empty one", MISTRALRS),
    rule(MistralRs, Warns, "lm_head", &[V1_V2, Head], Never, "a packed head was not verified", MISTRALRS),

    rule(LlamaCpp, Refuses, "format", &[], Formats(&[Gptq, GptqV2, CompressedTensors]), "the converter knows no such quant_method or tensors; gptq convert --to gguf does", LLAMACPP),
    rule(LlamaCpp, Refuses, "keys", &[V1_V2], Keys(&["quant_method", "bits"]), "the config cannot be read", LLAMACPP),
    rule(LlamaCpp, Refuses, "bits", &[V1_V2], Grids(&[(2, true), (4, true), (8, true), (2, false), (4, false), (8, false)]), "the converter cannot unpack it; gptq convert --to gguf can", LLAMACPP),
    rule(LlamaCpp, Refuses, "tensors", &[V1_V2], Parts(&[QWeight, QZeros, Scales, GIdx]), "they are asked for by name", LLAMACPP),
    rule(LlamaCpp, Refuses, "dynamic", &[V1_V2], BaseBits, "dynamic is not read: one width for all", LLAMACPP),
    rule(LlamaCpp, Refuses, "dynamic", &[CT], BaseScheme, "one config group for all", LLAMACPP),
    rule(LlamaCpp, Refuses, "group_size", &[CT], Grouped, "only groups are read", LLAMACPP),
    rule(LlamaCpp, Refuses, "desc_act", &[CT, Ordered], Never, "weight_g_idx is not read: wrong answers", LLAMACPP),
];
