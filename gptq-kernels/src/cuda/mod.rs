//! [`CudaBackend`]: an NVIDIA GPU.
//!
//! The driver is looked for at run time, so one binary serves machines with and without it. Kernels
//! are PTX that the driver compiles for the GPU it has; `cuda/` has their sources. Tensors are f32;
//! products round their factors to halves and sum up in f32, or stay f32 throughout with
//! [`CudaBackend::exact`].
//!
//! | operation            | kernel                        | file                              |
//! |----------------------|-------------------------------|-----------------------------------|
//! | prepared linears     | `packed_matmul_*`             | `cuda/packed_matmul.cuh`          |
//! | for one token or two | `packed_matvec_*`             | `cuda/packed_matvec.cuh`          |
//! | 17 and more, Hopper  | `packed_wgmma_*`              | `cuda/packed_wgmma.cuh`           |
//! | sums of their parts  | `packed_sums_*`               | `cuda/packed_sums.cu`             |
//! | for very many tokens | `dequantize_*`, then cuBLAS   | `cuda/dequantize.cu`              |
//! | dense linears        | `dense_matvec_*`, `matmul`    | `cuda/dense.cu`                   |
//! | attention            | `attention_*`                 | `cuda/attention.cu`               |
//! | of many tokens       | `attention_tiles_*`           | `cuda/attention_tiles.cu`         |
//! | of one, over a cache | `attention_step_*`            | `cuda/attention_step.cu`          |
//! | norms                | `norm_rms`, `norm_layer`      | `cuda/norm.cu`                    |
//! | chosen tokens        | `argmax`, `draw`              | `cuda/rows.cu`, `cuda/draw.cu`    |
//! | the rest             | their names                   | `cuda/pointwise.cu`, `cuda/rows.cu` |
//!
//! Those of a step of generating text are there twice: from compute capability 9.0 on, they begin
//! while the kernels before them still run, and wait before they read what these write.
//!
//! The plain twin of each is the operation of the same name of `gptq_core::Reference`.

mod attention;
mod blas;
mod device;
mod draw;
mod half;
mod keep;
mod kernels;
mod launch;
mod layout;
mod measure;
mod modules;
mod ops;
mod packed;
mod products;
mod tape;
mod together;

use std::{fmt, sync::Arc};

use gptq_core::Error;

pub use half::Half;
pub use packed::CudaPacked;
pub use products::{ProductFigures, Products};
pub use tape::Traffic;

use device::{Buffer, Device, failure};

/// One GPU, through its driver.
///
/// ```no_run
/// use gptq_core::Backend;
/// use gptq_kernels::cuda::CudaBackend;
/// use ndarray::Array2;
///
/// let gpu = CudaBackend::open(0)?;
/// let x = gpu.take(Array2::ones((2, 3)))?;
/// assert_eq!(gpu.dim(&x), (2, 3));
/// # Ok::<(), gptq_core::Error>(())
/// ```
#[derive(Clone)]
pub struct CudaBackend {
    device: Arc<Device>,
    half: Half,
    exact: bool,
}

/// A row-major f32 matrix on a GPU.
pub struct CudaTensor {
    buffer: Buffer,
    rows: usize,
    columns: usize,
    /// The same numbers as factors of the product that comes next, where its maker wrote them too.
    halves: Option<(Half, Buffer)>,
    /// Of keys and values in a cache: what they are instead of f32.
    kept: Option<Half>,
}

impl CudaBackend {
    /// The GPU with this number, counted from 0.
    ///
    /// # Errors
    /// [`Error::Backend`], with the way out: no driver, no GPU, one older than compute capability
    /// 8.0, or a driver that does not start.
    pub fn open(ordinal: usize) -> Result<Self, Error> {
        Ok(Self { device: Device::open(ordinal, None)?, half: Half::F16, exact: false })
    }

    /// The same with kernels for GPUs of at most this compute capability: what newer ones bring is
    /// the difference.
    ///
    /// ```no_run
    /// use gptq_kernels::cuda::CudaBackend;
    ///
    /// // No products of warpgroups, and every kernel waits for the one before it.
    /// let as_ampere = CudaBackend::open_for(0, (8, 0))?;
    /// # Ok::<(), gptq_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`CudaBackend::open`]; [`Error::Backend`] below 8.0.
    pub fn open_for(ordinal: usize, capability: (i32, i32)) -> Result<Self, Error> {
        let device = Device::open(ordinal, Some(capability))?;
        Ok(Self { device, half: Half::F16, exact: false })
    }

    /// With factors of products rounded to this type.
    pub fn with_half(self, half: Half) -> Self {
        Self { half, ..self }
    }

    /// With products of f32 throughout: slow, and right to the last digits.
    pub fn exact(self) -> Self {
        Self { exact: true, ..self }
    }

    /// `NVIDIA H200, compute capability 9.0, cuBLAS`.
    pub fn describe(&self) -> String {
        let Device { name, capability, chosen_for, blas, .. } = &*self.device;
        let version = |(major, minor): (i32, i32)| format!("{major}.{minor}");
        let blas = if blas.is_some() { "with cuBLAS" } else { "cuBLAS not found" };
        let kernels = match chosen_for == capability {
            true => String::new(),
            false => format!(", kernels for {}", version(*chosen_for)),
        };
        format!("{name}, compute capability {}{kernels}, {blas}", version(*capability))
    }

    /// What factors of products are rounded to: `f32`, `f16` or `bf16`.
    pub fn precision_name(&self) -> &'static str {
        if self.exact { "f32" } else { self.half.name() }
    }

    /// Free and total memory of the GPU, in bytes.
    ///
    /// # Errors
    /// [`Error::Backend`] if the GPU is lost.
    pub fn memory(&self) -> Result<(usize, usize), Error> {
        self.device.enter()?;
        self.device.memory()
    }

    /// What was asked of the GPU so far: how much of it ran as graphs, and what came back.
    ///
    /// ```no_run
    /// use gptq_kernels::cuda::CudaBackend;
    ///
    /// let gpu = CudaBackend::open(0)?;
    /// let before = gpu.traffic();
    /// // Here a token is generated.
    /// assert_eq!(gpu.traffic().bytes_read - before.bytes_read, 4);
    /// # Ok::<(), gptq_core::Error>(())
    /// ```
    pub fn traffic(&self) -> Traffic {
        self.device.tape().traffic
    }

    /// Waits until all that was asked is done.
    ///
    /// # Errors
    /// [`Error::Backend`] if any of it failed.
    pub fn finish(&self) -> Result<(), Error> {
        self.device.finish()
    }

    fn tensor(&self, rows: usize, columns: usize) -> Result<CudaTensor, Error> {
        let count = rows.checked_mul(columns).filter(|&n| n <= u32::MAX as usize * 64);
        let count = count
            .ok_or_else(|| failure(format!("CUDA: a matrix of {rows} × {columns} is too large")))?;
        Ok(CudaTensor {
            buffer: self.device.words(count)?,
            rows,
            columns,
            halves: None,
            kept: None,
        })
    }

    /// One with room for its halves, if products could take them as they lie: whole stages of
    /// inputs, in their own order.
    fn tensor_with_halves(&self, rows: usize, columns: usize) -> Result<CudaTensor, Error> {
        let tensor = self.tensor(rows, columns)?;
        if self.exact || columns == 0 || !columns.is_multiple_of(layout::DEEP * layout::STAGE) {
            return Ok(tensor);
        }
        let halves = Some((self.half, self.device.words(rows * columns / 2)?));
        Ok(CudaTensor { halves, ..tensor })
    }
}

impl CudaTensor {
    fn len(&self) -> usize {
        self.rows * self.columns
    }

    /// About to be changed: its halves are not the same then.
    fn change(&mut self) {
        self.halves = None;
    }

    /// Where its halves go and of which kind they are, as the kernel that makes it wants to know.
    fn halves(&self) -> (u64, u32) {
        match &self.halves {
            None => (0, 0),
            Some((half, halves)) => (halves.at, half.kind()),
        }
    }

    /// What its numbers are, as kernels want to know.
    fn kept(&self) -> u32 {
        self.kept.map_or(0, Half::kind)
    }
}

impl fmt::Debug for CudaBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CudaBackend({}, {})", self.describe(), self.precision_name())
    }
}

impl fmt::Debug for CudaTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CudaTensor({} × {})", self.rows, self.columns)
    }
}
