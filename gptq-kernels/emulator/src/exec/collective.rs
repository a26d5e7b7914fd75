//! What the lanes of a warp do together, once all of them are there.

use super::flight::Flight;
use super::mark::Who;
use super::matrix;
use super::step::address;
use super::store::{How, Store};
use crate::inst::{Address, Collective, ReduceKind, ShuffleKind, Slot, VoteKind};

/// The lanes that act, with their registers.
pub(super) struct Lanes<'a> {
    /// Registers from the warp's first thread on.
    pub(super) regs: &'a mut [u64],
    pub(super) slots: usize,
    /// Indices in the block.
    pub(super) group: &'a [usize],
    pub(super) store: &'a mut Store,
    pub(super) order: u32,
    /// Products of its warpgroup, where the kernel has any.
    pub(super) flight: Option<&'a mut Flight>,
}

/// The thread that is at fault, and what it did.
pub(super) type Failure = (usize, String);

impl Lanes<'_> {
    pub(super) fn get(&self, thread: usize, slot: Slot) -> u64 {
        self.regs[thread % 32 * self.slots + slot as usize]
    }

    pub(super) fn set(&mut self, thread: usize, slot: Slot, value: u64) {
        self.regs[thread % 32 * self.slots + slot as usize] = value;
    }

    fn set_all(&mut self, slot: Slot, value: u64) {
        for &thread in self.group {
            self.set(thread, slot, value);
        }
    }

    pub(super) fn act(&mut self, what: &Collective) -> Result<(), Failure> {
        match what {
            Collective::Sync => {}
            Collective::Active { d } => {
                let mask = self.group.iter().fold(0, |mask, thread| mask | 1 << (thread % 32));
                self.set_all(*d, mask);
            }
            Collective::Shuffle { kind, d, p, a, b, c } => {
                self.shuffle(*kind, *d, *p, [*a, *b, *c])
            }
            Collective::Vote { kind, d, p, when } => self.vote(*kind, *d, *p, *when),
            Collective::Reduce { kind, signed, d, a } => self.reduce(*kind, *signed, *d, *a),
            Collective::MatchAny { wide, d, a } => {
                let values = self.values(*a, *wide);
                for &(thread, own) in &values {
                    let same = values.iter().filter(|(_, value)| *value == own);
                    let mask = same.fold(0, |mask, (other, _)| mask | 1 << (other % 32));
                    self.set(thread, *d, mask);
                }
            }
            Collective::MatchAll { wide, d, p, a } => {
                let values = self.values(*a, *wide);
                let same = values.iter().all(|(_, value)| *value == values[0].1);
                let mask = self.group.iter().fold(0, |mask, thread| mask | 1 << (thread % 32));
                self.set_all(*d, if same { mask } else { 0 });
                if let Some(p) = p {
                    self.set_all(*p, u64::from(same));
                }
            }
            Collective::LoadMatrix { at, transposed, d } => {
                self.load_matrix(at, *transposed, d)?;
            }
            Collective::Mma { shape, d, a, b, c } => matrix::multiply(self, *shape, d, a, b, c),
            Collective::Group(what) => self.group(what)?,
        }
        Ok(())
    }

    fn values(&self, slot: Slot, wide: bool) -> Vec<(usize, u64)> {
        let mask = if wide { u64::MAX } else { u64::from(u32::MAX) };
        self.group.iter().map(|&thread| (thread, self.get(thread, slot) & mask)).collect()
    }

    /// `b` is the lane or its distance, `c` holds the segments' mask and the bound.
    fn shuffle(&mut self, kind: ShuffleKind, d: Slot, p: Option<Slot>, [a, b, c]: [Slot; 3]) {
        let mut results = Vec::with_capacity(32);
        for &thread in self.group {
            let lane = (thread % 32) as i64;
            let by = (self.get(thread, b) & 31) as i64;
            let clamp = self.get(thread, c);
            let (bound, segment) = ((clamp & 31) as i64, (clamp >> 8 & 31) as i64);
            let least = lane & segment;
            let most = least | (bound & !segment);
            let (from, inside) = match kind {
                ShuffleKind::Up => (lane - by, lane - by >= most),
                ShuffleKind::Down => (lane + by, lane + by <= most),
                ShuffleKind::Butterfly => (lane ^ by, (lane ^ by) <= most),
                ShuffleKind::Index => {
                    let from = least | (by & !segment);
                    (from, from <= most)
                }
            };
            let from = if inside { from } else { lane };
            let source = thread - thread % 32 + from as usize;
            // A lane outside the mask has no defined value to give; all ones show it.
            let given = if self.group.contains(&source) { self.get(source, a) } else { !0 };
            results.push((thread, given, inside));
        }
        for (thread, given, inside) in results {
            self.set(thread, d, given);
            if let Some(p) = p {
                self.set(thread, p, u64::from(inside));
            }
        }
    }

    fn vote(&mut self, kind: VoteKind, d: Slot, p: Slot, when: bool) {
        let ballot = self.group.iter().fold(0u64, |mask, &thread| {
            let yes = (self.get(thread, p) & 1 == 1) == when;
            mask | u64::from(yes) << (thread % 32)
        });
        let votes = ballot.count_ones() as usize;
        let all = votes == self.group.len();
        let value = match kind {
            VoteKind::All => u64::from(all),
            VoteKind::Any => u64::from(votes > 0),
            VoteKind::Uniform => u64::from(all || votes == 0),
            VoteKind::Count => votes as u64,
            VoteKind::Ballot => ballot,
        };
        self.set_all(d, value);
    }

    fn reduce(&mut self, kind: ReduceKind, signed: bool, d: Slot, a: Slot) {
        let values = self.group.iter().map(|&thread| self.get(thread, a) as u32);
        let total = values.reduce(|x, y| match kind {
            ReduceKind::Add => x.wrapping_add(y),
            ReduceKind::Min if signed => (x as i32).min(y as i32) as u32,
            ReduceKind::Max if signed => (x as i32).max(y as i32) as u32,
            ReduceKind::Min => x.min(y),
            ReduceKind::Max => x.max(y),
            ReduceKind::And => x & y,
            ReduceKind::Or => x | y,
            ReduceKind::Xor => x ^ y,
        });
        self.set_all(d, total.unwrap_or_default().into());
    }

    /// Eight lanes name the rows of each matrix; every lane gets two neighbours of a row, or of a
    /// column if the matrix is transposed.
    fn load_matrix(&mut self, at: &Address, transposed: bool, d: &[Slot]) -> Result<(), Failure> {
        for (matrix, &slot) in d.iter().enumerate() {
            let mut rows = [[0u8; 16]; 8];
            for (row, bytes) in rows.iter_mut().enumerate() {
                let thread = self.group[matrix * 8 + row];
                let base = thread % 32 * self.slots;
                let from = address(at, &self.regs[base..base + self.slots]);
                let who = Who { thread: thread as u16, order: self.order };
                let how = How { who, strong: false };
                self.store.read(at.space, from, bytes, how).map_err(|what| (thread, what))?;
            }
            for &thread in self.group {
                let (group, pair) = (thread % 32 / 4, thread % 4 * 2);
                let element = |row: usize, column: usize| {
                    u64::from(u16::from_le_bytes([
                        rows[row][2 * column],
                        rows[row][2 * column + 1],
                    ]))
                };
                let (low, high) = if transposed {
                    (element(pair, group), element(pair + 1, group))
                } else {
                    (element(group, pair), element(group, pair + 1))
                };
                self.set(thread, slot, high << 16 | low);
            }
        }
        Ok(())
    }
}
