//! What the device is asked to do, in order, and not yet told.
//!
//! A token of text is some hundred small operations, and telling a GPU of each takes longer than
//! many of them. So operations collect on a tape. When someone wants to see a result, the tape runs;
//! a tape that is the same as one before, byte for byte, runs as one CUDA graph. What is different
//! for every token, places and ids, goes through memory of its own and is not on the tape.

use std::{ffi::c_void, sync::Arc};

use cudarc::driver::{
    CudaGraph, CudaStream, result,
    sys::{self, CUdeviceptr},
};
use gptq_core::Error;

use super::{
    blas::Product,
    device::{Device, failed},
    launch::{Grid, Kernel},
};

/// Two words of a structure in one, as they lie in memory.
pub(super) fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// What was asked of a GPU since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// How often operations were sent: many at a time, when someone wants to see a result.
    pub runs: u64,
    /// Those of `runs` that were one graph, because the same operations had been sent before.
    pub replays: u64,
    /// Bytes that were copied back.
    pub bytes_read: u64,
}

/// Operations on a tape at most: a model of any depth fits, a long text runs in pieces.
const LONGEST: usize = 4096;

/// Bytes that go to the device with one tape at most.
const STAGED: usize = 1 << 20;

/// What is staged begins at multiples of it.
const ROUND: usize = 16;

/// Those of one argument.
pub(super) const MOST_DATA: usize = STAGED / 4;

/// Tapes that are remembered.
const REMEMBERED: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    /// A kernel, and how many arguments of how many words follow.
    Launch {
        kernel: Kernel,
        grid: Grid,
        arguments: u32,
    },
    Product(Product),
}

/// Operations, and the words of their arguments: for each its length, then its words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Recording {
    operations: Vec<Operation>,
    words: Vec<u64>,
}

#[derive(Default)]
pub(super) struct Tape {
    now: Recording,
    /// What goes to the device before the operations run.
    staged: Vec<u8>,
    /// Where it goes. Never freed while the device lives.
    arena: Option<CUdeviceptr>,
    known: Vec<Known>,
    /// Name of the kernel that was put on last, and where its words begin.
    last: Option<(&'static str, usize)>,
    pub(super) traffic: Traffic,
}

/// A tape that ran before.
struct Known {
    recording: Recording,
    graph: Option<Graph>,
}

struct Graph(CudaGraph);

// SAFETY: a graph may move between threads; that one at a time uses it is the tape's lock.
unsafe impl Send for Graph {}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub(super) enum Argument<'a> {
    At(CUdeviceptr),
    Wide(u64),
    Whole(u32),
    Real(f32),
    /// Numbers of the host, at most [`MOST_DATA`] bytes: the kernel gets the place of a copy.
    Data(&'a [u8]),
    /// A structure, by its words.
    Struct(&'a [u64]),
}

impl Tape {
    /// Runs the tape if so many bytes more do not fit beside what is staged.
    pub(super) fn make_room(&mut self, device: &Device, bytes: usize) -> Result<(), Error> {
        if self.staged.len() + bytes.next_multiple_of(ROUND) > STAGED {
            self.run(device)
        } else {
            Ok(())
        }
    }

    /// Bytes that the device finds at the returned place when what is put on the tape next runs.
    /// There is room: the caller looked.
    fn stage(&mut self, device: &Device, bytes: &[u8]) -> Result<CUdeviceptr, Error> {
        let arena = match self.arena {
            Some(arena) => arena,
            None => {
                device.enter()?;
                // SAFETY: a plain allocation in the current context.
                let got = unsafe { result::malloc_sync(STAGED) };
                *self.arena.insert(got.map_err(|e| failed("allocating 1 MiB", e))?)
            }
        };
        let at = self.staged.len();
        self.staged.extend_from_slice(bytes);
        self.staged.resize(self.staged.len().next_multiple_of(ROUND), 0);
        Ok(arena + at as u64)
    }

    /// Puts a launch on the tape.
    pub(super) fn launch(
        &mut self,
        device: &Device,
        name: &'static str,
        grid: [u32; 3],
        threads: u32,
        shared: u32,
        arguments: &[Argument<'_>],
    ) -> Result<(), Error> {
        if grid.contains(&0) {
            return Ok(());
        }
        let kernel = device.kernel(name)?;
        let length = |argument: &Argument<'_>| match argument {
            Argument::Data(bytes) => bytes.len().next_multiple_of(ROUND),
            _ => 0,
        };
        self.make_room(device, arguments.iter().map(length).sum())?;
        let begin = self.now.words.len();
        for argument in arguments {
            let word = match *argument {
                Argument::At(word) | Argument::Wide(word) => word,
                Argument::Whole(word) => word.into(),
                Argument::Real(number) => number.to_bits().into(),
                Argument::Data(bytes) => match self.stage(device, bytes) {
                    Ok(at) => at,
                    Err(error) => {
                        self.now.words.truncate(begin);
                        return Err(error);
                    }
                },
                Argument::Struct(words) => {
                    self.now.words.push(words.len() as u64);
                    self.now.words.extend_from_slice(words);
                    continue;
                }
            };
            self.now.words.extend([1, word]);
        }
        let arguments = arguments.len() as u32;
        let grid = Grid { blocks: grid, threads, shared };
        self.now.operations.push(Operation::Launch { kernel, grid, arguments });
        self.last = Some((name, begin));
        self.limit(device)
    }

    /// Takes the last operation back, if it is this one and its arguments fit what comes next, and
    /// returns them: the next operation does both.
    pub(super) fn take_back(
        &mut self,
        name: &'static str,
        fits: impl Fn(&[u64]) -> bool,
    ) -> Option<Vec<u64>> {
        let (_, begin) = self.last.filter(|(last, _)| *last == name)?;
        // Of kernels without structures: before each word stands its length, one.
        let words: Vec<u64> = self.now.words[begin..].chunks(2).map(|pair| pair[1]).collect();
        if !fits(&words) {
            return None;
        }
        self.now.words.truncate(begin);
        self.now.operations.pop();
        self.last = None;
        Some(words)
    }

    /// Puts a product on the tape.
    pub(super) fn product(&mut self, device: &Device, product: Product) -> Result<(), Error> {
        self.last = None;
        self.now.operations.push(Operation::Product(product));
        self.limit(device)
    }

    fn limit(&mut self, device: &Device) -> Result<(), Error> {
        if self.now.operations.len() >= LONGEST { self.run(device) } else { Ok(()) }
    }

    /// Tells the device everything on the tape, which is empty then.
    pub(super) fn run(&mut self, device: &Device) -> Result<(), Error> {
        self.last = None;
        let staged = std::mem::take(&mut self.staged);
        let recording = std::mem::take(&mut self.now);
        if recording.operations.is_empty() {
            return Ok(());
        }
        device.enter()?;
        if let (Some(arena), false) = (self.arena, staged.is_empty()) {
            // SAFETY: at most `STAGED` bytes; earlier tapes run before on the same stream, and the
            // driver has read the bytes on return.
            unsafe { result::memcpy_htod_async(arena, &staged, device.stream.cu_stream()) }
                .map_err(|e| failed("copying to the GPU", e))?;
        }
        self.traffic.runs += 1;
        // Few are remembered, and those that differ do so early on.
        let at = self.known.iter().position(|known| known.recording == recording);
        let Some(at) = at else {
            recording.run(device)?;
            if self.known.len() >= REMEMBERED {
                // The oldest that never came again, or the oldest.
                let once = self.known.iter().position(|known| known.graph.is_none());
                self.known.remove(once.unwrap_or(0));
            }
            self.known.push(Known { recording, graph: None });
            return Ok(());
        };
        let known = &mut self.known[at];
        let graph = match &known.graph {
            Some(graph) => graph,
            None => known.graph.insert(known.recording.capture(device)?),
        };
        self.traffic.replays += 1;
        graph.0.launch().map_err(|e| failed("launching a graph", e))
    }

    /// What the device frees at its end.
    pub(super) fn take_arena(&mut self) -> Option<CUdeviceptr> {
        self.arena.take()
    }

    /// Runs, and forgets all graphs: memory that they use is about to go.
    pub(super) fn forget(&mut self, device: &Device) -> Result<(), Error> {
        self.run(device)?;
        device.stream.synchronize().map_err(|e| failed("waiting for the GPU", e))?;
        self.known.clear();
        Ok(())
    }
}

impl Recording {
    fn run(&self, device: &Device) -> Result<(), Error> {
        let mut words = &self.words[..];
        let mut pointers: Vec<*mut c_void> = Vec::new();
        // Whether the operation before says itself when the next one may begin.
        let mut lets_begin = false;
        for operation in &self.operations {
            match operation {
                Operation::Product(product) => match &device.blas {
                    Some(blas) => {
                        blas.multiply(product)?;
                        lets_begin = false;
                    }
                    None => unreachable!("products are put on the tape where there is cuBLAS"),
                },
                Operation::Launch { kernel, grid, arguments } => {
                    pointers.clear();
                    for _ in 0..*arguments {
                        let (length, rest) = (words[0] as usize, &words[1..]);
                        pointers.push(rest.as_ptr().cast_mut().cast());
                        words = &rest[length..];
                    }
                    let early = kernel.early && lets_begin;
                    // SAFETY: that arguments fit, `ops.rs` and `packed.rs` say at every launch.
                    unsafe { kernel.launch(device, *grid, early, &mut pointers) }
                        .map_err(|e| failed("launching a kernel", e))?;
                    lets_begin = kernel.early;
                }
            }
        }
        Ok(())
    }

    fn capture(&self, device: &Device) -> Result<Graph, Error> {
        let failing = |e| failed("recording a graph", e);
        let stream: &Arc<CudaStream> = &device.stream;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        stream.begin_capture(mode).map_err(failing)?;
        let ran = self.run(device);
        // Ended in any case: a stream that records for ever is of no use to anyone.
        let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0)).map_err(failing);
        ran?;
        match graph? {
            Some(graph) => Ok(Graph(graph)),
            None => Err(super::device::failure("CUDA: recording a graph gave none".into())),
        }
    }
}
