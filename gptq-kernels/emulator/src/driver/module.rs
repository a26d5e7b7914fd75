//! Modules: PTX text given as data or as a file.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;

use super::code::Code;
use super::function::Function;
use super::state::{put, with, with_alive};
use super::work::complain;
use crate::module::Module;
use crate::text::target;

/// A string of the caller's.
fn text<'a>(start: *const c_char) -> Option<&'a CStr> {
    if start.is_null() {
        return None;
    }
    // SAFETY: the driver's interface asks for a string that ends with zero.
    Some(unsafe { CStr::from_ptr(start) })
}

/// Whether a device of the capability runs code for the architecture: `sm_80` runs on all later
/// ones, `sm_90a` on its own alone.
fn runs(architecture: &str, capability: u32) -> bool {
    let Some(name) = architecture.strip_prefix("sm_") else { return false };
    let digits = name.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let alone = digits != name;
    digits.parse().is_ok_and(|least: u32| least == capability || !alone && least < capability)
}

fn load(handle: *mut usize, ptx: &[u8]) -> u32 {
    with_alive(|state| {
        state.refuse_in_capture()?;
        let ptx = std::str::from_utf8(ptx).map_err(|_| Code::INVALID_IMAGE)?;
        if !ptx.contains(".version") {
            return Err(Code::INVALID_IMAGE);
        }
        let (major, minor) = state.config.capability;
        if !runs(target(ptx), 10 * major + minor) {
            return Err(Code::INVALID_PTX);
        }
        let module = Module::parse(ptx).map_err(|error| {
            complain(&error);
            Code::INVALID_PTX
        })?;
        let new = state.handle();
        state.modules.insert(new, Arc::new(module));
        put(handle, new);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuModuleLoadData(handle: *mut usize, image: *const c_char) -> u32 {
    text(image).map_or(Code::INVALID_VALUE.0, |ptx| load(handle, ptx.to_bytes()))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuModuleLoadDataEx(
    handle: *mut usize,
    image: *const c_char,
    _count: c_uint,
    _options: *mut c_int,
    _values: *mut *mut c_void,
) -> u32 {
    cuModuleLoadData(handle, image)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuModuleLoad(handle: *mut usize, path: *const c_char) -> u32 {
    let Some(path) = text(path).and_then(|path| path.to_str().ok()) else {
        return Code::INVALID_VALUE.0;
    };
    match std::fs::read(path) {
        Ok(ptx) => load(handle, &ptx),
        Err(_) => Code::FILE_NOT_FOUND.0,
    }
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuModuleUnload(module: usize) -> u32 {
    with(|state| state.modules.remove(&module).map(drop).ok_or(Code::INVALID_HANDLE))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuModuleGetFunction(
    function: *mut usize,
    module: usize,
    name: *const c_char,
) -> u32 {
    with_alive(|state| {
        let module = state.modules.get(&module).cloned().ok_or(Code::INVALID_HANDLE)?;
        let name = text(name).and_then(|name| name.to_str().ok()).ok_or(Code::INVALID_VALUE)?;
        let (static_shared, max_threads) = module.limits(name).ok_or(Code::NOT_FOUND)?;
        let handle = state.handle();
        let new = Function {
            module,
            name: name.to_owned(),
            static_shared,
            max_threads: max_threads.unwrap_or(1024).min(1024),
            max_dynamic: (48 << 10) - static_shared.min(48 << 10),
        };
        state.functions.insert(handle, new);
        put(function, handle);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuModuleGetGlobal_v2(
    address: *mut u64,
    bytes: *mut usize,
    module: usize,
    name: *const c_char,
) -> u32 {
    with_alive(|state| {
        let module = state.modules.get(&module).ok_or(Code::INVALID_HANDLE)?;
        let name = text(name).and_then(|name| name.to_str().ok()).ok_or(Code::INVALID_VALUE)?;
        let (start, length) = module.global(name).ok_or(Code::NOT_FOUND)?;
        put(address, start);
        put(bytes, length);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::runs;

    #[test]
    fn architectures() {
        assert!(runs("sm_80", 80) && runs("sm_80", 90) && runs("sm_90a", 90));
        assert!(!runs("sm_80", 75) && !runs("sm_90a", 80) && !runs("sm_90a", 100));
        assert!(!runs("", 80) && !runs("compute_80", 80));
    }
}
