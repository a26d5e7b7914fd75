//! Small safetensors files that hold a command's input or result.

use std::{fs, path::Path};

use bytemuck::{NoUninit, pod_collect_to_vec};
use half::{bf16, f16};
use ndarray::Array2;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::failure::Failure;

/// A file read whole.
pub(crate) struct TensorFile {
    path: String,
    bytes: Vec<u8>,
}

impl TensorFile {
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let name = path.display().to_string();
        // Opening a pipe waits for whoever writes into it.
        if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            return Err(Failure::failed(format!(
                "{name} is no file but a folder, a pipe or a device"
            )));
        }
        let bytes =
            fs::read(path).map_err(|e| Failure::failed(format!("cannot read {name}: {e}")))?;
        Ok(Self { path: name, bytes })
    }

    fn get(&self, name: &str) -> Result<Option<TensorView<'_>>, Failure> {
        let file = SafeTensors::deserialize(&self.bytes).map_err(|e| {
            Failure::failed(format!("{} is not a safetensors file: {e}", self.path))
        })?;
        Ok(file.tensor(name).ok())
    }

    /// A failure about this file.
    pub(crate) fn failure(&self, message: impl std::fmt::Display) -> Failure {
        Failure::failed(format!("{}: {message}", self.path))
    }

    /// A matrix of F16, BF16 or F32 as f32, if it is there.
    pub(crate) fn floats(&self, name: &str) -> Result<Option<Array2<f32>>, Failure> {
        let Some(tensor) = self.get(name)? else { return Ok(None) };
        let halves = || pod_collect_to_vec::<u8, u16>(tensor.data()).into_iter();
        let values: Vec<f32> = match tensor.dtype() {
            Dtype::F32 => pod_collect_to_vec(tensor.data()),
            Dtype::F16 => halves().map(|h| f16::from_bits(h).to_f32()).collect(),
            Dtype::BF16 => halves().map(|h| bf16::from_bits(h).to_f32()).collect(),
            other => {
                return Err(self.failure(format!("{name} is {other:?}, not F16, BF16 or F32")));
            }
        };
        self.matrix(name, tensor.shape(), values).map(Some)
    }

    /// A matrix of token ids, if it is there.
    pub(crate) fn ids(&self, name: &str) -> Result<Option<Array2<u32>>, Failure> {
        let Some(tensor) = self.get(name)? else { return Ok(None) };
        let wide: Vec<i64> = match tensor.dtype() {
            Dtype::I64 => pod_collect_to_vec(tensor.data()),
            Dtype::I32 => {
                pod_collect_to_vec::<u8, i32>(tensor.data()).into_iter().map(i64::from).collect()
            }
            other => return Err(self.failure(format!("{name} is {other:?}, not I32 or I64"))),
        };
        let id = |id: i64| {
            u32::try_from(id).map_err(|_| self.failure(format!("{name} holds {id}, no token id")))
        };
        let ids = wide.into_iter().map(id).collect::<Result<Vec<u32>, _>>()?;
        self.matrix(name, tensor.shape(), ids).map(Some)
    }

    fn matrix<T>(&self, name: &str, shape: &[usize], data: Vec<T>) -> Result<Array2<T>, Failure> {
        let &[rows, columns] = shape else {
            return Err(self.failure(format!("{name} has shape {shape:?}, not two dimensions")));
        };
        Array2::from_shape_vec((rows, columns), data)
            .map_err(|e| self.failure(format!("{name}: {e}")))
    }
}

/// A tensor to write.
pub(crate) struct Out<'a> {
    pub(crate) name: &'a str,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: &'a [u8],
}

impl<'a> Out<'a> {
    pub(crate) fn new<T: NoUninit>(
        name: &'a str,
        dtype: Dtype,
        shape: &[usize],
        values: &'a [T],
    ) -> Self {
        Self { name, dtype, shape: shape.to_vec(), bytes: bytemuck::cast_slice(values) }
    }
}

/// Writes beside the target, then renames.
pub(crate) fn write(path: &Path, tensors: &[Out<'_>]) -> Result<(), Failure> {
    let failed = |e: &dyn std::fmt::Display| {
        Failure::failed(format!("cannot write {}: {e}", path.display()))
    };
    let mut views = Vec::with_capacity(tensors.len());
    for t in tensors {
        let view = TensorView::new(t.dtype, t.shape.clone(), t.bytes);
        views.push((t.name, view.map_err(|e| failed(&e))?));
    }
    let bytes = safetensors::serialize(views, None).map_err(|e| failed(&e))?;
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    // Through a link, somebody else's file would be overwritten.
    if fs::symlink_metadata(&partial).is_ok_and(|found| !found.is_file()) {
        return Err(failed(&format!(
            "{} is in the way and no file",
            Path::new(&partial).display()
        )));
    }
    fs::write(&partial, bytes).and_then(|()| fs::rename(&partial, path)).map_err(|e| {
        let _ = fs::remove_file(&partial);
        failed(&e)
    })
}
