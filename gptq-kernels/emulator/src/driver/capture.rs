//! Captures and the graphs made of them.

use std::ffi::{c_char, c_int};
use std::sync::Arc;

use super::code::Code;
use super::state::{State, put, with, with_alive};
use super::stream::Capture;

/// The mode that allows everything meanwhile, and the one that binds its own thread only.
const RELAXED: c_int = 2;
const THREAD_LOCAL: c_int = 1;

impl State {
    /// Fails for calls that no capture allows, whatever stream they are about.
    pub(super) fn refuse_in_capture(&mut self) -> Result<(), Code> {
        let here = std::thread::current().id();
        let mut refused = false;
        for capture in self.captures.values_mut() {
            let elsewhere = capture.mode == THREAD_LOCAL && capture.thread != here;
            if capture.mode != RELAXED && !elsewhere {
                capture.broken = true;
                refused = true;
            }
        }
        if refused { Err(Code::CAPTURE_UNSUPPORTED) } else { Ok(()) }
    }
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuStreamBeginCapture_v2(stream: usize, mode: c_int) -> u32 {
    with_alive(|state| {
        if !state.streams.contains_key(&stream) {
            // The default stream cannot be captured.
            return Err(Code::CAPTURE_UNSUPPORTED);
        }
        let id = state.handle();
        let Some(found) = state.streams.get_mut(&stream) else {
            return Err(Code::INVALID_HANDLE);
        };
        if found.capture.is_some() {
            return Err(Code::INVALID_VALUE);
        }
        found.capture = Some(id);
        let thread = std::thread::current().id();
        let capture = Capture { work: Vec::new(), origin: stream, mode, thread, broken: false };
        state.captures.insert(id, capture);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuStreamEndCapture(stream: usize, graph: *mut usize) -> u32 {
    with(|state| {
        put(graph, 0);
        let Some(id) = state.capture_of(stream) else { return Err(Code::INVALID_VALUE) };
        if state.captures.get(&id).is_some_and(|capture| capture.origin != stream) {
            return Err(Code::INVALID_VALUE);
        }
        for other in state.streams.values_mut() {
            other.capture = other.capture.filter(|other| *other != id);
        }
        let Some(capture) = state.captures.remove(&id) else { return Err(Code::INVALID_VALUE) };
        state.alive()?;
        if capture.broken {
            return Err(Code::CAPTURE_INVALIDATED);
        }
        let handle = state.handle();
        state.graphs.insert(handle, Arc::new(capture.work));
        put(graph, handle);
        Ok(())
    })
}

/// 0 without a capture, 1 in one, 2 in one that is spoilt.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuStreamIsCapturing(stream: usize, status: *mut c_int) -> u32 {
    with(|state| {
        let capture = state.capture_of(stream).and_then(|id| state.captures.get(&id));
        put(status, capture.map_or(0, |capture| 1 + c_int::from(capture.broken)));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuStreamGetCaptureInfo(
    stream: usize,
    status: *mut c_int,
    id: *mut u64,
) -> u32 {
    with(|state| {
        put(id, state.capture_of(stream).unwrap_or(0) as u64);
        Ok(())
    });
    cuStreamIsCapturing(stream, status)
}

/// What can be launched is the same list of work.
fn instantiate(made: *mut usize, graph: usize) -> u32 {
    with_alive(|state| {
        let work = state.graphs.get(&graph).cloned().ok_or(Code::INVALID_VALUE)?;
        let handle = state.handle();
        state.graphs.insert(handle, work);
        put(made, handle);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuGraphInstantiateWithFlags(
    made: *mut usize,
    graph: usize,
    _flags: u64,
) -> u32 {
    instantiate(made, graph)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuGraphInstantiate_v2(
    made: *mut usize,
    graph: usize,
    _node: *mut usize,
    _log: *mut c_char,
    _length: usize,
) -> u32 {
    instantiate(made, graph)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuGraphUpload(graph: usize, _stream: usize) -> u32 {
    with_alive(|state| state.graphs.contains_key(&graph).then_some(()).ok_or(Code::INVALID_VALUE))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuGraphLaunch(graph: usize, stream: usize) -> u32 {
    with_alive(|state| {
        let work = state.graphs.get(&graph).cloned().ok_or(Code::INVALID_VALUE)?;
        work.iter().try_for_each(|work| state.submit(stream, work.clone()))
    })
}

fn destroy(graph: usize) -> u32 {
    with(|state| state.graphs.remove(&graph).map(drop).ok_or(Code::INVALID_VALUE))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuGraphExecDestroy(graph: usize) -> u32 {
    destroy(graph)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuGraphDestroy(graph: usize) -> u32 {
    destroy(graph)
}

/// How many pieces of work a graph has.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuGraphGetNodes(
    graph: usize,
    nodes: *mut usize,
    count: *mut usize,
) -> u32 {
    with(|state| {
        let work = state.graphs.get(&graph).ok_or(Code::INVALID_VALUE)?;
        if nodes.is_null() {
            put(count, work.len());
            return Ok(());
        }
        Err(Code::NOT_SUPPORTED)
    })
}
