//! [`Rounding`]: what storing scales in a narrower dtype costs.

use half::{bf16, f16};

use crate::Dtype;

/// How much a dtype changes numbers. Nothing, if they came from a file of that dtype.
///
/// ```
/// use gptq_pack::{Dtype, Rounding};
///
/// assert!(Rounding::of([0.5, 3.0], Dtype::F16).is_exact());
/// let rounding = Rounding::of([0.5, 1.0 + 1.0 / 4096.0], Dtype::F16);
/// assert_eq!((rounding.changed, rounding.count), (1, 2));
/// assert!(rounding.largest < 3e-4);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rounding {
    /// Numbers looked at.
    pub count: usize,
    /// Those that change.
    pub changed: usize,
    /// The largest change, relative to the number; infinite if one overflows.
    pub largest: f32,
}

impl Rounding {
    /// What becomes of the numbers in `dtype`. `F32` changes nothing; integer dtypes count as
    /// `F32`.
    pub fn of(values: impl IntoIterator<Item = f32>, dtype: Dtype) -> Self {
        let round: fn(f32) -> f32 = match dtype {
            Dtype::F16 => |v| f16::from_f32(v).to_f32(),
            Dtype::BF16 => |v| bf16::from_f32(v).to_f32(),
            Dtype::I32 | Dtype::I64 | Dtype::F32 | Dtype::Other => |v| v,
        };
        values.into_iter().fold(Self::default(), |sum, value| {
            let stored = round(value);
            let (changed, relative) = match stored == value {
                true => (0, 0.0),
                false => (1, ((stored - value) / value).abs()),
            };
            sum.and(Self { count: 1, changed, largest: relative })
        })
    }

    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self {
            count: self.count + other.count,
            changed: self.changed + other.changed,
            largest: self.largest.max(other.largest),
        }
    }

    /// Whether nothing changes.
    pub fn is_exact(&self) -> bool {
        self.changed == 0
    }
}
