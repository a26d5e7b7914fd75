//! [`Format`]: every packed layout behind one interface.

mod awq;
mod compressed;
mod gptq;
pub mod marlin;
mod marlin_ref;
mod planar;
mod rounding;
mod rules;
mod spec;

use std::{fmt, str::FromStr};

use gptq_core::QuantizedMatrix;

use crate::{
    Error, Width, ZeroPointFormat,
    linear::{check_matrix, shape},
    names::Part,
    tensors::{Dtype, RawTensor, encode_floats},
    view::read_bias,
};

pub use rounding::Rounding;
pub use spec::LayerSpec;

/// How a checkpoint stores packed layers. Names are those that users type and, where there is
/// one, the value of `checkpoint_format`.
///
/// All formats stand for the same matrix, `W[o, i] = scale[o, g] · (code[o, i] − zero[o, g])`, and
/// differ in the order of the bits. A layer goes from one to another through the
/// [`QuantizedMatrix`] that both stand for; [`check`](Self::check) says whether the other can hold
/// it.
///
/// ```
/// use gptq_core::{Bits, QuantizedMatrix};
/// use gptq_pack::{Format, LayerSpec};
/// use ndarray::Array2;
///
/// let q = QuantizedMatrix {
///     bits: Bits::B4,
///     codes: Array2::from_shape_fn((8, 64), |(r, c)| ((r + c) % 16) as u8),
///     scales: Array2::from_elem((8, 2), 0.5),
///     zeros: Array2::from_elem((8, 2), 8),
///     g_idx: (0..64).map(|c| c / 32).collect(),
/// };
/// let spec = LayerSpec::of(&q);
/// let stored = Format::Awq.pack(&q, &spec, None)?;
/// let (back, bias) = Format::Awq.unpack(&stored, &spec)?;
/// assert_eq!((back, bias), (q, None));
/// # Ok::<(), gptq_pack::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// GPTQ with zero points stored minus one (v1): 2, 3, 4 and 8 bits.
    Gptq,
    /// GPTQ with zero points as they are (v2): 2, 3, 4 and 8 bits.
    GptqV2,
    /// GPTQModel's bit planes, 2 to 8 bits. Read only.
    GptqP,
    /// Marlin's order of words: symmetric, 4 bits.
    Marlin,
    /// AWQ in its GEMM order: 4 bits.
    Awq,
    /// compressed-tensors `pack-quantized`: 2 to 8 bits.
    CompressedTensors,
}

/// One layout. Its parts come codes first, and without the bias, which all layouts store alike.
trait Layout {
    /// Every tensor that a layer may have, the codes first.
    fn parts(&self) -> &'static [Part];

    /// The tensors of one layer. Sizes saturate: no file holds a tensor that large.
    fn shapes(&self, spec: &LayerSpec) -> Vec<(Part, Dtype, Vec<usize>)>;

    /// The first rule of writing that the layer breaks. The matrix is consistent and the spec's.
    fn check(&self, q: &QuantizedMatrix, spec: &LayerSpec) -> Result<(), Error>;

    /// The tensors of a checked layer, in the order of [`shapes`](Self::shapes).
    fn pack(&self, q: &QuantizedMatrix, spec: &LayerSpec)
    -> Result<Vec<RawTensor<'static>>, Error>;

    /// The layer that tensors stand for. The spec has inputs and outputs.
    fn unpack(&self, stored: Stored<'_, '_>, spec: &LayerSpec) -> Result<QuantizedMatrix, Error>;

    /// Inputs and outputs.
    fn dims(&self, stored: Stored<'_, '_>, width: Width) -> Result<(usize, usize), Error>;
}

/// The tensors found of one layer.
#[derive(Clone, Copy)]
struct Stored<'t, 'a> {
    format: Format,
    tensors: &'t [(Part, RawTensor<'a>)],
}

impl<'t, 'a> Stored<'t, 'a> {
    fn get(self, part: Part) -> Option<&'t RawTensor<'a>> {
        self.tensors.iter().find(|(p, _)| *p == part).map(|(_, tensor)| tensor)
    }

    fn need(self, part: Part) -> Result<&'t RawTensor<'a>, Error> {
        self.get(part).ok_or(Error::MissingPart { part, format: self.format })
    }

    /// A dimension of a matrix.
    fn dim(self, part: Part, axis: usize) -> Result<usize, Error> {
        match self.need(part)?.shape[..] {
            [rows, columns] => Ok([rows, columns][axis]),
            ref found => Err(Error::Rank { part, found: found.to_vec() }),
        }
    }
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 6] = [
        Format::Gptq,
        Format::GptqV2,
        Format::GptqP,
        Format::Marlin,
        Format::Awq,
        Format::CompressedTensors,
    ];

    /// The name that users type.
    pub const fn as_str(self) -> &'static str {
        match self {
            Format::Gptq => "gptq",
            Format::GptqV2 => "gptq_v2",
            Format::GptqP => "gptq_p",
            Format::Marlin => "marlin",
            Format::Awq => "awq",
            Format::CompressedTensors => "compressed-tensors",
        }
    }

    fn layout(self) -> &'static dyn Layout {
        match self {
            Format::Gptq => &gptq::Gptq(ZeroPointFormat::Gptq),
            Format::GptqV2 => &gptq::Gptq(ZeroPointFormat::GptqV2),
            Format::GptqP => &planar::Planar,
            Format::Marlin => &marlin::Marlin,
            Format::Awq => &awq::Awq,
            Format::CompressedTensors => &compressed::Compressed,
        }
    }

    /// How [`PackedLinear`](crate::PackedLinear) stores zero points, for the two formats it holds.
    pub const fn zero_format(self) -> Option<ZeroPointFormat> {
        match self {
            Format::Gptq => Some(ZeroPointFormat::Gptq),
            Format::GptqV2 => Some(ZeroPointFormat::GptqV2),
            _ => None,
        }
    }

    /// Every tensor that a layer may have: those to look for when reading one. The first holds the
    /// codes, which no packed layer lacks and no other layer has; the last is the bias.
    pub fn all_parts(self) -> Vec<Part> {
        self.layout().parts().iter().copied().chain([Part::Bias]).collect()
    }

    /// The tensor whose presence makes a module a packed layer.
    pub fn codes(self) -> Part {
        self.layout().parts()[0]
    }

    /// The module and the part that a tensor's name stands for; the inverse of [`Part::of`]. `None`
    /// for names that this format does not use. Plain layers have a `bias` too: only the presence
    /// of [`codes`](Self::codes) tells.
    pub fn module_of(self, tensor: &str) -> Option<(&str, Part)> {
        let (module, suffix) = tensor.rsplit_once('.')?;
        let part = self.all_parts().into_iter().find(|part| part.suffix() == suffix)?;
        Some((module, part))
    }

    /// The tensors that [`pack`](Self::pack) makes of any layer of this spec: what a writer needs
    /// to lay out a file before it has read a layer.
    pub fn parts(self, spec: &LayerSpec) -> Vec<(Part, Dtype, Vec<usize>)> {
        let mut parts = self.layout().shapes(spec);
        parts.extend(spec.bias.map(|dtype| (Part::Bias, dtype, vec![spec.out_features])));
        parts
    }

    /// Inputs and outputs of a layer, as its tensors' shapes (and `weight_shape`, where there is
    /// one) tell. Proves nothing else about them. If a stream of codes ends in a partly filled
    /// word and the group indices are absent, inputs are those that fill it.
    ///
    /// # Errors
    /// [`Error::MissingPart`], [`Error::Rank`], [`Error::Dtype`], [`Error::Length`].
    pub fn dims(
        self,
        tensors: &[(Part, RawTensor<'_>)],
        width: Width,
    ) -> Result<(usize, usize), Error> {
        self.layout().dims(Stored { format: self, tensors }, width)
    }

    /// The first rule of this format that the layer breaks, if it breaks one.
    ///
    /// # Errors
    /// [`Error::FormatRule`] or [`Error::ZeroPointAtZero`] with the rule, the numbers and the way
    /// out; [`Error::SpecMismatch`] if the layer is not what the spec says; and those of a matrix
    /// that contradicts itself.
    pub fn check(self, q: &QuantizedMatrix, spec: &LayerSpec) -> Result<(), Error> {
        check_matrix(q)?;
        rules::is_of_spec(q, spec)?;
        self.layout().check(q, spec)
    }

    /// What readers may make of a layer that the format can hold, if there is something to say.
    pub fn caveat(self, spec: &LayerSpec) -> Option<&'static str> {
        (self == Format::CompressedTensors && spec.scattered).then_some(
            "a scattered g_idx is stored as weight_g_idx (actorder group), which vLLM reads, but \
             the compressed-tensors package does not since it removed that order",
        )
    }

    /// The tensors of a layer, exactly those of [`parts`](Self::parts). Scales and the bias are
    /// rounded to their dtype; [`Rounding`] says whether that changes anything. Everything else is
    /// kept exactly.
    ///
    /// Cost: one pass over the codes, on the caller's thread.
    ///
    /// # Errors
    /// Those of [`check`](Self::check); [`Error::NotFinite`] or [`Error::HalfOverflow`] or [`Error::Bf16Overflow`] for numbers
    /// that the dtype cannot hold; [`Error::Shape`] for a bias of another length, and
    /// [`Error::SpecMismatch`] for one that the spec does not announce.
    pub fn pack(
        self,
        q: &QuantizedMatrix,
        spec: &LayerSpec,
        bias: Option<&[f32]>,
    ) -> Result<Vec<(Part, RawTensor<'static>)>, Error> {
        self.check(q, spec)?;
        let parts = self.layout().shapes(spec).into_iter().map(|(part, _, _)| part);
        let mut tensors: Vec<_> = parts.zip(self.layout().pack(q, spec)?).collect();
        match (bias, spec.bias) {
            (None, None) => {}
            (Some(bias), Some(dtype)) => {
                if bias.len() != spec.out_features {
                    let rule = "one entry for each output";
                    return Err(shape(Part::Bias, &[bias.len()], &[spec.out_features], rule));
                }
                let bytes = encode_floats(Part::Bias, dtype, spec.out_features, bias)?;
                let shape = vec![spec.out_features];
                tensors.push((Part::Bias, RawTensor { dtype, shape, bytes: bytes.into() }));
            }
            (bias, _) => {
                let says = |has| if has { "a bias" } else { "no bias" }.to_owned();
                let (found, expected) = (says(bias.is_some()), says(bias.is_none()));
                return Err(Error::SpecMismatch { what: "the layer", found, expected });
            }
        }
        Ok(tensors)
    }

    /// The layer that tensors stand for, after proving that they describe one layer, and the layer
    /// of the spec. Of the spec, `scattered`, `scale_dtype` and `bias` are ignored: the tensors
    /// tell. Tensors of other parts are ignored too.
    ///
    /// Scales are read exactly. Codes of 5, 6 and 7 bits become 8-bit ones, as [`Width`] says.
    ///
    /// # Errors
    /// Names the tensor, what was found, what was expected and by which rule: [`Error::Dtype`],
    /// [`Error::Shape`], [`Error::Length`], [`Error::TooLarge`], [`Error::GroupIndex`],
    /// [`Error::NotFinite`], [`Error::Empty`], [`Error::MissingPart`], [`Error::FormatRule`].
    pub fn unpack(
        self,
        tensors: &[(Part, RawTensor<'_>)],
        spec: &LayerSpec,
    ) -> Result<(QuantizedMatrix, Option<Vec<f32>>), Error> {
        let LayerSpec { in_features, out_features, group_size, .. } = *spec;
        if in_features == 0 || out_features == 0 {
            let groups = group_size.groups(in_features);
            return Err(Error::Empty { out_features, in_features, groups });
        }
        let stored = Stored { format: self, tensors };
        let q = self.layout().unpack(stored, spec)?;
        let bias = stored.get(Part::Bias).map(|tensor| read_bias(tensor, out_features));
        Ok((q, bias.transpose()?))
    }
}

impl From<ZeroPointFormat> for Format {
    fn from(format: ZeroPointFormat) -> Self {
        match format {
            ZeroPointFormat::Gptq => Format::Gptq,
            ZeroPointFormat::GptqV2 => Format::GptqV2,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Format {
    type Err = Error;

    /// Reads [`as_str`](Self::as_str).
    fn from_str(s: &str) -> Result<Self, Error> {
        Format::ALL
            .into_iter()
            .find(|format| format.as_str() == s)
            .ok_or_else(|| Error::UnknownFormat { found: s.to_owned() })
    }
}
