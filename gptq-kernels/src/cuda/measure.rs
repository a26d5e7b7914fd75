//! What a GPU's memory gives at most.

use std::time::Instant;

use gptq_core::Error;

use super::{CudaBackend, tape::Argument};

/// As much as no cache holds, where there is room.
const BYTES: usize = 1 << 30;

impl CudaBackend {
    /// Bytes per second that kernels read from the GPU's memory: the best of five passes over 1 GiB,
    /// or over a quarter of what is free.
    ///
    /// # Errors
    /// The GPU's.
    pub fn read_bandwidth(&self) -> Result<f64, Error> {
        let (free, _) = self.memory()?;
        let bytes = BYTES.min(free / 4).next_multiple_of(1 << 10);
        let buffer = self.device.words(bytes / 4)?;
        self.device.fill(&buffer, 0x5a)?;
        let out = self.device.words(1)?;
        let blocks = self.device.multiprocessors * 16;
        let many = Argument::Wide(bytes as u64 / 16);
        let arguments = [Argument::At(buffer.at), many, Argument::At(out.at)];
        let mut best = f64::MAX;
        for _ in 0..6 {
            self.finish()?;
            let started = Instant::now();
            self.launch("read_all", [blocks, 1, 1], 256, 0, &arguments)?;
            self.finish()?;
            best = best.min(started.elapsed().as_secs_f64());
        }
        Ok(bytes as f64 / best)
    }
}
