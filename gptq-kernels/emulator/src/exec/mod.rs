//! Runs kernels: blocks one after the other, threads until they must wait for each other.

pub(crate) mod atomic;
mod barrier;
mod collective;
mod descriptor;
pub(crate) mod early;
mod flight;
mod global;
mod machine;
mod mark;
mod matrix;
pub(crate) mod order;
mod proxy;
mod shadow;
pub(crate) mod space;
mod step;
mod store;
mod warpgroup;

use order::Order;

use crate::error::Error;
use crate::memory::Memory;
use crate::module::Module;
use early::Early;
use global::Global;
use machine::Machine;

/// How a kernel is launched.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y and z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: usize,
    /// Which block runs first.
    pub order: Order,
    /// Whether unordered accesses to shared memory are errors.
    pub races: bool,
}

impl Launch {
    /// A launch in plain order that finds races.
    pub fn new(grid: [u32; 3], block: [u32; 3]) -> Self {
        Self { grid, block, dynamic_shared: 0, order: Order::Forward, races: true }
    }
}

/// What a launch did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Instructions of all threads together.
    pub instructions: u64,
    /// Blocks that ran.
    pub blocks: u64,
    /// Threads that ran.
    pub threads: u64,
}

impl Module {
    /// Runs a kernel to its end. `parameters` are its parameters' bytes, each at its offset.
    pub fn launch(
        &self,
        kernel: &str,
        launch: &Launch,
        parameters: &[u8],
        memory: &mut Memory,
    ) -> Result<Stats, Error> {
        let mut early = Early::default();
        self.launch_after(kernel, launch, parameters, memory, &mut early)
    }

    /// As above, and perhaps before the kernels before it have ended.
    pub(crate) fn launch_after(
        &self,
        kernel: &str,
        launch: &Launch,
        parameters: &[u8],
        memory: &mut Memory,
        early: &mut Early,
    ) -> Result<Stats, Error> {
        let Some(kernel) = self.kernels.get(kernel) else {
            return Err(Error::Launch(format!("no kernel {kernel}")));
        };
        let threads: u64 = launch.block.iter().map(|&side| u64::from(side)).product();
        let blocks: u64 = launch.grid.iter().map(|&side| u64::from(side)).product();
        let most = u64::from(kernel.max_threads.unwrap_or(1024).min(1024));
        if threads == 0 || blocks == 0 || threads > most {
            return Err(Error::Launch(format!(
                "{}: {:?} blocks of {:?} threads; at most {most} threads are possible",
                kernel.name, launch.grid, launch.block
            )));
        }
        if parameters.len() != kernel.parameter_bytes() {
            return Err(Error::Launch(format!(
                "{}: {} bytes of parameters were given and {} are declared",
                kernel.name,
                parameters.len(),
                kernel.parameter_bytes()
            )));
        }
        let storage = self.variables.storage.iter();
        let variables =
            storage.map(|(_, block)| (block.address(), block.address() + block.len() as u64));
        let ranges = memory.ranges().chain(variables).collect();
        let global = Global::new(ranges, std::mem::take(early));
        let mut machine = Machine::new(kernel, launch, parameters, global);
        for index in launch.order.sequence(blocks) {
            machine.run(index)?;
        }
        *early = std::mem::take(&mut machine.store.global.early);
        Ok(Stats { instructions: machine.instructions(), blocks, threads: blocks * threads })
    }
}
