//! Events: moments, and the threads by which captures spread from stream to stream.

use std::ffi::c_uint;
use std::time::Instant;

use super::code::Code;
use super::state::{State, put, with, with_alive};

#[derive(Clone, Copy, Default)]
pub(super) struct Event {
    at: Option<Instant>,
    /// The capture it was last recorded in.
    capture: Option<usize>,
    /// Whether time can be taken by it.
    timed: bool,
}

/// The flag of events that only order work.
const DISABLE_TIMING: c_uint = 2;

impl State {
    fn event(&mut self, event: usize) -> Result<&mut Event, Code> {
        self.events.get_mut(&event).ok_or(Code::INVALID_HANDLE)
    }

    /// An event of a capture marks no moment.
    fn moment(&mut self, event: usize) -> Result<Option<Instant>, Code> {
        let event = *self.event(event)?;
        if event.capture.is_some() { Err(Code::CAPTURED_EVENT) } else { Ok(event.at) }
    }
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuEventCreate(event: *mut usize, flags: c_uint) -> u32 {
    with_alive(|state| {
        let handle = state.handle();
        let timed = flags & DISABLE_TIMING == 0;
        state.events.insert(handle, Event { timed, ..Event::default() });
        put(event, handle);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuEventDestroy_v2(event: usize) -> u32 {
    with(|state| state.events.remove(&event).map(drop).ok_or(Code::INVALID_HANDLE))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuEventRecord(event: usize, stream: usize) -> u32 {
    with_alive(|state| {
        state.known(stream)?;
        let capture = state.capture_of(stream);
        let event = state.event(event)?;
        *event = Event { at: Some(Instant::now()), capture, ..*event };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuEventSynchronize(event: usize) -> u32 {
    with_alive(|state| state.moment(event).map(drop))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuEventQuery(event: usize) -> u32 {
    with_alive(|state| state.moment(event).map(drop))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuEventElapsedTime_v2(
    milliseconds: *mut f32,
    start: usize,
    end: usize,
) -> u32 {
    with_alive(|state| {
        if !state.event(start)?.timed || !state.event(end)?.timed {
            return Err(Code::INVALID_HANDLE);
        }
        let (Some(start), Some(end)) = (state.moment(start)?, state.moment(end)?) else {
            return Err(Code::INVALID_HANDLE);
        };
        let after = end.saturating_duration_since(start).as_secs_f64();
        let before = start.saturating_duration_since(end).as_secs_f64();
        put(milliseconds, ((after - before) * 1e3) as f32);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuEventElapsedTime(
    milliseconds: *mut f32,
    start: usize,
    end: usize,
) -> u32 {
    cuEventElapsedTime_v2(milliseconds, start, end)
}

/// Waiting for a captured event draws the stream into the capture; a capturing stream cannot wait
/// for work outside.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuStreamWaitEvent(stream: usize, event: usize, _flags: c_uint) -> u32 {
    with_alive(|state| {
        state.known(stream)?;
        let event = *state.event(event)?;
        let captures = &state.captures;
        let from = event.capture.filter(|id| captures.contains_key(id));
        match (state.capture_of(stream), from) {
            (None, Some(id)) => match state.streams.get_mut(&stream) {
                Some(stream) => stream.capture = Some(id),
                None => return Err(Code::CAPTURE_UNSUPPORTED),
            },
            (Some(id), other) if event.at.is_some() && other != Some(id) => {
                if let Some(capture) = state.captures.get_mut(&id) {
                    capture.broken = true;
                }
                return Err(Code::CAPTURE_ISOLATION);
            }
            _ => {}
        }
        Ok(())
    })
}
