//! Barriers of a block.

use super::machine::Machine;
use super::step::State;
use crate::error::Error;
use crate::inst::{Barrier, Op, VoteKind};

impl Machine<'_> {
    fn register(&self, thread: usize, slot: u32) -> u64 {
        self.regs[thread * self.kernel.slots.len() + slot as usize]
    }

    fn at_barrier(&self, thread: usize) -> Option<&Barrier> {
        let state = &self.threads[thread];
        if state.state != State::Barrier {
            return None;
        }
        match &self.kernel.insts[state.pc as usize].op {
            Op::Barrier(barrier) => Some(barrier),
            _ => None,
        }
    }

    /// Lets threads go on whose barrier is complete; false if there is none.
    pub(super) fn barrier(&mut self) -> Result<bool, Error> {
        if self.pass_arrivals() {
            return Ok(true);
        }
        for id in 0..self.arrivals.len() {
            let here: Vec<usize> = (0..self.threads.len())
                .filter(|&thread| {
                    let at = self.at_barrier(thread);
                    at.is_some_and(|barrier| self.register(thread, barrier.id) == id as u64)
                })
                .collect();
            let Some(&first) = here.first() else { continue };
            let count = self.at_barrier(first).and_then(|barrier| barrier.count);
            let alive = self.threads.iter().filter(|thread| thread.state != State::Done).count();
            let needed = count.map_or(alive, |slot| self.register(first, slot) as usize);
            if here.len() + self.arrivals[id] < needed {
                continue;
            }
            for pair in here.windows(2) {
                let same_warp = pair[0] / 32 == pair[1] / 32;
                if same_warp && self.threads[pair[0]].pc != self.threads[pair[1]].pc {
                    let what = "lanes of one warp wait at different barriers".to_owned();
                    return Err(self.fault(pair[1], what));
                }
            }
            self.release(&here);
            self.arrivals[id] = 0;
            self.store.shadow.barrier();
            return Ok(true);
        }
        Ok(false)
    }

    /// Threads that only say that they have come.
    fn pass_arrivals(&mut self) -> bool {
        let mut any = false;
        for thread in 0..self.threads.len() {
            let Some(barrier) = self.at_barrier(thread).copied().filter(|at| at.arrive) else {
                continue;
            };
            let id = self.register(thread, barrier.id) as usize % self.arrivals.len();
            self.arrivals[id] += 1;
            self.threads[thread].pc += 1;
            self.threads[thread].state = State::Ready;
            any = true;
        }
        any
    }

    fn release(&mut self, here: &[usize]) {
        let slots = self.kernel.slots.len();
        let votes = here
            .iter()
            .filter(|&&thread| {
                let vote = self.at_barrier(thread).and_then(|barrier| barrier.vote);
                vote.is_some_and(|vote| (self.register(thread, vote.p) & 1 == 1) == vote.when)
            })
            .count();
        for &thread in here {
            if let Some(vote) = self.at_barrier(thread).and_then(|barrier| barrier.vote) {
                self.regs[thread * slots + vote.d as usize] = match vote.kind {
                    VoteKind::All => u64::from(votes == here.len()),
                    VoteKind::Any => u64::from(votes > 0),
                    _ => votes as u64,
                };
            }
            self.threads[thread].pc += 1;
            self.threads[thread].state = State::Ready;
        }
    }
}
