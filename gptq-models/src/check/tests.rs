//! For every rule, a smallest case that keeps it and one that breaks it; and that what is called
//! nearest does load.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failing test panics")]

use gptq_core::{Bits, GroupSize};
use gptq_pack::{Dtype, Format, Scheme, names::Part};
use proptest::prelude::*;

use super::{
    Engine::{self, *},
    Severity::{self, *},
    facts::{Facts, Layer, Matrix, Split},
    objections,
    rules::RULES,
};

fn layer(short: &str, inputs: usize, outputs: usize) -> Layer {
    Layer {
        name: format!("model.layers.0.{short}"),
        short: short.into(),
        count: 1,
        inputs,
        outputs,
        pieces: usize::MAX,
        scheme: None,
        missing: Vec::new(),
        scales: Dtype::F16,
        scattered: false,
    }
}

fn matrix(split: Split, layers: Vec<Layer>) -> Matrix {
    Matrix {
        split,
        expert: false,
        head: false,
        one_tensor: false,
        one_order: true,
        looked_up: None,
        layers,
    }
}

/// A block that every engine loads: 8 heads of 64, two of them of keys, and an MLP.
fn good() -> Facts {
    let mut qkv =
        vec![layer("q_proj", 512, 512), layer("k_proj", 512, 128), layer("v_proj", 512, 128)];
    qkv[1..].iter_mut().for_each(|layer| layer.pieces = 2);
    let mut matrices = vec![
        matrix(Split::Outputs, qkv),
        matrix(Split::Inputs, vec![layer("o_proj", 512, 512)]),
        matrix(Split::Outputs, vec![layer("gate_proj", 512, 1024), layer("up_proj", 512, 1024)]),
        matrix(Split::Inputs, vec![layer("down_proj", 1024, 512)]),
    ];
    let group_size = GroupSize::from_file(128).unwrap();
    let base = Scheme { bits: Bits::B4.into(), group_size, sym: true, desc_act: false };
    matrices.iter_mut().flat_map(|m| &mut m.layers).for_each(|l| l.scheme = Some(base));
    Facts {
        format: Format::Gptq,
        keys: ["quant_method", "bits", "group_size", "desc_act", "sym"].map(String::from).into(),
        base,
        heads: Some((8, 2)),
        matrices,
        tp: 1,
        known: true,
    }
}

fn schemes(facts: &mut Facts, change: impl Fn(&mut Scheme)) {
    change(&mut facts.base);
    let layers = facts.matrices.iter_mut().flat_map(|m| &mut m.layers);
    layers.filter_map(|l| l.scheme.as_mut()).for_each(change);
}

fn bits(facts: &mut Facts, bits: Bits) {
    schemes(facts, |scheme| scheme.bits = bits.into());
}

fn group(facts: &mut Facts, size: i64) {
    schemes(facts, |scheme| scheme.group_size = GroupSize::from_file(size).unwrap());
}

fn down(facts: &mut Facts) -> &mut Layer {
    &mut facts.matrices[3].layers[0]
}

fn head(facts: &mut Facts) {
    let scheme = Scheme {
        bits: Bits::B8.into(),
        group_size: GroupSize::from_file(32).unwrap(),
        ..facts.base
    };
    let layer = Layer { scheme: Some(scheme), ..layer("lm_head", 512, 4096) };
    facts.matrices.push(Matrix { head: true, ..matrix(Split::Outputs, vec![layer]) });
}

fn experts(facts: &mut Facts, inner: usize) {
    let of = |short: &str, ins, outs| Layer { scheme: Some(facts.base), ..layer(short, ins, outs) };
    let (gate, up) = (of("experts.gate_proj", 512, inner), of("experts.up_proj", 512, inner));
    let down = of("experts.down_proj", inner, 512);
    for (split, layers) in [(Split::Outputs, vec![gate, up]), (Split::Inputs, vec![down])] {
        facts.matrices.push(Matrix { expert: true, ..matrix(split, layers) });
    }
}

/// Marlin's groups with another width, so that ExLlama's kernels take it.
fn three_bits(facts: &mut Facts) {
    bits(facts, Bits::B3);
}

type Change = fn(&mut Facts);

/// A rule by engine and name, what breaks it, and what it then says. Each breaks [`good`].
#[rustfmt::skip]
const BROKEN: &[(Engine, Severity, &str, Change, &str)] = &[
    (Vllm, Refuses, "format", |f| f.format = Format::Marlin, "format marlin"),
    (Vllm, Refuses, "keys", |f| f.keys.retain(|k| k != "sym"), "lacks sym"),
    (Vllm, Refuses, "bits", three_bits, "3-bit symmetric"),
    (Vllm, Refuses, "bits", |f| schemes(f, |s| s.sym = false), "4-bit asymmetric"),
    (Vllm, Refuses, "bits", |f| { f.format = Format::CompressedTensors; three_bits(f) }, "3-bit"),
    (Vllm, Refuses, "group_size", |f| group(f, 256), "group_size 256; read are -1, 32, 64, 128"),
    (Vllm, Refuses, "group_size", |f| down(f).inputs = 1056, "1056 inputs, not a multiple of group_size 128"),
    (Vllm, Refuses, "group_size", |f| { f.tp = 2; down(f).inputs = 4224 }, "4224 / 2 = 2112 inputs"),
    (Vllm, Refuses, "packing", |f| down(f).outputs = 500, "words hold 8 codes"),
    (Vllm, Refuses, "desc_act", |f| { f.tp = 2; group(f, 64); down(f).inputs = 896; schemes(f, |s| s.desc_act = true) }, "448 inputs"),
    (Vllm, Warns, "desc_act", |f| { group(f, 64); down(f).inputs = 960; schemes(f, |s| s.desc_act = true) }, "960 inputs"),
    (Vllm, Warns, "tiles", |f| down(f).outputs = 544, "544 outputs"),
    (Vllm, Warns, "tiles", |f| experts(f, 96), "tiles have 128 inputs and 128 outputs"),
    (Vllm, Refuses, "tensor parallel", |f| f.tp = 3, "8 heads, 2 of keys, cannot be shared by 3"),
    (Vllm, Refuses, "tensor parallel", |f| { f.tp = 2; f.heads = None; down(f).inputs = 1025 }, "1025 inputs cannot be shared by 2"),
    (Vllm, Warns, "tensor parallel", |f| { f.known = false; f.tp = 2 }, "family is unknown"),
    (Vllm, Refuses, "fused layers", |f| f.matrices[0].layers[1].scheme = None, "k_proj is not quantized"),
    (Vllm, Refuses, "dynamic", |f| f.matrices[2].looked_up = Some(("mlp.gate_up_proj".into(), None)), "dynamic says of mlp.gate_up_proj: not quantized"),
    (Vllm, Refuses, "g_idx", |f| { schemes(f, |s| s.desc_act = true); f.matrices[0].one_order = false }, "q_proj, k_proj, v_proj differ in g_idx"),
    (Vllm, Refuses, "g_idx", |f| down(f).scattered = true, "g_idx is scattered"),

    (Sglang, Refuses, "format", |f| f.format = Format::GptqP, "format gptq_p"),
    (Sglang, Refuses, "keys", |f| f.keys.retain(|k| k != "desc_act"), "lacks desc_act"),
    (Sglang, Refuses, "bits", |f| { three_bits(f); experts(f, 128) }, "3-bit"),
    (Sglang, Warns, "bits", three_bits, "3-bit"),
    (Sglang, Refuses, "group_size", |f| { group(f, 256); experts(f, 256) }, "group_size 256"),
    (Sglang, Warns, "group_size", |f| group(f, 256), "group_size 256"),
    (Sglang, Refuses, "zero points", |f| { f.format = Format::GptqV2; schemes(f, |s| s.sym = false) }, "4-bit asymmetric"),
    (Sglang, Refuses, "group_size", |f| down(f).inputs = 1056, "1056 inputs"),
    (Sglang, Refuses, "packing", |f| down(f).outputs = 500, "500 outputs"),
    (Sglang, Refuses, "tiles", |f| down(f).outputs = 544, "tiles have 128 inputs and 64 outputs, or 64 inputs and 128 outputs"),
    (Sglang, Refuses, "tensor parallel", |f| f.tp = 5, "cannot be shared by 5"),
    (Sglang, Warns, "tensor parallel", |f| { f.known = false; f.tp = 2 }, "family is unknown"),
    (Sglang, Warns, "desc_act", |f| { f.tp = 2; schemes(f, |s| s.desc_act = true) }, "with desc_act"),
    (Sglang, Refuses, "fused layers", |f| f.matrices[2].layers[0].scheme = None, "gate_proj is not quantized"),
    (Sglang, Warns, "dynamic", |f| f.matrices[2].looked_up = Some(("x".into(), None)), "dynamic says of x"),
    (Sglang, Refuses, "g_idx", |f| { schemes(f, |s| s.desc_act = true); f.matrices[2].one_order = false }, "differ in g_idx"),
    (Sglang, Refuses, "g_idx", |f| down(f).scattered = true, "g_idx is scattered"),

    (Tgi, Refuses, "format", |f| f.format = Format::Marlin, "format marlin"),
    (Tgi, Refuses, "keys", |f| f.keys.clear(), "lacks quant_method, bits, group_size"),
    (Tgi, Refuses, "bits", three_bits, "3-bit"),
    (Tgi, Warns, "bits", |f| bits(f, Bits::B2), "2-bit"),
    (Tgi, Refuses, "zero points", |f| { f.format = Format::GptqV2; bits(f, Bits::B2) }, "2-bit"),
    (Tgi, Refuses, "tensors", |f| down(f).missing = vec![Part::GIdx], "down_proj lacks g_idx"),
    (Tgi, Refuses, "group_size", |f| down(f).inputs = 1056, "1056 inputs"),
    (Tgi, Refuses, "packing", |f| down(f).outputs = 500, "500 outputs"),
    (Tgi, Refuses, "tiles", |f| down(f).outputs = 544, "544 outputs"),
    (Tgi, Refuses, "tensor parallel", |f| f.tp = 3, "cannot be shared by 3"),
    (Tgi, Warns, "tensor parallel", |f| { f.known = false; f.tp = 2 }, "family is unknown"),
    (Tgi, Refuses, "dynamic", |f| down(f).scheme.as_mut().unwrap().bits = Bits::B8.into(), "down_proj is 8-bit"),
    (Tgi, Refuses, "dynamic", |f| down(f).scheme = None, "down_proj is not quantized"),
    (Tgi, Refuses, "g_idx", |f| f.matrices[0].one_order = false, "differ in g_idx"),
    (Tgi, Refuses, "g_idx", |f| down(f).scattered = true, "g_idx is scattered"),
    (Tgi, Warns, "experts", |f| experts(f, 128), "experts are 4-bit"),

    (Transformers, Warns, "format", |f| f.format = Format::Marlin, "format marlin"),
    (Transformers, Refuses, "keys", |f| f.keys.retain(|k| k != "quant_method"), "lacks quant_method"),
    (Transformers, Warns, "zero points", |f| schemes(f, |s| s.sym = false), "4-bit asymmetric"),
    (Transformers, Refuses, "dynamic", |f| down(f).scheme.as_mut().unwrap().bits = Bits::B8.into(), "down_proj is 8-bit"),
    (Transformers, Refuses, "dynamic", |f| down(f).scheme = None, "down_proj is not quantized"),
    (Transformers, Refuses, "lm_head", head, "8-bit symmetric in groups of 32"),
    (Transformers, Refuses, "experts", |f| { experts(f, 128); f.matrices[4].one_tensor = true }, "experts are 4-bit"),
    (Transformers, Warns, "shape", |f| down(f).outputs = 520, "not multiples of 32"),

    (ExllamaV2, Refuses, "format", |f| f.format = Format::Awq, "format awq"),
    (ExllamaV2, Refuses, "bits", |f| bits(f, Bits::B8), "8-bit"),
    (ExllamaV2, Refuses, "group_size", |f| group(f, 96), "not a power of two"),
    (ExllamaV2, Refuses, "tensors", |f| down(f).missing = vec![Part::QZeros], "lacks qzeros"),
    (ExllamaV2, Refuses, "shape", |f| down(f).inputs = 65_536, "65535 at most"),
    (ExllamaV2, Warns, "shape", |f| down(f).outputs = 520, "not multiples of 32"),

    (MistralRs, Refuses, "format", |f| f.format = Format::CompressedTensors, "format compressed-tensors"),
    (MistralRs, Warns, "format", |f| f.format = Format::Awq, "4-bit"),
    (MistralRs, Refuses, "keys", |f| f.keys.retain(|k| k != "bits"), "lacks bits"),
    (MistralRs, Refuses, "bits", |f| schemes(f, |s| s.sym = false), "4-bit asymmetric"),
    (MistralRs, Warns, "bits", |f| bits(f, Bits::B8), "8-bit"),
    (MistralRs, Warns, "zero points", |f| f.format = Format::GptqV2, "4-bit"),
    (MistralRs, Refuses, "group_size", |f| group(f, -1), "group_size -1"),
    (MistralRs, Refuses, "group_size", |f| down(f).inputs = 1056, "1056 inputs"),
    (MistralRs, Refuses, "tensors", |f| down(f).missing = vec![Part::GIdx], "lacks g_idx"),
    (MistralRs, Refuses, "scales", |f| down(f).scales = Dtype::BF16, "BF16 scales"),
    (MistralRs, Warns, "desc_act", |f| schemes(f, |s| s.desc_act = true), "with desc_act"),
    (MistralRs, Refuses, "dynamic", |f| down(f).scheme.as_mut().unwrap().bits = Bits::B8.into(), "down_proj is 8-bit"),
    (MistralRs, Refuses, "dynamic", |f| down(f).scheme = None, "down_proj is not quantized"),
    (MistralRs, Warns, "lm_head", head, "8-bit"),

    (LlamaCpp, Refuses, "format", |f| f.format = Format::Awq, "format awq"),
    (LlamaCpp, Refuses, "keys", |f| f.keys.retain(|k| k != "bits"), "lacks bits"),
    (LlamaCpp, Refuses, "bits", three_bits, "3-bit"),
    (LlamaCpp, Refuses, "tensors", |f| down(f).missing = vec![Part::GIdx], "lacks g_idx"),
    (LlamaCpp, Refuses, "dynamic", |f| down(f).scheme.as_mut().unwrap().bits = Bits::B8.into(), "down_proj has 8 bits"),
    (LlamaCpp, Refuses, "dynamic", |f| { f.format = Format::CompressedTensors; down(f).scheme.as_mut().unwrap().sym = false }, "down_proj is 4-bit asymmetric"),
    (LlamaCpp, Refuses, "group_size", |f| { f.format = Format::CompressedTensors; group(f, -1) }, "group_size -1"),
    (LlamaCpp, Refuses, "desc_act", |f| { f.format = Format::CompressedTensors; schemes(f, |s| s.desc_act = true) }, "with desc_act"),
];

#[test]
fn every_engine_loads_the_common_subset_and_says_nothing() {
    let said = objections(&good(), &Engine::ALL);
    assert!(said.is_empty(), "{said:#?}");
    // Two devices share it too.
    let said = objections(&Facts { tp: 2, ..good() }, &Engine::ALL);
    assert!(said.is_empty(), "{said:#?}");
}

#[test]
fn every_rule_is_broken_by_its_smallest_case_and_says_why() {
    let mut broken = vec![false; RULES.len()];
    for (engine, severity, name, change, words) in BROKEN {
        let mut facts = good();
        change(&mut facts);
        let rules = RULES.iter().enumerate();
        let rules = rules.filter(|(_, rule)| {
            (rule.engine, rule.severity, rule.name) == (*engine, *severity, *name)
        });
        let mut said = Vec::new();
        for (i, rule) in rules {
            let breaches = rule.breaches(&facts);
            broken[i] |= breaches.iter().any(|breach| breach.message.contains(words));
            said.extend(breaches);
        }
        assert!(
            said.iter().any(|b| b.message.contains(words)),
            "{engine} {name} {words}: {said:#?}"
        );
        // An evaluation of all rules finds it as well, or the same thing refused.
        let said = objections(&facts, &[*engine]);
        assert!(said.iter().any(|o| o.rule == *name && o.found.contains(words)), "{said:#?}");
    }
    let never: Vec<_> = RULES.iter().zip(broken).filter(|(_, broken)| !broken).collect();
    assert!(never.is_empty(), "no case breaks {never:#?}");
}

#[test]
fn every_rule_has_a_source_and_a_day() {
    for rule in RULES {
        assert!(rule.source.len() > 10 && !rule.why.is_empty(), "{rule:?}");
        let day: Vec<&str> = rule.read.split('-').collect();
        assert_eq!(day.iter().map(|part| part.len()).collect::<Vec<_>>(), [4, 2, 2], "{rule:?}");
    }
}

#[test]
fn nearest_says_the_least_change() {
    let nearest = |engine: Engine, change: Change| {
        let mut facts = good();
        change(&mut facts);
        let said = objections(&facts, &[engine]);
        assert_eq!(said[0].severity, Refuses, "{said:#?}");
        said[0].nearest.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    assert_eq!(nearest(Vllm, three_bits), "bits 4");
    assert_eq!(nearest(Vllm, |f| bits(f, Bits::B2)), "bits 4");
    assert_eq!(nearest(Vllm, |f| schemes(f, |s| s.sym = false)), "sym true");
    assert_eq!(nearest(Vllm, |f| group(f, 256)), "group_size 128");
    assert_eq!(nearest(Vllm, |f| down(f).inputs = 1056), "group_size 32");
    assert_eq!(
        nearest(Vllm, |f| {
            f.tp = 2;
            down(f).inputs = 4224
        }),
        "group_size 64"
    );
    // Qwen2-72B on four devices: 29568 / 4 = 7392 = 231 · 32.
    let four: Change = |f| (f.tp, down(f).inputs) = (4, 29_568);
    assert_eq!(nearest(Vllm, four), "group_size 32");
    // A vision tower's 4304 / 2 = 2152 = 8 · 269 has no groups at all.
    let odd: Change = |f| (f.tp, down(f).inputs) = (2, 4304);
    assert_eq!(nearest(Vllm, odd), "group_size -1");
    assert_eq!(nearest(Vllm, |f| f.tp = 3), "tp 1");
    assert_eq!(nearest(ExllamaV2, |f| bits(f, Bits::B8)), "bits 4");
    assert_eq!(nearest(ExllamaV2, |f| group(f, 96)), "group_size 64");
    assert_eq!(
        nearest(MistralRs, |f| down(f).missing = vec![Part::GIdx]),
        "written again by gptq convert"
    );
    assert_eq!(nearest(Transformers, head), "lm_head false");
    assert_eq!(nearest(Transformers, |f| down(f).scheme = None), "no dynamic rules");
    // No group divides it: whole rows would, or it stays dense.
    assert_eq!(nearest(Vllm, |f| down(f).inputs = 1000), "group_size -1");
    assert_eq!(nearest(ExllamaV2, |f| down(f).inputs = 65_536), "skip down_proj by a dynamic rule");
    // And where every layer is refused, none is left to quantize.
    let wide: Change = |f| {
        f.matrices.iter_mut().flat_map(|m| &mut m.layers).for_each(|l| l.inputs = 65_536);
    };
    assert_eq!(nearest(ExllamaV2, wide), "");
}

fn any_facts() -> impl Strategy<Value = Facts> {
    let dims = prop::sample::select(vec![96usize, 128, 192, 320, 512, 1000, 1024, 2152, 4304]);
    let width = prop::sample::select(vec![Bits::B2, Bits::B3, Bits::B4, Bits::B8]);
    let groups = prop::sample::select(vec![-1i64, 24, 32, 64, 128, 256]);
    let format = prop::sample::select(Format::ALL.to_vec());
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (dims.clone(), dims, width, groups, format, flags, 1usize..=4).prop_map(
        |(hidden, inner, width, size, format, (sym, order, dense, packed_head), tp)| {
            let mut facts = good();
            for (matrix, (ins, outs)) in facts.matrices.iter_mut().zip([
                (hidden, hidden),
                (hidden, hidden),
                (hidden, inner),
                (inner, hidden),
            ]) {
                for layer in &mut matrix.layers {
                    (layer.inputs, layer.outputs) = (ins, outs);
                }
            }
            bits(&mut facts, width);
            group(&mut facts, size);
            schemes(&mut facts, |s| (s.sym, s.desc_act) = (sym, order));
            (facts.format, facts.tp) = (format, tp);
            if dense {
                facts.matrices[1].layers[0].scheme = None;
            }
            if packed_head {
                head(&mut facts);
            }
            facts
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Applied, the nearest settings leave no refusal of the rules that they were said for.
    #[test]
    fn the_nearest_settings_do_load(facts in any_facts()) {
        for engine in Engine::ALL {
            let said = objections(&facts, &[engine]);
            for objection in said.iter().filter(|o| !o.nearest.is_empty()) {
                let changed = objections(&facts.with(&objection.nearest), &[engine]);
                let left = changed.iter().find(|o| o.severity == Refuses && o.rule == objection.rule);
                prop_assert!(left.is_none(), "{objection:?} still {left:?}");
            }
        }
    }

    /// More blocks of the same kind change counts and nothing else.
    #[test]
    fn blocks_that_are_alike_are_counted(facts in any_facts(), blocks in 2usize..5) {
        let mut many = facts.clone();
        for _ in 1..blocks {
            facts.matrices.iter().cloned().for_each(|matrix| many.add(matrix));
        }
        prop_assert_eq!(many.matrices.len(), facts.matrices.len());
        let (one, all) = (objections(&facts, &Engine::ALL), objections(&many, &Engine::ALL));
        prop_assert_eq!(one.len(), all.len());
        for (one, all) in one.iter().zip(&all) {
            prop_assert_eq!(one.layers * blocks, all.layers);
            prop_assert_eq!(&one.found, &all.found);
        }
    }
}
