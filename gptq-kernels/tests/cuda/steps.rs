//! The same operations over and over, as one token after the other brings them: what was recorded
//! gives what it would have given.

use gptq_core::{
    AttentionShape, Backend, Bits, Draw, Gate, Norm, NormKind, Pointwise, QuantizedMatrix,
    Reference, RopeShape, ScoreTerms, Window,
};
use gptq_pack::{PackedBackend, PackedLinear, ZeroPointFormat};
use half::f16;
use ndarray::Array2;

use crate::{
    common::{close, values},
    draw::agrees,
    gpu::{gpu, own_gpu},
};

/// Whole stages, so that products take what norms wrote for them.
const WIDTH: usize = 128;
const ROOM: usize = 600;

struct Model<B: PackedBackend> {
    table: B::Tensor,
    norm: B::Tensor,
    /// For all keys that there is room for.
    bias: Option<B::Tensor>,
    layers: Vec<Layer<B>>,
}

struct Layer<B: PackedBackend> {
    qkv: Vec<B::Packed>,
    out: B::Packed,
    keys: B::Tensor,
    values: B::Tensor,
}

fn model<B: PackedBackend>(backend: &B, biased: bool) -> Model<B> {
    let up = |a: Array2<f32>| backend.take(a).unwrap();
    let linear = |seed: u32| {
        let matrix = QuantizedMatrix {
            bits: Bits::B4,
            codes: values(WIDTH, WIDTH, seed).mapv(|v| ((v + 1.0) * 7.99) as u8),
            scales: Array2::from_elem((WIDTH, 4), 0.015625),
            zeros: Array2::from_elem((WIDTH, 4), 8),
            // One order of inputs that is not their own.
            g_idx: (0..WIDTH as u32)
                .map(|c| if seed.is_multiple_of(7) { c % 4 } else { c / 32 })
                .collect(),
        };
        let packed = PackedLinear::pack(&matrix, ZeroPointFormat::GptqV2).unwrap();
        backend.prepare(&packed).unwrap()
    };
    let layer = |seed: u32| Layer {
        qkv: (seed..seed + 3).map(linear).collect(),
        out: linear(seed + 3),
        keys: up(Array2::zeros((ROOM, WIDTH))),
        values: up(Array2::zeros((ROOM, WIDTH))),
    };
    Model {
        table: up(values(50, WIDTH, 1)),
        norm: up(values(1, WIDTH, 2)),
        bias: biased.then(|| up(values(8, ROOM, 3) * 3.0)),
        layers: vec![layer(10), layer(20)],
    }
}

/// One token more: every operation that a tape may join with the one before is in it.
fn step<B: PackedBackend>(backend: &B, model: &mut Model<B>, id: u32, past: usize) -> B::Tensor {
    let mut x = backend.gather(&model.table, &[id]).unwrap();
    let angle = Array2::from_shape_fn((1, 8), |(_, i)| past as f32 / (i + 1) as f32);
    let cos = backend.take(angle.mapv(f32::cos)).unwrap();
    let sin = backend.take(angle.mapv(f32::sin)).unwrap();
    let norm = Norm {
        kind: NormKind::Rms,
        eps: 1e-5,
        segment: WIDTH,
        weight: Some(&model.norm),
        bias: None,
    };
    for layer in &mut model.layers {
        let normed = backend.norm(&x, &norm).unwrap();
        let mut outputs = backend.linears(&normed, &layer.qkv.iter().collect::<Vec<_>>()).unwrap();
        let [q, k, v] = &mut outputs[..] else { panic!("three outputs") };
        let turn = RopeShape { head_dim: 16, offset: 0, interleaved: false };
        backend.rope(q, &cos, &sin, turn).unwrap();
        backend.rope(k, &cos, &sin, turn).unwrap();
        backend.write_rows(&mut layer.keys, past, k).unwrap();
        backend.write_rows(&mut layer.values, past, v).unwrap();
        let shape = AttentionShape {
            heads: 8,
            kv_heads: 8,
            head_dim: 16,
            value_dim: 16,
            scale: 0.25,
            softcap: None,
            window: Window::Full,
            keys: past + 1,
            texts: 1,
        };
        let terms = ScoreTerms { key_bias: model.bias.as_ref(), sinks: None };
        let mixed = backend.attention(q, &layer.keys, &layer.values, &shape, terms).unwrap();
        let out = backend.packed_linear(&mixed, &layer.out).unwrap();
        backend.add_assign(&mut x, &out).unwrap();
    }
    // What a sum was joined with reads it, and so does whoever looks at it.
    let normed = backend.norm(&x, &norm).unwrap();
    backend.gated(&normed, &x, Gate::Of(Pointwise::Silu)).unwrap()
}

#[test]
fn a_step_that_repeats() {
    let gpu = gpu();
    for biased in [false, true] {
        let mut ours = model(&gpu, biased);
        let mut plain = model(&Reference, biased);
        for past in 0..12 {
            let id = (past as u32 * 7 + 3) % 50;
            let got = gpu.download(&step(&gpu, &mut ours, id, past)).unwrap();
            let want = step(&Reference, &mut plain, id, past);
            // Factors are halves here.
            close(&got, &want, 4_000_000).unwrap_or_else(|e| panic!("token {past}: {e}"));
        }
    }
}

/// Random numbers are other ones for every token, and the launch stays the same.
#[test]
fn a_step_that_draws() {
    let gpu = own_gpu();
    let mut model = model(&gpu, true);
    let how = Draw { temperature: 0.7, top_k: 50, top_p: 0.9 };
    let mut id = 3;
    for past in 0..8 {
        let before = gpu.traffic();
        let logits = step(&gpu, &mut model, id, past);
        let uniform = (past as f64 * 0.618).fract();
        let drawn = gpu.draw(&logits, how, &[uniform]).unwrap()[0];
        let after = gpu.traffic();
        assert_eq!(after.bytes_read - before.bytes_read, 4, "token {past}");
        assert_eq!(after.runs - before.runs, 1, "token {past}");
        assert!(past < 2 || after.replays - before.replays == 1, "token {past}");
        let logits = gpu.download(&logits).unwrap();
        agrees(logits.row(0), how, uniform, drawn).unwrap_or_else(|e| panic!("token {past}: {e}"));
        id = drawn % 50;
    }
}

/// Keys turn and are kept in one launch, with queries and values or without, all of their channels or
/// some: what is kept is what came of it one after the other.
#[test]
fn keys_that_turn_and_are_kept() {
    let gpu = own_gpu();
    let variants = (0..32).map(|bits| [0, 1, 2, 3, 4].map(|bit| bits >> bit & 1 == 1));
    for [queries, whole, interleaved, same, halves] in variants {
        let (tokens, head, at) = (3, 16, 5);
        let half = if whole { head / 2 } else { 6 };
        let shape = RopeShape { head_dim: head, offset: usize::from(!whole) * 2, interleaved };
        let angle = values(tokens, half, 1) * 3.0;
        let (cos, sin) = (angle.mapv(f32::cos), angle.mapv(f32::sin));
        let mut matrices = [values(tokens, 64, 2), values(tokens, 32, 3)];
        let v = values(tokens, 32, 4);
        let up = |a: &Array2<f32>| gpu.take(a.clone()).unwrap();
        let [mut q, mut k] = [&matrices[0], &matrices[1]].map(up);
        let (ours, theirs) = (up(&v), [up(&cos), up(&sin)]);
        let room = |columns| match halves {
            true => gpu.cache(20, columns).unwrap(),
            false => gpu.zeros(20, columns).unwrap(),
        };
        let [mut keys, mut kept] = [room(32), room(32)];
        for (x, on_gpu) in matrices.iter_mut().zip([&mut q, &mut k]).skip(usize::from(!queries)) {
            Reference.rope(x, &cos, &sin, shape).unwrap();
            gpu.rope(on_gpu, &theirs[0], &theirs[1], shape).unwrap();
        }
        gpu.write_rows(&mut keys, at, &k).unwrap();
        // Values that are the keys themselves come after them.
        gpu.write_rows(&mut kept, at, if same { &k } else { &ours }).unwrap();
        let told = format!("{:?}", [queries, whole, interleaved, same, halves]);
        let [wanted_q, wanted_k] = &matrices;
        close(&gpu.download(&q).unwrap(), wanted_q, 64).unwrap_or_else(|e| panic!("{told}: {e}"));
        close(&gpu.download(&k).unwrap(), wanted_k, 64).unwrap_or_else(|e| panic!("{told}: {e}"));
        if !halves {
            let of = |cache| gpu.download(cache).unwrap();
            let rows = ndarray::s![at..at + tokens, ..];
            assert_eq!(of(&keys).slice(rows), of(&k), "{told}");
            assert_eq!(of(&kept).slice(rows), of(if same { &k } else { &ours }), "{told}");
            assert_eq!(of(&keys).iter().filter(|&&x| x != 0.0).count(), 32 * tokens, "{told}");
            continue;
        }
        // What halves hold is seen by way of attention: to a single key.
        let shape = AttentionShape {
            heads: 2,
            kv_heads: 2,
            head_dim: head,
            value_dim: head,
            scale: 1.0,
            softcap: None,
            window: Window::Sliding(1),
            keys: at + tokens,
            texts: 1,
        };
        let last = gpu.take(values(1, 32, 5)).unwrap();
        let terms = || ScoreTerms { key_bias: None, sinks: None };
        let seen = gpu.attention(&last, &keys, &kept, &shape, terms()).unwrap();
        let want =
            if same { wanted_k } else { &v }.row(tokens - 1).mapv(|x| f16::from_f32(x).to_f32());
        close(&gpu.download(&seen).unwrap(), &want.insert_axis(ndarray::Axis(0)), 1024)
            .unwrap_or_else(|e| panic!("{told}: {e}"));
    }
}

/// What goes along with a tape fills its megabyte between two operations that would be one launch.
#[test]
fn a_tape_that_is_full_between_keys_and_values() {
    let gpu = own_gpu();
    let table = gpu.take(Array2::zeros((4, 1))).unwrap();
    let of = |row: f32| gpu.take(Array2::from_elem((1, 1), row)).unwrap();
    let mut cache = [gpu.zeros(8, 1).unwrap(), gpu.zeros(8, 1).unwrap()];
    let (key, value) = (of(1.0), of(2.0));
    gpu.finish().unwrap();
    let fill = || {
        for ids in [1 << 16, 1 << 16, 1 << 16, (1 << 16) - 8] {
            gpu.gather(&table, &vec![3; ids]).unwrap();
        }
    };
    fill();
    gpu.write_rows(&mut cache[0], 5, &key).unwrap();
    gpu.write_rows(&mut cache[1], 5, &value).unwrap();
    fill();
    for (cache, number) in cache.iter().zip([1.0, 2.0]) {
        let want = Array2::from_shape_fn((8, 1), |(row, _)| if row == 5 { number } else { 0.0 });
        assert_eq!(gpu.download(cache).unwrap(), want);
    }
}

/// Memory that was given back is asked for again.
#[test]
fn memory_comes_back() {
    let gpu = gpu();
    let before = gpu.take(values(300, 300, 1)).unwrap();
    gpu.return_memory();
    let after = gpu.take(values(300, 300, 2)).unwrap();
    assert_eq!(gpu.download(&before).unwrap(), values(300, 300, 1));
    assert_eq!(gpu.download(&after).unwrap(), values(300, 300, 2));
    let (free, total) = gpu.memory().unwrap();
    assert!(free <= total);
}
