//! A device that is lost stays lost.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod host;

use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

#[test]
fn the_third_launch_is_the_last() {
    host::open(&[("PTX_EMULATOR_LOSE", "3"), ("PTX_EMULATOR_CAPABILITY", "9.0")]);
    let context = CudaContext::new(0).unwrap();
    assert_eq!(context.compute_capability().unwrap(), (9, 0));
    let stream = context.default_stream();
    let module = context.load_module(Ptx::from_src(include_str!("kernels/basics.ptx"))).unwrap();
    let function = module.load_function("variables").unwrap();
    let mut out = stream.alloc_zeros::<f32>(4).unwrap();
    let mut launch = || {
        let block_dim = (4, 1, 1);
        let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim, shared_mem_bytes: 0 };
        // SAFETY: the argument is the kernel's.
        unsafe { stream.launch_builder(&function).arg(&mut out).launch(config) }.map(drop)
    };
    launch().unwrap();
    launch().unwrap();
    let lost = CUresult::CUDA_ERROR_LAUNCH_FAILED;
    assert_eq!(launch().unwrap_err().0, lost);
    assert_eq!(launch().unwrap_err().0, lost);
    assert_eq!(stream.synchronize().unwrap_err().0, lost);
    assert_eq!(stream.clone_htod(&[1f32]).unwrap_err().0, lost);
}
