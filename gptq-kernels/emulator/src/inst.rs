//! Decoded instructions. Operands are slots of a thread's register file, where constants and
//! special registers lie too: to read an operand is to read one slot, whatever it was.

use crate::exec::atomic::AtomicKind;
use crate::number::convert::Convert;
use crate::types::Ty;

pub(crate) type Slot = u32;

/// Where an address points.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Space {
    Generic,
    Global,
    Shared,
    Local,
    Param,
}

/// A guard, an operation and where it was written.
pub(crate) struct Inst {
    /// The predicate's slot and the value it must have.
    pub(crate) guard: Option<(Slot, bool)>,
    pub(crate) op: Op,
    /// Index into the kernel's statements.
    pub(crate) source: u32,
}

/// How a comparison's result joins a third predicate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Join {
    And,
    Or,
    Xor,
}

impl Join {
    pub(crate) fn apply(self, a: bool, b: bool) -> bool {
        match self {
            Self::And => a && b,
            Self::Or => a || b,
            Self::Xor => a != b,
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Compare {
    pub(crate) test: fn(u64, u64) -> bool,
    pub(crate) a: Slot,
    pub(crate) b: Slot,
    /// The third predicate and the value that counts as true.
    pub(crate) join: Option<(Join, Slot, bool)>,
}

/// Sums that pass a carry on.
#[derive(Clone, Copy)]
pub(crate) struct Carry {
    pub(crate) wide: bool,
    pub(crate) subtract: bool,
    pub(crate) takes: bool,
    pub(crate) gives: bool,
    pub(crate) d: Slot,
    pub(crate) a: Slot,
    pub(crate) b: Slot,
}

#[derive(Clone)]
pub(crate) struct Address {
    pub(crate) space: Space,
    pub(crate) base: Slot,
    pub(crate) offset: i64,
}

#[derive(Clone)]
pub(crate) struct Access {
    pub(crate) at: Address,
    pub(crate) ty: Ty,
    pub(crate) parts: Vec<Slot>,
    /// Ordered against other threads by itself, and so no race.
    pub(crate) strong: bool,
}

#[derive(Clone)]
pub(crate) struct Atomic {
    pub(crate) at: Address,
    pub(crate) ty: Ty,
    pub(crate) kind: AtomicKind,
    pub(crate) d: Option<Slot>,
    pub(crate) b: Slot,
    pub(crate) c: Slot,
}

#[derive(Clone)]
pub(crate) struct AsyncCopy {
    pub(crate) to: Address,
    pub(crate) from: Address,
    pub(crate) bytes: u32,
    /// How many bytes are read; the others are zero.
    pub(crate) read: Option<Slot>,
}

#[derive(Clone, Copy)]
pub(crate) struct Barrier {
    pub(crate) id: Slot,
    pub(crate) count: Option<Slot>,
    pub(crate) arrive: bool,
    pub(crate) vote: Option<BarrierVote>,
}

#[derive(Clone, Copy)]
pub(crate) struct BarrierVote {
    pub(crate) kind: VoteKind,
    pub(crate) d: Slot,
    pub(crate) p: Slot,
    pub(crate) when: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum VoteKind {
    All,
    Any,
    Uniform,
    Ballot,
    Count,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ShuffleKind {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReduceKind {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct MmaShape {
    pub(crate) k: usize,
    pub(crate) a: Ty,
    pub(crate) b: Ty,
    pub(crate) c: Ty,
    pub(crate) d: Ty,
    pub(crate) saturate: bool,
}

/// Where a warpgroup's product finds its left factor.
#[derive(Clone, Copy)]
pub(crate) enum Left {
    Registers([Slot; 4]),
    /// The slot of a descriptor of shared memory.
    Shared(Slot),
}

/// A warpgroup's product: 64 rows, a multiple of eight columns, 16 deep.
#[derive(Clone)]
pub(crate) struct GroupProduct {
    pub(crate) columns: usize,
    pub(crate) ty: Ty,
    pub(crate) d: Vec<Slot>,
    pub(crate) a: Left,
    /// The slot of B's descriptor.
    pub(crate) b: Slot,
    /// The slot that says whether the product is added to `d`.
    pub(crate) add: Slot,
    /// One of the factors' signs is turned, and not the other's.
    pub(crate) negate: bool,
}

/// What a warp does as part of its warpgroup.
#[derive(Clone)]
pub(crate) enum Group {
    Fence,
    Commit,
    /// Waits until at most so many groups are under way.
    Wait {
        left: u32,
    },
    Multiply(GroupProduct),
}

/// What the lanes of a warp do together.
#[derive(Clone)]
pub(crate) enum Collective {
    Sync,
    Active { d: Slot },
    Shuffle { kind: ShuffleKind, d: Slot, p: Option<Slot>, a: Slot, b: Slot, c: Slot },
    Vote { kind: VoteKind, d: Slot, p: Slot, when: bool },
    Reduce { kind: ReduceKind, signed: bool, d: Slot, a: Slot },
    MatchAny { wide: bool, d: Slot, a: Slot },
    MatchAll { wide: bool, d: Slot, p: Option<Slot>, a: Slot },
    LoadMatrix { at: Address, transposed: bool, d: Vec<Slot> },
    Mma { shape: MmaShape, d: Vec<Slot>, a: Vec<Slot>, b: Vec<Slot>, c: Vec<Slot> },
    Group(Group),
}

/// A collective and the slot of its member mask; those without one need the whole warp.
pub(crate) struct Together {
    pub(crate) mask: Option<Slot>,
    pub(crate) what: Collective,
}

pub(crate) enum Op {
    One {
        f: fn(u64) -> u64,
        d: Slot,
        a: Slot,
    },
    Two {
        f: fn(u64, u64) -> u64,
        d: Slot,
        a: Slot,
        b: Slot,
    },
    Three {
        f: fn(u64, u64, u64) -> u64,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
    },
    Four {
        f: fn(u64, u64, u64, u64) -> u64,
        d: Slot,
        args: Box<[Slot; 4]>,
    },
    Convert {
        how: Convert,
        d: Slot,
        a: Slot,
    },
    Carry(Box<Carry>),
    SetPredicate {
        compare: Box<Compare>,
        p: Slot,
        q: Option<Slot>,
    },
    Set {
        compare: Box<Compare>,
        d: Slot,
        one: u64,
    },
    Pack {
        part_bits: u32,
        d: Slot,
        parts: Box<[Slot]>,
    },
    Unpack {
        part_bits: u32,
        parts: Box<[Slot]>,
        a: Slot,
    },
    Branch {
        to: u32,
    },
    BranchTable {
        to: Box<[u32]>,
        index: Slot,
    },
    Exit,
    Trap,
    Load(Box<Access>),
    Store(Box<Access>),
    Atomic(Box<Atomic>),
    AsyncCopy(Box<AsyncCopy>),
    AsyncCommit,
    /// Waits until at most so many groups are under way.
    AsyncWait {
        left: u32,
    },
    AsyncWaitAll,
    Barrier(Box<Barrier>),
    /// Orders this thread's writes to shared memory before what reads it asynchronously.
    ProxyFence,
    /// Brings bytes to the cache, which are not looked at.
    Prefetch {
        at: Address,
        bytes: Slot,
    },
    /// Waits until the kernels before this one have ended.
    WaitForKernels,
    Together(Box<Together>),
    /// Asks which space a generic address points to.
    IsSpace {
        space: Space,
        d: Slot,
        a: Slot,
    },
    Clock {
        d: Slot,
    },
    Nothing,
}
