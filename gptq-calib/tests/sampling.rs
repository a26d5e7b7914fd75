//! The draw is the reference's draw, and the same every time.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod common;

use gptq_calib::{
    CalibrationSet, Error, Provenance, SAMPLING, SampleSpec, ids_sha256, sample_windows,
    window_starts,
};
use proptest::prelude::*;

fn spec(n_samples: usize, seq_len: usize, seed: u64) -> SampleSpec {
    SampleSpec { n_samples, seq_len, seed }
}

/// Printed by CPython: `random.seed(0)`, then `random.randint(0, len - seq_len - 1)`.
#[test]
fn starts_are_cpythons() {
    assert_eq!(
        window_starts(2_824_491, &spec(6, 2048, 0)).unwrap(),
        [1_615_835, 1_764_005, 169_803, 1_085_975, 2_144_441, 2_038_128]
    );
    assert_eq!(
        window_starts(341_469, &spec(6, 2048, 0)).unwrap(),
        [201_979, 220_500, 21_225, 135_746, 268_055, 254_766]
    );
    assert_eq!(
        window_starts(1_000_000, &spec(4, 512, 0)).unwrap(),
        [885_440, 403_958, 794_772, 933_488]
    );
}

/// Seeds of one word, of two, and of two with a zero low word; printed by CPython likewise.
#[test]
fn seeds_are_cpythons() {
    let expected: [(u64, [usize; 3]); 5] = [
        (42, [83_810, 14_592, 3_278]),
        (4_294_967_295, [83_277, 81_208, 26_633]),
        (4_294_967_296, [14_810, 46_047, 54_765]),
        (1_311_768_467_463_790_320, [77_007, 62_249, 61_280]),
        (18_446_744_073_709_551_615, [2_860, 32_607, 44_314]),
    ];
    for (seed, starts) in expected {
        assert_eq!(window_starts(100_000, &spec(3, 128, seed)).unwrap(), starts, "seed {seed}");
    }
}

#[test]
fn windows_are_slices_at_the_starts() {
    let ids: Vec<u32> = (0..1000).collect();
    let windows = sample_windows(&ids, 5, 10, 7).unwrap();
    for (window, start) in windows.iter().zip(window_starts(1000, &spec(5, 10, 7)).unwrap()) {
        assert_eq!(window[..], ids[start..start + 10]);
    }
}

#[test]
fn one_token_more_than_a_window_is_enough() {
    let ids = [1, 2, 3, 4];
    assert_eq!(sample_windows(&ids, 2, 3, 0).unwrap(), [[1, 2, 3], [1, 2, 3]]);
    let error = sample_windows(&ids, 2, 4, 0).unwrap_err();
    assert!(matches!(error, Error::TooShort { tokens: 4, seq_len: 4, needed: 5 }));
    let message = error.to_string();
    assert!(message.contains("4 tokens") && message.contains("at least 5"), "{message}");
    assert!(message.contains("--seqlen") && message.contains("add text"), "{message}");
}

#[test]
fn nothing_to_draw_is_an_error() {
    for (n, len, expected) in [(0, 4, "n_samples"), (4, 0, "seq_len")] {
        match sample_windows(&[1; 9], n, len, 0) {
            Err(Error::Setting { name, value: 0, .. }) => assert_eq!(name, expected),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_set_can_be_drawn_again_from_its_record() {
    let tokenizer = common::words();
    let text = common::text(500);
    let first = CalibrationSet::from_text("text", &text, &tokenizer, &spec(8, 16, 3)).unwrap();

    let json = serde_json::to_string(&first.provenance).unwrap();
    let record: Provenance = serde_json::from_str(&json).unwrap();
    assert_eq!(record, first.provenance);

    let again = spec(record.n_samples, record.seq_len, record.seed);
    let second = CalibrationSet::from_text("text", &text, &tokenizer, &again).unwrap();
    assert_eq!(second, first);
    assert_eq!(record.ids_sha256, ids_sha256(&second.samples));

    let other = CalibrationSet::from_text("text", &text, &tokenizer, &spec(8, 16, 4)).unwrap();
    assert_ne!(other.provenance.ids_sha256, record.ids_sha256);
}

#[test]
fn the_record_says_what_was_drawn() {
    let tokenizer = common::words();
    let set = CalibrationSet::from_text("three", "w1 w2 w3", &tokenizer, &spec(5, 3, 0)).unwrap();
    let record = &set.provenance;
    assert_eq!((record.documents, record.text_tokens), (1, 4));
    assert_eq!((record.n_samples, record.seq_len, record.seed), (5, 3, 0));
    assert_eq!(record.sampling, SAMPLING);
    // Fifteen ids were asked of a text of four: the record shows they are the same three.
    assert_eq!(record.covered_tokens, 3);
    assert_eq!(set.samples, vec![vec![10, 1, 2]; 5]);
    assert_eq!(record.sources[0].name, "three");
    assert_eq!(record.sources[0].bytes, 8);
    assert_eq!(
        record.sources[0].sha256,
        "5c5634a8fd6d85592c0bb99027345d041211e79739c3b332c8eecf726b520a10"
    );
    assert_eq!(
        record.ids_sha256,
        "b2731f9825edd6444201aa942b45d3e12f3e3ebc2daccb8d13b5d78317b52754"
    );
}

proptest! {
    #[test]
    fn every_window_lies_within_the_text(
        len in 2_usize..5000, cut in 0_usize..5000, n_samples in 1_usize..20, seed: u64,
    ) {
        let seq_len = 1 + cut % (len - 1);
        let starts = window_starts(len, &spec(n_samples, seq_len, seed)).unwrap();
        prop_assert_eq!(starts.len(), n_samples);
        prop_assert!(starts.iter().all(|start| start + seq_len < len));
    }
}
