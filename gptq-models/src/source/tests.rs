use std::fs;

use half::bf16;
use ndarray::{Array2, Array3, ArrayView2, s};
use proptest::prelude::*;
use safetensors::{Dtype, tensor::TensorView as Tensor};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

/// Name, dtype, shape, bytes.
type Entry = (&'static str, Dtype, Vec<usize>, Vec<u8>);

fn floats(name: &'static str, shape: &[usize], values: impl IntoIterator<Item = f32>) -> Entry {
    (name, Dtype::F32, shape.to_vec(), values.into_iter().flat_map(f32::to_le_bytes).collect())
}

fn bytes(name: &'static str, shape: &[usize], values: Vec<u8>) -> Entry {
    (name, Dtype::U8, shape.to_vec(), values)
}

fn folder(config: &Value, entries: &[Entry]) -> (TempDir, Checkpoint) {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let views = entries.iter().map(|(name, dtype, shape, bytes)| {
        (*name, Tensor::new(*dtype, shape.clone(), bytes).unwrap())
    });
    let file = safetensors::serialize(views, None).unwrap();
    fs::write(dir.path().join("model.safetensors"), file).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    (dir, checkpoint)
}

fn open(entries: &[Entry]) -> (TempDir, Checkpoint) {
    folder(&json!({}), entries)
}

fn place(out_features: usize, in_features: usize, stored: Stored) -> LinearPlace {
    LinearPlace { name: "m.0".into(), out_features, in_features, bias: true, stored }
}

fn expert(expert: usize, experts: usize, axes: Axes, outputs: Outputs) -> FusedExpert {
    let bias = Some("m.fused_bias".into());
    FusedExpert { tensor: "m.fused".into(), bias, expert, experts, axes, outputs }
}

/// A share by ndarray's slices.
fn share<'a>(all: ArrayView2<'a, f32>, outputs: Outputs) -> ArrayView2<'a, f32> {
    let half = all.nrows() / 2;
    match outputs {
        Outputs::All => all,
        Outputs::FirstHalf => all.slice_move(s![..half, ..]),
        Outputs::SecondHalf => all.slice_move(s![half.., ..]),
        Outputs::Even => all.slice_move(s![..;2, ..]),
        Outputs::Odd => all.slice_move(s![1..;2, ..]),
    }
}

fn noise(seed: u64, index: usize) -> u8 {
    (seed.wrapping_add(index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn any_outputs() -> impl Strategy<Value = Outputs> {
    use Outputs::{All, Even, FirstHalf, Odd, SecondHalf};
    prop::sample::select(vec![All, FirstHalf, SecondHalf, Even, Odd])
}

/// The message, which must name all of these.
fn refused<T: std::fmt::Debug>(result: Result<T, Error>, names: &[&str]) -> String {
    let message = result.unwrap_err().to_string();
    for name in names {
        assert!(message.contains(name), "{name:?} is missing from {message:?}");
    }
    message
}

/// Both functions that look at headers refuse alike.
fn refused_early(checkpoint: &Checkpoint, place: &LinearPlace, names: &[&str]) {
    let early = refused(tensors(checkpoint, place), names);
    assert_eq!(early, refused(weight(checkpoint, place), names));
}

#[test]
fn plain_and_transposed() {
    let numbers = || (0..6).map(|v| v as f32);
    let (_dir, file) =
        open(&[floats("m.0.weight", &[2, 3], numbers()), floats("m.0.bias", &[2], [7.0, 8.0])]);
    let (plain, turned) = (place(2, 3, Stored::Plain), place(3, 2, Stored::Transposed));
    let matrix = Array2::from_shape_vec((2, 3), numbers().collect()).unwrap();
    assert_eq!(weight(&file, &plain).unwrap(), matrix);
    assert_eq!(weight(&file, &turned).unwrap(), matrix.t());
    assert!(weight(&file, &turned).unwrap().is_standard_layout());
    for place in [&plain, &turned] {
        assert_eq!(tensors(&file, place).unwrap(), ["m.0.weight"]);
    }
    assert_eq!(bias(&file, &plain).unwrap().unwrap().as_slice().unwrap(), [7.0, 8.0]);
    assert_eq!(bias(&file, &LinearPlace { bias: false, ..plain.clone() }).unwrap(), None);
    let said = ["model.safetensors", "m.0.weight", "[2, 3]", "[3, 2]"];
    refused_early(&file, &LinearPlace { stored: Stored::Plain, ..turned.clone() }, &said);
    refused_early(&file, &LinearPlace { stored: Stored::Transposed, ..plain.clone() }, &said);
    refused(bias(&file, &turned), &["m.0.bias", "[2]", "[3]"]);
}

#[test]
fn an_experts_own_tensors_come_first() {
    let own = [floats("m.0.weight", &[1, 2], [1.0, 2.0]), floats("m.0.bias", &[1], [3.0])];
    let fused = [floats("m.fused", &[1, 1, 2], [4.0, 5.0]), floats("m.fused_bias", &[1, 1], [6.0])];
    let place = place(1, 2, Stored::Fused(expert(0, 1, Axes::OutIn, Outputs::All)));
    let (_dir, both) = open(&[&own[..], &fused].concat());
    assert_eq!(weight(&both, &place).unwrap().as_slice().unwrap(), [1.0, 2.0]);
    assert_eq!(bias(&both, &place).unwrap().unwrap()[(0, 0)], 3.0);
    assert_eq!(tensors(&both, &place).unwrap(), ["m.0.weight"]);
    let (_dir, alone) = open(&fused);
    assert_eq!(weight(&alone, &place).unwrap().as_slice().unwrap(), [4.0, 5.0]);
    assert_eq!(bias(&alone, &place).unwrap().unwrap()[(0, 0)], 6.0);
    assert_eq!(tensors(&alone, &place).unwrap(), ["m.fused"]);
    let (_dir, other) = open(&[floats("other", &[1], [0.0])]);
    let folder = other.dir().display().to_string();
    refused_early(&other, &place, &[&folder, "m.0.weight", "m.fused or", "m.fused_blocks"]);
    refused(bias(&other, &place), &[&folder, "m.0.bias", "m.fused_bias"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn fused_slices(
        at in 0usize..4,
        experts in 1usize..5,
        outs in 1usize..6,
        ins in 1usize..6,
        in_out: bool,
        halves: bool,
        outputs in any_outputs(),
    ) {
        prop_assume!(at < experts);
        let (axes, total) = (if in_out { Axes::InOut } else { Axes::OutIn }, outputs.total(outs));
        let shape = if in_out { [experts, ins, total] } else { [experts, total, ins] };
        let count = shape.iter().product::<usize>();
        let numbers = || (0..count).map(|v| v as f32);
        let entry = match halves {
            true => {
                // Every one of these numbers is a bfloat16.
                prop_assume!(count <= 256);
                let bytes = numbers().flat_map(|v| bf16::from_f32(v).to_le_bytes()).collect();
                ("m.fused", Dtype::BF16, shape.to_vec(), bytes)
            }
            false => floats("m.fused", &shape, numbers()),
        };
        let biases = floats("m.fused_bias", &[experts, total], numbers().take(experts * total));
        let (_dir, file) = open(&[entry, biases]);
        let place = place(outs, ins, Stored::Fused(expert(at, experts, axes, outputs)));

        let whole = Array3::from_shape_vec(shape, numbers().collect()).unwrap();
        let mine = whole.slice_move(s![at, .., ..]);
        let mine = if in_out { mine.t() } else { mine.view() };
        let got = weight(&file, &place).unwrap();
        prop_assert!(got.is_standard_layout());
        prop_assert_eq!(got, share(mine, outputs));
        let biases = numbers().take(experts * total).collect();
        let biases = Array2::from_shape_vec((experts, total), biases).unwrap();
        let biases = biases.slice_move(s![at..=at, ..]).reversed_axes();
        let got = bias(&file, &place).unwrap().unwrap();
        prop_assert_eq!(got.t(), share(biases.view(), outputs));
    }
}

#[test]
fn fused_shapes_are_checked() {
    let (_dir, file) = open(&[
        floats("m.fused", &[2, 4, 3], vec![0.0; 24]),
        floats("m.fused_bias", &[2, 4], vec![0.0; 8]),
    ]);
    let at = |outs, ins, fused| place(outs, ins, Stored::Fused(fused));
    let said = |expected| ["model.safetensors", "tensor m.fused ", "[2, 4, 3]", expected];
    use Axes::{InOut, OutIn};
    let place = at(4, 3, expert(2, 3, OutIn, Outputs::All));
    refused_early(&file, &place, &said("[3, 4, 3]"));
    refused(bias(&file, &place), &["m.fused_bias", "[2, 4]", "[3, 4]"]);
    refused_early(&file, &at(4, 3, expert(0, 2, InOut, Outputs::All)), &said("[2, 3, 4]"));
    refused_early(&file, &at(4, 3, expert(0, 2, OutIn, Outputs::Odd)), &said("[2, 8, 3]"));
    let huge = at(usize::MAX, 3, expert(1, 2, OutIn, Outputs::Even));
    refused_early(&file, &huge, &said("3]"));
    refused_early(&file, &at(4, usize::MAX, expert(1, 2, InOut, Outputs::All)), &said("4]"));
    refused_early(&file, &at(4, 3, expert(2, 2, OutIn, Outputs::All)), &["m.0", "m.fused", "2"]);
    refused(bias(&file, &at(4, 3, expert(2, 2, OutIn, Outputs::All))), &["m.0", "m.fused", "2"]);
    let (_dir, ints) = open(&[bytes("m.fused", &[2, 4, 3], vec![0; 24])]);
    let place = at(4, 3, expert(0, 2, OutIn, Outputs::All));
    refused_early(&ints, &place, &["m.fused", "U8", "BF16"]);
}

#[test]
fn a_fused_nan_is_found_where_it_lies() {
    let mut numbers = vec![0.0; 24];
    numbers[(4 + 3) * 3 + 2] = f32::NAN; // expert 1, its row 3, column 2
    let (_dir, file) = open(&[floats("m.fused", &[2, 4, 3], numbers)]);
    let at = |expert: FusedExpert, outs, ins| place(outs, ins, Stored::Fused(expert));
    let good = [(0, Outputs::SecondHalf), (1, Outputs::FirstHalf), (1, Outputs::Even)];
    for (e, outputs) in good {
        weight(&file, &at(expert(e, 2, Axes::OutIn, outputs), 2, 3)).unwrap();
    }
    for outputs in [Outputs::SecondHalf, Outputs::Odd] {
        let place = at(expert(1, 2, Axes::OutIn, outputs), 2, 3);
        refused(weight(&file, &place), &["model.safetensors", "m.fused", "NaN", "[7, 2]"]);
    }
    let place = at(expert(1, 2, Axes::InOut, Outputs::All), 3, 4);
    refused(weight(&file, &place), &["m.fused", "NaN", "[7, 2]"]);
}

/// By the definition: a sign bit, two bits of exponent with bias 1, one of mantissa.
fn e2m1(code: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(code >> 1 & 3), f64::from(code & 1));
    let magnitude = match exponent {
        0 => mantissa / 2.0,
        _ => (1.0 + mantissa / 2.0) * f64::powi(2.0, exponent - 1),
    };
    if code & 8 == 0 { magnitude } else { -magnitude }
}

#[test]
fn mxfp4_codes_and_scales() {
    // Every code under every scale that leaves all of them finite; scale 255 stands for NaN.
    let codes: Vec<u8> = (0..16).map(|k| (k * 2 % 16) | ((k * 2 + 1) % 16) << 4).collect();
    let scales: Vec<u8> = (0..=252).collect();
    let entries = |last: u8| {
        let scales = scales.iter().copied().chain([last]).collect();
        [
            bytes("m.fused_blocks", &[1, 254, 1, 16], codes.repeat(254)),
            bytes("m.fused_scales", &[1, 254, 1], scales),
        ]
    };
    let place = place(254, 32, Stored::Fused(expert(0, 1, Axes::InOut, Outputs::All)));
    let (_dir, file) = open(&entries(127));
    assert_eq!(tensors(&file, &place).unwrap(), ["m.fused_blocks", "m.fused_scales"]);
    let got = weight(&file, &place).unwrap();
    for ((row, column), value) in got.indexed_iter() {
        let scale = scales.get(row).copied().unwrap_or(127);
        let want = e2m1(column as u8 % 16) * f64::powi(2.0, i32::from(scale) - 127);
        assert_eq!(f64::from(*value).to_bits(), want.to_bits(), "scale {scale}, column {column}");
    }
    for scale in [254, 255] {
        let (_dir, file) = open(&entries(scale));
        refused(weight(&file, &place), &["model.safetensors", "m.fused_scales", "[253, 0]"]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn mxfp4_slices(
        at in 0usize..3,
        experts in 1usize..4,
        outs in 1usize..4,
        lanes in 1usize..4,
        in_out: bool,
        outputs in any_outputs(),
        seed: u64,
    ) {
        prop_assume!(at < experts);
        let total = outputs.total(outs);
        let draw = |i: usize| noise(seed, i);
        let blocks: Vec<u8> = (0..experts * total * lanes * 16).map(draw).collect();
        let scales: Vec<u8> =
            (0..experts * total * lanes).map(|i| 100 + draw(i + 7) % 50).collect();
        let (_dir, file) = open(&[
            bytes("m.fused_blocks", &[experts, total, lanes, 16], blocks.clone()),
            bytes("m.fused_scales", &[experts, total, lanes], scales.clone()),
        ]);
        let whole = Array3::from_shape_fn((experts, total, lanes * 32), |(e, o, i)| {
            let row = e * total + o;
            let byte = blocks[(row * lanes + i / 32) * 16 + i % 32 / 2];
            let code = if i % 2 == 0 { byte % 16 } else { byte / 16 };
            let scale = i32::from(scales[row * lanes + i / 32]);
            (e2m1(code) * f64::powi(2.0, scale - 127)) as f32
        });
        let axes = if in_out { Axes::InOut } else { Axes::OutIn };
        let place = place(outs, lanes * 32, Stored::Fused(expert(at, experts, axes, outputs)));
        let got = weight(&file, &place).unwrap();
        prop_assert_eq!(got, share(whole.slice(s![at, .., ..]), outputs));
    }
}

#[test]
fn mxfp4_shapes_are_checked() {
    let blocks = || bytes("m.fused_blocks", &[2, 4, 1, 16], vec![0; 128]);
    let scales = || bytes("m.fused_scales", &[2, 4, 1], vec![0; 8]);
    let at = |outs, ins, fused| place(outs, ins, Stored::Fused(fused));
    let good = at(4, 32, expert(1, 2, Axes::InOut, Outputs::All));
    let (_dir, file) = open(&[blocks(), scales()]);
    weight(&file, &good).unwrap();
    let more = at(4, 32, expert(2, 3, Axes::InOut, Outputs::All));
    let said = ["model.safetensors", "m.fused_blocks", "[2, 4, 1, 16]"];
    refused_early(&file, &more, &[&said[..], &["[3, 4, 1, 16]"]].concat());
    refused_early(&file, &LinearPlace { in_features: 64, ..good.clone() }, &said);
    let uneven = LinearPlace { in_features: 33, ..good.clone() };
    refused_early(&file, &uneven, &["model.safetensors", "m.fused_blocks", "m.0", "32", "33"]);
    refused_early(&open(&[blocks()]).1, &good, &["m.fused_scales", "missing"]);
    refused_early(&open(&[scales()]).1, &good, &["m.fused_blocks", "missing"]);
    let (_dir, file) = open(&[blocks(), bytes("m.fused_scales", &[2, 2, 2], vec![0; 8])]);
    refused_early(&file, &good, &["m.fused_scales", "[2, 2, 2]", "[2, 4, 1]"]);
    let (_dir, file) = open(&[blocks(), floats("m.fused_scales", &[2, 4, 1], vec![0.0; 8])]);
    refused_early(&file, &good, &["m.fused_scales", "F32", "U8"]);
}

/// By the definition: a sign bit, four bits of exponent with bias 7, three of mantissa.
fn e4m3(code: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f64::from(code & 7) / 8.0);
    let magnitude = match (exponent, code & 7) {
        (15, 7) => f64::NAN,
        (0, _) => mantissa * f64::powi(2.0, -6),
        _ => (1.0 + mantissa) * f64::powi(2.0, exponent - 7),
    };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

fn fp8(shape: &[usize], values: Vec<u8>) -> Entry {
    ("m.0.weight", Dtype::F8_E4M3, shape.to_vec(), values)
}

#[test]
fn e4m3_codes() {
    let config = json!({ "quantization_config": { "quant_method": "fp8" } });
    for code in 0..=255 {
        let scale = floats("m.0.weight_scale_inv", &[1, 1], [1.0]);
        let (_dir, file) = folder(&config, &[fp8(&[2, 2], vec![0, 0, 0, code]), scale]);
        let got = weight(&file, &place(2, 2, Stored::Plain));
        if code & 0x7f == 0x7f {
            refused(got, &["model.safetensors", "tensor m.0.weight ", "NaN", "[1, 1]"]);
        } else {
            assert_eq!(f64::from(got.unwrap()[(1, 1)]).to_bits(), e4m3(code).to_bits(), "{code}");
        }
    }
    // What the definition must come to.
    assert_eq!([e4m3(0x01), e4m3(0x07), e4m3(0x08)], [0.001953125, 0.013671875, 0.015625]);
    assert_eq!([e4m3(0x38), e4m3(0xc1), e4m3(0x7e)], [1.0, -2.25, 448.0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn fp8_blocks(
        outs in 1usize..12,
        ins in 1usize..12,
        high in 1usize..6,
        wide in 1usize..6,
        fused: bool,
        seed: u64,
    ) {
        let draw = |i: usize| noise(seed, i) >> 1;
        let code = |i: usize| (draw(i) % 0x7f) | ((draw(i + 3) & 1) << 7);
        let codes: Vec<u8> = (0..outs * ins).map(code).collect();
        let (rows, columns) = (outs.div_ceil(high), ins.div_ceil(wide));
        let scales: Vec<f32> =
            (0..rows * columns).map(|i| f32::from(draw(i + 5)) / 77.0).collect();
        let config = json!({ "quantization_config": {
            "quant_method": "fp8", "weight_block_size": [high, wide]
        } });
        let scale = floats("m.0.weight_scale_inv", &[rows, columns], scales.iter().copied());
        let (_dir, file) = folder(&config, &[fp8(&[outs, ins], codes.clone()), scale]);
        let stored = match fused {
            true => Stored::Fused(expert(0, 1, Axes::InOut, Outputs::Odd)),
            false => Stored::Plain,
        };
        let place = place(outs, ins, stored);
        prop_assert_eq!(tensors(&file, &place).unwrap(), ["m.0.weight", "m.0.weight_scale_inv"]);
        let want = Array2::from_shape_fn((outs, ins), |(r, c)| {
            e4m3(codes[r * ins + c]) as f32 * scales[r / high * columns + c / wide]
        });
        prop_assert_eq!(weight(&file, &place).unwrap(), want);
    }
}

#[test]
fn fp8_shapes_are_checked() {
    let good = place(130, 2, Stored::Plain);
    let codes = || fp8(&[130, 2], vec![0; 260]);
    let scales =
        |shape: &[usize]| floats("m.0.weight_scale_inv", shape, vec![1.0; shape.iter().product()]);
    weight(&open(&[codes(), scales(&[2, 1])]).1, &good).unwrap();
    let (_dir, file) = open(&[codes(), scales(&[1, 1])]);
    let said = ["model.safetensors", "m.0.weight_scale_inv", "[1, 1]", "[2, 1]"];
    refused_early(&file, &good, &said);
    refused_early(&open(&[codes()]).1, &good, &["m.0.weight_scale_inv", "missing"]);
    let (_dir, file) = open(&[fp8(&[260], vec![0; 260]), scales(&[2, 1])]);
    refused_early(&file, &good, &["m.0.weight", "[260]", "[130, 2]"]);
    let (_dir, file) = open(&[codes(), bytes("m.0.weight_scale_inv", &[2, 1], vec![0; 2])]);
    refused_early(&file, &good, &["m.0.weight_scale_inv", "U8", "F32"]);
    let (_dir, file) = open(&[codes(), floats("m.0.weight_scale_inv", &[2, 1], [1.0, f32::NAN])]);
    refused(weight(&file, &good), &["m.0.weight_scale_inv", "NaN", "[1, 0]"]);
    for size in [json!(null), json!(128), json!([128]), json!([0, 128]), json!([128, -1])] {
        let config = json!({ "quantization_config": { "weight_block_size": size } });
        let (_dir, file) = folder(&config, &[codes(), scales(&[2, 1])]);
        refused_early(&file, &good, &["config.json", "weight_block_size", &size.to_string()]);
    }
}

#[test]
fn compressed_sources_are_not_packed() {
    let entries = [floats("m.0.weight", &[1, 1], [1.0])];
    let of = |config: Value| {
        let (_dir, file) = folder(&config, &entries);
        (source_compression(&file), crate::quantization_config(&file).map(|c| c.is_some()))
    };
    let method = |name: &str| json!({ "quantization_config": { "quant_method": name } });
    for (name, compression) in [("fp8", Compression::Fp8), ("mxfp4", Compression::Mxfp4)] {
        let (found, packed) = of(method(name));
        assert_eq!(found, Some(compression));
        assert!(!packed.unwrap());
    }
    assert_eq!(of(json!({ "quantization_config": null })).0, None);
    let gptq = json!({ "quant_method": "gptq", "bits": 4, "group_size": 128 });
    let (found, packed) = of(json!({ "quantization_config": gptq }));
    assert_eq!(found, None);
    assert!(packed.unwrap());
}
