//! Where samples wait while others are worked on: in memory, or beyond a limit in a scratch file.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use gptq_core::Backend;
use half::bf16;
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use crate::{
    Error,
    block::{Place, Stream},
};

/// Numbers per task of a conversion.
const CHUNK: usize = 1 << 16;

/// A matrix that is not on the device.
pub(crate) struct Parked {
    shape: (usize, usize),
    /// bf16 instead of f32.
    half: bool,
    at: At,
}

enum At {
    Memory(Vec<u8>),
    /// Where it begins in the scratch file.
    File(u64),
}

impl Parked {
    fn bytes(&self) -> u64 {
        bytes(self.shape, self.half)
    }
}

/// All waiting samples together.
pub(crate) struct Parking {
    /// Bytes that may wait in memory.
    limit: u64,
    /// Bytes that do.
    used: u64,
    /// The most that did.
    peak: u64,
    /// Whether what is only multiplied is kept as bf16.
    half: bool,
    /// Buffers to wait in. Made before anything else and used again and again: between the large
    /// matrices of a pass they would leave holes that nothing fits.
    buffers: Vec<Vec<u8>>,
    /// Folder for the scratch file.
    folder: PathBuf,
    scratch: Option<Scratch>,
}

impl Parking {
    /// Room for `streams` that hold up to `numbers` each, within a limit.
    pub(crate) fn new(
        limit: Option<u64>,
        half: bool,
        folder: &Path,
        streams: usize,
        numbers: usize,
    ) -> Self {
        let limit = limit.unwrap_or(u64::MAX);
        let size = numbers * if half { 2 } else { 4 };
        let fit = limit.checked_div(size as u64).unwrap_or(0).min(streams as u64);
        Self {
            limit,
            used: 0,
            peak: 0,
            half,
            // Memory that is asked for but not written to is not taken yet.
            buffers: (0..fit).map(|_| Vec::with_capacity(size)).collect(),
            folder: folder.to_owned(),
            scratch: None,
        }
    }

    /// Bytes that still may wait in memory.
    pub(crate) fn room(&self) -> u64 {
        self.limit - self.used
    }

    /// The most bytes that waited in memory, and in the scratch file.
    pub(crate) fn peaks(&self) -> (u64, u64) {
        (self.peak, self.scratch.as_ref().map_or(0, |scratch| scratch.end))
    }

    /// Lets a stream wait.
    pub(crate) fn check_in<B: Backend>(
        &mut self,
        backend: &B,
        stream: &mut Stream<B::Tensor>,
    ) -> Result<(), Error> {
        for place in Place::all() {
            let Some(x) = stream.here(place) else { continue };
            let half = self.half && place.is_only_multiplied();
            let shape = backend.dim(x);
            let size = bytes(shape, half);
            let fits = size <= self.room();
            if fits {
                self.used += size;
                self.peak = self.peak.max(self.used);
            }
            if fits && !half {
                stream.stays += size;
                continue;
            }
            let mut data = self.buffers.pop().unwrap_or_default();
            encode(backend.look(x)?.view(), half, &mut data);
            let at = match fits {
                true => At::Memory(data),
                false => {
                    let at = self.scratch()?.write(&data)?;
                    self.buffers.push(data);
                    At::File(at)
                }
            };
            stream.send_away(backend, place, Parked { shape, half, at })?;
        }
        Ok(())
    }

    /// Brings a stream back, to move on.
    pub(crate) fn check_out<B: Backend>(
        &mut self,
        backend: &B,
        stream: &mut Stream<B::Tensor>,
    ) -> Result<(), Error> {
        self.used -= std::mem::take(&mut stream.stays);
        for place in Place::all() {
            let Some(parked) = stream.away(place) else { continue };
            let (x, size) = (self.read(backend, parked)?, parked.bytes());
            match stream.bring_back(place, x).map(|parked| parked.at) {
                Some(At::Memory(data)) => {
                    self.used -= size;
                    self.buffers.push(data);
                }
                Some(At::File(at)) => self.scratch()?.free(at, size),
                None => {}
            }
        }
        Ok(())
    }

    /// Rows and columns of what a stream has at a place, here or elsewhere.
    pub(crate) fn shape<B: Backend>(
        backend: &B,
        stream: &Stream<B::Tensor>,
        place: Place,
    ) -> Option<(usize, usize)> {
        match stream.away(place) {
            Some(parked) => Some(parked.shape),
            None => stream.here(place).map(|x| backend.dim(x)),
        }
    }

    /// Shows what waits, for reading only.
    pub(crate) fn lend<B: Backend>(
        &mut self,
        backend: &B,
        stream: &mut Stream<B::Tensor>,
    ) -> Result<(), Error> {
        for place in Place::all() {
            if let Some(parked) = stream.away(place) {
                let x = self.read(backend, parked)?;
                stream.show(place, x);
            }
        }
        Ok(())
    }

    fn read<B: Backend>(&mut self, backend: &B, parked: &Parked) -> Result<B::Tensor, Error> {
        let read;
        let data = match &parked.at {
            At::Memory(data) => data,
            At::File(at) => {
                read = self.scratch()?.read(*at, parked.bytes())?;
                &read
            }
        };
        let values = decode(data, parked.half);
        let a = Array2::from_shape_vec(parked.shape, values)
            .unwrap_or_else(|_| unreachable!("as many numbers as were written"));
        Ok(backend.take(a)?)
    }

    fn scratch(&mut self) -> Result<&mut Scratch, Error> {
        if self.scratch.is_none() {
            let file = tempfile::tempfile_in(&self.folder)
                .map_err(|e| Error::io("create a scratch file in", &self.folder, e))?;
            let folder = self.folder.clone();
            self.scratch = Some(Scratch { file, end: 0, holes: Vec::new(), folder });
        }
        self.scratch.as_mut().map_or_else(|| unreachable!("made above"), Ok)
    }
}

/// A file without a name, which the system removes when the process ends, however it ends.
struct Scratch {
    file: File,
    end: u64,
    /// Places that were given back, with their sizes.
    holes: Vec<(u64, u64)>,
    folder: PathBuf,
}

impl Scratch {
    fn write(&mut self, data: &[u8]) -> Result<u64, Error> {
        let size = data.len() as u64;
        let at = match self.holes.iter().position(|(_, hole)| *hole == size) {
            Some(hole) => self.holes.swap_remove(hole).0,
            None => {
                self.end += size;
                self.end - size
            }
        };
        self.file
            .seek(SeekFrom::Start(at))
            .and_then(|_| self.file.write_all(data))
            .map_err(|e| Error::io("write to the scratch file in", &self.folder, e))?;
        Ok(at)
    }

    fn read(&mut self, at: u64, size: u64) -> Result<Vec<u8>, Error> {
        let mut data = vec![0; size as usize];
        self.file
            .seek(SeekFrom::Start(at))
            .and_then(|_| self.file.read_exact(&mut data))
            .map_err(|e| Error::io("read the scratch file in", &self.folder, e))?;
        Ok(data)
    }

    fn free(&mut self, at: u64, size: u64) {
        self.holes.push((at, size));
    }
}

fn bytes((rows, columns): (usize, usize), half: bool) -> u64 {
    (rows * columns * if half { 2 } else { 4 }) as u64
}

fn encode(a: ArrayView2<'_, f32>, half: bool, data: &mut Vec<u8>) {
    let values = a.as_slice().unwrap_or_else(|| unreachable!("tensors are row-major"));
    data.clear();
    if !half {
        return data.extend_from_slice(bytemuck::cast_slice(values));
    }
    data.resize(values.len() * 2, 0);
    data.par_chunks_mut(2 * CHUNK).zip(values.par_chunks(CHUNK)).for_each(|(data, values)| {
        for (data, &x) in data.as_chunks_mut::<2>().0.iter_mut().zip(values) {
            *data = bf16::from_f32(x).to_le_bytes();
        }
    });
}

fn decode(data: &[u8], half: bool) -> Vec<f32> {
    let mut values = vec![0f32; data.len() / if half { 2 } else { 4 }];
    if !half {
        bytemuck::cast_slice_mut(&mut values).copy_from_slice(data);
        return values;
    }
    values.par_chunks_mut(CHUNK).zip(data.par_chunks(2 * CHUNK)).for_each(|(values, data)| {
        for (x, data) in values.iter_mut().zip(data.as_chunks::<2>().0) {
            *x = bf16::from_le_bytes(*data).to_f32();
        }
    });
    values
}
