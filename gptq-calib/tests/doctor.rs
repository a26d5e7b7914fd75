//! Figures of made texts whose statistics are known, and laws that they keep.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod common;

use gptq_calib::{CalibrationSet, ChatTemplate, Corpus, Diagnosis, Model, SampleSpec, diagnose};
use proptest::prelude::*;

/// A text of these ids, by way of a file of ids.
fn corpus(documents: &[Vec<u32>]) -> Corpus {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ids.jsonl");
    let lines: Vec<String> =
        documents.iter().map(|ids| format!("{{\"input_ids\": {ids:?}}}\n")).collect();
    std::fs::write(&path, lines.concat()).unwrap();
    Corpus::from_files(&[&path], &common::numbers(), None).unwrap()
}

/// A set of given samples, as if they were the whole text.
fn set(samples: Vec<Vec<u32>>) -> (Corpus, CalibrationSet) {
    let corpus = corpus(&[samples.concat()]);
    let seq_len = samples[0].len();
    let spec = SampleSpec { n_samples: 1, seq_len: seq_len.min(corpus.ids.len() - 1), seed: 0 };
    let mut set = CalibrationSet::draw(&corpus, &spec).unwrap();
    set.provenance.n_samples = samples.len();
    set.provenance.covered_tokens = corpus.ids.len();
    set.samples = samples;
    (corpus, set)
}

fn of(samples: Vec<Vec<u32>>, model: &Model) -> Diagnosis {
    let (corpus, set) = set(samples);
    diagnose(&corpus, &set, model)
}

fn says(found: &Diagnosis, words: &str, absurd: bool) {
    let said = found.complaints.iter().any(|c| c.absurd == absurd && c.message.contains(words));
    assert!(said, "{words:?} absurd {absurd} is not in {:#?}", found.complaints);
}

/// `count` ids that never repeat in order: one walk through residues.
fn varied(count: usize) -> Vec<u32> {
    (0..count as u64).map(|i| ((i * i * 31 + i * 7 + i / 97) % 991) as u32).collect()
}

#[test]
fn figures_of_known_texts() {
    // 64 different ids, each once: six bits, nothing repeated.
    let found = of(vec![(0..64).collect()], &Model::default());
    assert_eq!((found.distinct_tokens, found.set_tokens, found.text_tokens), (64, 64, 64));
    assert!((found.entropy_bits - 6.0).abs() < 1e-12, "{}", found.entropy_bits);
    assert_eq!((found.distinct_share, found.repeated_share), (1.0, 0.0));
    assert_eq!((found.duplicate_share, found.fresh_share), (0.0, 1.0));
    // Twice the same 64: of the 97 runs of 32, 64 are new.
    let twice: Vec<u32> = (0..64).chain(0..64).collect();
    let found = of(vec![twice], &Model::default());
    assert!((found.repeated_share - 33.0 / 97.0).abs() < 1e-12, "{}", found.repeated_share);
    assert!((found.entropy_bits - 6.0).abs() < 1e-12);
    says(&found, "34.0% of the text's runs", false);
    // Three of four samples are copies.
    let found = of(vec![varied(64); 4], &Model::default());
    assert_eq!(found.duplicate_share, 0.75);
    says(&found, "3 of the 4 samples are copies", false);
}

#[test]
fn a_good_set_has_nothing_wrong() {
    let model = Model {
        widest: Some(64),
        context: Some(128),
        vocab_size: Some(1000),
        special: vec![0],
        ..Model::default()
    };
    let samples = varied(64 * 16).chunks(64).map(<[u32]>::to_vec).collect();
    let found = of(samples, &model);
    assert_eq!(found.complaints, []);
    assert_eq!(found.tokens_per_input, Some(16.0));
    assert!(found.vocabulary_share.unwrap() > 0.2, "{found:?}");
}

#[test]
fn absurd_sets_are_called_so() {
    let found = of(vec![vec![7; 64]; 4], &Model::default());
    assert_eq!((found.distinct_tokens, found.entropy_bits), (1, 0.0));
    says(&found, "all 256 tokens are the same", true);
    assert!(found.complaints[0].absurd, "the worst comes first");
    // One sentence of eight words, a thousand times.
    let sentence: Vec<u32> = (0..8).cycle().take(8000).collect();
    let found = of(sentence.chunks(80).map(<[u32]>::to_vec).collect(), &Model::default());
    says(&found, "stood before", true);
    says(&found, "3.0 bits", false);
    // Seven tokens for 64 inputs.
    let model = Model { widest: Some(64), ..Model::default() };
    says(&of(vec![varied(7)], &model), "7 tokens for the 64 inputs", true);
    says(&of(vec![varied(8)], &model), "8 tokens for the 64 inputs", false);
    let found = of(vec![varied(256)], &model);
    assert!(!found.complaints.iter().any(|c| c.message.contains("inputs")), "{found:?}");
}

#[test]
fn special_tokens_padding_templates_and_context_are_seen() {
    let model = Model {
        special: vec![1, 2],
        padding: Some(2),
        template: true,
        context: Some(32),
        prefix: vec![1],
        ..Model::default()
    };
    let mut sample = vec![1; 16];
    sample.extend([2; 16]);
    sample.extend(100..132);
    let found = of(vec![sample], &model);
    assert_eq!((found.special_share, found.padding_share), (0.5, 0.25));
    assert_eq!(found.samples_with_prefix, 1);
    says(&found, "50.0% of the tokens are special", false);
    says(&found, "25.0% of the tokens are padding", false);
    says(&found, "no document is a conversation", false);
    says(&found, "samples have 63 tokens, the model's context 32", false);
}

#[test]
fn documents_are_measured() {
    let found = corpus(&[vec![5; 10], vec![6; 100], vec![7; 20_000]]);
    assert_eq!(found.lengths, [10, 100, 20_000]);
    let set = CalibrationSet::draw(&found, &SampleSpec { n_samples: 2, seq_len: 8, seed: 0 });
    let documents = diagnose(&found, &set.unwrap(), &Model::default()).documents;
    assert_eq!((documents.shortest, documents.median, documents.longest), (10, 100, 20_000));
    assert_eq!(documents.histogram, [1, 0, 1, 0, 0, 0, 1]);
    assert_eq!(documents.histogram_text(), "under 16: 1, under 256: 1, 16384 and more: 1");
}

#[test]
fn joined_texts_share_their_tokens_and_conversations_count() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mixed.jsonl");
    let lines = "{\"text\": \"w1 w2 w3\"}\n{\"text\": \"w1\"}\n\
        {\"messages\": [{\"role\": \"user\", \"content\": \"w1\"}]}\n{\"input_ids\": [1, 2]}\n";
    std::fs::write(&path, lines).unwrap();
    let template =
        ChatTemplate::from_source("{% for m in messages %}{{ m.content }}{% endfor %}", None, None);
    let words = common::words();
    let corpus = Corpus::from_files(&[&path], &words, Some(&template.unwrap())).unwrap();
    assert_eq!((corpus.documents, corpus.conversations), (4, 1));
    assert_eq!(corpus.lengths.iter().sum::<usize>(), corpus.ids.len());
    assert_eq!(corpus.lengths[2..], [1, 2]);
    assert!(corpus.lengths[0] > corpus.lengths[1]);
}

#[test]
fn a_tokenizer_tells_its_prefix_and_its_special_ids() {
    let words = common::words();
    assert_eq!(words.prefix().unwrap(), [10]);
    assert_eq!(words.special_ids(), [10]);
    assert_eq!(common::numbers().prefix().unwrap(), [0; 0]);
}

/// A few samples of one length.
fn samples() -> impl Strategy<Value = Vec<Vec<u32>>> {
    (33usize..60, 2usize..6).prop_flat_map(|(length, count)| {
        prop::collection::vec(prop::collection::vec(0u32..200, length), count)
    })
}

proptest! {
    #[test]
    fn the_order_of_samples_makes_no_difference(all in samples(), shift in 0usize..6) {
        let model = Model { widest: Some(64), vocab_size: Some(500), special: vec![3, 4], ..Model::default() };
        let (corpus, mut set) = set(all);
        let before = diagnose(&corpus, &set, &model);
        let shift = shift % set.samples.len();
        set.samples.rotate_left(shift);
        prop_assert_eq!(before, diagnose(&corpus, &set, &model));
    }

    #[test]
    fn a_set_given_twice_is_half_copies(all in samples()) {
        let once = of(all.clone(), &Model::default());
        let twice = of([all.clone(), all].concat(), &Model::default());
        prop_assert!(twice.duplicate_share >= 0.5);
        prop_assert!(twice.repeated_in_set_share >= 0.5);
        prop_assert!((twice.entropy_bits - once.entropy_bits).abs() < 1e-9);
        prop_assert_eq!(twice.distinct_tokens, once.distinct_tokens);
    }

    #[test]
    fn shares_are_shares(all in samples()) {
        let model = Model { special: vec![1, 2, 3], padding: Some(9), ..Model::default() };
        let found = of(all, &model);
        for share in [found.covered_share, found.fresh_share, found.distinct_share,
            found.special_share, found.padding_share, found.duplicate_share, found.repeated_share,
            found.repeated_in_set_share] {
            prop_assert!((0.0..=1.0).contains(&share), "{found:?}");
        }
        prop_assert!(found.entropy_bits <= (found.distinct_tokens as f64).log2() + 1e-9);
    }
}
