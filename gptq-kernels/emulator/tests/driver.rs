//! Host code that uses `cudarc` finds the emulator in place of the driver.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod host;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::cublas::{CudaBlas, Gemm, GemmConfig, sys::cublasOperation_t};
use cudarc::driver::sys::{self, CUdevice_attribute, CUresult, CUstreamCaptureMode};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, DriverError, LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::Ptx;
use half::f16;

const BASICS: &str = include_str!("kernels/basics.ptx");
const WRONG: &str = include_str!("kernels/wrong.ptx");

/// Tests share the device, and its memory is small: one at a time.
fn context() -> (MutexGuard<'static, ()>, Arc<CudaContext>) {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    host::open(&[("PTX_EMULATOR_MEMORY", "1000000"), ("PTX_EMULATOR_SMS", "7")]);
    (alone, CudaContext::new(0).unwrap())
}

fn saxpy(
    stream: &Arc<CudaStream>,
    function: &CudaFunction,
    x: &CudaSlice<f32>,
    y: &mut CudaSlice<f32>,
) -> Result<(), DriverError> {
    let (count, factor) = (x.len() as i32, 2f32);
    let mut launch = stream.launch_builder(function);
    launch.arg(&count).arg(&factor).arg(x).arg(y);
    // SAFETY: the arguments are those of the kernel.
    unsafe { launch.launch(LaunchConfig::for_num_elems(count as u32)) }.map(drop)
}

#[test]
fn the_device_describes_itself() {
    let (_alone, context) = context();
    assert_eq!(CudaContext::device_count().unwrap(), 1);
    assert_eq!(context.name().unwrap(), "PTX emulator");
    assert_eq!(context.compute_capability().unwrap(), (8, 0));
    assert_eq!(context.total_mem().unwrap(), 1_000_000);
    assert_eq!(context.mem_get_info().unwrap(), (1_000_000, 1_000_000));
    assert_eq!(context.uuid().unwrap().bytes.map(|byte| byte as u8), *b"gptq-ptx-emulate");
    let attribute = |which| context.attribute(which).unwrap();
    use CUdevice_attribute as Attribute;
    assert_eq!(attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT), 7);
    assert_eq!(attribute(Attribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE), 32);
    let opt_in = Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
    assert_eq!(attribute(opt_in), 166_912);
    context.synchronize().unwrap();
}

#[test]
fn a_kernel_runs() {
    let (_alone, context) = context();
    let module = context.load_module(Ptx::from_src(BASICS)).unwrap();
    let function = module.load_function("saxpy").unwrap();
    for stream in [context.default_stream(), context.new_stream().unwrap()] {
        let x = stream.clone_htod(&[1f32, 2.0, 3.0]).unwrap();
        let mut y = stream.alloc_zeros::<f32>(3).unwrap();
        let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let start = stream.record_event(timed).unwrap();
        saxpy(&stream, &function, &x, &mut y).unwrap();
        saxpy(&stream, &function, &x, &mut y).unwrap();
        let end = stream.record_event(timed).unwrap();
        let mut copy = stream.alloc_zeros::<f32>(3).unwrap();
        stream.memcpy_dtod(&y, &mut copy).unwrap();
        assert_eq!(stream.clone_dtoh(&copy).unwrap(), [4.0, 8.0, 12.0]);
        stream.memset_zeros(&mut y).unwrap();
        assert_eq!(stream.clone_dtoh(&y).unwrap(), [0.0; 3]);
        stream.synchronize().unwrap();
        assert!((0.0..1e5).contains(&start.elapsed_ms(&end).unwrap()));
        let plain = stream.record_event(None).unwrap();
        assert!(start.elapsed_ms(&plain).is_err());
    }
    assert_eq!(module.load_function("nothing").unwrap_err().0, CUresult::CUDA_ERROR_NOT_FOUND);
}

#[test]
fn memory_ends_and_comes_back() {
    let (_alone, context) = context();
    let stream = context.default_stream();
    let most = stream.alloc_zeros::<u8>(900_000).unwrap();
    let refused = stream.alloc_zeros::<u8>(100_001).unwrap_err();
    assert_eq!(refused.0, CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    assert!(refused.to_string().contains("out of memory"));
    drop(most);
    stream.alloc_zeros::<u8>(1_000_000).unwrap();
    assert_eq!(context.mem_get_info().unwrap().0, 1_000_000);
}

#[test]
fn launches_have_limits() {
    let (_alone, context) = context();
    let stream = context.default_stream();
    let module = context.load_module(Ptx::from_src(WRONG)).unwrap();
    let function = module.load_function("shared_outside").unwrap();
    let out = stream.alloc_zeros::<i32>(32).unwrap();
    let launch = |threads, shared_mem_bytes| {
        let mut launch = stream.launch_builder(&function);
        launch.arg(&out).arg(&1i32);
        let block_dim = (threads, 1, 1);
        let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim, shared_mem_bytes };
        // SAFETY: the arguments are those of the kernel.
        unsafe { launch.launch(config) }.map(drop).map_err(|error| error.0)
    };
    launch(32, 48 << 10).unwrap();
    assert_eq!(launch(1025, 8192), Err(CUresult::CUDA_ERROR_INVALID_VALUE));
    assert_eq!(launch(32, 64 << 10), Err(CUresult::CUDA_ERROR_INVALID_VALUE));
    let dynamic = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    function.set_attribute(dynamic, 64 << 10).unwrap();
    launch(32, 64 << 10).unwrap();
    assert!(function.set_attribute(dynamic, 200 << 10).is_err());
    let blocks = function.occupancy_max_active_blocks_per_multiprocessor(256, 64 << 10, None);
    assert_eq!(blocks.unwrap(), 2);
}

#[test]
fn a_graph_is_captured_and_replayed() {
    let (_alone, context) = context();
    let module = context.load_module(Ptx::from_src(BASICS)).unwrap();
    let function = module.load_function("saxpy").unwrap();
    // SAFETY: one stream does all the work.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().unwrap();
    let x = stream.clone_htod(&[1f32; 5]).unwrap();
    let mut y = stream.alloc_zeros::<f32>(5).unwrap();
    let flags = sys::CUgraphInstantiate_flags(0);
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;

    stream.begin_capture(mode).unwrap();
    saxpy(&stream, &function, &x, &mut y).unwrap();
    let graph = stream.end_capture(flags).unwrap().unwrap();
    assert_eq!(stream.clone_dtoh(&y).unwrap(), [0.0; 5]);
    graph.upload().unwrap();
    (0..3).for_each(|_| graph.launch().unwrap());
    assert_eq!(stream.clone_dtoh(&y).unwrap(), [6.0; 5]);

    // What waits cannot be captured, and spoils the capture.
    stream.begin_capture(mode).unwrap();
    let refused = stream.synchronize().unwrap_err();
    assert_eq!(refused.0, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    let spoilt = stream.end_capture(flags).err().unwrap();
    assert_eq!(spoilt.0, CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    assert!(stream.alloc_zeros::<f32>(5).is_ok());
    // SAFETY: back to what it was.
    unsafe { context.enable_event_tracking() };
}

#[test]
fn matrices_multiply() {
    let (_alone, context) = context();
    let stream = context.default_stream();
    let blas = CudaBlas::new(stream.clone()).unwrap();
    let (m, n, k) = (3, 2, 4);
    let value = |i: usize| f16::from_f32(i as f32 / 4.0 - 1.0);
    let (a, b): (Vec<_>, Vec<_>) =
        ((0..m * k).map(value).collect(), (0..k * n).map(value).collect());
    let (da, db) = (stream.clone_htod(&a).unwrap(), stream.clone_htod(&b).unwrap());
    let mut c = stream.alloc_zeros::<f16>(m * n).unwrap();
    let config = GemmConfig {
        transa: cublasOperation_t::CUBLAS_OP_T,
        transb: cublasOperation_t::CUBLAS_OP_N,
        m: m as i32,
        n: n as i32,
        k: k as i32,
        alpha: f16::ONE,
        lda: k as i32,
        ldb: k as i32,
        beta: f16::ZERO,
        ldc: m as i32,
    };
    // SAFETY: the sizes are those of the matrices.
    unsafe { blas.gemm(config, &da, &db, &mut c) }.unwrap();
    let expected = (0..n * m).map(|at| {
        let (column, row) = (at / m, at % m);
        let dot = (0..k).map(|i| a[row * k + i].to_f32() * b[column * k + i].to_f32());
        f16::from_f32(dot.sum())
    });
    assert_eq!(stream.clone_dtoh(&c).unwrap(), expected.collect::<Vec<_>>());
}
