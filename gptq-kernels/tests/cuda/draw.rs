//! Drawing against its definition, for logits that fill one bin, few, or all, and for those that are
//! no numbers.

use gptq_core::{Backend, Draw};
use ndarray::{Array2, ArrayView1};
use proptest::{prelude::*, sample::select};

use crate::{common::values, gpu::gpu};

/// What masses are off by, as a part of all of them: a GPU's exponentials by two units of f32's last
/// place each, above and below the line.
const ROUNDING: f64 = 1e-6;

/// Whether the definition draws this place, with a number and a share that are off by no more than
/// masses are.
pub(crate) fn agrees(
    logits: ArrayView1<'_, f32>,
    how: Draw,
    uniform: f64,
    drawn: u32,
) -> Result<(), String> {
    let seen = |at: u32| logits.get(at as usize).copied().ok_or(format!("there is no {at}"));
    // Where a place stands in the order of falling logits.
    let rank = |at: u32| {
        let seen = |x: f32| if x.is_nan() { f32::NEG_INFINITY } else { x };
        let own = seen(logits[at as usize]);
        let before = |&(i, x): &(u32, &f32)| seen(*x) > own || (seen(*x) == own && i < at);
        (0..).zip(logits).filter(before).count()
    };
    let value = seen(drawn)?;
    let off = ROUNDING as f32;
    for factor in [1.0, 1.0 - off, 1.0 + off] {
        let how = Draw { top_p: (how.top_p * factor).min(1.0), ..how };
        let [low, high] = [uniform - ROUNDING, uniform + ROUNDING]
            .map(|u| rank(how.choose(logits, u.clamp(0.0, 1.0 - f64::EPSILON / 2.0))));
        if (low..=high).contains(&rank(drawn)) {
            return Ok(());
        }
    }
    let want = how.choose(logits, uniform);
    Err(format!("{drawn} of logit {value}, not {want} of {}", logits[want as usize]))
}

/// Rows of one kind.
fn logits(kind: usize, rows: usize, columns: usize, seed: u32) -> Array2<f32> {
    let even = values(rows, columns, seed);
    match kind {
        // Dense in the middle, as those of a model.
        0 => (&even + &values(rows, columns, seed + 1) + values(rows, columns, seed + 2)) * 6.0,
        1 => even * 1e4,
        // All in one bin, also when it is cut by the first bits of floats.
        2 => even * 1e-3 + 5.0,
        3 => even.mapv(|x| (x * 4.0).round()),
        4 => even * 0.0 - 2.0,
        5 => even.mapv(|x| match (x * 1e4) as i32 % 5 {
            0 => f32::NAN,
            1 => f32::NEG_INFINITY,
            _ => x,
        }),
        _ => even.mapv(|x| if x > 0.9 { f32::INFINITY } else { x * 1e38 }),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_definition(
        (kind, rows, seed) in (0..7usize, 1..3usize, any::<u16>()),
        columns in select(vec![1usize, 2, 33, 256, 257, 1025, 5000]),
        temperature in select(vec![0.01f32, 0.6, 1.0, 2.5, 1e6]),
        top_k in select(vec![0usize, 1, 5, 300, 9000]),
        top_p in select(vec![1f32, 0.99999, 0.9, 0.5, 1e-12]),
        uniform in prop_oneof![Just(0.0), Just(1.0 - f64::EPSILON / 2.0), 0.0..1.0f64],
    ) {
        let x = logits(kind, rows, columns, seed.into());
        let uniform = [uniform, (uniform + 0.37).fract()];
        let how = Draw { temperature, top_k, top_p };
        let drawn = gpu().draw(&gpu().upload(x.view()).unwrap(), how, &uniform[..rows]).unwrap();
        for ((row, &uniform), &drawn) in x.rows().into_iter().zip(&uniform).zip(&drawn) {
            let outcome = agrees(row, how, uniform, drawn);
            prop_assert!(outcome.is_ok(), "{outcome:?}");
        }
    }
}

/// An interval of length p has p · n points of a grid of n, but for one at its ends.
#[test]
fn each_place_has_its_share_of_a_grid() {
    const POINTS: usize = 192;
    let x = values(1, 40, 3) * 2.0;
    let table = gpu().upload(x.view()).unwrap();
    let all = gpu().gather(&table, &[0; POINTS]).unwrap();
    let uniform: Vec<f64> = (0..POINTS).map(|i| (i as f64 + 0.5) / POINTS as f64).collect();
    let how = Draw { temperature: 0.8, top_k: 0, top_p: 1.0 };
    let drawn = gpu().draw(&all, how, &uniform).unwrap();
    let weights = x.mapv(|x| (f64::from(x) / 0.8).exp());
    for (at, weight) in (0..).zip(&weights) {
        let count = drawn.iter().filter(|&&drawn| drawn == at).count() as f64;
        let want = POINTS as f64 * weight / weights.sum();
        assert!((count - want).abs() < 1.0 + POINTS as f64 * ROUNDING, "{at}: {count}, not {want}");
    }
}

/// Many that are close, and as many behind them: where the second crowd is cut again and again, the
/// mass of the first is still before it.
#[test]
fn two_crowds() {
    let x = values(1, 3000, 5).mapv(|x| if x > 0.0 { 5.0 } else { 4.0 } + x * 1e-3);
    let all = gpu().gather(&gpu().upload(x.view()).unwrap(), &[0; 3]).unwrap();
    let uniform = [0.1, 0.6, 0.95];
    for (top_k, top_p) in [(0, 1.0), (2500, 1.0), (0, 0.9), (2500, 0.9)] {
        let how = Draw { temperature: 1.0, top_k, top_p };
        let drawn = gpu().draw(&all, how, &uniform).unwrap();
        for (&uniform, &drawn) in uniform.iter().zip(&drawn) {
            let outcome = agrees(x.row(0), how, uniform, drawn);
            outcome.unwrap_or_else(|e| panic!("{how:?} with {uniform}: {e}"));
        }
    }
}

#[test]
fn the_first_alone_is_the_largest() {
    let mut x = values(6, 3000, 7);
    x.row_mut(1).fill(-3.0);
    x[(3, 2999)] = 2.0;
    x[(3, 40)] = 2.0;
    x.row_mut(4).fill(f32::NAN);
    x.row_mut(5).fill(f32::NEG_INFINITY);
    let x = gpu().upload(x.view()).unwrap();
    let largest = gpu().argmax(&x).unwrap();
    assert_eq!(largest[4..], [0, 0]);
    for how in [
        Draw { temperature: 1.0, top_k: 1, top_p: 1.0 },
        Draw { temperature: 1.0, top_k: 0, top_p: 1e-9 },
        Draw { temperature: 1.0, top_k: 7, top_p: f32::MIN_POSITIVE },
    ] {
        assert_eq!(gpu().draw(&x, how, &[0.9; 6]).unwrap(), largest, "{how:?}");
    }
}

/// Whole numbers, so that borders are exact: a share that is reached is not passed. Zeros are equal,
/// whatever their sign.
#[test]
fn borders_belong_to_the_next() {
    let zeros = Array2::from_shape_fn((4, 8), |(_, c)| if c % 2 == 0 { -0.0 } else { 0.0 });
    let x = gpu().upload(zeros.view()).unwrap();
    let all = Draw { temperature: 1.0, top_k: 0, top_p: 1.0 };
    assert_eq!(gpu().draw(&x, all, &[0.0, 0.125, 0.5, 0.875]).unwrap(), [0, 1, 4, 7]);
    let half = Draw { top_p: 0.5, ..all };
    assert_eq!(gpu().draw(&x, half, &[0.0, 0.25, 0.5, 0.999]).unwrap(), [0, 1, 2, 3]);
    let four = Draw { top_k: 4, top_p: 0.75, ..all };
    assert_eq!(gpu().draw(&x, four, &[0.0, 0.34, 0.67, 0.999]).unwrap(), [0, 1, 2, 2]);
}
