//! The same operations over and over, as one token after the other brings them: what was recorded
//! gives what it would have given.

use gptq_core::{
    AttentionShape, Backend, Bits, Norm, NormKind, QuantizedMatrix, Reference, ScoreTerms, Window,
};
use gptq_pack::{PackedBackend, PackedLinear, ZeroPointFormat};
use ndarray::Array2;

use crate::{
    common::{close, values},
    gpu::gpu,
};

const WIDTH: usize = 64;
const ROOM: usize = 600;

struct Layer<B: PackedBackend> {
    table: B::Tensor,
    norm: B::Tensor,
    qkv: Vec<B::Packed>,
    keys: B::Tensor,
    values: B::Tensor,
}

fn layer<B: PackedBackend>(backend: &B) -> Layer<B> {
    let up = |a: Array2<f32>| backend.take(a).unwrap();
    let linear = |seed: u32| {
        let matrix = QuantizedMatrix {
            bits: Bits::B4,
            codes: values(WIDTH, WIDTH, seed).mapv(|v| ((v + 1.0) * 7.99) as u8),
            scales: Array2::from_elem((WIDTH, 2), 0.03125),
            zeros: Array2::from_elem((WIDTH, 2), 8),
            g_idx: (0..WIDTH as u32).map(|c| c / 32).collect(),
        };
        let packed = PackedLinear::pack(&matrix, ZeroPointFormat::GptqV2).unwrap();
        backend.prepare(&packed).unwrap()
    };
    Layer {
        table: up(values(50, WIDTH, 1)),
        norm: up(values(1, WIDTH, 2)),
        qkv: (3..6).map(linear).collect(),
        keys: up(Array2::zeros((ROOM, WIDTH))),
        values: up(Array2::zeros((ROOM, WIDTH))),
    }
}

/// One token more.
fn step<B: PackedBackend>(backend: &B, layer: &mut Layer<B>, id: u32, past: usize) -> Array2<f32> {
    let mut x = backend.gather(&layer.table, &[id]).unwrap();
    let norm = Norm {
        kind: NormKind::Rms,
        eps: 1e-5,
        segment: WIDTH,
        weight: Some(&layer.norm),
        bias: None,
    };
    let normed = backend.norm(&x, &norm).unwrap();
    let outputs = backend.linears(&normed, &layer.qkv.iter().collect::<Vec<_>>()).unwrap();
    let [q, k, v] = &outputs[..] else { panic!("three outputs") };
    backend.write_rows(&mut layer.keys, past, k).unwrap();
    backend.write_rows(&mut layer.values, past, v).unwrap();
    let shape = AttentionShape {
        heads: 4,
        kv_heads: 4,
        head_dim: 16,
        value_dim: 16,
        scale: 0.25,
        softcap: None,
        window: Window::Full,
        keys: past + 1,
        texts: 1,
    };
    let mixed =
        backend.attention(q, &layer.keys, &layer.values, &shape, ScoreTerms::default()).unwrap();
    backend.add_assign(&mut x, &mixed).unwrap();
    backend.download(&x).unwrap()
}

#[test]
fn a_step_that_repeats() {
    let gpu = gpu();
    let mut ours = layer(&gpu);
    let mut plain = layer(&Reference);
    for past in 0..12 {
        let id = (past as u32 * 7 + 3) % 50;
        let got = step(&gpu, &mut ours, id, past);
        let want = step(&Reference, &mut plain, id, past);
        // Factors are halves here.
        close(&got, &want, 4_000_000).unwrap_or_else(|e| panic!("token {past}: {e}"));
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
