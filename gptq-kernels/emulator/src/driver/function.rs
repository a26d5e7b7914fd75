//! Functions: their limits, and launches.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::Arc;

use super::code::Code;
use super::state::{State, put, with_alive};
use super::work::Work;
use crate::exec::Launch;
use crate::module::Module;

/// A kernel of a module.
#[derive(Clone)]
pub(super) struct Function {
    pub(super) module: Arc<Module>,
    pub(super) name: String,
    pub(super) static_shared: usize,
    pub(super) max_threads: u32,
    /// Bytes of dynamic shared memory that a launch may ask for.
    pub(super) max_dynamic: usize,
}

/// The attribute that raises the limit of dynamic shared memory.
const MAX_DYNAMIC_SHARED: c_int = 8;

impl State {
    fn function(&self, function: usize) -> Result<&Function, Code> {
        self.functions.get(&function).ok_or(Code::INVALID_HANDLE)
    }

    /// Blocks of a function that a multiprocessor holds at once; registers are not counted.
    fn active_blocks(&self, function: usize, threads: c_int, dynamic: usize) -> Result<i32, Code> {
        let function = self.function(function)?;
        if threads <= 0 {
            return Err(Code::INVALID_VALUE);
        }
        if threads as u32 > function.max_threads || dynamic > function.max_dynamic {
            return Ok(0);
        }
        let kept = self.config.shared_memory() - self.config.shared_opt_in();
        let shared = function.static_shared + dynamic + kept;
        let by_shared = self.config.shared_memory() / shared.max(1);
        let by_threads = 2048 / (threads as usize).next_multiple_of(32);
        Ok(by_shared.min(by_threads).min(32) as i32)
    }
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuFuncSetAttribute(function: usize, what: c_int, value: c_int) -> u32 {
    with_alive(|state| {
        let most = state.config.shared_opt_in();
        let function = state.functions.get_mut(&function).ok_or(Code::INVALID_HANDLE)?;
        if what == MAX_DYNAMIC_SHARED {
            if value < 0 || value as usize + function.static_shared > most {
                return Err(Code::INVALID_VALUE);
            }
            function.max_dynamic = value as usize;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuFuncGetAttribute(
    value: *mut c_int,
    what: c_int,
    function: usize,
) -> u32 {
    with_alive(|state| {
        let (major, minor) = state.config.capability;
        let function = state.function(function)?;
        let found = match what {
            0 => function.max_threads as c_int,
            1 => function.static_shared as c_int,
            4 => 64,
            5 | 6 => (10 * major + minor) as c_int,
            MAX_DYNAMIC_SHARED => function.max_dynamic as c_int,
            _ => 0,
        };
        put(value, found);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuFuncSetCacheConfig(_function: usize, _config: c_int) -> u32 {
    0
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    blocks: *mut c_int,
    function: usize,
    threads: c_int,
    dynamic: usize,
) -> u32 {
    with_alive(|state| {
        put(blocks, state.active_blocks(function, threads, dynamic)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    blocks: *mut c_int,
    function: usize,
    threads: c_int,
    dynamic: usize,
    _flags: c_uint,
) -> u32 {
    cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, dynamic)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuOccupancyAvailableDynamicSMemPerBlock(
    bytes: *mut usize,
    function: usize,
    _blocks: c_int,
    _threads: c_int,
) -> u32 {
    with_alive(|state| {
        put(bytes, state.function(function)?.max_dynamic);
        Ok(())
    })
}

/// The bytes of all parameters, from pointers to each.
fn gather(function: &Function, values: *mut *mut c_void) -> Result<Vec<u8>, Code> {
    let parameters = function.module.parameters(&function.name).unwrap_or_default();
    let length = parameters.last().map_or(0, |last| last.offset + last.size);
    let mut bytes = vec![0; length];
    for (at, parameter) in parameters.iter().enumerate() {
        if values.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: the driver's interface asks for one pointer per parameter.
        let from = unsafe { *values.add(at) };
        if from.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let to = &mut bytes[parameter.offset..][..parameter.size];
        // SAFETY: the pointer is to a value of the parameter's size.
        unsafe {
            std::ptr::copy_nonoverlapping(from.cast::<u8>(), to.as_mut_ptr(), parameter.size);
        }
    }
    Ok(bytes)
}

/// What a launch is told, as the driver lays it out.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Config {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    dynamic_shared: c_uint,
    stream: usize,
    attributes: *const Attribute,
    attribute_count: c_uint,
}

/// A kind and a value of at most 64 bytes.
#[repr(C)]
pub(crate) struct Attribute {
    kind: c_int,
    unused: [u8; 4],
    value: [c_int; 16],
}

/// Allows a kernel to begin before the one before it has ended.
const EARLY: c_int = 6;

fn launch(
    function: usize,
    config: Config,
    early: bool,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> u32 {
    with_alive(|state| {
        let Config { grid, block, .. } = config;
        let function = state.function(function)?;
        let threads: u64 = block.iter().map(|&side| u64::from(side)).product();
        let dynamic_shared = config.dynamic_shared as usize;
        let wrong = grid.contains(&0)
            || grid[0] > c_int::MAX as u32
            || grid[1..].iter().any(|&side| side > 65535)
            || threads == 0
            || threads > u64::from(function.max_threads)
            || block[2] > 64
            || dynamic_shared > function.max_dynamic
            || (early && state.config.capability < (9, 0))
            || !extra.is_null();
        if wrong {
            return Err(Code::INVALID_VALUE);
        }
        let launch = Launch {
            grid,
            block,
            dynamic_shared,
            order: state.config.order,
            races: state.config.races,
        };
        let work = Work::Launch {
            module: function.module.clone(),
            kernel: function.name.clone(),
            launch,
            parameters: gather(function, parameters)?,
            early,
        };
        state.submit(config.stream, work)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuLaunchKernelEx(
    config: *const Config,
    function: usize,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> u32 {
    if config.is_null() {
        return Code::INVALID_VALUE.0;
    }
    // SAFETY: the driver's interface asks for a pointer to such a structure.
    let config = unsafe { *config };
    let mut early = false;
    for at in 0..config.attribute_count as usize {
        // SAFETY: as above, of so many attributes.
        let attribute = unsafe { &*config.attributes.add(at) };
        if attribute.kind != EARLY {
            return Code::NOT_SUPPORTED.0;
        }
        early = attribute.value[0] != 0;
    }
    launch(function, config, early, parameters, extra)
}

#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "the driver's interface")]
pub(crate) extern "C" fn cuLaunchKernel(
    function: usize,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    dynamic_shared: c_uint,
    stream: usize,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> u32 {
    let config = Config {
        grid: [grid_x, grid_y, grid_z],
        block: [block_x, block_y, block_z],
        dynamic_shared,
        stream,
        attributes: std::ptr::null(),
        attribute_count: 0,
    };
    launch(function, config, false, parameters, extra)
}
