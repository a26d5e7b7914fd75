//! What a stream does: at once, or whenever a graph is launched.

use std::ffi::c_void;
use std::sync::Arc;

use super::code::Code;
use super::gemm::{self, Gemm};
use super::state::State;
use crate::error::Error;
use crate::exec::Launch;
use crate::exec::early::{Early, Lines};
use crate::module::Module;

/// One piece of work, its arguments copied.
#[derive(Clone)]
pub(super) enum Work {
    Launch {
        module: Arc<Module>,
        kernel: String,
        launch: Launch,
        parameters: Vec<u8>,
        /// Whether it may begin before the kernels before it have ended.
        early: bool,
    },
    Copy(Copy),
    /// Writes the lowest `width` bytes of a value `count` times.
    Fill {
        at: u64,
        value: u32,
        width: usize,
        count: usize,
    },
    Host {
        function: unsafe extern "C" fn(*mut c_void),
        data: usize,
    },
    Gemm(Gemm),
}

/// Bytes from one place to another; the flags say which of them the device owns.
#[derive(Clone, Copy)]
pub(super) struct Copy {
    pub(super) to: u64,
    pub(super) from: u64,
    pub(super) bytes: usize,
    pub(super) to_device: bool,
    pub(super) from_device: bool,
}

impl State {
    pub(super) fn execute(&mut self, work: &Work) -> Result<(), Code> {
        match work {
            Work::Launch { module, kernel, launch, parameters, early } => {
                self.launches += 1;
                if self.config.lose.is_some_and(|at| self.launches >= at) {
                    return self.lose(Code::LAUNCH_FAILED);
                }
                let before = early.then(|| std::mem::take(&mut self.unsettled));
                let threads = launch.block.iter().map(|&side| side as usize).product();
                let mut state = Early::new(before, threads);
                let ran =
                    module.launch_after(kernel, launch, parameters, &mut self.memory, &mut state);
                self.unsettled = state.left();
                match ran {
                    Ok(_) => Ok(()),
                    Err(error @ Error::Fault(_)) => {
                        complain(&error);
                        self.lose(Code::ILLEGAL_ADDRESS)
                    }
                    Err(error) => {
                        complain(&error);
                        Err(Code::INVALID_VALUE)
                    }
                }
            }
            Work::Copy(copy) => {
                self.unsettled = Lines::default();
                self.copy(*copy)
            }
            Work::Fill { at, value, width, count } => {
                if !self.is_device(*at, width * count) {
                    return Err(Code::INVALID_VALUE);
                }
                self.unsettled = Lines::default();
                // SAFETY: the range was found to be device memory, which the state guards.
                let to = unsafe { std::slice::from_raw_parts_mut(*at as *mut u8, width * count) };
                to.chunks_mut(*width)
                    .for_each(|cell| cell.copy_from_slice(&value.to_le_bytes()[..*width]));
                Ok(())
            }
            Work::Host { function, data } => {
                // SAFETY: the caller gave the function to be called with this.
                unsafe { function(*data as *mut c_void) };
                Ok(())
            }
            Work::Gemm(gemm) => {
                self.unsettled = gemm.written();
                gemm::run(self, gemm)
            }
        }
    }

    /// The device fails now and from now on.
    fn lose(&mut self, code: Code) -> Result<(), Code> {
        self.lost = Some(code);
        Err(code)
    }

    fn copy(&self, copy: Copy) -> Result<(), Code> {
        let Copy { to, from, bytes, .. } = copy;
        if bytes == 0 {
            return Ok(());
        }
        let known = (!copy.to_device || self.is_device(to, bytes))
            && (!copy.from_device || self.is_device(from, bytes));
        if !known || to == 0 || from == 0 {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: device ranges were looked up, and the caller answers for those of the host.
        unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
        Ok(())
    }
}

/// Tells what no result code can say.
#[allow(clippy::print_stderr, reason = "a driver has no other way to say where a kernel failed")]
pub(super) fn complain(error: &Error) {
    eprintln!("PTX emulator: {error}");
}
