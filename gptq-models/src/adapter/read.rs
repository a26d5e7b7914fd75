//! Reading an adapter: every tensor is one half of a pair, or the file is refused.

use std::{collections::BTreeMap, io::Read, path::Path};

use ndarray::Array2;
use safetensors::SafeTensors;

use super::{A, Adapter, B, Module, PREFIX, WEIGHTS, config::Strength};
use crate::{Error, TensorView, checkpoint::open};

impl Adapter {
    /// Opens a folder in PEFT layout.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Config`], [`Error::File`] naming the tensor that has no other half, no
    /// matching shape or no meaning here; [`Error::Dtype`] and [`Error::NotFinite`].
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let strength = Strength::read(dir)?;
        let path = dir.join(WEIGHTS);
        let mut bytes = Vec::new();
        let read = open("read", &path)?.read_to_end(&mut bytes);
        read.map_err(|e| Error::io("read", &path, e))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|e| {
            Error::file(&path, format!("is not a whole safetensors file ({e}); fetch it again"))
        })?;
        let mut halves: BTreeMap<String, [Option<Array2<f32>>; 2]> = BTreeMap::new();
        for (name, tensor) in file.tensors() {
            let Some((module, side)) = split(&name) else {
                return Err(Error::file(
                    &path,
                    format!(
                        "holds {name}, which is no LoRA matrix of a linear \
                         ({PREFIX}….lora_A.weight or lora_B.weight); only those are known here"
                    ),
                ));
            };
            let view = TensorView {
                name: &name,
                dtype: tensor.dtype(),
                shape: tensor.shape(),
                bytes: tensor.data(),
                file: &path,
            };
            view.check_floats()?;
            let &[rows, columns] = view.shape else {
                let shape = view.shape;
                return Err(Error::file(
                    &path,
                    format!("{name} has shape {shape:?}, not two sides"),
                ));
            };
            halves.entry(module.to_owned()).or_default()[side] =
                Some(view.to_matrix(rows, columns)?);
        }
        let pair = |(name, halves): (String, [Option<Array2<f32>>; 2])| {
            let module = pair(&path, &name, halves, &strength)?;
            Ok((name, module))
        };
        let modules = halves.into_iter().map(pair).collect::<Result<_, Error>>()?;
        Ok(Self { dir: dir.display().to_string(), modules })
    }
}

/// The linear, and 0 for A or 1 for B.
fn split(name: &str) -> Option<(&str, usize)> {
    let name = name.strip_prefix(PREFIX)?;
    let side = |suffix: &str, side: usize| Some((name.strip_suffix(suffix)?, side));
    side(A, 0).or_else(|| side(B, 1))
}

fn pair(
    path: &Path,
    name: &str,
    halves: [Option<Array2<f32>>; 2],
    strength: &Strength,
) -> Result<Module, Error> {
    let (a, mut b) = match halves {
        [Some(a), Some(b)] => (a, b),
        [a, _] => {
            let missing = if a.is_none() { A } else { B };
            return Err(Error::file(
                path,
                format!("holds no {PREFIX}{name}{missing}; fetch it again"),
            ));
        }
    };
    let rank = a.nrows();
    if rank != b.ncols() || rank == 0 {
        return Err(Error::file(
            path,
            format!(
                "{name}: lora_A is {:?} and lora_B {:?}, but must be r × in and out × r",
                a.shape(),
                b.shape()
            ),
        ));
    }
    b *= strength.of(name, rank);
    Ok(Module { a, b })
}
