//! Which vector instructions this CPU has: the only feature detection in the tree.

#[cfg(target_arch = "x86_64")]
use super::amx;

/// An instruction set that kernels are compiled for. Only [`Isa::available`] and [`Isa::best`] make
/// values beyond [`Isa::SCALAR`], so holding one proves that the CPU has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa {
    level: Level,
    reading: Reading,
}

/// How a core reads weights from memory fastest, as far as it was measured. Results do not depend
/// on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86-64 was measured"))]
pub(crate) enum Reading {
    /// One place after the other, and nothing asked for: the hardware looks ahead. Zen 4 reads 30
    /// GB/s so and 23 where it is asked 8 KiB ahead; what was not measured is taken for one of these.
    Steady,
    /// One place, asked for far ahead: Zen 5 is half as fast again so.
    Ahead,
    /// Several places side by side, of which prefetchers follow each by itself: Xeons with AMX.
    Streams,
}

/// In the order in which CPUs got them: x86 CPUs that have one have those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    #[cfg(target_arch = "x86_64")]
    Amx,
}

/// A loop written once, compiled for each instruction set. `FMA` says whether fused multiply-add
/// is an instruction here or a slow library call.
pub(crate) trait Kernel {
    /// What the loop returns.
    type Output;

    /// The loop. Must be `#[inline(always)]`, or it is compiled without the vector instructions.
    fn run<const FMA: bool>(self) -> Self::Output;
}

impl Isa {
    /// Whatever the compiler makes of plain code.
    pub const SCALAR: Isa = Isa { level: Level::Scalar, reading: Reading::Steady };

    /// Everything this CPU can run, slowest first.
    pub fn available() -> Vec<Isa> {
        #[allow(unused_mut, reason = "only x86-64 has more than one so far")]
        let mut levels = vec![Isa::SCALAR];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let family = amd_family();
            if avx2 {
                levels.push(Isa::of(Level::Avx2, family));
            }
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl");
            let vnni = avx512 && is_x86_feature_detected!("avx512vnni");
            let bf16 = vnni && is_x86_feature_detected!("avx512bf16");
            let more = [
                (avx512, Level::Avx512),
                (vnni, Level::Avx512Vnni),
                (bf16, Level::Avx512Bf16),
                (bf16 && amx::usable(), Level::Amx),
            ];
            let there = more.into_iter().filter(|(has, _)| *has);
            levels.extend(there.map(|(_, level)| Isa::of(level, family)));
        }
        levels
    }

    /// The fastest of [`Isa::available`].
    pub fn best() -> Isa {
        Isa::available().pop().unwrap_or(Isa::SCALAR)
    }

    /// The usual name, for reports.
    pub fn name(self) -> &'static str {
        match self.level {
            Level::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vnni => "avx512-vnni",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 => "avx512-bf16",
            #[cfg(target_arch = "x86_64")]
            Level::Amx => "amx",
        }
    }

    /// Whether there are 256-bit registers and fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn has_avx2(self) -> bool {
        self.level >= Level::Avx2
    }

    /// Whether 512-bit registers may be used.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn has_avx512(self) -> bool {
        self.level >= Level::Avx512
    }

    /// Whether four products of bytes are summed by one instruction (`vpdpbusd`).
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn has_vnni(self) -> bool {
        self.level >= Level::Avx512Vnni
    }

    /// Whether two products of bf16 are summed by one instruction (`vdpbf16ps`).
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn has_bf16(self) -> bool {
        self.level >= Level::Avx512Bf16
    }

    /// Whether there are tiles of 16 × 64 bytes and products of them.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn has_amx(self) -> bool {
        self.level >= Level::Amx
    }

    /// How this CPU reads memory fastest.
    pub(crate) fn reading(self) -> Reading {
        self.reading
    }

    #[cfg(target_arch = "x86_64")]
    fn of(level: Level, amd_family: Option<u32>) -> Self {
        let reading = match level {
            Level::Amx => Reading::Streams,
            _ if amd_family.is_some_and(|family| family >= ZEN_5) => Reading::Ahead,
            _ => Reading::Steady,
        };
        Self { level, reading }
    }

    /// Runs the instance of `kernel` made for this instruction set.
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.level {
            Level::Scalar => kernel.run::<false>(),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a value of this level exists only if `available` saw avx2 and fma.
            Level::Avx2 => unsafe { run_avx2(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: values of these levels exist only if `available` saw all four features.
            _ => unsafe { run_avx512(kernel) },
        }
    }
}

/// The family of AMD's processors that begins with Zen 5.
#[cfg(target_arch = "x86_64")]
const ZEN_5: u32 = 0x1a;

/// The family of the processor, if AMD made it: `cpuid`, leaves 0 and 1.
#[cfg(target_arch = "x86_64")]
fn amd_family() -> Option<u32> {
    use core::arch::x86_64::__cpuid;
    let vendor = __cpuid(0);
    let amd = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
    if amd.as_flattened() != b"AuthenticAMD" {
        return None;
    }
    let version = __cpuid(1).eax;
    // Families from 15 on are that and the extended family.
    Some((version >> 8 & 0xf) + (version >> 20 & 0xff))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<true>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<true>()
}

/// `a · b + c`, fused where that is one instruction.
#[inline(always)]
pub(crate) fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// The sum of all, halves onto halves, so that additions wait for few others. `N` is a power of two.
///
/// Never inlined: beside a loop that fills `sums`, the compiler would cut that loop's vectors into
/// the smallest that this one ends with.
#[inline(never)]
pub(crate) fn total<const N: usize>(sums: &[f32; N]) -> f32 {
    let (mut sums, mut n) = (*sums, N);
    while n > 1 {
        n /= 2;
        for i in 0..n {
            sums[i] += sums[i + n];
        }
    }
    sums[0]
}
