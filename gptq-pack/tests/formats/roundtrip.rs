//! What is packed is what is unpacked, in every format that can hold it; what cannot be held is
//! refused before a word is written.

use gptq_pack::{Dtype, Format, LayerSpec, Rounding, names::Part};
use proptest::prelude::*;

use crate::cases::case;

proptest! {
    #[test]
    fn unpacking_undoes_packing_or_the_check_refuses(case in case()) {
        let packed = case.format.pack(&case.q, &case.spec, case.bias.as_deref());
        if let Err(refusal) = case.format.check(&case.q, &case.spec) {
            prop_assert_eq!(packed, Err(refusal));
            return Ok(());
        }
        let packed = packed.unwrap();

        // What was announced from the spec alone is what was made.
        let announced = case.format.parts(&case.spec);
        let made = packed.iter().map(|(part, t)| (*part, t.dtype, t.shape.clone()));
        prop_assert_eq!(announced, made.collect::<Vec<_>>());
        for (_, tensor) in &packed {
            let numbers: usize = tensor.shape.iter().product();
            prop_assert_eq!(tensor.bytes.len(), numbers * tensor.dtype.size());
        }

        let (q, bias) = case.format.unpack(&packed, &case.spec).unwrap();
        prop_assert_eq!(&q, &case.q);
        prop_assert_eq!(bias, case.bias);

        // The tensors alone tell the layer's size, apart from what a partly filled word hides.
        let (ins, outs) = case.format.dims(&packed, case.spec.width).unwrap();
        prop_assert_eq!((ins, outs), (case.q.in_features(), case.q.out_features()));
    }

    #[test]
    fn a_spec_read_off_a_matrix_holds_it(case in case()) {
        let spec = LayerSpec::of(&case.q);
        let spec = LayerSpec { scale_dtype: Dtype::F32, ..spec };
        prop_assert_eq!(spec.groups(), case.q.groups());
        let packed = Format::CompressedTensors.pack(&case.q, &spec, None).unwrap();
        let (q, _) = Format::CompressedTensors.unpack(&packed, &spec).unwrap();
        prop_assert_eq!(q, case.q);
    }

    /// A change that was announced as none is none; one that was announced is no larger.
    #[test]
    fn rounding_says_what_storing_does(case in case(), factor in 0.5..2.0f32) {
        let mut q = case.q.clone();
        q.scales.mapv_inplace(|s| s * factor);
        let dtype = case.spec.scale_dtype;
        let spec = LayerSpec { scale_dtype: dtype, bias: None, ..case.spec };
        let said = Rounding::of(q.scales.iter().copied(), dtype);
        let Ok(packed) = Format::CompressedTensors.pack(&q, &spec, None) else {
            prop_assert_eq!(said.largest, f32::INFINITY);
            return Ok(());
        };
        let (stored, _) = Format::CompressedTensors.unpack(&packed, &spec).unwrap();
        let pairs = || stored.scales.iter().zip(&q.scales);
        prop_assert_eq!(pairs().filter(|(a, b)| a != b).count(), said.changed);
        prop_assert!(pairs().all(|(a, b)| (a - b).abs() <= said.largest * b.abs() * 1.001));
    }
}

#[test]
fn names_of_tensors_lead_back_to_their_module() {
    for format in Format::ALL {
        assert_eq!(format.as_str().parse(), Ok(format));
        for part in format.all_parts() {
            assert_eq!(format.module_of(&part.of("a.b")), Some(("a.b", part)));
        }
        assert_eq!(format.module_of("a.weight"), None);
        assert_eq!(format.all_parts().last(), Some(&Part::Bias));
    }
    assert_eq!(Format::Marlin.module_of("h.0.s"), Some(("h.0", Part::S)));
    assert_eq!(Format::Gptq.module_of("h.0.s"), None);
    let unknown = "exl2".parse::<Format>().unwrap_err();
    assert!(unknown.to_string().contains("\"exl2\" is no format"), "{unknown}");
}
