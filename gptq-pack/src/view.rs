//! Reading a packed layer: from raw tensors to a [`PackedLinearRef`], and what can be asked of it.

use std::borrow::Cow;

use gptq_core::{Bits, GroupSize};
use half::f16;

use crate::{
    Error, PackedLinear, PackedLinearRef, ZeroPointFormat, lane,
    names::Part,
    tensors::{Expected, RawTensor},
};

/// The tensors of one layer as found in a checkpoint.
#[derive(Clone, Debug)]
pub struct LinearTensors<'a> {
    /// `I32`, ⌈in·b/32⌉ × out.
    pub qweight: RawTensor<'a>,
    /// `I32`, groups × ⌈out·b/32⌉.
    pub qzeros: RawTensor<'a>,
    /// `F16`, `BF16` or `F32`, groups × out.
    pub scales: RawTensor<'a>,
    /// `I32`, in. Without it, input `c` belongs to group `c / group_size`.
    pub g_idx: Option<RawTensor<'a>>,
    /// `F16`, `BF16` or `F32`, out. All zeros is allowed: old AutoGPTQ files say "no bias" so.
    pub bias: Option<RawTensor<'a>>,
}

/// What a model's code and its quantization config say about one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackSpec {
    /// Input columns.
    pub in_features: usize,
    /// Output rows.
    pub out_features: usize,
    /// Width of a code; `None` takes the width that the shapes tell.
    pub bits: Option<Bits>,
    /// Inputs per group.
    pub group_size: GroupSize,
    /// How zero points are stored. Nothing in the tensors tells.
    pub zero_format: ZeroPointFormat,
}

impl PackSpec {
    /// The stated width, or the only one that both packed shapes fit.
    fn bits(&self, rows: usize, columns: usize) -> Result<Bits, Error> {
        if let Some(bits) = self.bits {
            return Ok(bits);
        }
        let fits = |bits: &Bits| {
            lane::words(*bits, self.in_features) == rows
                && lane::words(*bits, self.out_features) == columns
        };
        let candidates: Vec<Bits> = Bits::ALL.into_iter().filter(fits).collect();
        match candidates[..] {
            [bits] => Ok(bits),
            _ => Err(Error::BitsUnclear {
                candidates: candidates.into_iter().map(Bits::get).collect(),
                rows,
                in_features: self.in_features,
                columns,
                out_features: self.out_features,
            }),
        }
    }
}

impl<'a> PackedLinearRef<'a> {
    /// Borrows a layer from a file's tensors after proving that they describe one layer, and the
    /// layer of the spec. Bytes are copied only where alignment, byte order or dtype demand it.
    ///
    /// Scales are rounded to half precision if the file is finer, as other readers do. Negative
    /// entries of `g_idx` count from the last group, as in GPTQModel.
    ///
    /// # Errors
    /// Names the tensor, what was found, what was expected and by which rule: [`Error::Dtype`],
    /// [`Error::Shape`], [`Error::Length`], [`Error::TooLarge`], [`Error::GroupIndex`],
    /// [`Error::NotFinite`], [`Error::HalfOverflow`], [`Error::Empty`], [`Error::BitsUnclear`].
    pub fn from_tensors(tensors: &LinearTensors<'a>, spec: &PackSpec) -> Result<Self, Error> {
        let PackSpec { in_features, out_features, group_size, zero_format, .. } = *spec;
        let groups = group_size.groups(in_features);
        if out_features == 0 || in_features == 0 {
            return Err(Error::Empty { out_features, in_features, groups });
        }
        let dim = |tensor: &RawTensor<'_>, axis| tensor.shape.get(axis).copied().unwrap_or(0);
        let bits = spec.bits(dim(&tensors.qweight, 0), dim(&tensors.qzeros, 1))?;
        let qweight = tensors.qweight.words(Expected {
            part: Part::QWeight,
            shape: &[lane::words(bits, in_features), out_features],
            rule: "rows are ⌈in_features · bits / 32⌉, columns out_features",
        })?;
        let qzeros = tensors.qzeros.words(Expected {
            part: Part::QZeros,
            shape: &[groups, lane::words(bits, out_features)],
            rule: "rows are ⌈in_features / group_size⌉, columns ⌈out_features · bits / 32⌉",
        })?;
        let scales = tensors.scales.halves(Expected {
            part: Part::Scales,
            shape: &[groups, out_features],
            rule: "rows are ⌈in_features / group_size⌉, columns out_features",
        })?;
        let g_idx = match &tensors.g_idx {
            Some(tensor) => read_g_idx(Part::GIdx, tensor, in_features, groups)?,
            None => natural_g_idx(in_features, group_size.columns(in_features))?.into(),
        };
        let bias =
            tensors.bias.as_ref().map(|tensor| read_bias(tensor, out_features)).transpose()?;
        Ok(Self {
            bits,
            in_features,
            out_features,
            groups,
            zero_format,
            qweight,
            qzeros,
            scales,
            g_idx,
            bias,
        })
    }

    /// The same layer, independent of the file's bytes. Copies what is borrowed.
    pub fn into_owned(self) -> PackedLinear {
        PackedLinear {
            bits: self.bits,
            in_features: self.in_features,
            out_features: self.out_features,
            groups: self.groups,
            zero_format: self.zero_format,
            qweight: self.qweight.into_owned().into(),
            qzeros: self.qzeros.into_owned().into(),
            scales: self.scales.into_owned().into(),
            g_idx: self.g_idx.into_owned().into(),
            bias: self.bias,
        }
    }

    /// Width of a code.
    pub fn bits(&self) -> Bits {
        self.bits
    }

    /// Input columns, at least 1.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// Output rows, at least 1.
    pub fn out_features(&self) -> usize {
        self.out_features
    }

    /// Scales per output, at least 1.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// How [`qzeros`](Self::qzeros) stores zero points.
    pub fn zero_format(&self) -> ZeroPointFormat {
        self.zero_format
    }

    /// Packed codes, ⌈in·b/32⌉ × out.
    pub fn qweight(&self) -> &[u32] {
        &self.qweight
    }

    /// Packed zero points, groups × ⌈out·b/32⌉.
    pub fn qzeros(&self) -> &[u32] {
        &self.qzeros
    }

    /// Scales, groups × out; all finite.
    pub fn scales(&self) -> &[f16] {
        &self.scales
    }

    /// The group of each input; all below [`groups`](Self::groups).
    pub fn g_idx(&self) -> &[u32] {
        &self.g_idx
    }

    /// One entry per output, finite; `None` if the layer has no bias.
    pub fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }

    /// Inputs per group if groups are runs of neighbours, so that `g_idx[c] == c / size`; `None`
    /// if `g_idx` is scattered, as activation order leaves it. Cost: one pass over `g_idx`.
    pub fn contiguous_group_size(&self) -> Option<usize> {
        let size = self.g_idx.iter().position(|&g| g != 0).unwrap_or(self.in_features);
        let natural = size > 0
            && self.in_features.div_ceil(size) == self.groups
            && self.g_idx.iter().enumerate().all(|(c, &g)| c / size == g as usize);
        natural.then_some(size)
    }

    /// Whether a server that ignores `g_idx` reads this layer rightly.
    pub fn has_trivial_g_idx(&self) -> bool {
        self.contiguous_group_size().is_some()
    }

    /// Stored zero points on whose value readers disagree: fields of -1 in format v1. Never in a
    /// layer packed here; files of asymmetric layers may have them. Cost: one pass over `qzeros`.
    pub fn ambiguous_zeros(&self) -> usize {
        let rows = self.qzeros.chunks(lane::words(self.bits, self.out_features));
        rows.map(|row| self.zero_format.ambiguous(self.bits, row, self.out_features)).sum()
    }

    /// Bytes of the layer's tensors in a checkpoint.
    pub fn nbytes(&self) -> usize {
        self.tensors().iter().map(|(_, tensor)| tensor.bytes.len()).sum()
    }
}

pub(crate) fn read_g_idx<'a>(
    part: Part,
    tensor: &RawTensor<'a>,
    in_features: usize,
    groups: usize,
) -> Result<Cow<'a, [u32]>, Error> {
    let rule = "the group of each of the in_features inputs";
    let mut g_idx = tensor.words(Expected { part, shape: &[in_features], rule })?;
    // Almost every file passes here, and stays borrowed.
    if g_idx.iter().all(|&g| g as i32 >= 0 && (g as usize) < groups) {
        return Ok(g_idx);
    }
    let count = i64::try_from(groups).unwrap_or(i64::MAX);
    for (column, entry) in g_idx.to_mut().iter_mut().enumerate() {
        let found = i64::from(*entry as i32);
        let group = if found < 0 { found + count } else { found };
        *entry = u32::try_from(group)
            .ok()
            .filter(|&g| (g as usize) < groups)
            .ok_or(Error::GroupIndex { column, found, groups })?;
    }
    Ok(g_idx)
}

pub(crate) fn natural_g_idx(in_features: usize, columns: usize) -> Result<Vec<u32>, Error> {
    let group = |c| u32::try_from(c / columns).ok();
    (0..in_features)
        .map(group)
        .collect::<Option<_>>()
        .ok_or(Error::TooLarge { part: Part::GIdx, shape: vec![in_features] })
}

pub(crate) fn read_bias(tensor: &RawTensor<'_>, out_features: usize) -> Result<Vec<f32>, Error> {
    let (part, rule) = (Part::Bias, "one entry for each of the out_features outputs");
    let bias = tensor.floats(Expected { part, shape: &[out_features], rule })?;
    match bias.iter().position(|b| !b.is_finite()) {
        None => Ok(bias),
        Some(column) => Err(Error::NotFinite { part, value: bias[column], row: 0, column }),
    }
}
