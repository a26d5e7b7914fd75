//! Streams: work runs when it is submitted, or is recorded while the stream captures.

use std::ffi::{c_int, c_uint, c_void};
use std::thread::ThreadId;

use super::code::Code;
use super::state::{State, put, with, with_alive};
use super::work::Work;

/// A stream, and the capture it is part of.
#[derive(Default)]
pub(super) struct Stream {
    pub(super) capture: Option<usize>,
}

pub(super) struct Capture {
    pub(super) work: Vec<Work>,
    /// The stream that must end it.
    pub(super) origin: usize,
    pub(super) mode: c_int,
    pub(super) thread: ThreadId,
    /// Something was done that a capture does not allow.
    pub(super) broken: bool,
}

impl State {
    pub(super) fn capture_of(&self, stream: usize) -> Option<usize> {
        self.streams.get(&stream).and_then(|stream| stream.capture)
    }

    /// Fails for a stream that does not exist. The default streams always do.
    pub(super) fn known(&self, stream: usize) -> Result<(), Code> {
        if stream <= 2 || self.streams.contains_key(&stream) {
            Ok(())
        } else {
            Err(Code::INVALID_HANDLE)
        }
    }

    /// Runs work, or records it.
    pub(super) fn submit(&mut self, stream: usize, work: Work) -> Result<(), Code> {
        self.known(stream)?;
        if let Some(id) = self.capture_of(stream)
            && let Some(capture) = self.captures.get_mut(&id)
        {
            capture.work.push(work);
            return Ok(());
        }
        self.execute(&work)
    }

    /// Fails for what a capturing stream cannot do, and spoils its capture.
    pub(super) fn refuse_capturing(&mut self, stream: usize) -> Result<(), Code> {
        self.known(stream)?;
        let Some(id) = self.capture_of(stream) else { return Ok(()) };
        if let Some(capture) = self.captures.get_mut(&id) {
            capture.broken = true;
        }
        Err(Code::CAPTURE_UNSUPPORTED)
    }
}

fn create(stream: *mut usize) -> u32 {
    with_alive(|state| {
        let handle = state.handle();
        state.streams.insert(handle, Stream::default());
        put(stream, handle);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuStreamCreate(stream: *mut usize, _flags: c_uint) -> u32 {
    create(stream)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuStreamCreateWithPriority(
    stream: *mut usize,
    _flags: c_uint,
    _priority: c_int,
) -> u32 {
    create(stream)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuStreamDestroy_v2(stream: usize) -> u32 {
    with(|state| match state.streams.remove(&stream) {
        Some(_) => Ok(()),
        None => Err(Code::INVALID_HANDLE),
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuStreamSynchronize(stream: usize) -> u32 {
    with_alive(|state| state.refuse_capturing(stream))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuStreamQuery(stream: usize) -> u32 {
    with_alive(|state| state.refuse_capturing(stream))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuStreamGetCtx(_stream: usize, context: *mut usize) -> u32 {
    super::context::cuCtxGetCurrent(context)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuStreamAttachMemAsync(
    _stream: usize,
    _address: u64,
    _length: usize,
    _flags: c_uint,
) -> u32 {
    0
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuLaunchHostFunc(
    stream: usize,
    function: Option<unsafe extern "C" fn(*mut c_void)>,
    data: *mut c_void,
) -> u32 {
    let Some(function) = function else { return Code::INVALID_VALUE.0 };
    with_alive(|state| state.submit(stream, Work::Host { function, data: data as usize }))
}
