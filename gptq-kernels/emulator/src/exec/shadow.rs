//! Who touched each word of shared memory, and when: finds reads of what nobody wrote, and
//! accesses that no barrier orders.
//!
//! Time is counted twice. A barrier of the block begins a new epoch for all; what the lanes of a
//! warp do together begins a new order among them.

use super::mark::{ATOMIC, ATOMICS, MIXED, Mark, READERS, Who, race};
use super::proxy::Proxy;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Touch {
    Read,
    Write,
    Atomic,
}

#[derive(Clone, Copy, Default)]
struct Word {
    write: Mark,
    read: Mark,
    /// Bytes written since the block began.
    valid: u8,
    /// Bytes that an asynchronous copy will write.
    in_flight: u8,
}

pub(crate) struct Shadow {
    words: Vec<Word>,
    epoch: u32,
    /// The epoch in which the block began.
    began: u32,
    races: bool,
    /// For kernels with products of warpgroups, if races are looked for.
    proxy: Option<Box<Proxy>>,
}

impl Shadow {
    pub(crate) fn new(bytes: usize, races: bool) -> Self {
        let words = vec![Word::default(); bytes.div_ceil(4)];
        Self { words, epoch: 1, began: 1, races, proxy: None }
    }

    /// Follows what so many threads' products of warpgroups read.
    pub(crate) fn with_proxy(mut self, threads: usize) -> Self {
        if self.races {
            self.proxy = Some(Box::new(Proxy::new(4 * self.words.len(), threads)));
        }
        self
    }

    pub(crate) fn begin_block(&mut self) {
        self.epoch += 1;
        self.began = self.epoch;
        if let Some(proxy) = &mut self.proxy {
            proxy.begin_block();
        }
    }

    pub(crate) fn barrier(&mut self) {
        self.epoch += 1;
    }

    fn masks(at: usize, bytes: usize) -> impl Iterator<Item = (usize, u8)> {
        let mask = if bytes >= 4 { 0xf } else { ((1u8 << bytes) - 1) << (at % 4) };
        (0..bytes.div_ceil(4)).map(move |i| (at / 4 + i, mask))
    }

    pub(crate) fn read(&mut self, at: usize, bytes: usize, who: Who) -> Result<(), String> {
        for (index, mask) in Self::masks(at, bytes) {
            let word = &mut self.words[index];
            if word.write.epoch < self.began || word.valid & mask != mask {
                return Err(format!("shared memory at {at:#x} is read and was never written"));
            }
            if !self.races {
                continue;
            }
            if word.in_flight & mask != 0 {
                return Err(format!(
                    "shared memory at {at:#x} is read while an asynchronous copy is under way"
                ));
            }
            if word.write.conflicts(self.epoch, mask, who) {
                return Err(race(at, "read", "wrote", word.write.who));
            }
            word.read.add(self.epoch, mask, who, READERS);
        }
        Ok(())
    }

    /// `same` says that the bytes hold what is written already: then two may write it.
    pub(crate) fn write(
        &mut self,
        at: usize,
        bytes: usize,
        who: Who,
        same: bool,
    ) -> Result<(), String> {
        for (index, mask) in Self::masks(at, bytes) {
            self.check_write(index, mask, at, who, same)?;
            let word = &mut self.words[index];
            if word.write.epoch < self.began {
                word.valid = 0;
            }
            word.valid |= mask;
            word.write.add(self.epoch, mask, who, MIXED);
        }
        self.wrote(at, bytes, who);
        Ok(())
    }

    fn check_write(
        &self,
        index: usize,
        mask: u8,
        at: usize,
        who: Who,
        same: bool,
    ) -> Result<(), String> {
        let word = &self.words[index];
        if !self.races {
            return Ok(());
        }
        self.check_readers(index, at)?;
        if word.read.conflicts(self.epoch, mask, who) {
            return Err(race(at, "written", "read", word.read.who));
        }
        if !same && word.write.conflicts(self.epoch, mask, who) {
            return Err(race(at, "written", "wrote", word.write.who));
        }
        Ok(())
    }

    /// Accesses that order themselves: atomics, and loads and stores marked so.
    pub(crate) fn strong(
        &mut self,
        at: usize,
        bytes: usize,
        who: Who,
        touch: Touch,
    ) -> Result<(), String> {
        for (index, mask) in Self::masks(at, bytes) {
            if touch != Touch::Read {
                self.check_readers(index, at)?;
            }
            let word = &mut self.words[index];
            let fresh = word.write.epoch < self.began;
            if touch != Touch::Write && (fresh || word.valid & mask != mask) {
                return Err(format!("shared memory at {at:#x} is read and was never written"));
            }
            if touch == Touch::Read {
                continue;
            }
            let plain = word.write.who & 0xc000 != ATOMIC;
            if self.races && plain && word.write.conflicts(self.epoch, mask, who) {
                return Err(race(at, "updated", "wrote", word.write.who));
            }
            if self.races && word.read.conflicts(self.epoch, mask, who) {
                return Err(race(at, "updated", "read", word.read.who));
            }
            let alone = word.write.epoch != self.epoch || word.write.who == ATOMIC | who.warp();
            let mine = if alone || plain { ATOMIC | who.warp() } else { ATOMICS };
            word.valid = mask | if fresh { 0 } else { word.valid };
            word.write = Mark { epoch: self.epoch, order: who.order, who: mine, mask: 0xf };
        }
        if touch != Touch::Read {
            self.wrote(at, bytes, who);
        }
        Ok(())
    }

    /// An asynchronous copy begins: nobody may touch what it will write.
    pub(crate) fn launch(&mut self, at: usize, bytes: usize, who: Who) -> Result<(), String> {
        for (index, mask) in Self::masks(at, bytes) {
            self.check_write(index, mask, at, who, false)?;
            self.words[index].in_flight |= mask;
        }
        Ok(())
    }

    fn check_readers(&self, index: usize, at: usize) -> Result<(), String> {
        if self.proxy.as_ref().is_some_and(|proxy| proxy.is_read(index)) {
            return Err(format!(
                "shared memory at {at:#x} is written while a wgmma that reads it is under way"
            ));
        }
        Ok(())
    }

    fn wrote(&mut self, at: usize, bytes: usize, who: Who) {
        if let Some(proxy) = &mut self.proxy {
            proxy.wrote(at, bytes, who);
        }
    }

    pub(crate) fn proxy_fence(&mut self, who: Who) {
        if let Some(proxy) = &mut self.proxy {
            proxy.fence(who, self.epoch);
        }
    }

    /// A product of a warpgroup begins to read.
    pub(crate) fn begin_read(&mut self, at: usize, bytes: usize, who: Who) -> Result<(), String> {
        self.read(at, bytes, who)?;
        let Some(proxy) = &mut self.proxy else { return Ok(()) };
        for word in (at..at + bytes).step_by(4) {
            proxy.begin(word, 4, who, (self.words[word / 4].write.epoch, self.epoch))?;
        }
        Ok(())
    }

    /// It has been waited for: up to now it may have read.
    pub(crate) fn end_read(&mut self, at: usize, bytes: usize, who: Who) {
        let Some(proxy) = &mut self.proxy else { return };
        proxy.end(at, bytes);
        for (index, mask) in Self::masks(at, bytes) {
            self.words[index].read.add(self.epoch, mask, who, READERS);
        }
    }

    pub(crate) fn land(&mut self, at: usize, bytes: usize) {
        for (index, mask) in Self::masks(at, bytes) {
            self.words[index].in_flight &= !mask;
        }
    }
}
