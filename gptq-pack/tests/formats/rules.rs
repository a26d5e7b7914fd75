//! What formats cannot hold, and the way out that they name.

use gptq_core::{Bits, GroupSize, QuantizedMatrix};
use gptq_pack::{Dtype, Error, Format, LayerSpec, Width, names::Part};
use ndarray::Array2;

/// A symmetric layer in groups of 128 that every format can hold.
fn layer(bits: Bits, outs: usize, ins: usize) -> QuantizedMatrix {
    let groups = ins.div_ceil(128);
    QuantizedMatrix {
        bits,
        codes: Array2::from_elem((outs, ins), 1),
        scales: Array2::ones((outs, groups)),
        zeros: Array2::from_elem((outs, groups), Width::from(bits).middle()),
        g_idx: (0..ins as u32).map(|i| i / 128).collect(),
    }
}

fn refusal(format: Format, q: &QuantizedMatrix) -> String {
    format.check(q, &LayerSpec::of(q)).unwrap_err().to_string()
}

#[test]
fn one_layer_that_all_can_hold() {
    let q = layer(Bits::B4, 256, 256);
    for format in Format::ALL {
        let held = format.check(&q, &LayerSpec::of(&q));
        assert_eq!(held.is_ok(), format != Format::GptqP, "{format}");
    }
    assert!(refusal(Format::GptqP, &q).contains("it is read, but not written; write gptq_v2"));
}

#[test]
fn widths() {
    let q = layer(Bits::B3, 256, 256);
    let message = "format awq cannot hold this layer: it holds codes of 4 bits, this layer has 3; \
                   write gptq_v2 or compressed-tensors";
    assert_eq!(refusal(Format::Awq, &q), message);
    assert!(refusal(Format::Marlin, &q).contains("codes of 4 bits, this layer has 3; write gptq"));
    let odd = LayerSpec { width: Width::try_from(5).unwrap(), ..LayerSpec::of(&q) };
    assert!(Format::Gptq.unpack(&[], &odd).is_err());
    assert_eq!(Width::try_from(9), Err(Error::UnsupportedWidth { bits: 9 }));
    assert_eq!(Width::try_from(1), Err(Error::UnsupportedWidth { bits: 1 }));
}

#[test]
fn sizes() {
    let message = refusal(Format::Awq, &layer(Bits::B4, 12, 128));
    assert!(message.contains("out_features must be a multiple of 8, but is 12"), "{message}");
    let message = refusal(Format::Awq, &layer(Bits::B4, 8, 200));
    assert!(message.contains("in_features must be a multiple of 128, but is 200"), "{message}");
    let message = refusal(Format::Marlin, &layer(Bits::B4, 320, 128));
    assert!(message.contains("out_features must be a multiple of 256, but is 320"), "{message}");
    let mut q = layer(Bits::B4, 256, 128);
    q.scales = Array2::ones((256, 2));
    q.zeros = Array2::from_elem((256, 2), 8);
    q.g_idx = (0..128).map(|i| i / 64).collect();
    let message = refusal(Format::Marlin, &q);
    assert!(message.contains("group_size must be -1 or 128, but is 64"), "{message}");
}

#[test]
fn zero_points() {
    let mut q = layer(Bits::B4, 256, 256);
    q.zeros[[3, 1]] = 0;
    assert!(refusal(Format::Marlin, &q).contains("sym must be true"));
    assert!(refusal(Format::Gptq, &q).contains("1 zero points are 0, first at output 3, group 1"));
    for format in [Format::GptqV2, Format::Awq, Format::CompressedTensors] {
        assert_eq!(format.check(&q, &LayerSpec::of(&q)), Ok(()));
    }
    // A spec that says symmetric of a layer that is not.
    let spec = LayerSpec { sym: true, ..LayerSpec::of(&q) };
    let message = Format::CompressedTensors.check(&q, &spec).unwrap_err().to_string();
    assert_eq!(
        message,
        "the zero point of a symmetric layer is 0 at output 3, group 1, but was announced as 8"
    );
}

#[test]
fn scattered_groups() {
    let mut q = layer(Bits::B4, 256, 256);
    q.g_idx.swap(0, 200);
    let spec = LayerSpec::of(&q);
    assert!(spec.scattered && spec.group_size == GroupSize::from_file(128).unwrap());
    for format in [Format::Awq, Format::Marlin] {
        let message = refusal(format, &q);
        assert!(message.contains("g_idx is scattered (desc_act); write gptq_v2"), "{message}");
        assert_eq!(format.caveat(&spec), None);
    }
    let format = Format::CompressedTensors;
    assert_eq!(format.check(&q, &spec), Ok(()));
    assert!(format.caveat(&spec).unwrap().contains("weight_g_idx"));
    let parts: Vec<Part> = format.parts(&spec).into_iter().map(|(part, _, _)| part).collect();
    assert!(parts.contains(&Part::WeightGIdx));
    let natural = LayerSpec { scattered: false, ..spec };
    let message = format.check(&q, &natural).unwrap_err().to_string();
    assert_eq!(message, "g_idx is scattered, but was announced as i / 128");
}

#[test]
fn a_bias_that_was_not_announced() {
    let q = layer(Bits::B4, 256, 256);
    let spec = LayerSpec::of(&q);
    let message = Format::Awq.pack(&q, &spec, Some(&[0.0; 256])).unwrap_err().to_string();
    assert_eq!(message, "the layer is a bias, but was announced as no bias");
    let spec = LayerSpec { bias: Some(Dtype::F16), ..spec };
    assert!(Format::Awq.pack(&q, &spec, None).is_err());
    assert!(Format::Awq.pack(&q, &spec, Some(&[0.0; 255])).is_err());
    let error = Format::Awq.pack(&q, &spec, Some(&[1e6; 256])).unwrap_err();
    assert!(matches!(error, Error::HalfOverflow { part: Part::Bias, .. }), "{error}");
}
