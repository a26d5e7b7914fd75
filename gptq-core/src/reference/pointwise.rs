//! Functions of one number, by their definitions and in twice the precision.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI};

use crate::{Gate, Pointwise};

pub(super) fn pointwise(f: Pointwise, x: f32) -> f32 {
    value(f, f64::from(x)) as f32
}

pub(super) fn gate(f: Gate, gate: f32, up: f32) -> f32 {
    let (g, u) = (f64::from(gate), f64::from(up));
    let y = match f {
        Gate::Of(f) => value(f, g) * u,
        Gate::Clamped { limit, alpha } => {
            let limit = f64::from(limit);
            let g = if g > limit { limit } else { g };
            (clamp(u, limit) + 1.0) * g * sigmoid(f64::from(alpha) * g)
        }
    };
    y as f32
}

fn value(f: Pointwise, x: f64) -> f64 {
    match f {
        Pointwise::Scale(c) => f64::from(c) * x,
        Pointwise::Clamp(c) => clamp(x, f64::from(c)),
        Pointwise::SoftCap(c) => f64::from(c) * (x / f64::from(c)).tanh(),
        Pointwise::Silu => x * sigmoid(x),
        // Φ(x) = erfc(−x/√2) / 2, which is 1 + erf(x/√2) without its cancellation.
        Pointwise::Gelu => x * 0.5 * libm::erfc(-x * FRAC_1_SQRT_2),
        Pointwise::GeluTanh => {
            0.5 * x * (1.0 + (FRAC_2_PI.sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
        Pointwise::Relu => {
            if x < 0.0 {
                0.0
            } else {
                x
            }
        }
    }
}

/// Not `f64::max` and `min`: those would hide a NaN.
fn clamp(x: f64, c: f64) -> f64 {
    if x > c {
        c
    } else if x < -c {
        -c
    } else {
        x
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        // Φ(1), Φ(2) from tables of the normal distribution; the tanh form as other
        // implementations print it.
        for (f, x, want) in [
            (Pointwise::Gelu, 0.0, 0.0),
            (Pointwise::Gelu, 1.0, 0.841_344_746_1),
            (Pointwise::Gelu, -1.0, -0.158_655_253_9),
            (Pointwise::Gelu, -2.0, -0.045_500_263_9),
            (Pointwise::GeluTanh, 1.0, 0.841_191_990_6),
            (Pointwise::Silu, 1.0, 0.731_058_578_6),
            (Pointwise::Relu, -3.0, 0.0),
            (Pointwise::Relu, 3.0, 3.0),
            (Pointwise::Clamp(2.0), -3.0, -2.0),
            (Pointwise::Clamp(2.0), 5.0, 2.0),
            (Pointwise::Clamp(2.0), 1.5, 1.5),
            (Pointwise::SoftCap(30.0), 30.0, 30.0 * 0.761_594_155_96),
            (Pointwise::Scale(-0.5), 3.0, -1.5),
        ] {
            let got = f64::from(pointwise(f, x));
            assert!((got - want).abs() <= 1e-7 * want.abs(), "{f:?} of {x}: {got}, not {want}");
        }
        for f in [Pointwise::Relu, Pointwise::Clamp(1.0), Pointwise::Gelu, Pointwise::Silu] {
            assert!(pointwise(f, f32::NAN).is_nan(), "{f:?} hides a NaN");
        }
    }

    #[test]
    fn clamped_gate_at_its_bounds() {
        let f = Gate::Clamped { limit: 7.0, alpha: 1.702 };
        let far = 7.0 / (1.0 + (-1.702f32 * 7.0).exp());
        assert!((gate(f, 100.0, 100.0) - 8.0 * far).abs() < 1e-5);
        assert!((gate(f, 100.0, -100.0) + 6.0 * far).abs() < 1e-5);
        // The gate has no lower bound, but its sigmoid closes.
        assert!(gate(f, -100.0, 1.0).abs() < 1e-30);
        assert!(gate(f, f32::NAN, 1.0).is_nan());
    }
}
