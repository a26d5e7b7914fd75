//! Global memory as a launch sees it: every access lies inside one allocation.

use super::early::Early;

pub(crate) struct Global {
    /// Start and end of each, in order.
    ranges: Vec<(u64, u64)>,
    /// The last range that was hit: neighbours usually follow.
    last: usize,
    pub(crate) early: Early,
}

impl Global {
    pub(crate) fn new(mut ranges: Vec<(u64, u64)>, early: Early) -> Self {
        ranges.sort_unstable();
        // So that there is always a last one.
        ranges.insert(0, (0, 0));
        Self { ranges, last: 0, early }
    }

    fn check(&mut self, address: u64, bytes: usize) -> Result<(), String> {
        let inside = |&(start, end): &(u64, u64)| {
            address >= start && address < end && end - address >= bytes as u64
        };
        if !inside(&self.ranges[self.last]) {
            let after = self.ranges.partition_point(|&(start, _)| start <= address);
            let found = after.saturating_sub(1);
            if !inside(&self.ranges[found]) {
                return Err(self.describe(address, bytes));
            }
            self.last = found;
        }
        Ok(())
    }

    fn describe(&self, address: u64, bytes: usize) -> String {
        let distance = |&(start, end): &(u64, u64)| {
            if address < start { start - address } else { (address + 1).saturating_sub(end) }
        };
        let nearest = self.ranges[1..].iter().min_by_key(|range| distance(range));
        let nearest = nearest.map_or_else(
            || "there is no allocation".to_owned(),
            |&(start, end)| {
                let at = address.wrapping_sub(start) as i64;
                format!(
                    "the nearest allocation is {start:#x}, {} bytes, and the access at {at} of it",
                    end - start
                )
            },
        );
        format!("{bytes} bytes of global memory at {address:#x} lie in no allocation; {nearest}")
    }

    pub(crate) fn read(&mut self, address: u64, out: &mut [u8], thread: u16) -> Result<(), String> {
        self.check(address, out.len())?;
        self.early.read(address, out.len(), thread)?;
        // SAFETY: the range is part of a live allocation, which nothing else touches in a launch.
        unsafe {
            std::ptr::copy_nonoverlapping(address as *const u8, out.as_mut_ptr(), out.len());
        }
        Ok(())
    }

    /// Nothing comes of it; that it would is checked.
    pub(crate) fn prefetch(&mut self, address: u64, bytes: u32) -> Result<(), String> {
        if !(address | u64::from(bytes)).is_multiple_of(16) {
            return Err(format!("{bytes} bytes at {address:#x} cannot be brought to the cache"));
        }
        self.check(address, bytes as usize)
    }

    pub(crate) fn write(&mut self, address: u64, from: &[u8], thread: u16) -> Result<(), String> {
        self.check(address, from.len())?;
        self.early.write(address, from.len(), thread)?;
        // SAFETY: as above.
        unsafe {
            std::ptr::copy_nonoverlapping(from.as_ptr(), address as *mut u8, from.len());
        }
        Ok(())
    }
}
