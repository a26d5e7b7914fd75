//! Puts the emulator in place of the driver.

use std::path::Path;
use std::sync::Once;

/// Sets the environment and opens the emulator: what `cudarc` looks for by name is then loaded.
pub(crate) fn open(environment: &[(&str, &str)]) {
    static OPENED: Once = Once::new();
    OPENED.call_once(|| {
        for (name, value) in environment {
            // SAFETY: nothing else in this process touches the environment.
            unsafe { std::env::set_var(name, value) };
        }
        let here = std::env::current_exe().unwrap();
        keep(&here.with_file_name("libgptq_ptx_emulator.so"));
        // cuBLAS goes by a name of its own.
        let alias = std::env::temp_dir().join(format!("libcublas-{}.so", std::process::id()));
        let bytes = gptq_ptx_emulator::alias_library("libcublas.so", "libcuda.so");
        std::fs::write(&alias, bytes).unwrap();
        keep(&alias);
        std::fs::remove_file(&alias).unwrap();
    });
}

/// Opens a library for good.
fn keep(path: &Path) {
    // SAFETY: the emulator and its alias run nothing when they are loaded.
    let library = unsafe { libloading::Library::new(path) };
    std::mem::forget(library.unwrap_or_else(|error| panic!("{}: {error}", path.display())));
}
