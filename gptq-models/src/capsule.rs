//! [`Capsule`]: a linear that could not be solved, in one file that can be looked at and tried again.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use gptq_core::{QuantConfig, Unsolved};
use ndarray::{Array2, ArrayView2};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::{Error, QuantizeOptions, Recipe};

/// Weights, Hessian and settings of one linear. The file is safetensors: `weight` \[out, in\],
/// `hessian` \[in, in\] and for GPTAQ `cross` \[in, in\], all F32, with the settings in its metadata.
///
/// ```no_run
/// use gptq_core::{Hessian, Portable, solve};
/// use gptq_models::Capsule;
///
/// let capsule = Capsule::open("out.capsules/model.layers.3.mlp.down_proj.safetensors".as_ref())?;
/// let hessian = Hessian::from_matrix(capsule.hessian)?;
/// println!("{:?}", solve(capsule.weight.view(), hessian, &capsule.config, &Portable));
/// # Ok::<(), gptq_models::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Capsule {
    /// The linear's name.
    pub layer: String,
    /// What the solver said.
    pub problem: String,
    /// Settings of this linear, rules applied.
    pub config: QuantConfig,
    /// out × in.
    pub weight: Array2<f32>,
    /// in × in, normalised.
    pub hessian: Array2<f32>,
    /// in × in, if inputs of the original model were compared.
    pub cross: Option<Array2<f32>>,
}

/// Where a run puts capsules: beside its result, which they are no part of.
#[derive(Debug)]
pub(crate) struct Capsules {
    folder: PathBuf,
    written: usize,
}

impl Capsules {
    /// More of the same would say nothing new, and each may be a gigabyte.
    const MOST: usize = 3;

    pub(crate) fn beside(out: &Path) -> Self {
        let name = out.file_name().unwrap_or_default().to_string_lossy();
        Self { folder: out.with_file_name(format!("{name}.capsules")), written: 0 }
    }

    /// Writes one, unless there are enough. Returns what to say of it.
    pub(crate) fn write(
        &mut self,
        layer: &str,
        options: &QuantizeOptions,
        config: &QuantConfig,
        weight: ArrayView2<'_, f32>,
        problem: &gptq_core::Error,
    ) -> Option<String> {
        let gptq_core::Error::NotPositiveDefinite { unsolved: Some(unsolved), .. } = problem else {
            return None;
        };
        if self.written == Self::MOST {
            return None;
        }
        self.written += 1;
        let path = self.folder.join(format!("{layer}.safetensors"));
        let recipe = Recipe::of(&QuantizeOptions {
            config: *config,
            dynamic: gptq_pack::DynamicRules::default(),
            ..options.clone()
        });
        Some(match write(&path, layer, &recipe, weight, unsolved, &problem.to_string()) {
            Ok(()) => format!(
                "its weights, Hessian and settings are in {}, which gptq solve-layer --replay tries \
                 again",
                path.display()
            ),
            Err(error) => format!("its weights and Hessian could not be saved: {error}"),
        })
    }
}

fn write(
    path: &Path,
    layer: &str,
    recipe: &Recipe,
    weight: ArrayView2<'_, f32>,
    unsolved: &Unsolved,
    problem: &str,
) -> Result<(), Error> {
    let failed = |e: &dyn std::fmt::Display| Error::file(path, format!("cannot be written: {e}"));
    let settings = serde_json::to_string(recipe).map_err(|e| failed(&e))?;
    let metadata = [(LAYER, layer), (SETTINGS, &settings), (PROBLEM, problem)];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let weight = weight.as_standard_layout();
    let mut matrices = vec![("weight", weight.view()), ("hessian", unsolved.hessian.view())];
    matrices.extend(unsolved.cross.as_ref().map(|cross| ("cross", cross.view())));
    let mut views = Vec::with_capacity(matrices.len());
    for (name, matrix) in &matrices {
        let values = matrix.as_slice().unwrap_or_default();
        let bytes = bytemuck::cast_slice(values);
        let view = TensorView::new(Dtype::F32, matrix.shape().to_vec(), bytes);
        views.push((*name, view.map_err(|e| failed(&e))?));
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
    }
    let partial = path.with_extension("partial");
    safetensors::serialize_to_file(views, Some(HashMap::from(metadata)), &partial)
        .map_err(|e| failed(&e))?;
    fs::rename(&partial, path).map_err(|e| Error::io("rename", &partial, e))
}

const LAYER: &str = "layer";
const SETTINGS: &str = "settings";
const PROBLEM: &str = "problem";

impl Capsule {
    /// Reads a file that a run has left.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] if it is not such a file, naming what is missing.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let bytes = fs::read(path).map_err(|e| Error::io("read", path, e))?;
        let no = |problem: &dyn std::fmt::Display| {
            Error::file(path, format!("is no capsule of a layer that failed: {problem}"))
        };
        let file = SafeTensors::deserialize(&bytes).map_err(|e| no(&e))?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| no(&e))?;
        let metadata = metadata.metadata().clone().unwrap_or_default();
        let text = |key: &str| metadata.get(key).ok_or_else(|| no(&format!("it has no {key}")));
        let recipe: Recipe = serde_json::from_str(text(SETTINGS)?).map_err(|e| no(&e))?;
        let layer = text(LAYER)?.clone();
        let config = recipe.options()?.for_layer(&layer)?;
        let matrix = |name: &str| {
            let Ok(tensor) = file.tensor(name) else { return Ok(None) };
            let &[rows, columns] = tensor.shape() else {
                return Err(no(&format!("{name} is no matrix")));
            };
            if tensor.dtype() != Dtype::F32 {
                return Err(no(&format!("{name} is {:?}, not F32", tensor.dtype())));
            }
            let values = bytemuck::pod_collect_to_vec(tensor.data());
            Array2::from_shape_vec((rows, columns), values).map(Some).map_err(|e| no(&e))
        };
        let need = |name: &str| matrix(name)?.ok_or_else(|| no(&format!("it holds no {name}")));
        Ok(Self {
            config: config.ok_or_else(|| no(&"its rules skip it"))?,
            problem: text(PROBLEM)?.clone(),
            weight: need("weight")?,
            hessian: need("hessian")?,
            cross: matrix("cross")?,
            layer,
        })
    }
}
