//! The formula that fills a tensor from its name and shape.

/// Element `i` of a tensor, counted row-major, is a hash of `i` and the name's CRC-32, spread
/// evenly over [-¼, ¼). One-dimensional tensors whose names end in `weight` scale norms, and get 1
/// added.
pub(crate) fn fill(name: &str, shape: &[usize]) -> impl Iterator<Item = f32> + use<> {
    let seed = crc32(name.as_bytes());
    let middle = if shape.len() == 1 && name.ends_with("weight") { 1.0 } else { 0.0 };
    (0..shape.iter().product::<usize>() as u32).map(move |i| {
        let mut h = i.wrapping_mul(2_654_435_761).wrapping_add(seed);
        h ^= h >> 15;
        h = h.wrapping_mul(2_246_822_519);
        h ^= h >> 13;
        ((f64::from(h) / 4_294_967_296.0 - 0.5) * 0.5 + middle) as f32
    })
}

/// CRC-32 as zlib computes it.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

#[test]
fn the_formula_gives_what_numpy_gives() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926, "the check value of CRC-32");
    // First, second and last element, computed once with NumPy and Python's zlib.
    for (name, shape, [first, second, last], sum) in [
        (
            "model.layers.0.self_attn.q_proj.weight",
            &[64, 64][..],
            [0xbe20_652a, 0xbd71_3972, 0xbdf8_e35d],
            5.575_220_177_299_343,
        ),
        (
            "model.norm.weight",
            &[64],
            [0x3f91_b7f7, 0x3f6b_ff00, 0x3f6e_675b],
            64.934_786_319_732_67,
        ),
        (
            "transformer.ln_f.bias",
            &[64],
            [0xbe1e_5d89, 0xbe3d_5570, 0x3d2e_be79],
            -0.324_299_220_927_059_65,
        ),
    ] {
        let values: Vec<f32> = fill(name, shape).collect();
        let ends = [values[0], values[1], values[values.len() - 1]];
        assert_eq!(ends.map(f32::to_bits), [first, second, last], "{name}");
        let total: f64 = values.iter().map(|&v| f64::from(v)).sum();
        assert!((total - sum).abs() < 1e-9, "{name}: {total}");
    }
}
