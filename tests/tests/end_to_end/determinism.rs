//! The same bytes, whatever the threads, the shards or the element type of the source.

use gptq_core::{ActOrder, Bits};
use gptq_models::Checkpoint;
use gptq_tests::{ModelFiles, random_tokens, read_json, read_tensors};
use half::f16;
use rayon::ThreadPoolBuilder;
use safetensors::Dtype;

use crate::{Run, calibration, load, options};

#[test]
fn threads_do_not_change_a_byte() {
    for order in [ActOrder::GroupAware, ActOrder::DescAct] {
        let mut options = options(Bits::B4);
        options.config.act_order = order;
        let bytes = |threads: usize| {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| std::fs::read(Run::with(&options).file("model.safetensors")).unwrap())
        };
        let one = bytes(1);
        for threads in [2, 5] {
            assert!(
                one == bytes(threads),
                "{order:?}: {threads} threads give other bytes than one"
            );
        }
    }
}

#[test]
fn a_second_run_gives_the_same_config_and_hashes() {
    let (a, b) = (Run::with(&options(Bits::B3)), Run::with(&options(Bits::B3)));
    assert_eq!(a.report.sha256, b.report.sha256);
    for name in ["config.json", "quantize_config.json"] {
        assert_eq!(read_json(&a.file(name)), read_json(&b.file(name)));
    }
}

#[test]
fn shards_hold_the_same_tensors_and_give_the_same_logits() {
    let whole = Run::with(&options(Bits::B4));
    let mut small = options(Bits::B4);
    small.max_shard_bytes = 20_000;
    let sharded = Run::with(&small);

    let map = read_json(&sharded.file("model.safetensors.index.json"))["weight_map"].clone();
    let map = map.as_object().unwrap();
    let mut names: Vec<&str> = map.values().map(|file| file.as_str().unwrap()).collect();
    names.sort_unstable();
    names.dedup();
    assert!(names.len() > 3, "{names:?}");
    assert!(!sharded.file("model.safetensors").exists());
    let expected = read_tensors(&whole.file("model.safetensors"));
    let mut seen = 0;
    for name in names {
        let tensors = read_tensors(&sharded.file(name));
        let bytes: usize = tensors.values().map(|t| t.bytes.len()).sum();
        assert!(bytes <= 20_000 || tensors.len() == 1, "{name} holds {bytes} bytes of tensors");
        for (tensor, stored) in &tensors {
            assert_eq!(map[tensor], name);
            assert!(expected[tensor] == *stored, "{tensor} differs between one file and shards");
            seen += 1;
        }
    }
    assert_eq!((seen, map.len()), (expected.len(), expected.len()));
    assert_eq!(whole.report.sha256, sharded.report.sha256);

    let ids = &random_tokens(5, 1, 30)[0];
    assert_eq!(sharded.load().logits(ids).unwrap(), whole.load().logits(ids).unwrap());
}

#[test]
fn a_sharded_source_gives_the_same_tensors_as_a_whole_one() {
    let dir = tempfile::tempdir().unwrap();
    ModelFiles::of("arch/llama").write_sharded(dir.path(), "model.layers.1.mlp.down_proj.weight");
    let options = options(Bits::B4);
    let sharded = Run::of(&Checkpoint::open(dir.path()).unwrap(), &calibration(), &options);
    assert_eq!(sharded.report.sha256, Run::with(&options).report.sha256);
    assert_eq!(sharded.report.ledger.tensors.len(), 21);
    assert_eq!(sharded.report.ledger.files.len(), 4);
    assert!(!sharded.file("model.safetensors.index.json").exists(), "one file needs no index");
    load(&sharded.dir);
}

#[test]
fn a_source_in_single_precision_gives_the_same_codes() {
    let mut model = ModelFiles::of("arch/llama");
    for tensor in model.tensors.values_mut() {
        let halves = tensor.bytes.as_chunks::<2>().0.iter();
        let wide = halves.map(|&b| f16::from_le_bytes(b).to_f32().to_le_bytes());
        tensor.bytes = wide.collect::<Vec<_>>().concat();
        tensor.dtype = Dtype::F32;
    }
    let dir = tempfile::tempdir().unwrap();
    model.write(dir.path());
    let options = options(Bits::B4);
    let wide = Run::of(&Checkpoint::open(dir.path()).unwrap(), &calibration(), &options).report;
    let half = Run::with(&options).report;
    for (name, hash) in &half.sha256 {
        let packed = ["qweight", "qzeros", "scales", "g_idx"].iter().any(|p| name.ends_with(p));
        assert_eq!(packed, wide.sha256[name] == *hash, "{name}");
    }
}
