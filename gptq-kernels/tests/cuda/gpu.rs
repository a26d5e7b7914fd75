//! A GPU, whatever there is.

use std::sync::OnceLock;

use gptq_kernels::cuda::CudaBackend;

/// One for all tests of this process.
pub(crate) fn gpu() -> CudaBackend {
    static GPU: OnceLock<CudaBackend> = OnceLock::new();
    let open = || {
        // SAFETY: both libraries run nothing but their initialisers when they are loaded.
        let real = unsafe { libloading::Library::new("libcuda.so.1") };
        if real.is_err() {
            // SAFETY: nothing else in this process changes the environment.
            unsafe { std::env::set_var("PTX_EMULATOR_CAPABILITY", crate::CAPABILITY) };
            let folder = std::env::current_exe().unwrap();
            let emulator = folder.with_file_name("libgptq_ptx_emulator.so");
            // SAFETY: as above. It answers to the name libcuda.so from here on.
            let emulator = unsafe { libloading::Library::new(&emulator) }
                .unwrap_or_else(|e| panic!("{}: {e}", emulator.display()));
            std::mem::forget(emulator);
        }
        CudaBackend::open(0).unwrap()
    };
    GPU.get_or_init(open).clone()
}

/// One that no other test asks for anything: what is counted, and what is on its tape, is the
/// caller's alone.
#[allow(dead_code, reason = "one set of tests counts, another does not")]
pub(crate) fn own_gpu() -> CudaBackend {
    gpu();
    CudaBackend::open(0).unwrap()
}
