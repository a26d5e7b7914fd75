//! A kernel's fault reaches the host as an illegal address, and stays.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod host;

use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

#[test]
fn an_access_outside_loses_the_device() {
    host::open(&[]);
    let context = CudaContext::new(0).unwrap();
    let stream = context.default_stream();
    let module = context.load_module(Ptx::from_src(include_str!("kernels/wrong.ptx"))).unwrap();
    let function = module.load_function("outside").unwrap();
    let mut out = stream.alloc_zeros::<f32>(4).unwrap();
    let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (4, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: the argument is the kernel's; that it writes past it is what is tested.
    let launched = unsafe { stream.launch_builder(&function).arg(&mut out).launch(config) };
    assert_eq!(launched.map(drop).unwrap_err().0, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    let read = stream.clone_dtoh(&out).unwrap_err();
    assert_eq!(read.0, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
}
