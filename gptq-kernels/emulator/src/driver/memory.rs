//! Allocations, copies and fills.

use std::ffi::{c_uchar, c_uint, c_ushort, c_void};

use super::code::Code;
use super::state::{put, with_alive};
use super::work::{Copy, Work};

/// A stream that is none: calls without one run on the default stream.
const DEFAULT: usize = 0;

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> u32 {
    with_alive(|state| {
        state.refuse_in_capture()?;
        if bytes == 0 {
            return Err(Code::INVALID_VALUE);
        }
        put(address, state.memory.alloc(bytes).ok_or(Code::OUT_OF_MEMORY)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemAllocAsync(address: *mut u64, bytes: usize, stream: usize) -> u32 {
    with_alive(|state| {
        state.refuse_capturing(stream)?;
        if bytes == 0 {
            return Err(Code::INVALID_VALUE);
        }
        put(address, state.memory.alloc(bytes).ok_or(Code::OUT_OF_MEMORY)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemAllocFromPoolAsync(
    address: *mut u64,
    bytes: usize,
    _pool: usize,
    stream: usize,
) -> u32 {
    cuMemAllocAsync(address, bytes, stream)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemFree_v2(address: u64) -> u32 {
    with_alive(|state| {
        state.refuse_in_capture()?;
        if address == 0 || state.memory.free(address) { Ok(()) } else { Err(Code::INVALID_VALUE) }
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemFreeAsync(address: u64, stream: usize) -> u32 {
    with_alive(|state| {
        state.refuse_capturing(stream)?;
        if state.memory.free(address) { Ok(()) } else { Err(Code::INVALID_VALUE) }
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> u32 {
    with_alive(|state| {
        put(free, state.memory.free_bytes() as usize);
        put(total, state.memory.capacity() as usize);
        Ok(())
    })
}

/// Page-locked memory: kernels reach it too.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemHostAlloc(
    address: *mut *mut c_void,
    bytes: usize,
    _flags: c_uint,
) -> u32 {
    with_alive(|state| {
        state.refuse_in_capture()?;
        put(address, state.memory.alloc_host(bytes) as *mut c_void);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemFreeHost(address: *mut c_void) -> u32 {
    with_alive(
        |state| {
            if state.memory.free(address as u64) { Ok(()) } else { Err(Code::INVALID_VALUE) }
        },
    )
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemHostGetDevicePointer_v2(
    device: *mut u64,
    host: *mut c_void,
    _flags: c_uint,
) -> u32 {
    put(device, host as u64);
    0
}

/// Copies without a stream wait, and so no capture allows them.
fn copy_now(copy: Copy) -> u32 {
    with_alive(|state| {
        state.refuse_in_capture()?;
        state.execute(&Work::Copy(copy))
    })
}

fn copy_on(stream: usize, copy: Copy) -> u32 {
    with_alive(|state| state.submit(stream, Work::Copy(copy)))
}

fn upload(to: u64, from: *const c_void, bytes: usize) -> Copy {
    Copy { to, from: from as u64, bytes, to_device: true, from_device: false }
}

fn download(to: *mut c_void, from: u64, bytes: usize) -> Copy {
    Copy { to: to as u64, from, bytes, to_device: false, from_device: true }
}

fn within(to: u64, from: u64, bytes: usize) -> Copy {
    Copy { to, from, bytes, to_device: true, from_device: true }
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) -> u32 {
    copy_now(upload(to, from, bytes))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) -> u32 {
    copy_now(download(to, from, bytes))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> u32 {
    copy_now(within(to, from, bytes))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemcpyHtoDAsync_v2(
    to: u64,
    from: *const c_void,
    bytes: usize,
    stream: usize,
) -> u32 {
    copy_on(stream, upload(to, from, bytes))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: u64,
    bytes: usize,
    stream: usize,
) -> u32 {
    copy_on(stream, download(to, from, bytes))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemcpyDtoDAsync_v2(
    to: u64,
    from: u64,
    bytes: usize,
    stream: usize,
) -> u32 {
    copy_on(stream, within(to, from, bytes))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemcpyPeerAsync(
    to: u64,
    _to_context: usize,
    from: u64,
    _from_context: usize,
    bytes: usize,
    stream: usize,
) -> u32 {
    copy_on(stream, within(to, from, bytes))
}

fn fill(stream: usize, at: u64, value: u32, width: usize, count: usize) -> u32 {
    with_alive(|state| state.submit(stream, Work::Fill { at, value, width, count }))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemsetD8_v2(at: u64, value: c_uchar, count: usize) -> u32 {
    fill(DEFAULT, at, value.into(), 1, count)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemsetD8Async(
    at: u64,
    value: c_uchar,
    count: usize,
    stream: usize,
) -> u32 {
    fill(stream, at, value.into(), 1, count)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemsetD16Async(
    at: u64,
    value: c_ushort,
    count: usize,
    stream: usize,
) -> u32 {
    fill(stream, at, value.into(), 2, count)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemsetD32Async(
    at: u64,
    value: c_uint,
    count: usize,
    stream: usize,
) -> u32 {
    fill(stream, at, value, 4, count)
}
