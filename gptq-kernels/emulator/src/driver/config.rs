//! What the environment asks the device to be.

use crate::exec::order::Order;

pub(super) struct Config {
    /// `PTX_EMULATOR_NO_DEVICE=1`: there is none.
    pub(super) absent: bool,
    /// `PTX_EMULATOR_CAPABILITY=8.0`.
    pub(super) capability: (u32, u32),
    /// `PTX_EMULATOR_MEMORY`, in bytes.
    pub(super) memory: u64,
    /// `PTX_EMULATOR_SMS`.
    pub(super) multiprocessors: u32,
    /// `PTX_EMULATOR_ORDER=forward`, `reverse` or a seed.
    pub(super) order: Order,
    /// `PTX_EMULATOR_LOSE=n`: the n-th launch fails, and all that follows.
    pub(super) lose: Option<u64>,
    /// `PTX_EMULATOR_RACES=0` does not look for races.
    pub(super) races: bool,
}

impl Config {
    pub(super) fn read() -> Self {
        let text = |name| std::env::var(name).ok();
        let number = |name| text(name).and_then(|value| value.parse::<u64>().ok());
        let capability = text("PTX_EMULATOR_CAPABILITY").and_then(|value| {
            let (major, minor) = value.split_once('.')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        });
        Self {
            absent: text("PTX_EMULATOR_NO_DEVICE").is_some_and(|value| value != "0"),
            capability: capability.unwrap_or((8, 0)),
            memory: number("PTX_EMULATOR_MEMORY").unwrap_or(4 << 30),
            multiprocessors: number("PTX_EMULATOR_SMS").unwrap_or(4) as u32,
            order: text("PTX_EMULATOR_ORDER")
                .and_then(|value| Order::parse(&value))
                .unwrap_or_default(),
            lose: number("PTX_EMULATOR_LOSE"),
            races: text("PTX_EMULATOR_RACES").is_none_or(|value| value != "0"),
        }
    }

    /// Shared memory of a multiprocessor, in bytes.
    pub(super) fn shared_memory(&self) -> usize {
        match self.capability {
            (7, 5) => 64 << 10,
            (8, 0) | (8, 7) => 164 << 10,
            (8, _) | (12, _) => 100 << 10,
            (major, _) if major >= 9 => 228 << 10,
            _ => 96 << 10,
        }
    }

    /// What a block can have of it when it asks: all but what the system keeps for itself.
    pub(super) fn shared_opt_in(&self) -> usize {
        let kept = if self.capability.0 >= 8 { 1 << 10 } else { 0 };
        self.shared_memory() - kept
    }
}
