//! The one device.

use std::ffi::{c_char, c_int, c_uint};

use super::code::Code;
use super::config::Config;
use super::state::{put, with};

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuInit(_flags: c_uint) -> u32 {
    with(|state| if state.config.absent { Err(Code::NO_DEVICE) } else { Ok(()) })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuDriverGetVersion(version: *mut c_int) -> u32 {
    put(version, 13000);
    0
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuDeviceGetCount(count: *mut c_int) -> u32 {
    with(|state| {
        put(count, c_int::from(!state.config.absent));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> u32 {
    with(|state| {
        if state.config.absent || ordinal != 0 {
            return Err(Code::INVALID_DEVICE);
        }
        put(device, 0);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuDeviceGetName(name: *mut c_char, length: c_int, _device: c_int) -> u32 {
    let text = c"PTX emulator".to_bytes_with_nul();
    if (length as usize) < text.len() {
        return Code::INVALID_VALUE.0;
    }
    for (at, byte) in text.iter().enumerate() {
        put(name.wrapping_add(at), *byte as c_char);
    }
    0
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], _device: c_int) -> u32 {
    put(uuid, *b"gptq-ptx-emulate");
    0
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuDeviceGetUuid(uuid: *mut [u8; 16], device: c_int) -> u32 {
    cuDeviceGetUuid_v2(uuid, device)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, _device: c_int) -> u32 {
    with(|state| {
        put(bytes, state.memory.capacity() as usize);
        Ok(())
    })
}

/// Attributes by number; those that mean nothing here are zero.
fn attribute(config: &Config, number: c_int) -> c_int {
    match number {
        1..=3 => 1024,
        4 => 64,
        5 => c_int::MAX,
        6 | 7 => 65535,
        8 => 48 << 10,
        9 => 64 << 10,
        10 => 32,
        11 => c_int::MAX,
        12 | 82 => 65536,
        // Clocks in kHz, plausible ones.
        13 => 1_410_000,
        36 => 1_215_000,
        16 => config.multiprocessors as c_int,
        14 => 512,
        // Overlap, mapped host memory, concurrent kernels, unified addresses, priorities.
        15 | 19 | 31 | 41 | 78 | 79 | 80 => 1,
        37 => 5120,
        38 => 4 << 20,
        39 => 2048,
        40 => 2,
        75 => config.capability.0 as c_int,
        76 => config.capability.1 as c_int,
        81 => config.shared_memory() as c_int,
        87 => 2,
        97 => config.shared_opt_in() as c_int,
        106 => 32,
        111 => (config.shared_memory() - config.shared_opt_in()) as c_int,
        115 => 1,
        _ => 0,
    }
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuDeviceGetAttribute(
    value: *mut c_int,
    number: c_int,
    _device: c_int,
) -> u32 {
    with(|state| {
        put(value, attribute(&state.config, number));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuDeviceComputeCapability(
    major: *mut c_int,
    minor: *mut c_int,
    _device: c_int,
) -> u32 {
    with(|state| {
        put(major, state.config.capability.0 as c_int);
        put(minor, state.config.capability.1 as c_int);
        Ok(())
    })
}

/// A pool is only a name: allocations come from the device's memory.
const POOL: usize = 0x40;

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuDeviceGetMemPool(pool: *mut usize, _device: c_int) -> u32 {
    put(pool, POOL);
    0
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuDeviceGetDefaultMemPool(pool: *mut usize, _device: c_int) -> u32 {
    put(pool, POOL);
    0
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuDeviceSetMemPool(_device: c_int, _pool: usize) -> u32 {
    0
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemPoolTrimTo(_pool: usize, _keep: usize) -> u32 {
    0
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemPoolSetAttribute(_pool: usize, _what: c_int, _to: *mut u64) -> u32 {
    0
}

/// Bytes in use, now and at most; thresholds are zero.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemPoolGetAttribute(_pool: usize, what: c_int, value: *mut u64) -> u32 {
    with(|state| {
        let used = state.memory.capacity() - state.memory.free_bytes();
        match what {
            1..=3 => put(value.cast::<c_int>(), 1),
            5..=8 => put(value, used),
            _ => put(value, 0),
        }
        Ok(())
    })
}
