//! One thread, from where it stands to where it must wait for others.

use std::collections::VecDeque;

use super::atomic;
use super::mark::Who;
use super::space::resolve;
use super::store::{How, Store};
use crate::inst::{Access, Address, AsyncCopy, Atomic, Carry, Compare, Inst, Op, Slot, Space};
use crate::kernel::Kernel;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    Ready,
    /// At an instruction that its warp does together.
    Together,
    Barrier,
    Done,
}

/// An asynchronous copy under way: it lands when it is waited for, and not before.
struct Copy {
    to: u64,
    bytes: usize,
    data: [u8; 16],
}

pub(crate) struct Thread {
    pub(crate) pc: u32,
    pub(crate) state: State,
    carry: u64,
    copies: VecDeque<Copy>,
    /// Copies of each group that is complete, and of the open one.
    groups: VecDeque<usize>,
    open: usize,
}

/// More than any kernel needs between two meetings.
const PATIENCE: u64 = 1 << 30;

fn get(regs: &[u64], slot: Slot) -> u64 {
    regs[slot as usize]
}

impl Thread {
    pub(crate) fn new() -> Self {
        Self {
            pc: 0,
            state: State::Ready,
            carry: 0,
            copies: VecDeque::new(),
            groups: VecDeque::new(),
            open: 0,
        }
    }

    pub(crate) fn restart(&mut self) {
        self.pc = 0;
        self.state = State::Ready;
    }

    /// Runs until the thread waits or ends; gives the instructions it took.
    pub(crate) fn run(
        &mut self,
        kernel: &Kernel,
        store: &mut Store,
        regs: &mut [u64],
        who: Who,
    ) -> Result<u64, String> {
        let mut count = 0;
        while self.state == State::Ready {
            let inst = &kernel.insts[self.pc as usize];
            count += 1;
            if count > PATIENCE {
                return Err("the thread runs on for ever".into());
            }
            if let Some((slot, when)) = inst.guard
                && (get(regs, slot) & 1 == 1) != when
            {
                self.pc += 1;
                continue;
            }
            self.step(inst, store, regs, who)?;
        }
        Ok(count)
    }

    fn step(
        &mut self,
        inst: &Inst,
        store: &mut Store,
        regs: &mut [u64],
        who: Who,
    ) -> Result<(), String> {
        match &inst.op {
            Op::One { f, d, a } => regs[*d as usize] = f(get(regs, *a)),
            Op::Two { f, d, a, b } => regs[*d as usize] = f(get(regs, *a), get(regs, *b)),
            Op::Three { f, d, a, b, c } => {
                regs[*d as usize] = f(get(regs, *a), get(regs, *b), get(regs, *c));
            }
            Op::Four { f, d, args } => {
                let [a, b, c, e] = args.map(|slot| get(regs, slot));
                regs[*d as usize] = f(a, b, c, e);
            }
            Op::Convert { how, d, a } => regs[*d as usize] = how.apply(get(regs, *a)),
            Op::Carry(carry) => self.carry(carry, regs),
            Op::SetPredicate { compare, p, q } => {
                let test = (compare.test)(get(regs, compare.a), get(regs, compare.b));
                let (yes, no) = (joined(compare, test, regs), joined(compare, !test, regs));
                regs[*p as usize] = u64::from(yes);
                if let Some(q) = q {
                    regs[*q as usize] = u64::from(no);
                }
            }
            Op::Set { compare, d, one } => {
                let test = (compare.test)(get(regs, compare.a), get(regs, compare.b));
                regs[*d as usize] = if joined(compare, test, regs) { *one } else { 0 };
            }
            Op::Pack { part_bits, d, parts } => {
                let mask = u64::MAX >> (64 - part_bits);
                let whole = parts.iter().rev();
                regs[*d as usize] =
                    whole.fold(0, |sum, &part| sum << part_bits | get(regs, part) & mask);
            }
            Op::Unpack { part_bits, parts, a } => {
                let mask = u64::MAX >> (64 - part_bits);
                let whole = get(regs, *a);
                for (at, &part) in parts.iter().enumerate() {
                    regs[part as usize] = whole >> (at as u32 * part_bits) & mask;
                }
            }
            Op::Branch { to } => {
                self.pc = *to;
                return Ok(());
            }
            Op::BranchTable { to, index } => {
                let index = get(regs, *index) as u32 as usize;
                self.pc = *to.get(index).ok_or("the index is outside the table of branches")?;
                return Ok(());
            }
            Op::Prefetch { at, bytes } => {
                store.global.prefetch(address(at, regs), get(regs, *bytes) as u32)?;
            }
            Op::WaitForKernels => store.global.early.wait(who.thread),
            Op::Exit => {
                store.global.early.leave(who.thread)?;
                self.land(store, 0)?;
                self.state = State::Done;
            }
            Op::Trap => return Err("trap".into()),
            Op::Load(access) => load(access, store, regs, who)?,
            Op::Store(access) => save(access, store, regs, who)?,
            Op::Atomic(op) => update(op, store, regs, who)?,
            Op::AsyncCopy(copy) => self.launch(copy, store, regs, who)?,
            Op::AsyncCommit => {
                self.groups.push_back(self.open);
                self.open = 0;
            }
            Op::AsyncWait { left } => self.wait(store, *left as usize, who)?,
            Op::AsyncWaitAll => {
                self.groups.push_back(self.open);
                self.open = 0;
                self.wait(store, 0, who)?;
            }
            Op::ProxyFence => store.shadow.proxy_fence(who),
            Op::Barrier(_) => {
                self.state = State::Barrier;
                return Ok(());
            }
            Op::Together(_) => {
                self.state = State::Together;
                return Ok(());
            }
            Op::IsSpace { space, d, a } => {
                regs[*d as usize] = u64::from(resolve(get(regs, *a)).0 == *space);
            }
            Op::Clock { d } => {
                store.clock += 1;
                regs[*d as usize] = store.clock;
            }
            Op::Nothing => {}
        }
        self.pc += 1;
        Ok(())
    }

    fn carry(&mut self, op: &Carry, regs: &mut [u64]) {
        let (a, b) = (get(regs, op.a), get(regs, op.b));
        let width = if op.wide { 64 } else { 32 };
        let mask = u64::MAX >> (64 - width);
        let (a, b) = (u128::from(a & mask), u128::from(b & mask));
        let taken = if op.takes { u128::from(self.carry) } else { 0 };
        // A borrow shows in the same bit as a carry does.
        let sum = if op.subtract { a.wrapping_sub(b).wrapping_sub(taken) } else { a + b + taken };
        regs[op.d as usize] = sum as u64 & mask;
        if op.gives {
            self.carry = (sum >> width) as u64 & 1;
        }
    }

    fn launch(
        &mut self,
        copy: &AsyncCopy,
        store: &mut Store,
        regs: &[u64],
        who: Who,
    ) -> Result<(), String> {
        let bytes = copy.bytes as usize;
        let read = copy.read.map_or(bytes, |slot| (get(regs, slot) as u32 as usize).min(bytes));
        let to = u64::from(address(&copy.to, regs) as u32);
        let from = address(&copy.from, regs);
        let mut data = [0; 16];
        if !from.is_multiple_of(bytes as u64) || !to.is_multiple_of(bytes as u64) {
            return Err(format!("a copy of {bytes} bytes from {from:#x} to {to:#x} is misaligned"));
        }
        if read > 0 {
            store.global.read(from, &mut data[..read], who.thread)?;
        }
        if to + bytes as u64 > store.shared.len() as u64 {
            let length = store.shared.len();
            return Err(format!(
                "{bytes} bytes of shared memory at {to:#x} lie outside its {length}"
            ));
        }
        store.shadow.launch(to as usize, bytes, who)?;
        self.copies.push_back(Copy { to, bytes, data });
        self.open += 1;
        Ok(())
    }

    fn wait(&mut self, store: &mut Store, left: usize, who: Who) -> Result<(), String> {
        while self.groups.len() > left {
            for _ in 0..self.groups.pop_front().unwrap_or(0) {
                let Some(copy) = self.copies.pop_front() else { break };
                store.shadow.land(copy.to as usize, copy.bytes);
                let how = How { who, strong: false };
                store.write(Space::Shared, copy.to, &copy.data[..copy.bytes], how)?;
            }
        }
        Ok(())
    }

    /// What nobody waited for is forgotten with the thread.
    fn land(&mut self, store: &mut Store, keep: usize) -> Result<(), String> {
        while self.copies.len() > keep {
            let Some(copy) = self.copies.pop_front() else { break };
            store.shadow.land(copy.to as usize, copy.bytes);
        }
        self.groups.clear();
        self.open = 0;
        Ok(())
    }
}

fn joined(compare: &Compare, test: bool, regs: &[u64]) -> bool {
    match compare.join {
        None => test,
        Some((join, slot, when)) => join.apply(test, (get(regs, slot) & 1 == 1) == when),
    }
}

pub(crate) fn address(at: &Address, regs: &[u64]) -> u64 {
    get(regs, at.base).wrapping_add(at.offset as u64)
}

fn load(access: &Access, store: &mut Store, regs: &mut [u64], who: Who) -> Result<(), String> {
    let size = access.ty.size();
    let mut raw = [0; 32];
    let how = How { who, strong: access.strong };
    let bytes = size * access.parts.len();
    store.read(access.at.space, address(&access.at, regs), &mut raw[..bytes], how)?;
    for (&slot, part) in access.parts.iter().zip(raw.chunks(size)) {
        let mut word = [0; 8];
        word[..size].copy_from_slice(part);
        regs[slot as usize] = access.ty.extend(u64::from_le_bytes(word));
    }
    Ok(())
}

fn save(access: &Access, store: &mut Store, regs: &[u64], who: Who) -> Result<(), String> {
    let size = access.ty.size();
    let mut raw = [0; 32];
    for (&slot, part) in access.parts.iter().zip(raw.chunks_mut(size)) {
        part.copy_from_slice(&get(regs, slot).to_le_bytes()[..size]);
    }
    let how = How { who, strong: access.strong };
    let bytes = size * access.parts.len();
    store.write(access.at.space, address(&access.at, regs), &raw[..bytes], how)
}

fn update(op: &Atomic, store: &mut Store, regs: &mut [u64], who: Who) -> Result<(), String> {
    let (b, c) = (get(regs, op.b), get(regs, op.c));
    let at = address(&op.at, regs);
    let change = |old| atomic::apply(op.kind, op.ty, op.ty.extend(old), b, c);
    let old = store.update(op.at.space, at, op.ty.size(), who, change)?;
    if let Some(d) = op.d {
        regs[d as usize] = op.ty.extend(old);
    }
    Ok(())
}
