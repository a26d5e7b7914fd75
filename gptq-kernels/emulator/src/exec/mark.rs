//! Marks that accesses leave at a word of shared memory: who it was, and when.

/// A thread at a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Who {
    pub(crate) thread: u16,
    /// How often the warp has met.
    pub(crate) order: u32,
}

impl Who {
    pub(super) fn warp(self) -> u16 {
        self.thread / 32
    }
}

/// Who it was, where several count as one: lanes of one warp, atomics, or a mix that is not
/// followed further.
const LANES: u16 = 0x8000;
/// With `LANES`: each lane has bytes of its own.
const APART: u16 = 0x0100;
pub(super) const ATOMIC: u16 = 0x4000;
pub(super) const ATOMICS: u16 = 0x4fff;
pub(super) const MIXED: u16 = 0xffff;

#[derive(Clone, Copy, Default)]
pub(super) struct Mark {
    pub(super) epoch: u32,
    pub(super) order: u32,
    pub(super) who: u16,
    pub(super) mask: u8,
}

impl Mark {
    /// Whether an access by `who` to bytes of `mask` meets this one unordered.
    pub(super) fn conflicts(&self, epoch: u32, mask: u8, who: Who) -> bool {
        if self.epoch != epoch || self.mask & mask == 0 || self.who == MIXED {
            return false;
        }
        match self.who & 0xc000 {
            LANES => {
                let apart = self.who & APART != 0;
                self.who & 0xff != who.warp() || (!apart && self.order == who.order)
            }
            ATOMIC => self.who == ATOMICS || self.who & 0xff != who.warp(),
            _ if self.who == who.thread => false,
            _ => self.who / 32 != who.warp() || self.order == who.order,
        }
    }

    /// Adds an access; `several` is what accesses of several warps become.
    pub(super) fn add(&mut self, epoch: u32, mask: u8, who: Who, several: u16) {
        if self.epoch != epoch {
            *self = Self { epoch, order: who.order, who: who.thread, mask };
            return;
        }
        let same_warp = match self.who & 0xc000 {
            LANES if self.who != MIXED => self.who & 0xff == who.warp(),
            0 => self.who / 32 == who.warp(),
            _ => false,
        };
        if self.who == who.thread {
            self.mask |= mask;
        } else if same_warp {
            let apart = self.mask & mask == 0 || self.who & (LANES | APART) == LANES | APART;
            self.who = match self.order == who.order {
                true if apart => LANES | APART | who.warp(),
                true => LANES | who.warp(),
                false => who.thread,
            };
            self.mask |= mask;
        } else {
            self.who = several;
            self.mask &= mask;
        }
        self.order = who.order;
    }
}

/// Several warps read: whoever writes then is in conflict.
pub(super) const READERS: u16 = LANES | 0xfe;

pub(super) fn race(at: usize, verb: &str, other_verb: &str, other: u16) -> String {
    let other = match other & 0xc000 {
        LANES if other == READERS => "threads of several warps".to_owned(),
        LANES => format!("several threads of warp {}", other & 0xff),
        ATOMIC => "an atomic".to_owned(),
        _ => format!("thread {other}"),
    };
    format!(
        "race: shared memory at {at:#x} is {verb}, and {other} {other_verb} it with no barrier between"
    )
}
