//! A small device for tests: memory, a module, and typed uploads.

#![allow(dead_code, reason = "no test needs all of it")]

use gptq_ptx_emulator::{Error, Fault, Launch, Memory, Module, Stats};

pub(crate) struct Device {
    pub(crate) module: Module,
    pub(crate) memory: Memory,
}

/// Values that have bytes.
pub(crate) trait Plain: Copy {
    fn put(self, bytes: &mut Vec<u8>);
    fn get(bytes: &[u8]) -> Self;
}

macro_rules! plain {
    ($($t:ty),*) => { $(impl Plain for $t {
        fn put(self, bytes: &mut Vec<u8>) {
            bytes.extend(self.to_le_bytes());
        }
        fn get(bytes: &[u8]) -> Self {
            Self::from_le_bytes(bytes.try_into().unwrap())
        }
    })* };
}

plain!(u8, i8, u16, u32, i32, i64, u64, f32);

/// Parameters of a kernel, each aligned to its size.
#[derive(Default)]
pub(crate) struct Parameters(Vec<u8>);

impl Parameters {
    pub(crate) fn with<T: Plain>(mut self, value: T) -> Self {
        self.0.resize(self.0.len().next_multiple_of(size_of::<T>()), 0);
        value.put(&mut self.0);
        self
    }
}

impl Device {
    pub(crate) fn new(ptx: &str) -> Self {
        Self { module: Module::parse(ptx).unwrap(), memory: Memory::new(1 << 30) }
    }

    pub(crate) fn upload<T: Plain>(&mut self, values: &[T]) -> u64 {
        let mut bytes = Vec::new();
        values.iter().for_each(|value| value.put(&mut bytes));
        let address = self.memory.alloc(bytes.len()).unwrap();
        assert!(self.memory.write(address, &bytes));
        address
    }

    pub(crate) fn empty<T: Plain>(&mut self, count: usize) -> u64 {
        self.memory.alloc(count * size_of::<T>()).unwrap()
    }

    pub(crate) fn download<T: Plain>(&mut self, address: u64, count: usize) -> Vec<T> {
        let bytes = self.memory.bytes(address, count * size_of::<T>()).unwrap();
        bytes.chunks(size_of::<T>()).map(T::get).collect()
    }

    pub(crate) fn try_run(
        &mut self,
        kernel: &str,
        launch: &Launch,
        parameters: Parameters,
    ) -> Result<Stats, Error> {
        self.module.launch(kernel, launch, &parameters.0, &mut self.memory)
    }

    #[track_caller]
    pub(crate) fn run(
        &mut self,
        kernel: &str,
        (blocks, threads): (u32, u32),
        parameters: Parameters,
    ) -> Stats {
        let launch = Launch::new([blocks, 1, 1], [threads, 1, 1]);
        self.try_run(kernel, &launch, parameters).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs a kernel that must fail.
    #[track_caller]
    pub(crate) fn fault(&mut self, kernel: &str, launch: &Launch, parameters: Parameters) -> Fault {
        match self.try_run(kernel, launch, parameters) {
            Err(Error::Fault(fault)) => *fault,
            other => panic!("{kernel} gave {other:?}"),
        }
    }
}

/// Numbers without pattern, the same in every run.
pub(crate) fn noise(seed: u64, count: usize) -> Vec<u32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as u32
    };
    (0..count).map(|_| next()).collect()
}
