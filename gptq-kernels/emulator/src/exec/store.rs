//! All memory that a block can reach.

use super::global::Global;
use super::mark::Who;
use super::shadow::{Shadow, Touch};
use super::space::resolve;
use crate::inst::Space;

pub(crate) struct Store {
    pub(crate) global: Global,
    pub(crate) shared: Vec<u8>,
    pub(crate) shadow: Shadow,
    pub(crate) local: Vec<u8>,
    /// Local bytes of one thread.
    pub(crate) local_bytes: usize,
    pub(crate) parameters: Vec<u8>,
    /// Grows whenever it is looked at.
    pub(crate) clock: u64,
}

/// What an access costs in order: plain ones race, strong ones do not.
#[derive(Clone, Copy)]
pub(crate) struct How {
    pub(crate) who: Who,
    pub(crate) strong: bool,
}

fn slice_of(space: &str, length: usize, at: u64, bytes: usize) -> Result<usize, String> {
    if at.checked_add(bytes as u64).is_none_or(|end| end > length as u64) {
        return Err(format!("{bytes} bytes of {space} memory at {at:#x} lie outside its {length}"));
    }
    Ok(at as usize)
}

impl Store {
    fn place(&self, space: Space, address: u64, bytes: usize) -> Result<(Space, u64), String> {
        let (space, address) = match space {
            Space::Generic => resolve(address),
            // Shared addresses have 32 bits, and wrap as such.
            Space::Shared => (Space::Shared, u64::from(address as u32)),
            _ => (space, address),
        };
        if !address.is_multiple_of(bytes as u64) {
            return Err(format!("{bytes} bytes at {address:#x} are misaligned"));
        }
        Ok((space, address))
    }

    fn local_at(&self, who: Who, address: u64, bytes: usize) -> Result<usize, String> {
        let at = slice_of("local", self.local_bytes, address, bytes)?;
        Ok(usize::from(who.thread) * self.local_bytes + at)
    }

    /// Reads a value of so many bytes.
    pub(crate) fn read(
        &mut self,
        space: Space,
        address: u64,
        out: &mut [u8],
        how: How,
    ) -> Result<(), String> {
        let bytes = out.len();
        let (space, address) = self.place(space, address, bytes)?;
        match space {
            Space::Shared => {
                let at = slice_of("shared", self.shared.len(), address, bytes)?;
                if how.strong {
                    self.shadow.strong(at, bytes, how.who, Touch::Read)?;
                } else {
                    self.shadow.read(at, bytes, how.who)?;
                }
                out.copy_from_slice(&self.shared[at..at + bytes]);
            }
            Space::Local => {
                let at = self.local_at(how.who, address, bytes)?;
                out.copy_from_slice(&self.local[at..at + bytes]);
            }
            Space::Param => {
                let at = slice_of("parameter", self.parameters.len(), address, bytes)?;
                out.copy_from_slice(&self.parameters[at..at + bytes]);
            }
            _ => self.global.read(address, out, how.who.thread)?,
        }
        Ok(())
    }

    pub(crate) fn write(
        &mut self,
        space: Space,
        address: u64,
        from: &[u8],
        how: How,
    ) -> Result<(), String> {
        let bytes = from.len();
        let (space, address) = self.place(space, address, bytes)?;
        match space {
            Space::Shared => {
                let at = slice_of("shared", self.shared.len(), address, bytes)?;
                let to = &mut self.shared[at..at + bytes];
                if how.strong {
                    self.shadow.strong(at, bytes, how.who, Touch::Write)?;
                } else {
                    self.shadow.write(at, bytes, how.who, *to == *from)?;
                }
                to.copy_from_slice(from);
            }
            Space::Local => {
                let at = self.local_at(how.who, address, bytes)?;
                self.local[at..at + bytes].copy_from_slice(from);
            }
            Space::Param => return Err("parameters cannot be written".into()),
            _ => self.global.write(address, from, how.who.thread)?,
        }
        Ok(())
    }

    /// Sixteen bytes of shared memory that a warpgroup's product reads, from now to its wait.
    pub(crate) fn begin_read(&mut self, address: u64, who: Who) -> Result<[u8; 16], String> {
        let at = slice_of("shared", self.shared.len(), address, 16)?;
        self.shadow.begin_read(at, 16, who)?;
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.shared[at..at + 16]);
        Ok(bytes)
    }

    pub(crate) fn end_read(&mut self, address: u64, who: Who) {
        self.shadow.end_read(address as usize, 16, who);
    }

    /// Reads, changes and writes a value as one step.
    pub(crate) fn update(
        &mut self,
        space: Space,
        address: u64,
        bytes: usize,
        who: Who,
        change: impl FnOnce(u64) -> u64,
    ) -> Result<u64, String> {
        let (space, address) = self.place(space, address, bytes)?;
        let mut value = [0; 8];
        match space {
            Space::Shared => {
                let at = slice_of("shared", self.shared.len(), address, bytes)?;
                self.shadow.strong(at, bytes, who, Touch::Atomic)?;
                let cell = &mut self.shared[at..at + bytes];
                value[..bytes].copy_from_slice(cell);
                let old = u64::from_le_bytes(value);
                cell.copy_from_slice(&change(old).to_le_bytes()[..bytes]);
                Ok(old)
            }
            Space::Global => {
                self.global.read(address, &mut value[..bytes], who.thread)?;
                let old = u64::from_le_bytes(value);
                let new = change(old).to_le_bytes();
                self.global.write(address, &new[..bytes], who.thread)?;
                Ok(old)
            }
            _ => Err("atomics reach global and shared memory only".into()),
        }
    }
}
