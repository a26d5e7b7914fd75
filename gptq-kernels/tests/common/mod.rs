//! What the test files share.

use ndarray::Array2;

/// Reproducible numbers in [-1, 1).
pub(crate) fn values(rows: usize, columns: usize, seed: u32) -> Array2<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    Array2::from_shape_fn((rows, columns), |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    })
}

/// f32 sums of n products in another order differ by about this much of their size.
pub(crate) fn close(got: &Array2<f32>, want: &Array2<f32>, terms: usize) -> Result<(), String> {
    let largest = want.fold(0f32, |m, v| m.max(v.abs())).max(1e-3);
    let worst = (got - want).fold(0f32, |m, v| m.max(v.abs()));
    let allowed = 4e-7 * (terms as f32).sqrt().max(4.0) * largest;
    // `max` passes over a NaN.
    let numbers = got.iter().all(|v| !v.is_nan());
    if got.dim() == want.dim() && numbers && worst <= allowed {
        return Ok(());
    }
    Err(format!("{worst} of {largest}, allowed {allowed}; all numbers: {numbers}"))
}
