//! One block at a time: its threads, their registers, and who waits for whom.

use super::Launch;
use super::collective;
use super::flight::Flight;
use super::global::Global;
use super::mark::Who;
use super::shadow::Shadow;
use super::step::{State, Thread};
use super::store::Store;
use crate::error::{Error, Fault};
use crate::inst::{Collective, Group, Op, Together};
use crate::kernel::{Init, Kernel, Special};

pub(crate) struct Machine<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) launch: &'a Launch,
    pub(super) store: Store,
    /// All registers, thread after thread.
    pub(super) regs: Vec<u64>,
    pub(super) threads: Vec<Thread>,
    /// How often each warp has met.
    orders: Vec<u32>,
    /// Each warp's products of its warpgroup; none if the kernel has no such products.
    flights: Vec<Flight>,
    /// Threads that came to a barrier and went on.
    pub(super) arrivals: Vec<usize>,
    block: [u32; 3],
    instructions: u64,
}

/// Coordinates of a position, x first.
fn coordinates(index: u64, sides: [u32; 3]) -> [u32; 3] {
    let (x, y) = (u64::from(sides[0]), u64::from(sides[1]));
    [(index % x) as u32, (index / x % y) as u32, (index / x / y) as u32]
}

impl<'a> Machine<'a> {
    pub(crate) fn new(
        kernel: &'a Kernel,
        launch: &'a Launch,
        parameters: &[u8],
        global: Global,
    ) -> Self {
        let count: usize = launch.block.iter().map(|&side| side as usize).product();
        let shared = kernel.static_shared + launch.dynamic_shared;
        let grouped = !kernel.group_slots.is_empty();
        let mut shadow = Shadow::new(shared, launch.races);
        if grouped {
            shadow = shadow.with_proxy(count);
        }
        let warps = if grouped { count.div_ceil(32) } else { 0 };
        let flight = |warp| Flight::new(&kernel.group_slots, (warp / 4 + 1) * 128 <= count);
        let mut machine = Self {
            kernel,
            launch,
            store: Store {
                global,
                shared: vec![0; shared],
                shadow,
                local: vec![0; count * kernel.local_bytes],
                local_bytes: kernel.local_bytes,
                parameters: parameters.to_vec(),
                clock: 0,
            },
            regs: vec![0; count * kernel.slots.len()],
            threads: (0..count).map(|_| Thread::new()).collect(),
            orders: vec![0; count.div_ceil(32)],
            flights: (0..warps).map(flight).collect(),
            arrivals: vec![0; 16],
            block: [0; 3],
            instructions: 0,
        };
        for thread in 0..count {
            for (slot, &init) in kernel.slots.iter().enumerate() {
                let value = machine.initial(init, thread);
                machine.regs[thread * kernel.slots.len() + slot] = value;
            }
        }
        machine
    }

    pub(crate) fn instructions(&self) -> u64 {
        self.instructions
    }

    fn initial(&self, init: Init, thread: usize) -> u64 {
        let special = match init {
            Init::Register => return 0,
            Init::Constant(value) => return value,
            Init::DynamicShared => return self.kernel.static_shared as u64,
            Init::Special(special) => special,
        };
        let lane = thread % 32;
        let below = (1u64 << lane) - 1;
        let own = 1u64 << lane;
        match special {
            Special::Thread(axis) => {
                coordinates(thread as u64, self.launch.block)[usize::from(axis)].into()
            }
            Special::Threads(axis) => self.launch.block[usize::from(axis)].into(),
            Special::Block(_) => 0,
            Special::Blocks(axis) => self.launch.grid[usize::from(axis)].into(),
            Special::Lane => lane as u64,
            Special::Warp => thread as u64 / 32,
            Special::Warps => self.orders.len() as u64,
            Special::MaskEqual => own,
            Special::MaskBelow => below,
            Special::MaskUpTo => below | own,
            Special::MaskAbove => u64::from(u32::MAX) & !(below | own),
            Special::MaskFrom => u64::from(u32::MAX) & !below,
            Special::DynamicSharedBytes => self.launch.dynamic_shared as u64,
            Special::TotalSharedBytes => self.store.shared.len() as u64,
        }
    }

    /// Runs one block to its end.
    pub(crate) fn run(&mut self, index: u64) -> Result<(), Error> {
        self.block = coordinates(index, self.launch.grid);
        let slots = self.kernel.slots.len();
        for (thread, regs) in self.threads.iter_mut().zip(self.regs.chunks_mut(slots.max(1))) {
            thread.restart();
            for &(slot, axis) in &self.kernel.block_slots {
                regs[slot as usize] = self.block[usize::from(axis)].into();
            }
        }
        self.store.shadow.begin_block();
        self.store.global.early.begin_block();
        self.arrivals.fill(0);
        for (flight, regs) in self.flights.iter_mut().zip(self.regs.chunks_mut(32 * slots.max(1))) {
            flight.begin(regs, slots);
        }
        loop {
            for warp in 0..self.orders.len() {
                self.run_warp(warp)?;
            }
            if self.threads.iter().all(|thread| thread.state == State::Done) {
                return self.landed();
            }
            if !self.barrier()? {
                return Err(self.deadlock());
            }
        }
    }

    /// Runs the lanes of a warp until all of them wait for other warps, or for ever.
    fn run_warp(&mut self, warp: usize) -> Result<(), Error> {
        let lanes = warp * 32..(warp * 32 + 32).min(self.threads.len());
        let slots = self.kernel.slots.len();
        loop {
            let who = |thread| Who { thread: thread as u16, order: self.orders[warp] };
            for index in lanes.clone() {
                let thread = &mut self.threads[index];
                if thread.state != State::Ready {
                    continue;
                }
                let regs = &mut self.regs[index * slots..(index + 1) * slots];
                match thread.run(self.kernel, &mut self.store, regs, who(index)) {
                    Ok(count) => self.instructions += count,
                    Err(what) => return Err(self.fault(index, what)),
                }
            }
            if !self.meet(lanes.clone())? {
                return Ok(());
            }
        }
    }

    /// Finds lanes that wait for each other and are all there, and lets them act.
    fn meet(&mut self, lanes: std::ops::Range<usize>) -> Result<bool, Error> {
        let states = &self.threads[lanes.clone()];
        let bits = |wanted: State| {
            let with = states.iter().enumerate().filter(|(_, thread)| thread.state == wanted);
            with.fold(0u32, |mask, (lane, _)| mask | 1 << lane)
        };
        let (mut waiting, done) = (bits(State::Together), bits(State::Done));
        let missing = if states.len() < 32 { u32::MAX << states.len() } else { 0 };
        let mut deferred = None;
        while waiting != 0 {
            let first = lanes.start + waiting.trailing_zeros() as usize;
            let pc = self.threads[first].pc;
            let Op::Together(together) = &self.kernel.insts[pc as usize].op else { break };
            let mask = self.mask(together, first);
            let group = lanes.clone().filter(|&index| {
                waiting >> (index % 32) & 1 == 1
                    && self.threads[index].pc == pc
                    && self.mask(together, index) == mask
            });
            let group = group.fold(0u32, |group, index| group | 1 << (index % 32));
            waiting &= !group;
            if matches!(together.what, Collective::Active { .. }) {
                deferred = deferred.or(Some((together, group)));
                continue;
            }
            if group & !mask != 0 {
                let outside = lanes.start + (group & !mask).trailing_zeros() as usize;
                return Err(self.fault(outside, format!("the lane is not in its mask {mask:#x}")));
            }
            // Lanes that have ended are not waited for, except where the whole warp must be there.
            let gone = if together.mask.is_some() { done | missing } else { 0 };
            if mask & !(group | gone) == 0 {
                self.act(together, group, lanes.start)?;
                return Ok(true);
            }
        }
        let Some((together, group)) = deferred else { return Ok(false) };
        self.act(together, group, lanes.start)?;
        Ok(true)
    }

    fn mask(&self, together: &Together, thread: usize) -> u32 {
        let base = thread * self.kernel.slots.len();
        together.mask.map_or(u32::MAX, |slot| self.regs[base + slot as usize] as u32)
    }

    fn act(&mut self, together: &Together, lanes: u32, start: usize) -> Result<(), Error> {
        let mut all = [0; 32];
        let mut count = 0;
        for lane in (0..32).filter(|lane| lanes >> lane & 1 == 1) {
            all[count] = start + lane;
            count += 1;
        }
        let group = &all[..count];
        let warp = start / 32;
        let slots = self.kernel.slots.len();
        let mut lanes = collective::Lanes {
            regs: &mut self.regs[warp * 32 * slots..],
            slots,
            group,
            store: &mut self.store,
            order: self.orders[warp],
            flight: self.flights.get_mut(warp),
        };
        let done = lanes.act(&together.what);
        done.map_err(|(thread, what)| self.fault(thread, what))?;
        match together.what {
            // These order nothing between the lanes.
            Collective::Group(Group::Multiply(_)) => {
                self.flights[warp].last = self.threads[start].pc
            }
            Collective::Group(_) => {}
            _ => self.orders[warp] += 1,
        }
        for &thread in group {
            self.threads[thread].pc += 1;
            self.threads[thread].state = State::Ready;
        }
        Ok(())
    }

    /// At a block's end: the products of its warpgroups were waited for, and whole.
    fn landed(&mut self) -> Result<(), Error> {
        for warp in 0..self.flights.len() {
            let (flight, first) = (&self.flights[warp], &self.flights[warp / 4 * 4]);
            let what = if !flight.is_idle() {
                "the block ends, and nobody waited for this wgmma"
            } else if !flight.agrees(first) {
                "the warps of a warpgroup issued different wgmmas"
            } else {
                continue;
            };
            // The threads have ended: the last product is what there is to show.
            let shown = if flight.has_issued() { warp } else { warp / 4 * 4 };
            self.threads[warp * 32].pc = self.flights[shown].last;
            return Err(self.fault(warp * 32, what.to_owned()));
        }
        Ok(())
    }

    pub(super) fn fault(&self, thread: usize, what: String) -> Error {
        let inst = &self.kernel.insts[self.threads[thread].pc as usize];
        let source = &self.kernel.sources[inst.source as usize];
        Error::Fault(Box::new(Fault {
            kernel: self.kernel.name.clone(),
            block: self.block,
            thread: coordinates(thread as u64, self.launch.block),
            line: source.line,
            instruction: source.text.clone(),
            what,
        }))
    }

    fn deadlock(&self) -> Error {
        let mut places: Vec<(u32, Vec<usize>)> = Vec::new();
        for (index, thread) in self.threads.iter().enumerate() {
            if thread.state == State::Done {
                continue;
            }
            match places.iter_mut().find(|(pc, _)| *pc == thread.pc) {
                Some((_, at)) => at.push(index),
                None => places.push((thread.pc, vec![index])),
            }
        }
        let mut what = "deadlock:".to_owned();
        for (pc, threads) in &places {
            let inst = &self.kernel.insts[*pc as usize];
            let source = &self.kernel.sources[inst.source as usize];
            let last = threads.last().copied().unwrap_or_default();
            what += &format!(
                " {} threads, {} to {last}, wait at line {}, `{}`;",
                threads.len(),
                threads[0],
                source.line,
                source.text
            );
        }
        let done = self.threads.iter().filter(|thread| thread.state == State::Done).count();
        what += &format!(" {done} have ended");
        self.fault(places.first().map_or(0, |(_, threads)| threads[0]), what)
    }
}
