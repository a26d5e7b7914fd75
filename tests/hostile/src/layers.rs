//! Packed layers whose tensors have any dtype, shape and contents.

use gptq_core::GroupSize;
use gptq_pack::{
    Dtype, Format, LayerSpec, LinearTensors, PackSpec, PackedLinearRef, RawTensor, Width,
    ZeroPointFormat, names::Part,
};

/// Numbers out of an input; zeros once it is used up.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    /// A dimension: mostly small, sometimes as large as they come.
    fn size(&mut self) -> usize {
        match self.byte() {
            small @ 0..=0xf0 => usize::from(small),
            0xf1 => usize::MAX,
            0xf2 => 1 << 63,
            0xf3 => 1 << 32,
            large => usize::from(large) << (self.byte() % 60),
        }
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// One layer in one format. What was read and can be written is read again as it was.
///
/// An input is: format, width, group size, inputs, outputs; then for each tensor of the format
/// whether it is there, dtype, rank, dimensions, and whether its bytes are what they should be; then
/// the bytes of all of them, over and over.
pub fn packed(bytes: &[u8]) {
    let mut input = Bytes(bytes);
    let format = Format::ALL[usize::from(input.byte()) % Format::ALL.len()];
    let width = Width::try_from(u32::from(input.byte() % 7 + 2)).unwrap();
    let group_size = match input.byte() {
        0 => GroupSize::PerChannel,
        n => GroupSize::from_file(i64::from(n)).unwrap(),
    };
    let (in_features, out_features) = (input.size(), input.size());
    let mut tensors = Vec::new();
    for part in format.all_parts() {
        if input.byte() % 8 == 0 {
            continue;
        }
        let dtypes = [Dtype::I32, Dtype::F16, Dtype::I64, Dtype::BF16, Dtype::F32, Dtype::Other];
        let dtype = dtypes[usize::from(input.byte()) % dtypes.len()];
        let shape: Vec<usize> = (0..input.byte() % 4).map(|_| input.size()).collect();
        let size = shape.iter().try_fold(dtype.size(), |n, &dim| n.checked_mul(dim));
        let flag = input.byte();
        let length = match flag {
            255 => 3,
            _ => size.unwrap_or(8).min(1 << 16),
        };
        // Words drawn at random are no dimensions and no group indices.
        let sound = match part {
            Part::WeightShape => vec![out_features, in_features],
            Part::GIdx | Part::WeightGIdx => vec![0],
            _ => Vec::new(),
        };
        let sound = if flag < 128 { sound } else { Vec::new() };
        tensors.push((part, dtype, shape, length, sound));
    }
    let pool = input.take(usize::MAX);
    let mut contents = pool.iter().copied().cycle();
    let tensors: Vec<_> = tensors
        .into_iter()
        .map(|(part, dtype, shape, length, sound)| {
            let mut bytes: Vec<u8> = match sound[..] {
                [] => contents.by_ref().take(length).collect(),
                _ => sound.iter().flat_map(|n| n.to_le_bytes()).take(length).collect(),
            };
            bytes.resize(length, 0);
            (part, RawTensor { dtype, shape, bytes: bytes.into() })
        })
        .collect();
    let spec = LayerSpec {
        in_features,
        out_features,
        width,
        group_size,
        sym: pool.first().is_some_and(|byte| byte % 2 == 0),
        scattered: false,
        scale_dtype: Dtype::F16,
        bias: None,
    };
    if let Ok((ins, outs)) = format.dims(&tensors, width) {
        let found = LayerSpec { in_features: ins, out_features: outs, ..spec };
        drop(format.unpack(&tensors, &found));
    }
    if let Ok((q, _)) = format.unpack(&tensors, &spec) {
        for target in Format::ALL {
            let spec = LayerSpec::of(&q);
            let Ok(written) = target.pack(&q, &spec, None) else { continue };
            let (again, _) = target.unpack(&written, &spec).unwrap();
            assert_eq!(
                (again.codes, again.zeros, again.g_idx),
                (q.codes.clone(), q.zeros.clone(), q.g_idx.clone())
            );
        }
    }
    borrowed(&tensors, &spec);
}

/// The same tensors as a view that kernels read.
fn borrowed(tensors: &[(Part, RawTensor<'_>)], spec: &LayerSpec) {
    let get = |part: Part| tensors.iter().find(|(p, _)| *p == part).map(|(_, t)| t.clone());
    let (Some(qweight), Some(qzeros), Some(scales)) =
        (get(Part::QWeight), get(Part::QZeros), get(Part::Scales))
    else {
        return;
    };
    let layer =
        LinearTensors { qweight, qzeros, scales, g_idx: get(Part::GIdx), bias: get(Part::Bias) };
    for zero_format in [ZeroPointFormat::Gptq, ZeroPointFormat::GptqV2] {
        for bits in [None, Some(spec.width.bits())] {
            let spec = PackSpec {
                in_features: spec.in_features,
                out_features: spec.out_features,
                bits,
                group_size: spec.group_size,
                zero_format,
            };
            if let Ok(linear) = PackedLinearRef::from_tensors(&layer, &spec) {
                drop(linear.unpack());
                linear.ambiguous_zeros();
                linear.contiguous_group_size();
            }
        }
    }
}
