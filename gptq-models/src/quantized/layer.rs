//! [`StoredLayer`]: one packed layer as it lies in its file, in any format.

use std::{borrow::Cow, path::Path};

use gptq_core::QuantizedMatrix;
use gptq_pack::{
    CheckpointConfig, Dtype as PackDtype, Format, LayerSpec, LinearTensors, PackSpec,
    PackedLinearRef, RawTensor, Width, ZeroPointFormat, marlin::MarlinRef, names::Part,
};
use ndarray::Array2;

use super::{Quantized, is_packed, pack_dtype, raw, unexplained};
use crate::{Checkpoint, Error, TensorView, graph::LinearPlace, zero_points::unswap};

/// One packed layer as it lies in its file.
#[derive(Clone, Debug)]
pub(crate) struct StoredLayer<'a> {
    pub(crate) name: String,
    pub(crate) format: Format,
    /// What the config says of it, and its dimensions. Zero points, group indices and dtypes are as
    /// the config has them, not as found.
    pub(crate) spec: LayerSpec,
    tensors: Vec<(Part, RawTensor<'a>)>,
    file: &'a Path,
    /// Zero points were stored by the wrong constants, and are put right.
    pub(crate) unswapped: bool,
}

impl<'a> StoredLayer<'a> {
    /// The packed layer of this name, with the dimensions that its tensors tell.
    ///
    /// # Errors
    /// [`Error::Packed`] and [`Error::MissingTensor`], for what headers can show.
    pub(crate) fn named(
        checkpoint: &'a Checkpoint,
        config: &CheckpointConfig,
        name: &str,
    ) -> Result<Self, Error> {
        let mut layer = Self::found(checkpoint, config, name)?;
        let dims = layer.format.dims(&layer.tensors, layer.spec.width);
        let (ins, outs) = dims.map_err(|source| layer.explain(source))?;
        (layer.spec.in_features, layer.spec.out_features) = (ins, outs);
        layer.require(checkpoint, false)?;
        Ok(layer)
    }

    /// The packed form of a linear of the graph, if there is one.
    pub(super) fn at(
        checkpoint: &'a Checkpoint,
        config: Option<&CheckpointConfig>,
        place: &LinearPlace,
    ) -> Result<Option<Self>, Error> {
        let Some(config) = config else {
            unexplained(checkpoint, |module| module == place.name)?;
            return Ok(None);
        };
        if !is_packed(checkpoint, config.format, &place.name) {
            return Ok(None);
        }
        let mut layer = Self::found(checkpoint, config, &place.name)?;
        layer.spec.in_features = place.in_features;
        layer.spec.out_features = place.out_features;
        layer.require(checkpoint, place.bias)?;
        if !place.bias {
            // A bias that the family does not know is one that AutoGPTQ gave to every layer, all
            // zeros, or one that corrects for rounding: the first says nothing, the second is meant.
            layer.tensors.retain(|(part, tensor)| *part != Part::Bias || !is_zero(tensor));
        }
        Ok(Some(layer))
    }

    fn found(
        checkpoint: &'a Checkpoint,
        config: &CheckpointConfig,
        name: &str,
    ) -> Result<Self, Error> {
        let codes = checkpoint.tensor(&config.format.codes().of(name))?;
        let layer = format!("{}: {name}", codes.file.display());
        let scheme = config.scheme(name).map_err(|source| Error::Packed { layer, source })?;
        let scheme = scheme.ok_or_else(|| {
            let message = format!("skips {name} by a rule of its config, but holds it packed");
            Error::file(checkpoint.dir(), message)
        })?;
        let mut tensors = Vec::new();
        for part in config.format.all_parts() {
            if let Some(tensor) = checkpoint.get(&part.of(name)) {
                tensors.push((part, readable(&tensor, part)?));
            }
        }
        let mut layer = Self {
            name: name.to_owned(),
            format: config.format,
            spec: scheme.layer(0, 0),
            tensors,
            file: codes.file,
            unswapped: false,
        };
        if layer.format == Format::Gptq
            && let Some((_, qzeros)) = layer.tensors.iter_mut().find(|(p, _)| *p == Part::QZeros)
            && let Some(right) = unswap(scheme.bits, qzeros)
        {
            (*qzeros, layer.unswapped) = (right, true);
        }
        Ok(layer)
    }

    /// Refuses a layer of which a tensor is missing. Group indices may be.
    fn require(&self, checkpoint: &Checkpoint, bias: bool) -> Result<(), Error> {
        let needed = self.format.parts(&self.spec).into_iter().map(|(part, ..)| part);
        let needed = needed.filter(|part| !matches!(part, Part::GIdx | Part::WeightGIdx));
        for part in needed.chain(bias.then_some(Part::Bias)) {
            checkpoint.tensor(&part.of(&self.name))?;
        }
        Ok(())
    }

    /// One of its tensors.
    pub(crate) fn tensor(&self, part: Part) -> Option<&RawTensor<'a>> {
        self.tensors.iter().find(|(p, _)| *p == part).map(|(_, tensor)| tensor)
    }

    /// Every tensor it has.
    pub(crate) fn tensors(&self) -> &[(Part, RawTensor<'a>)] {
        &self.tensors
    }

    /// How its scales are stored.
    pub(crate) fn scale_dtype(&self) -> PackDtype {
        let parts = [Part::Scales, Part::S, Part::WeightScale];
        let scales = parts.into_iter().find_map(|part| self.tensor(part));
        scales.map_or(PackDtype::F16, |tensor| tensor.dtype)
    }

    /// The codes, the grids as exactly as the file has them, and the bias. Cost: one pass over the
    /// codes.
    ///
    /// # Errors
    /// [`Error::Packed`], [`Error::Scheme`].
    pub(crate) fn read(&self) -> Result<Quantized, Error> {
        self.format.unpack(&self.tensors, &self.spec).map_err(|source| self.explain(source))
    }

    /// What [`read`](Self::read) gives, with zeros for the codes where that saves reading them.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) fn grids(&self) -> Result<QuantizedMatrix, Error> {
        if self.format.zero_format().is_none() || self.scale_dtype() != PackDtype::F16 {
            return Ok(self.read()?.0);
        }
        let packed = self.packed()?;
        let (outs, groups, bits) = (packed.out_features(), packed.groups(), packed.bits());
        let mut zeros = Array2::zeros((outs, groups));
        let mut of_group = vec![0; outs];
        let rows = packed.qzeros().chunks(gptq_pack::lane::words(bits, outs));
        for (words, mut column) in rows.zip(zeros.columns_mut()) {
            packed.zero_format().load(bits, words, &mut of_group);
            column.iter_mut().zip(&of_group).for_each(|(zero, &stored)| *zero = stored);
        }
        let scale = |(r, g): (usize, usize)| packed.scales()[g * outs + r].to_f32();
        Ok(QuantizedMatrix {
            bits,
            codes: Array2::zeros((outs, packed.in_features())),
            scales: Array2::from_shape_fn((outs, groups), scale),
            zeros,
            g_idx: packed.g_idx().to_vec(),
        })
    }

    /// The layer borrowed from the file if its format is `gptq` or `gptq_v2`, or else repacked.
    ///
    /// # Errors
    /// [`Error::Packed`], [`Error::Scheme`].
    pub(crate) fn packed(&self) -> Result<PackedLinearRef<'a>, Error> {
        match self.format.zero_format() {
            Some(zero_format) => {
                let part = |part| self.tensor(part).cloned();
                self.linear(&self.spec, zero_format, part)
            }
            None => {
                let (q, _) = self.read()?;
                let spec = LayerSpec::of(&q);
                let packed = Format::GptqV2.pack(&q, &spec, None);
                let packed = packed.map_err(|source| self.explain(source))?;
                self.linear(&spec, ZeroPointFormat::GptqV2, |part| match part {
                    Part::Bias => self.tensor(part).cloned(),
                    _ => packed.iter().find(|(p, _)| *p == part).map(|(_, t)| t.clone()),
                })
            }
        }
    }

    /// The layer in Marlin's words, if they are what the file has.
    ///
    /// # Errors
    /// As [`packed`](Self::packed).
    pub(super) fn marlin(&self) -> Result<Option<MarlinRef<'a>>, Error> {
        if self.format != Format::Marlin {
            return Ok(None);
        }
        let read = MarlinRef::from_tensors(&self.tensors, &self.spec);
        read.map(Some).map_err(|source| self.explain(source))
    }

    fn linear(
        &self,
        spec: &LayerSpec,
        zero_format: ZeroPointFormat,
        part: impl Fn(Part) -> Option<RawTensor<'a>>,
    ) -> Result<PackedLinearRef<'a>, Error> {
        let need = |p: Part| {
            part(p).ok_or(gptq_pack::Error::MissingPart { part: p, format: zero_format.into() })
        };
        let read = || {
            let tensors = LinearTensors {
                qweight: need(Part::QWeight)?,
                qzeros: need(Part::QZeros)?,
                scales: need(Part::Scales)?,
                g_idx: part(Part::GIdx),
                bias: part(Part::Bias),
            };
            let spec = PackSpec {
                in_features: spec.in_features,
                out_features: spec.out_features,
                bits: Some(spec.width.bits()),
                group_size: spec.group_size,
                zero_format,
            };
            PackedLinearRef::from_tensors(&tensors, &spec)
        };
        read().map_err(|source| self.explain(source))
    }

    /// An error of the format, with the layer's name and file. If shapes contradict the config's
    /// width and fit another one, it says which.
    pub(crate) fn explain(&self, source: gptq_pack::Error) -> Error {
        let layer = format!("{}: {}", self.file.display(), self.name);
        let stated = self.spec.width;
        let shapes = matches!(source, gptq_pack::Error::Shape { .. });
        let mut widths = (2..=8).filter_map(|bits| Width::try_from(bits).ok());
        let fits = widths.find(|&width| width != stated && self.fits(width));
        match fits.filter(|_| shapes) {
            Some(fits) => Error::Scheme {
                layer,
                source: Box::new(source),
                stated: stated.get(),
                fits: fits.get(),
            },
            None => Error::Packed { layer, source },
        }
    }

    /// Whether every shape is as this width wants it.
    fn fits(&self, width: Width) -> bool {
        let wanted = self.format.parts(&LayerSpec { width, ..self.spec });
        wanted.iter().all(|(part, _, shape)| self.tensor(*part).is_none_or(|t| t.shape == *shape))
    }
}

/// Whether every byte is 0.
pub(crate) fn is_zero(tensor: &RawTensor<'_>) -> bool {
    tensor.bytes.iter().all(|&byte| byte == 0)
}

/// A part of a layer, its type one that some part may have; `g_idx` made narrow where a tool stored
/// it twice as wide.
fn readable<'a>(view: &TensorView<'a>, part: Part) -> Result<RawTensor<'a>, Error> {
    match (pack_dtype(view.dtype), part) {
        (PackDtype::I64, Part::GIdx | Part::WeightGIdx) => narrowed(view),
        (PackDtype::Other, _) => Err(Error::Dtype {
            file: view.file.display().to_string(),
            tensor: view.name.to_owned(),
            found: format!("{:?}", view.dtype),
            expected: "I32, I64, F16, BF16 or F32",
        }),
        _ => Ok(raw(view)),
    }
}

fn narrowed<'a>(view: &TensorView<'a>) -> Result<RawTensor<'a>, Error> {
    let mut bytes = Vec::with_capacity(view.bytes.len() / 2);
    for (i, wide) in view.bytes.as_chunks::<8>().0.iter().enumerate() {
        let value = i64::from_le_bytes(*wide);
        let narrow = i32::try_from(value).map_err(|_| {
            let message = format!("tensor {}: entry {i} is {value}, beyond 32 bits", view.name);
            Error::file(view.file, message)
        })?;
        bytes.extend(narrow.to_le_bytes());
    }
    Ok(RawTensor { dtype: PackDtype::I32, shape: view.shape.to_vec(), bytes: Cow::Owned(bytes) })
}
