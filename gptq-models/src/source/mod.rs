//! The original weights of a linear, whatever a file stores them as: plain, transposed, a slice of
//! one tensor of all experts, in 8-bit floats or in 4-bit ones with shared exponents.
//!
//! [`Found::at`] is where the layouts are told apart, from headers alone; what is found can be read
//! and can name its tensors.

mod fp8;
mod fused;
mod mxfp4;

#[cfg(test)]
mod tests;

use ndarray::Array2;
use safetensors::Dtype;
use serde_json::Value;

pub use fused::{Axes, FusedExpert, Outputs};

use crate::{Checkpoint, Error, TensorView, graph::LinearPlace};
use fp8::Fp8;
use fused::{Slice, bias_row};
use mxfp4::Mxfp4;

/// How a file stores the weights of a linear that is not packed.
///
/// 8-bit floats in blocks that share a scale are recognised by their dtype, whatever is said here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Stored {
    /// `{name}.weight`, out × in.
    #[default]
    Plain,
    /// `{name}.weight`, in × out, as GPT-2's Conv1D has it.
    Transposed,
    /// A slice of one tensor of all experts. Where `{name}.weight` exists, that is read instead,
    /// as [`Plain`](Self::Plain).
    Fused(FusedExpert),
}

/// The weight of a linear, out × in. The pages it was read from are given back.
///
/// Cost: the linear's own bytes are read once; of fused tensors only this linear's share.
///
/// # Errors
/// As [`tensors`], and [`Error::NotFinite`].
pub(crate) fn weight(checkpoint: &Checkpoint, place: &LinearPlace) -> Result<Array2<f32>, Error> {
    let weight = Found::at(checkpoint, place)?.read(place);
    checkpoint.release();
    weight
}

/// The bias of a linear, 1 × out; none if the model adds none.
///
/// # Errors
/// As [`Checkpoint::row`], about `{name}.bias` or else the fused bias.
pub(crate) fn bias(
    checkpoint: &Checkpoint,
    place: &LinearPlace,
) -> Result<Option<Array2<f32>>, Error> {
    if !place.bias {
        return Ok(None);
    }
    let own = format!("{}.bias", place.name);
    match &place.stored {
        Stored::Fused(expert) if checkpoint.get(&own).is_none() => {
            bias_row(checkpoint, place, expert, &own)
        }
        _ => checkpoint.row(&own, place.out_features),
    }
    .map(Some)
}

/// The tensors that the weight of a linear is made of, their shapes and dtypes checked from headers
/// alone.
///
/// # Errors
/// [`Error::MissingTensor`] naming every tensor that would have done, [`Error::Shape`],
/// [`Error::Dtype`]; [`Error::Config`] for a block size that makes no sense.
pub(crate) fn tensors(checkpoint: &Checkpoint, place: &LinearPlace) -> Result<Vec<String>, Error> {
    let names = match Found::at(checkpoint, place)? {
        Found::Plain(view) | Found::Transposed(view) => vec![view.name],
        Found::Fp8(Fp8 { weight, scales, .. }) => vec![weight.name, scales.name],
        Found::Fused(Slice { view, .. }) => vec![view.name],
        Found::Mxfp4(Mxfp4 { blocks, scales, .. }) => vec![blocks.name, scales.name],
    };
    Ok(names.into_iter().map(str::to_owned).collect())
}

/// Tensors with the shapes and dtypes that their layout asks for.
enum Found<'a> {
    Plain(TensorView<'a>),
    Transposed(TensorView<'a>),
    Fp8(Fp8<'a>),
    Fused(Slice<'a>),
    Mxfp4(Mxfp4<'a>),
}

impl<'a> Found<'a> {
    fn at(checkpoint: &'a Checkpoint, place: &LinearPlace) -> Result<Self, Error> {
        let own = format!("{}.weight", place.name);
        let (outs, ins) = (place.out_features, place.in_features);
        match (&place.stored, checkpoint.get(&own)) {
            (Stored::Fused(expert), None) => Self::expert(checkpoint, place, expert),
            (Stored::Transposed, _) => {
                checkpoint.check(&own, &[ins, outs])?;
                Ok(Found::Transposed(checkpoint.tensor(&own)?))
            }
            (_, Some(weight)) if weight.dtype == Dtype::F8_E4M3 => {
                Ok(Found::Fp8(Fp8::new(checkpoint, place, weight)?))
            }
            _ => {
                checkpoint.check(&own, &[outs, ins])?;
                Ok(Found::Plain(checkpoint.tensor(&own)?))
            }
        }
    }

    fn expert(
        checkpoint: &'a Checkpoint,
        place: &LinearPlace,
        expert: &FusedExpert,
    ) -> Result<Self, Error> {
        let names = expert.tensor_names();
        if let Some(view) = checkpoint.get(&names.whole) {
            return Ok(Found::Fused(Slice::weight(view, place, expert)?));
        }
        if checkpoint.get(&names.blocks).or(checkpoint.get(&names.scales)).is_some() {
            return Ok(Found::Mxfp4(Mxfp4::new(checkpoint, place, expert, &names)?));
        }
        // Fails, and names all of them.
        let (own, whole, blocks) = (&place.name, names.whole, names.blocks);
        checkpoint.tensor(&format!("{own}.weight, {whole} or {blocks}")).map(Found::Plain)
    }

    fn read(self, place: &LinearPlace) -> Result<Array2<f32>, Error> {
        let (outs, ins) = (place.out_features, place.in_features);
        match self {
            Found::Plain(view) => view.to_matrix(outs, ins),
            Found::Transposed(view) => Ok(transposed(&view.to_matrix(ins, outs)?)),
            Found::Fp8(fp8) => fp8.read(),
            Found::Fused(slice) => slice.read(),
            Found::Mxfp4(mxfp4) => mxfp4.read(),
        }
    }
}

fn transposed(matrix: &Array2<f32>) -> Array2<f32> {
    matrix.t().as_standard_layout().into_owned()
}

/// A way of storing original weights that stands under `quantization_config` and yet is none of
/// the packed formats: such a folder is a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    /// 8-bit floats, with a scale per block.
    Fp8,
    /// 4-bit floats, with an exponent per 32 inputs.
    Mxfp4,
}

/// What `config.json` says of the compression of original weights. Nothing of it is true of a
/// result: whoever writes one drops or replaces `quantization_config`.
pub(crate) fn source_compression(checkpoint: &Checkpoint) -> Option<Compression> {
    match checkpoint
        .config()
        .get("quantization_config")?
        .get("quant_method")
        .map(Value::as_str)??
    {
        "fp8" => Some(Compression::Fp8),
        "mxfp4" => Some(Compression::Mxfp4),
        _ => None,
    }
}
