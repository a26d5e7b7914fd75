//! How a matrix lies in shared memory, as a warpgroup's product is told: a factor's rows are those
//! of M or N, and 32 bytes of each, along K, take part.

/// Only so many bits of an address, of a distance too, go into a descriptor.
const ADDRESS: u64 = 0x3ffff;
const FIELDS: u64 = 0x3fff | 0x3fff << 16 | 0x3fff << 32 | 7 << 49 | 3 << 62;

#[derive(Clone, Copy)]
pub(super) struct Descriptor {
    start: u64,
    /// From one eight of rows to the next.
    stride: u64,
    pattern: Pattern,
}

#[derive(Clone, Copy)]
enum Pattern {
    /// Eight rows of 16 bytes lie together; the neighbour along K is so far away.
    Plain { leading: u64 },
    /// Rows of so many bytes lie one after the other, their sixteens exchanged.
    Swizzled { row: u64 },
}

impl Descriptor {
    pub(super) fn parse(bits: u64) -> Result<Self, String> {
        let wrong = |what: &str| Err(format!("the descriptor {bits:#x} {what}"));
        if bits & !FIELDS != 0 {
            return wrong("has bits that mean nothing");
        }
        if bits >> 49 & 7 != 0 {
            return wrong("has a base offset, which is not supported");
        }
        let field = |shift: u32| (bits >> shift & 0x3fff) << 4 & ADDRESS;
        let (start, stride) = (field(0), field(32));
        let row = match bits >> 62 {
            0 => {
                let pattern = Pattern::Plain { leading: field(16) };
                return Ok(Self { start, stride, pattern });
            }
            1 => 128,
            2 => 64,
            _ => 32,
        };
        // Eight rows must begin where the pattern does.
        if start % (8 * row) >= row || !stride.is_multiple_of(8 * row) {
            return wrong(&format!("begins outside the first row of a pattern of {}", 8 * row));
        }
        if start % row + 32 > row {
            return wrong(&format!("leads from one row of {row} bytes into the next"));
        }
        Ok(Self { start, stride, pattern: Pattern::Swizzled { row } })
    }

    /// Where 16 bytes of a row lie, the first or the second half along K.
    pub(super) fn at(self, row: usize, half: usize) -> u64 {
        let (eight, row, half) = (row as u64 / 8, row as u64 % 8, half as u64);
        let start = self.start + eight * self.stride;
        match self.pattern {
            Pattern::Plain { leading } => start + half * leading + row * 16,
            Pattern::Swizzled { row: bytes } => {
                let at = start + row * bytes + half * 16;
                at ^ (at >> 7 & (bytes / 16 - 1)) << 4
            }
        }
    }
}
