//! Shared memory as warpgroups' products see it: they read it asynchronously, until they are
//! waited for, and see what threads wrote only after a fence between the two ways.

use super::mark::Who;

#[derive(Clone, Copy, Default)]
struct Fence {
    /// Counts the fences of all threads.
    tick: u32,
    epoch: u32,
    /// The last one of an earlier epoch.
    before: u32,
}

#[derive(Clone, Copy, Default)]
struct Written {
    /// The last fence of anyone before it.
    tick: u32,
    thread: u16,
}

pub(super) struct Proxy {
    /// By two bytes, of which elements are made.
    written: Vec<Written>,
    /// Reads under way, by word.
    readers: Vec<u16>,
    /// Each thread's last.
    fences: Vec<Fence>,
    tick: u32,
}

impl Proxy {
    pub(super) fn new(bytes: usize, threads: usize) -> Self {
        Self {
            written: vec![Written::default(); bytes.div_ceil(2)],
            readers: vec![0; bytes.div_ceil(4)],
            fences: vec![Fence::default(); threads],
            tick: 0,
        }
    }

    pub(super) fn begin_block(&mut self) {
        self.readers.fill(0);
        self.fences.fill(Fence::default());
        self.tick = 0;
    }

    pub(super) fn fence(&mut self, who: Who, epoch: u32) {
        self.tick += 1;
        let fence = &mut self.fences[usize::from(who.thread)];
        let before = if fence.epoch == epoch { fence.before } else { fence.tick };
        *fence = Fence { tick: self.tick, epoch, before };
    }

    pub(super) fn wrote(&mut self, at: usize, bytes: usize, who: Who) {
        let written = Written { tick: self.tick, thread: who.thread };
        self.written[at / 2..(at + bytes).div_ceil(2)].fill(written);
    }

    pub(super) fn is_read(&self, word: usize) -> bool {
        self.readers[word] > 0
    }

    /// A warp begins to read bytes that were written in an epoch. A fence must lie between: the
    /// writer's, with a barrier after it, or, with one before it, that of all of the warp.
    pub(super) fn begin(
        &mut self,
        at: usize,
        bytes: usize,
        who: Who,
        (epoch, now): (u32, u32),
    ) -> Result<(), String> {
        let first = usize::from(who.thread) / 32 * 32;
        let warp = first..(first + 32).min(self.fences.len());
        for written in &self.written[at / 2..(at + bytes).div_ceil(2)] {
            let writer = usize::from(written.thread);
            let fence = self.fences[writer];
            let ordered = warp.contains(&writer) || fence.epoch < now;
            let tick = if ordered { fence.tick } else { fence.before };
            if tick > written.tick
                || self.fences[warp.clone()].iter().all(|fence| fence.epoch > epoch)
            {
                continue;
            }
            return Err(format!(
                "shared memory at {at:#x} is read by a wgmma, and thread {writer} wrote it \
                 with no fence.proxy.async between"
            ));
        }
        for readers in &mut self.readers[at / 4..(at + bytes).div_ceil(4)] {
            *readers += 1;
        }
        Ok(())
    }

    pub(super) fn end(&mut self, at: usize, bytes: usize) {
        for readers in &mut self.readers[at / 4..(at + bytes).div_ceil(4)] {
            *readers = readers.saturating_sub(1);
        }
    }
}
