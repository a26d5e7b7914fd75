//! cuBLAS, as far as products of matrices.

use std::collections::HashMap;
use std::ffi::{c_char, c_int, c_longlong, c_void};
use std::sync::{Mutex, PoisonError};

use super::code::Code;
use super::gemm::{Gemm, Matrix};
use super::state::{put, with_alive};
use super::work::Work;
use crate::types::Ty;

/// Handles and their streams.
static STREAMS: Mutex<Option<HashMap<usize, usize>>> = Mutex::new(None);

const NOT_INITIALIZED: u32 = 1;
const INVALID_VALUE: u32 = 7;
const EXECUTION_FAILED: u32 = 13;
const NOT_SUPPORTED: u32 = 15;

fn streams<T>(f: impl FnOnce(&mut HashMap<usize, usize>) -> T) -> T {
    f(STREAMS.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default())
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasCreate_v2(handle: *mut usize) -> u32 {
    let made = with_alive(|state| {
        state.refuse_in_capture()?;
        let new = state.handle();
        streams(|streams| streams.insert(new, 0));
        put(handle, new);
        Ok(())
    });
    if made == 0 { 0 } else { NOT_INITIALIZED }
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasDestroy_v2(handle: usize) -> u32 {
    if streams(|streams| streams.remove(&handle)).is_some() { 0 } else { NOT_INITIALIZED }
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasSetStream_v2(handle: usize, stream: usize) -> u32 {
    if streams(|streams| streams.insert(handle, stream)).is_some() { 0 } else { NOT_INITIALIZED }
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasSetWorkspace_v2(
    _handle: usize,
    _workspace: *mut c_void,
    _bytes: usize,
) -> u32 {
    0
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasSetMathMode(_handle: usize, _mode: c_int) -> u32 {
    0
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasSetPointerMode_v2(_handle: usize, mode: c_int) -> u32 {
    // Factors come from the host.
    if mode == 0 { 0 } else { NOT_SUPPORTED }
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasGetPointerMode_v2(_handle: usize, mode: *mut c_int) -> u32 {
    put(mode, 0);
    0
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasGetVersion_v2(_handle: usize, version: *mut c_int) -> u32 {
    put(version, 130_000);
    0
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasGetStatusName(status: u32) -> *const c_char {
    let name = match status {
        0 => c"CUBLAS_STATUS_SUCCESS",
        NOT_INITIALIZED => c"CUBLAS_STATUS_NOT_INITIALIZED",
        INVALID_VALUE => c"CUBLAS_STATUS_INVALID_VALUE",
        EXECUTION_FAILED => c"CUBLAS_STATUS_EXECUTION_FAILED",
        NOT_SUPPORTED => c"CUBLAS_STATUS_NOT_SUPPORTED",
        _ => c"CUBLAS_STATUS_INTERNAL_ERROR",
    };
    name.as_ptr()
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasGetStatusString(status: u32) -> *const c_char {
    cublasGetStatusName(status)
}

/// `CUDA_R_*` types that a product takes.
fn element(ty: c_int) -> Option<Ty> {
    match ty {
        0 => Some(Ty::F32),
        2 => Some(Ty::F16),
        14 => Some(Ty::Bf16),
        _ => None,
    }
}

/// A factor on the host.
fn factor(at: *const c_void) -> Option<f32> {
    if at.is_null() {
        return None;
    }
    // SAFETY: the interface asks for a pointer to a factor of the type it computes in.
    Some(unsafe { at.cast::<f32>().read_unaligned() })
}

fn submit(handle: usize, gemm: Option<Gemm>) -> u32 {
    let Some(gemm) = gemm else { return INVALID_VALUE };
    let Some(stream) = streams(|streams| streams.get(&handle).copied()) else {
        return NOT_INITIALIZED;
    };
    match with_alive(|state| state.submit(stream, Work::Gemm(gemm))) {
        0 => 0,
        code if code == Code::INVALID_HANDLE.0 => INVALID_VALUE,
        _ => EXECUTION_FAILED,
    }
}

fn matrix(
    at: u64,
    ty: c_int,
    stride: c_int,
    operation: c_int,
    batch: c_longlong,
) -> Option<Matrix> {
    let transposed = match operation {
        0 => false,
        1 | 2 => true,
        _ => return None,
    };
    (stride > 0).then_some(())?;
    Some(Matrix { at, ty: element(ty)?, stride: stride as usize, transposed, batch })
}

#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "the interface of cuBLAS")]
pub(crate) extern "C" fn cublasGemmStridedBatchedEx(
    handle: usize,
    a_operation: c_int,
    b_operation: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: *const c_void,
    a: u64,
    a_type: c_int,
    a_stride: c_int,
    a_batch: c_longlong,
    b: u64,
    b_type: c_int,
    b_stride: c_int,
    b_batch: c_longlong,
    beta: *const c_void,
    c: u64,
    c_type: c_int,
    c_stride: c_int,
    c_batch: c_longlong,
    batches: c_int,
    compute: c_int,
    _algorithm: c_int,
) -> u32 {
    // All ways to compute in `f32`, be they fast or pedantic.
    if !matches!(compute, 68 | 69 | 74 | 75 | 77) {
        return NOT_SUPPORTED;
    }
    let gemm = || {
        Some(Gemm {
            m: usize::try_from(m).ok()?,
            n: usize::try_from(n).ok()?,
            k: usize::try_from(k).ok()?,
            alpha: factor(alpha)?,
            beta: factor(beta)?,
            a: matrix(a, a_type, a_stride, a_operation, a_batch)?,
            b: matrix(b, b_type, b_stride, b_operation, b_batch)?,
            c: matrix(c, c_type, c_stride, 0, c_batch)?,
            batches: usize::try_from(batches).ok()?,
        })
    };
    submit(handle, gemm())
}

#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "the interface of cuBLAS")]
pub(crate) extern "C" fn cublasGemmEx(
    handle: usize,
    a_operation: c_int,
    b_operation: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: *const c_void,
    a: u64,
    a_type: c_int,
    a_stride: c_int,
    b: u64,
    b_type: c_int,
    b_stride: c_int,
    beta: *const c_void,
    c: u64,
    c_type: c_int,
    c_stride: c_int,
    compute: c_int,
    algorithm: c_int,
) -> u32 {
    cublasGemmStridedBatchedEx(
        handle,
        a_operation,
        b_operation,
        m,
        n,
        k,
        alpha,
        a,
        a_type,
        a_stride,
        0,
        b,
        b_type,
        b_stride,
        0,
        beta,
        c,
        c_type,
        c_stride,
        0,
        1,
        compute,
        algorithm,
    )
}

#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "the interface of cuBLAS")]
pub(crate) extern "C" fn cublasSgemm_v2(
    handle: usize,
    a_operation: c_int,
    b_operation: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: *const c_void,
    a: u64,
    a_stride: c_int,
    b: u64,
    b_stride: c_int,
    beta: *const c_void,
    c: u64,
    c_stride: c_int,
) -> u32 {
    cublasGemmEx(
        handle,
        a_operation,
        b_operation,
        m,
        n,
        k,
        alpha,
        a,
        0,
        a_stride,
        b,
        0,
        b_stride,
        beta,
        c,
        0,
        c_stride,
        68,
        0,
    )
}
