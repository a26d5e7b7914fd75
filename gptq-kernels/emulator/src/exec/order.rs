//! The order in which blocks run. Devices promise none, so results must not depend on it.

/// Which block runs first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Order {
    /// From the first to the last.
    #[default]
    Forward,
    /// From the last to the first.
    Reverse,
    /// Shuffled by a seed.
    Shuffled(u64),
}

impl Order {
    /// `forward`, `reverse` or a seed.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "forward" => Some(Self::Forward),
            "reverse" => Some(Self::Reverse),
            seed => seed.parse().ok().map(Self::Shuffled),
        }
    }

    pub(crate) fn sequence(self, blocks: u64) -> Vec<u64> {
        let mut sequence: Vec<u64> = (0..blocks).collect();
        match self {
            Self::Forward => {}
            Self::Reverse => sequence.reverse(),
            Self::Shuffled(mut state) => {
                for last in (1..sequence.len()).rev() {
                    // A step of splitmix: good enough to mix blocks.
                    state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                    let mut bits = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
                    sequence.swap(last, ((bits ^ bits >> 31) % (last as u64 + 1)) as usize);
                }
            }
        }
        sequence
    }
}
