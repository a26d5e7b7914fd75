//! One kernel is told to the driver.

use std::ffi::c_void;

use cudarc::driver::{
    DriverError,
    sys::{
        self, CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION as EARLY,
    },
};

use super::device::Device;

/// A function of a loaded module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kernel {
    pub(super) function: usize,
    /// Whether it waits itself for the kernels before it, as far as it needs them, and says when the
    /// one after it may begin.
    pub(super) early: bool,
}

/// How many of them run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    pub(super) blocks: [u32; 3],
    pub(super) threads: u32,
    /// Bytes of shared memory of a block.
    pub(super) shared: u32,
}

impl Kernel {
    /// Launches it; `early` if the kernel before may still run when it begins, which this one must
    /// be made for.
    ///
    /// # Safety
    /// Arguments must be in the order and of the sizes that the kernel has, and their buffers as
    /// large as it reads and writes.
    pub(super) unsafe fn launch(
        self,
        device: &Device,
        grid: Grid,
        early: bool,
        arguments: &mut [*mut c_void],
    ) -> Result<(), DriverError> {
        let [x, y, z] = grid.blocks;
        let value = sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 };
        let mut attribute = sys::CUlaunchAttribute { id: EARLY, pad: [0; 4], value };
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: grid.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: grid.shared,
            hStream: device.stream.cu_stream(),
            attrs: &raw mut attribute,
            numAttrs: u32::from(early),
        };
        // SAFETY: the configuration and its attribute live until the call returns, by when the
        // driver has copied the arguments, for which the caller answers.
        let code = unsafe {
            sys::cuLaunchKernelEx(
                &raw const config,
                self.function as sys::CUfunction,
                arguments.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        code.result()
    }
}
