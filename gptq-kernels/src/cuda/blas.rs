//! cuBLAS, where it is installed: products of halves for very many tokens.

use std::ffi::c_void;

use cudarc::{
    cublas::{result, sys},
    driver::{
        CudaStream,
        result::{free_sync, malloc_sync},
        sys::CUdeviceptr,
    },
};
use gptq_core::Error;

use super::{device::failure, half::Half};

/// What cuBLAS wants at least on the newest GPUs.
const WORKSPACE: usize = 32 << 20;

/// A handle, which one thread at a time may use: the tape's, which is behind a lock.
pub(super) struct Blas {
    handle: sys::cublasHandle_t,
    /// Memory of its own, or it would ask for some whenever a graph is recorded.
    workspace: CUdeviceptr,
}

// SAFETY: a handle may move between threads; that none shares it is the tape's lock.
unsafe impl Send for Blas {}
// SAFETY: as above.
unsafe impl Sync for Blas {}

impl Drop for Blas {
    fn drop(&mut self) {
        // SAFETY: made by `open`, dropped once. A failure leaves nothing to do.
        let _ = unsafe { result::destroy_handle(self.handle) };
        // SAFETY: came from `malloc_sync`, and the handle that used it is gone.
        let _ = unsafe { free_sync(self.workspace) };
    }
}

/// c = unit · x · wᵀ: x is tokens × k and w outputs × k, of halves; c is tokens × outputs, of f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Product {
    pub(super) x: CUdeviceptr,
    pub(super) w: CUdeviceptr,
    pub(super) c: CUdeviceptr,
    pub(super) tokens: u32,
    pub(super) outputs: u32,
    pub(super) k: u32,
    pub(super) half: Half,
    /// What products are multiplied with, by its bits.
    pub(super) unit: u32,
}

impl Blas {
    /// None where the library is missing.
    pub(super) fn open(stream: &CudaStream) -> Option<Self> {
        // SAFETY: asks the loader for a library.
        if !unsafe { sys::is_culib_present() } {
            return None;
        }
        // SAFETY: a plain allocation in the current context.
        let workspace = unsafe { malloc_sync(WORKSPACE) }.ok()?;
        let blas = Self { handle: result::create_handle().ok()?, workspace };
        // SAFETY: both are of the current context and live as long as the device.
        unsafe { result::set_stream(blas.handle, stream.cu_stream().cast()) }.ok()?;
        let place = workspace as *mut c_void;
        // SAFETY: exactly the bytes of that allocation, which outlives the handle.
        unsafe { sys::cublasSetWorkspace_v2(blas.handle, place, WORKSPACE) }.result().ok()?;
        Some(blas)
    }

    /// The caller holds the tape, and wrote the buffers' sizes.
    pub(super) fn multiply(&self, p: &Product) -> Result<(), Error> {
        let (unit, zero) = (f32::from_bits(p.unit), 0f32);
        let half = p.half.choose(sys::cudaDataType::CUDA_R_16F, sys::cudaDataType::CUDA_R_16BF);
        let (tokens, outputs, k) = (p.tokens as i32, p.outputs as i32, p.k as i32);
        // SAFETY: pointers and shapes are those of live buffers, checked where the product was made.
        // cuBLAS counts by columns: it sees all three transposed.
        unsafe {
            result::gemm_ex(
                self.handle,
                sys::cublasOperation_t::CUBLAS_OP_T,
                sys::cublasOperation_t::CUBLAS_OP_N,
                outputs,
                tokens,
                k,
                (&raw const unit).cast::<c_void>(),
                p.w as *const c_void,
                half,
                k,
                p.x as *const c_void,
                half,
                k,
                (&raw const zero).cast::<c_void>(),
                p.c as *mut c_void,
                sys::cudaDataType::CUDA_R_32F,
                outputs,
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .map_err(|e| {
            failure(format!("cuBLAS: a product of {tokens} × {k} and {outputs} × {k}: {e:?}"))
        })
    }
}
