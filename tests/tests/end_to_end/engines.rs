//! What engines load of results and of folders that others wrote.

use gptq_core::{ActOrder, Bits, GroupSize};
use gptq_models::{
    Checkpoint, ConvertOptions, Engine, Method, Objection, QuantizeOptions, Severity, Target,
    check, check_run, convert,
};
use gptq_pack::Format;
use gptq_tests::{ModelFiles, assert_says, fixture};
use serde_json::json;

use crate::Run;

/// The model of the demo, large enough for every kernel's tiles.
fn mini() -> Checkpoint {
    let assets = concat!(env!("CARGO_MANIFEST_DIR"), "/../gptq-cli/assets/mini-llama");
    Checkpoint::open(std::path::Path::new(assets)).unwrap()
}

fn rounded() -> QuantizeOptions {
    QuantizeOptions { method: Method::Rtn, ..QuantizeOptions::default() }
}

fn refusing(said: &[Objection]) -> Vec<Engine> {
    let refused = said.iter().filter(|objection| objection.severity == Severity::Refuses);
    let mut engines: Vec<Engine> = refused.map(|objection| objection.engine).collect();
    engines.sort();
    engines.dedup();
    engines
}

#[test]
fn every_engine_loads_what_the_defaults_write() {
    let source = mini();
    assert_eq!(check_run(&source, &rounded(), &Engine::ALL, 1).unwrap(), []);
    let run = Run::of(&source, &[], &rounded());
    assert!(run.report.notices.is_empty(), "{:?}", run.report.notices);
    let folder = Checkpoint::open(&run.dir).unwrap();
    assert_eq!(check(&folder, &Engine::ALL, 1).unwrap(), []);
    // 128 / 2 inputs are no group of 128, but a group of 64.
    let said = check(&folder, &[Engine::Vllm], 2).unwrap();
    let first = said.first().unwrap();
    assert_says(&first.found, &["self_attn.o_proj", "128 / 2 = 64", "group_size 128"]);
    assert_eq!(first.layer.as_deref(), Some("model.layers.0.self_attn.o_proj"));
    assert_eq!(first.layers, 4);
    assert_eq!(
        first.nearest.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["group_size 64"]
    );
    let mut options = rounded();
    options.config.group_size = GroupSize::from_file(64).unwrap();
    assert_eq!(refusing(&check_run(&source, &options, &[Engine::Vllm], 2).unwrap()), []);
}

type Change = fn(&mut QuantizeOptions);

/// A plan and the folder that it leads to are seen alike.
#[test]
fn what_was_said_before_a_run_holds_after_it() {
    let source = mini();
    let order = |o: &mut QuantizeOptions| o.config.act_order = ActOrder::Natural;
    let changes: [(&str, Change); 7] = [
        ("three bits", |o| o.config.bits = Bits::B3),
        ("asymmetric", |o| {
            o.config.sym = false;
            o.format = Format::GptqV2;
        }),
        ("whole rows", |o| {
            o.config.group_size = GroupSize::PerChannel;
            o.config.act_order = ActOrder::Natural;
        }),
        ("a rule", |o| o.dynamic = crate::rules(&json!({".*down_proj": {"bits": 8}}))),
        ("a skip", |o| o.dynamic = crate::rules(&json!({"-:.*o_proj": {}}))),
        ("awq", |o| o.format = Format::Awq),
        ("compressed-tensors", |o| o.format = Format::CompressedTensors),
    ];
    for (name, change) in changes {
        let mut options = rounded();
        order(&mut options);
        change(&mut options);
        for tp in [1, 2] {
            let before = check_run(&source, &options, &Engine::ALL, tp).unwrap();
            let run = Run::of(&source, &[], &options);
            let after = check(&Checkpoint::open(&run.dir).unwrap(), &Engine::ALL, tp).unwrap();
            assert_eq!(before, after, "{name} on {tp}");
        }
    }
}

#[test]
fn formats_load_where_they_are_read() {
    let run = Run::of(&mini(), &[], &rounded());
    let folder = Checkpoint::open(&run.dir).unwrap();
    use Engine::{ExllamaV2, LlamaCpp, MistralRs};
    for (format, refused) in [
        (Format::GptqV2, vec![]),
        (Format::Awq, vec![ExllamaV2, LlamaCpp]),
        (Format::CompressedTensors, vec![ExllamaV2, MistralRs]),
    ] {
        let parent = tempfile::tempdir().unwrap();
        let out = parent.path().join("out");
        convert(&folder, Target::Packed(format), &ConvertOptions::default(), &out, &mut ())
            .unwrap();
        let said = check(&Checkpoint::open(&out).unwrap(), &Engine::ALL, 1).unwrap();
        assert_eq!(refusing(&said), refused, "{format}: {said:#?}");
    }
}

/// Folders of GPTQModel with 64 channels, too few for Marlin's tiles.
#[test]
fn folders_of_others_are_judged() {
    let of = |name: &str, engine: Engine| {
        let folder = Checkpoint::open(&fixture(&format!("checkpoints/{name}"))).unwrap();
        check(&folder, &[engine], 1).unwrap()
    };
    assert_eq!(refusing(&of("b4_g32_sym", Engine::Vllm)), []);
    assert_eq!(refusing(&of("b4_g32_sym", Engine::Transformers)), []);
    assert_eq!(refusing(&of("b3_g32_sym", Engine::Vllm)), [Engine::Vllm]);
    let said = of("b4_g32_asym", Engine::Vllm);
    assert_says(&said[0].found, &["4-bit asymmetric"]);
    let said = of("b4_g32_sym_dynamic", Engine::Transformers);
    assert_says(&said[0].found, &["down_proj", "8-bit"]);
    assert_eq!(said[0].nearest.len(), 1);
    // Groups follow the activation order, and the config says so.
    assert!(of("b4_g32_sym_act", Engine::Vllm).iter().all(|o| o.rule != "g_idx"));
}

#[test]
fn what_is_missing_or_odd_in_a_file_is_found() {
    let changed = |change: &dyn Fn(&mut ModelFiles)| {
        let mut files = ModelFiles::of("checkpoints/b4_g32_sym_act");
        change(&mut files);
        let dir = tempfile::tempdir().unwrap();
        files.write(dir.path());
        check(&Checkpoint::open(dir.path()).unwrap(), &Engine::ALL, 1).unwrap()
    };
    let finds = |said: &[Objection], engine: Engine, words: &str| {
        said.iter().any(|o| o.engine == engine && o.found.contains(words))
    };
    let said = changed(&|files| {
        files.tensors.remove("model.layers.1.mlp.up_proj.g_idx");
    });
    assert!(finds(&said, Engine::MistralRs, "mlp.up_proj lacks g_idx"), "{said:#?}");
    assert!(finds(&said, Engine::Tgi, "differ in g_idx"), "{said:#?}");
    let said = changed(&|files| files.config["quantization_config"]["desc_act"] = json!(false));
    assert!(finds(&said, Engine::Vllm, "g_idx is scattered, but desc_act is false"), "{said:#?}");
    let said = changed(&|files| {
        files.config["quantization_config"].as_object_mut().unwrap().remove("sym");
    });
    assert!(finds(&said, Engine::Vllm, "lacks sym"), "{said:#?}");
    let dense = check(&mini(), &[Engine::Vllm], 1).unwrap_err().to_string();
    assert_says(&dense, &["is not quantized"]);
    let none = check_run(&mini(), &rounded(), &[Engine::Vllm], 0).unwrap_err().to_string();
    assert_says(&none, &["0 devices"]);
}
