//! Contexts: there is one device, and all contexts are the same to it.

use std::cell::RefCell;
use std::ffi::{c_int, c_uint, c_void};

use super::code::Code;
use super::state::{put, with, with_alive};

/// The primary context's handle.
const PRIMARY: usize = 0x80;

thread_local! {
    /// Contexts of this thread, the current one last.
    static CURRENT: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuDevicePrimaryCtxRetain(context: *mut usize, _device: c_int) -> u32 {
    with(|state| {
        if state.config.absent {
            return Err(Code::NO_DEVICE);
        }
        put(context, PRIMARY);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuDevicePrimaryCtxRelease_v2(_device: c_int) -> u32 {
    0
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuCtxCreate_v4(
    context: *mut usize,
    _parameters: *mut c_void,
    _flags: c_uint,
    _device: c_int,
) -> u32 {
    with(|state| {
        let handle = state.handle();
        put(context, handle);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuCtxDestroy_v2(_context: usize) -> u32 {
    0
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuCtxGetCurrent(context: *mut usize) -> u32 {
    put(context, CURRENT.with_borrow(|stack| stack.last().copied().unwrap_or(0)));
    0
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuCtxSetCurrent(context: usize) -> u32 {
    CURRENT.with_borrow_mut(|stack| {
        stack.pop();
        if context != 0 {
            stack.push(context);
        }
    });
    0
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuCtxPushCurrent_v2(context: usize) -> u32 {
    CURRENT.with_borrow_mut(|stack| stack.push(context));
    0
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuCtxPopCurrent_v2(context: *mut usize) -> u32 {
    put(context, CURRENT.with_borrow_mut(Vec::pop).unwrap_or(0));
    0
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuCtxGetDevice(device: *mut c_int) -> u32 {
    put(device, 0);
    0
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuCtxSynchronize() -> u32 {
    with_alive(|state| state.refuse_in_capture())
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuCtxGetStreamPriorityRange(least: *mut c_int, most: *mut c_int) -> u32 {
    put(least, 0);
    put(most, -5);
    0
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuCtxSetFlags(_flags: c_uint) -> u32 {
    0
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuCtxGetLimit(value: *mut usize, _limit: c_int) -> u32 {
    put(value, 0);
    0
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuCtxSetLimit(_limit: c_int, _value: usize) -> u32 {
    0
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuCtxGetCacheConfig(value: *mut c_int) -> u32 {
    put(value, 0);
    0
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuCtxSetCacheConfig(_value: c_int) -> u32 {
    0
}
