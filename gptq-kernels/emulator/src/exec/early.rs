//! Kernels that begin while those before them still run (`griddepcontrol`).
//!
//! Here those have ended in truth, and what a kernel does before it waits for them is checked
//! instead: it reads nothing that they wrote, and writes nothing.

use std::collections::HashSet;

/// Bytes of a line; a power of two.
const LINE: u64 = 32;

/// Lines of global memory.
#[derive(Debug, Default)]
pub(crate) struct Lines(HashSet<u64>);

fn lines(address: u64, bytes: usize) -> impl Iterator<Item = u64> {
    address / LINE..=(address + bytes.max(1) as u64 - 1) / LINE
}

impl Lines {
    pub(crate) fn add(&mut self, address: u64, bytes: usize) {
        self.0.extend(lines(address, bytes));
    }

    fn meet(&self, address: u64, bytes: usize) -> bool {
        lines(address, bytes).any(|line| self.0.contains(&line))
    }
}

/// What the threads of a launch know of the kernels before it.
#[derive(Default)]
pub(crate) struct Early {
    /// What these wrote, if they may still run.
    unsettled: Option<Lines>,
    /// By thread of the block.
    waited: Vec<bool>,
    /// What this launch wrote, if someone wants to know.
    written: Option<Lines>,
}

impl Early {
    pub(crate) fn new(unsettled: Option<Lines>, threads: usize) -> Self {
        Self { unsettled, waited: vec![false; threads], written: Some(Lines::default()) }
    }

    /// What the kernel after this one may find still being written: by this one, and by those that
    /// this one did not wait for before it began.
    pub(crate) fn left(self) -> Lines {
        let mut lines = self.unsettled.unwrap_or_default();
        lines.0.extend(self.written.unwrap_or_default().0);
        lines
    }

    pub(crate) fn begin_block(&mut self) {
        self.waited.fill(false);
    }

    pub(crate) fn wait(&mut self, thread: u16) {
        if let Some(waited) = self.waited.get_mut(usize::from(thread)) {
            *waited = true;
        }
    }

    fn waits(&self, thread: u16) -> Option<&Lines> {
        self.unsettled.as_ref().filter(|_| !self.waited[usize::from(thread)])
    }

    pub(crate) fn read(&self, address: u64, bytes: usize, thread: u16) -> Result<(), String> {
        match self.waits(thread) {
            Some(lines) if lines.meet(address, bytes) => Err(format!(
                "global memory at {address:#x} is read before griddepcontrol.wait, and a kernel \
                 that may still run writes it"
            )),
            _ => Ok(()),
        }
    }

    pub(crate) fn write(&mut self, address: u64, bytes: usize, thread: u16) -> Result<(), String> {
        if self.waits(thread).is_some() {
            return Err(format!(
                "global memory at {address:#x} is written before griddepcontrol.wait"
            ));
        }
        if let Some(written) = &mut self.written {
            written.add(address, bytes);
        }
        Ok(())
    }

    /// A thread ends: the kernel after this one takes it that those before it have ended too.
    pub(crate) fn leave(&self, thread: u16) -> Result<(), String> {
        match self.waits(thread) {
            Some(_) => Err("the kernel began early and ends without griddepcontrol.wait".into()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, Launch, Memory, Module};

    /// Adds one to a word; `wait` is where a kernel waits, if it does.
    fn kernel([before, between, after]: [&str; 3]) -> String {
        format!(
            ".version 8.4\n.target sm_90\n.address_size 64\n\
             .visible .entry kernel(.param .u64 from, .param .u64 to) {{\n\
             .reg .b64 %rd<3>; .reg .b32 %r<2>;\n\
             ld.param.u64 %rd1, [from]; ld.param.u64 %rd2, [to];\n\
             griddepcontrol.launch_dependents;\n\
             {before}\n ld.global.u32 %r1, [%rd1];\n {between}\n\
             add.u32 %r1, %r1, 1; st.global.u32 [%rd2], %r1;\n {after}\n ret;\n}}"
        )
    }

    /// What happens if the memory it reads was written by a kernel that may still run.
    fn run(waits: [&str; 3], written: bool) -> Result<(), String> {
        let module = Module::parse(&kernel(waits)).map_err(|e| e.to_string())?;
        let mut memory = Memory::new(1 << 20);
        let [from, to] = [7u32, 0].map(|word| {
            let at = memory.alloc(4).unwrap_or_default();
            memory.write(at, &word.to_le_bytes());
            at
        });
        let mut lines = Lines::default();
        if written {
            lines.add(from, 4);
        }
        let parameters = [from, to].map(u64::to_le_bytes).concat();
        let launch = Launch::new([1, 1, 1], [1, 1, 1]);
        let mut early = Early::new(Some(lines), 1);
        let ran = module.launch_after("kernel", &launch, &parameters, &mut memory, &mut early);
        match ran {
            Ok(_) => {
                assert_eq!(memory.bytes(to, 4), Some(&mut 8u32.to_le_bytes()[..]));
                assert!(early.written.is_some_and(|written| written.meet(to, 4)));
                Ok(())
            }
            Err(Error::Fault(fault)) => Err(fault.what),
            Err(other) => Err(other.to_string()),
        }
    }

    #[test]
    fn what_others_write_is_read_after_the_wait() {
        const WAIT: &str = "griddepcontrol.wait;";
        assert_eq!(run([WAIT, "", ""], true), Ok(()));
        // What no one writes may be read before.
        assert_eq!(run(["", WAIT, ""], false), Ok(()));
        let fault = |waits, written| run(waits, written).err().unwrap_or_default();
        assert!(fault(["", WAIT, ""], true).contains("is read before griddepcontrol.wait"));
        assert!(fault(["", "", WAIT], false).contains("is written before griddepcontrol.wait"));
    }

    #[test]
    fn a_kernel_that_began_early_waits_before_it_ends() {
        let text = ".version 8.4\n.target sm_90\n.address_size 64\n\
                    .visible .entry kernel() { ret; }";
        let module = Module::parse(text).unwrap_or_else(|e| panic!("{e}"));
        let mut early = Early::new(Some(Lines::default()), 1);
        let launch = Launch::new([1, 1, 1], [1, 1, 1]);
        let ran = module.launch_after("kernel", &launch, &[], &mut Memory::new(0), &mut early);
        let Err(Error::Fault(fault)) = ran else { panic!("{ran:?}") };
        assert!(fault.what.contains("ends without griddepcontrol.wait"), "{}", fault.what);
    }
}
