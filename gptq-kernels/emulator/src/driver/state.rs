//! All that the driver remembers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::code::Code;
use super::config::Config;
use super::event::Event;
use super::function::Function;
use super::stream::{Capture, Stream};
use super::work::Work;
use crate::exec::early::Lines;
use crate::memory::Memory;
use crate::module::Module;

pub(super) struct State {
    pub(super) config: Config,
    pub(super) memory: Memory,
    pub(super) modules: HashMap<usize, Arc<Module>>,
    pub(super) functions: HashMap<usize, Function>,
    pub(super) streams: HashMap<usize, Stream>,
    pub(super) captures: HashMap<usize, Capture>,
    pub(super) events: HashMap<usize, Event>,
    pub(super) graphs: HashMap<usize, Arc<Vec<Work>>>,
    /// The error that the device never recovers from.
    pub(super) lost: Option<Code>,
    pub(super) launches: u64,
    /// What kernels wrote that the next one may find still running.
    pub(super) unsettled: Lines,
    handles: usize,
}

static STATE: OnceLock<Mutex<State>> = OnceLock::new();

impl State {
    fn new() -> Self {
        let config = Config::read();
        Self {
            memory: Memory::new(config.memory),
            config,
            modules: HashMap::new(),
            functions: HashMap::new(),
            streams: HashMap::new(),
            captures: HashMap::new(),
            events: HashMap::new(),
            graphs: HashMap::new(),
            lost: None,
            launches: 0,
            unsettled: Lines::default(),
            handles: 1,
        }
    }

    /// A number that looks like a pointer and is none.
    pub(super) fn handle(&mut self) -> usize {
        self.handles += 1;
        self.handles * 64
    }

    /// Fails for ever once the device is lost.
    pub(super) fn alive(&self) -> Result<(), Code> {
        self.lost.map_or(Ok(()), Err)
    }

    /// Whether the bytes are device memory, be it allocated or a module's.
    pub(super) fn is_device(&self, address: u64, bytes: usize) -> bool {
        self.memory.contains(address, bytes)
            || self.modules.values().any(|module| {
                module.variables.storage.iter().any(|(_, block)| {
                    let start = block.address();
                    address >= start && address + bytes as u64 <= start + block.len() as u64
                })
            })
    }
}

/// Runs a function on the state and gives its code.
pub(super) fn with(f: impl FnOnce(&mut State) -> Result<(), Code>) -> u32 {
    let state = STATE.get_or_init(|| Mutex::new(State::new()));
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    f(&mut state).map_or_else(|code| code.0, |()| 0)
}

/// As above, for what a lost device refuses.
pub(super) fn with_alive(f: impl FnOnce(&mut State) -> Result<(), Code>) -> u32 {
    with(|state| {
        state.alive()?;
        f(state)
    })
}

/// Stores a result where the caller asked for it.
pub(super) fn put<T>(to: *mut T, value: T) {
    if !to.is_null() {
        // SAFETY: the driver's interface asks for a pointer to such a value, or none.
        unsafe { to.write_unaligned(value) };
    }
}
