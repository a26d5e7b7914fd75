//! Tensors that lie. Nothing panics, nothing is read beyond a tensor's bytes, and what is read is
//! a matrix that does not contradict itself.

use gptq_core::GroupSize;
use gptq_pack::{Dtype, Error, Format, LayerSpec, RawTensor, Width, names::Part};
use half::f16;
use proptest::{collection::vec, prelude::*};

use crate::cases::case;

const DTYPES: [Dtype; 6] =
    [Dtype::I32, Dtype::I64, Dtype::F16, Dtype::BF16, Dtype::F32, Dtype::Other];

fn tensor() -> impl Strategy<Value = RawTensor<'static>> {
    let dim = prop_oneof![4 => 0..40usize, 1 => Just(usize::MAX), 1 => any::<usize>()];
    let dtype = prop::sample::select(&DTYPES[..]);
    (dtype, vec(dim, 0..4), vec(any::<u8>(), 0..300), any::<bool>()).prop_map(
        |(dtype, shape, mut bytes, fitting)| {
            let size = shape.iter().try_fold(dtype.size(), |n, &dim| n.checked_mul(dim));
            if let Some(size) = size.filter(|&size| fitting && size < 10_000) {
                bytes.resize(size, 7);
            }
            RawTensor { dtype, shape, bytes: bytes.into() }
        },
    )
}

fn spec() -> impl Strategy<Value = LayerSpec> {
    let dim = || {
        prop_oneof![
            4 => (0..5usize).prop_map(|n| n * 32),
            2 => 0..70usize,
            1 => prop::sample::select(&[usize::MAX, usize::MAX / 2, 1 << 33][..]),
        ]
    };
    (dim(), dim(), 2..9u32, prop_oneof![Just(-1i64), 1..200i64, Just(i64::MAX)], any::<bool>())
        .prop_map(|(in_features, out_features, bits, group_size, sym)| LayerSpec {
            in_features,
            out_features,
            width: Width::try_from(bits).unwrap(),
            group_size: GroupSize::from_file(group_size).unwrap(),
            sym,
            scattered: false,
            scale_dtype: Dtype::F16,
            bias: None,
        })
}

proptest! {
    #[test]
    fn random_tensors_never_panic(
        spec in spec(),
        tensors in vec((prop::sample::select(&Part::ALL[..]), tensor()), 0..8),
    ) {
        for format in Format::ALL {
            // Headers can be laid out for any spec, however absurd.
            format.parts(&spec);
            let _ = format.dims(&tensors, spec.width);
            if let Ok((q, _)) = format.unpack(&tensors, &spec) {
                prop_assert_eq!(q.codes.dim(), (spec.out_features, spec.in_features));
            }
        }
    }

    /// A layer that was packed rightly, with one thing changed.
    #[test]
    fn damaged_layers_are_refused_or_read_whole(
        case in case(),
        which in any::<prop::sample::Index>(),
        dtype in prop::sample::select(&DTYPES[..]),
        damage in 0..5usize,
        at in any::<prop::sample::Index>(),
    ) {
        let Ok(mut tensors) = case.format.pack(&case.q, &case.spec, case.bias.as_deref()) else {
            return Ok(());
        };
        let which = which.index(tensors.len());
        let (part, tensor) = &mut tensors[which];
        let part = *part;
        let before = tensor.clone();
        match damage {
            0 => tensor.dtype = dtype,
            1 => tensor.shape.push(1),
            2 => tensor.shape.reverse(),
            3 => tensor.bytes.to_mut().truncate(before.bytes.len() - 1),
            _ => tensor.bytes.to_mut()[at.index(before.bytes.len())] ^= 0xff,
        }
        let changed = *tensor != before;
        let shape = tensor.shape.clone();
        let read = case.format.unpack(&tensors, &case.spec);
        if changed && damage < 4 {
            // Floats of the same size may stand for each other.
            let refused = match read {
                Err(Error::Dtype { part: p, .. }) | Err(Error::Length { part: p, .. }) => p == part,
                Err(Error::Shape { part: p, found, .. }) => p == part && found == shape,
                Err(Error::NotFinite { part: p, .. } | Error::HalfOverflow { part: p, .. }) => p == part,
                Err(Error::SpecMismatch { .. }) => part == Part::WeightShape,
                Ok(_) => damage == 0 && dtype.size() == before.dtype.size(),
                _ => false,
            };
            prop_assert!(refused, "{} {part} {damage}", case.format);
        } else if let Ok((q, _)) = read {
            prop_assert_eq!(q.codes.dim(), case.q.codes.dim());
            prop_assert!(q.codes.iter().chain(&q.zeros).all(|&v| v <= q.bits.maxq()));
            prop_assert!(q.g_idx.iter().all(|&g| (g as usize) < q.groups()));
            prop_assert!(q.scales.iter().all(|scale| scale.is_finite()));
        }
    }

    #[test]
    fn a_missing_tensor_is_named(case in case(), which in any::<prop::sample::Index>()) {
        let spec = LayerSpec { bias: None, ..case.spec };
        let Ok(mut tensors) = case.format.pack(&case.q, &spec, None) else { return Ok(()) };
        let (part, _) = tensors.remove(which.index(tensors.len()));
        match case.format.unpack(&tensors, &case.spec) {
            Ok(_) => prop_assert!(matches!(part, Part::GIdx | Part::WeightGIdx)),
            Err(error) => {
                prop_assert_eq!(error, Error::MissingPart { part, format: case.format });
            }
        }
    }
}

#[test]
fn numbers_that_are_none_are_refused_in_every_format() {
    let q = gptq_core::QuantizedMatrix {
        bits: gptq_core::Bits::B4,
        codes: ndarray::Array2::zeros((256, 128)),
        scales: ndarray::Array2::ones((256, 1)),
        zeros: ndarray::Array2::from_elem((256, 1), 8),
        g_idx: vec![0; 128],
    };
    let spec = LayerSpec::of(&q);
    for format in Format::ALL.into_iter().filter(|format| *format != Format::GptqP) {
        let mut tensors = format.pack(&q, &spec, None).unwrap();
        let scales = tensors.iter_mut().find(|(_, tensor)| tensor.dtype == Dtype::F16).unwrap();
        scales.1.bytes.to_mut()[..2].copy_from_slice(&f16::INFINITY.to_le_bytes());
        let error = format.unpack(&tensors, &spec).unwrap_err();
        assert!(matches!(error, Error::NotFinite { row: 0, column: 0, .. }), "{format}: {error}");
    }
}
