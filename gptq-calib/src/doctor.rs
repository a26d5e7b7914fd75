//! What a calibration set is worth, in numbers, before hours are spent on it.
//!
//! A linear of `n` inputs is solved with `H = 2/t · XᵀX`, where `X` has a row for each of `t`
//! tokens. `H` has at most rank `t`, and less where rows repeat: a text that is short, or says the
//! same again and again, leaves directions in which any error is free.

use std::collections::HashMap;
use std::hash::Hash;

use serde::Serialize;

use crate::corpus::Corpus;
use crate::set::CalibrationSet;

/// Tokens in a row that two places must share to be called repeated: longer than phrases that
/// ordinary text repeats.
pub(crate) const RUN: usize = 32;

/// Fewer tokens for each input of the widest linear are too few to be sure of: with as many tokens
/// as inputs `H` is barely regular, and the paper's own setting has 20 and more.
const TOKENS_PER_INPUT: f64 = 4.0;

/// Fewer cannot be meant: seven eighths of the directions are then unseen.
const TOKENS_PER_INPUT_LEAST: f64 = 0.125;

/// More of the text repeated is worth a word; real collections stay below a tenth.
const REPEATED: f64 = 0.25;

/// More cannot be meant.
const REPEATED_MOST: f64 = 0.9;

/// Less of the set new than this, and every token of the text is read twice or more: further samples
/// cost time and add little.
const FRESH: f64 = 0.5;

/// More special tokens and padding than this is a template that outweighs its text.
const SPECIAL: f64 = 0.25;

/// Bits per token; English has 8 to 11, and a text of one word over and over has none.
const ENTROPY: f64 = 4.0;

/// What must be known of a model to judge a set for it. Everything may be unknown.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Inputs of the widest linear that is to be quantized.
    pub widest: Option<usize>,
    /// Longest context it was made for.
    pub context: Option<usize>,
    /// Rows of its embedding.
    pub vocab_size: Option<usize>,
    /// Ids that stand for no text.
    pub special: Vec<u32>,
    /// The id that fills short samples up.
    pub padding: Option<u32>,
    /// What the tokenizer puts before a text.
    pub prefix: Vec<u32>,
    /// Whether it has a chat template.
    pub template: bool,
}

/// The figures of a set, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Diagnosis {
    /// Tokens of the whole text.
    pub text_tokens: usize,
    /// Tokens of all samples.
    pub set_tokens: usize,
    /// Share of the text's tokens that some sample has.
    pub covered_share: f64,
    /// The same tokens as a share of the set's: what is left is overlap.
    pub fresh_share: f64,
    /// Different ids in the set.
    pub distinct_tokens: usize,
    /// The same as a share of the set's tokens.
    pub distinct_share: f64,
    /// The same as a share of the vocabulary, if that is known.
    pub vocabulary_share: Option<f64>,
    /// Entropy of the ids, in bits per token.
    pub entropy_bits: f64,
    /// Share of tokens that stand for no text.
    pub special_share: f64,
    /// Share of tokens that only fill up.
    pub padding_share: f64,
    /// Share of samples that are copies of others.
    pub duplicate_share: f64,
    /// Share of the text's runs of 32 tokens that stood before.
    pub repeated_share: f64,
    /// The same in the set, where overlapping samples count too.
    pub repeated_in_set_share: f64,
    /// Documents of the text.
    pub documents: Documents,
    /// Whether the model has a chat template.
    pub template: bool,
    /// What the tokenizer puts before a text.
    pub prefix: Vec<u32>,
    /// Samples that begin with it.
    pub samples_with_prefix: usize,
    /// Tokens of the set for each input of the widest linear, if that is known.
    pub tokens_per_input: Option<f64>,
    /// What is wrong; worst first.
    pub complaints: Vec<Complaint>,
}

/// Documents and their lengths, in tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Documents {
    /// How many.
    pub count: usize,
    /// How many were conversations, written with the template.
    pub conversations: usize,
    /// The shortest.
    pub shortest: usize,
    /// The one in the middle.
    pub median: usize,
    /// The longest.
    pub longest: usize,
    /// How many have fewer than 16, 64, 256, 1024, 4096, 16384 tokens and not fewer than the number
    /// before; the last are all others.
    pub histogram: [usize; 7],
}

/// Upper ends of [`Documents::histogram`], but for the last.
pub(crate) const EDGES: [usize; 6] = [16, 64, 256, 1024, 4096, 16_384];

/// Something that is wrong with a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Complaint {
    /// Whether the set is absurd, rather than poor.
    pub absurd: bool,
    /// What, with numbers and the way out.
    pub message: String,
}

/// Looks at a set and at the text that it was drawn from.
///
/// The order of samples makes no difference. Cost: a few passes over the ids; 8 bytes for each token
/// of the text and of the set.
///
/// ```
/// use gptq_calib::{CalibrationSet, Corpus, Model, SampleSpec, Tokenizer, diagnose};
///
/// # fn main() -> Result<(), gptq_calib::Error> {
/// let tokenizer = Tokenizer::from_bytes(
///     br#"{"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"},
///         "model": {"type": "WordLevel", "unk_token": "?", "vocab": {"?": 0, "no": 1}}}"#,
/// )?;
/// let corpus = Corpus::from_text("one word", &"no ".repeat(500), &tokenizer)?;
/// let set = CalibrationSet::draw(&corpus, &SampleSpec { n_samples: 4, seq_len: 64, seed: 0 })?;
/// let found = diagnose(&corpus, &set, &Model::default());
///
/// assert_eq!((found.distinct_tokens, found.entropy_bits), (1, 0.0));
/// assert!(found.complaints[0].absurd);
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn diagnose(corpus: &Corpus, set: &CalibrationSet, model: &Model) -> Diagnosis {
    let samples = &set.samples;
    let ids = || samples.iter().flatten().copied();
    let set_tokens = ids().count();
    let counts = counted(ids());
    let share = |part: usize| part as f64 / set_tokens.max(1) as f64;
    let special = ids().filter(|id| model.special.binary_search(id).is_ok()).count();
    let padding = ids().filter(|id| Some(*id) == model.padding).count();
    let distinct_samples = counted(samples.iter()).len();
    let covered = set.provenance.covered_tokens;
    let begins = |sample: &&Vec<u32>| sample.starts_with(&model.prefix);
    let mut found = Diagnosis {
        text_tokens: corpus.ids.len(),
        set_tokens,
        covered_share: covered as f64 / corpus.ids.len().max(1) as f64,
        fresh_share: share(covered),
        distinct_tokens: counts.len(),
        distinct_share: share(counts.len()),
        vocabulary_share: model.vocab_size.map(|n| counts.len() as f64 / n.max(1) as f64),
        entropy_bits: entropy(counts.into_values(), set_tokens),
        special_share: share(special),
        padding_share: share(padding),
        duplicate_share: (samples.len() - distinct_samples) as f64 / samples.len().max(1) as f64,
        repeated_share: repeated([&corpus.ids[..]].into_iter()),
        repeated_in_set_share: repeated(samples.iter().map(Vec::as_slice)),
        documents: Documents::of(corpus),
        template: model.template,
        prefix: model.prefix.clone(),
        samples_with_prefix: match model.prefix.is_empty() {
            true => 0,
            false => samples.iter().filter(begins).count(),
        },
        tokens_per_input: model.widest.map(|n| set_tokens as f64 / n.max(1) as f64),
        complaints: Vec::new(),
    };
    found.complaints = complaints(&found, set, model);
    found.complaints.sort_by_key(|complaint| !complaint.absurd);
    found
}

impl Documents {
    fn of(corpus: &Corpus) -> Self {
        let mut lengths = corpus.lengths.clone();
        lengths.sort_unstable();
        let mut histogram = [0; EDGES.len() + 1];
        for &length in &lengths {
            histogram[EDGES.partition_point(|&edge| edge <= length)] += 1;
        }
        Self {
            count: corpus.documents,
            conversations: corpus.conversations,
            shortest: lengths.first().copied().unwrap_or(0),
            median: lengths.get(lengths.len() / 2).copied().unwrap_or(0),
            longest: lengths.last().copied().unwrap_or(0),
            histogram,
        }
    }

    /// The histogram in words: `under 16: 3, under 64: 1`, without what is empty.
    #[must_use]
    pub fn histogram_text(&self) -> String {
        let name = |i: usize| match EDGES.get(i) {
            Some(edge) => format!("under {edge}"),
            None => format!("{} and more", EDGES[EDGES.len() - 1]),
        };
        let bars = self.histogram.iter().enumerate().filter(|(_, n)| **n > 0);
        bars.map(|(i, n)| format!("{}: {n}", name(i))).collect::<Vec<_>>().join(", ")
    }
}

fn counted<T: Eq + Hash>(items: impl Iterator<Item = T>) -> HashMap<T, usize> {
    let mut counts = HashMap::new();
    items.for_each(|item| *counts.entry(item).or_default() += 1);
    counts
}

/// `Σ p log₂ 1/p`, summed from the rarest, so that no order of counting matters.
fn entropy(counts: impl Iterator<Item = usize>, all: usize) -> f64 {
    let mut counts: Vec<usize> = counts.collect();
    counts.sort_unstable();
    let bits = |n: usize| n as f64 / all as f64 * (all as f64 / n as f64).log2();
    counts.into_iter().map(bits).sum()
}

/// Share of runs of [`RUN`] ids that are copies of others; 0 if there are none.
fn repeated<'a>(texts: impl Iterator<Item = &'a [u32]>) -> f64 {
    let mut hashes = Vec::new();
    for text in texts {
        run_hashes(text, &mut hashes);
    }
    let all = hashes.len();
    hashes.sort_unstable();
    hashes.dedup();
    (all - hashes.len()) as f64 / all.max(1) as f64
}

/// A hash of each run: the value of a polynomial of its ids, kept while the run slides.
fn run_hashes(text: &[u32], out: &mut Vec<u64>) {
    const BASE: u64 = 0x9e37_79b9_7f4a_7c15;
    // Ids as they are would leave low bits that depend on few of them.
    let spread = |id: u32| {
        let mut x = (u64::from(id) + 1).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x ^= x >> 29;
        x.wrapping_mul(0x94d0_49bb_1331_11eb)
    };
    let leaving = (0..RUN).fold(1u64, |power, _| power.wrapping_mul(BASE));
    let mut hash = 0u64;
    for (i, &id) in text.iter().enumerate() {
        hash = hash.wrapping_mul(BASE).wrapping_add(spread(id));
        if let Some(&gone) = i.checked_sub(RUN).and_then(|at| text.get(at)) {
            hash = hash.wrapping_sub(spread(gone).wrapping_mul(leaving));
        }
        if i + 1 >= RUN {
            out.push(hash ^ (hash >> 31));
        }
    }
}

fn complaints(found: &Diagnosis, set: &CalibrationSet, model: &Model) -> Vec<Complaint> {
    let mut out = Vec::new();
    let mut complain = |absurd, message| out.push(Complaint { absurd, message });
    let percent = |share: f64| format!("{:.1}%", 100.0 * share);
    if found.distinct_tokens < 2 {
        complain(
            true,
            format!("all {} tokens are the same; give real text (--calib)", found.set_tokens),
        );
    } else if found.entropy_bits < ENTROPY {
        complain(
            false,
            format!(
                "tokens have {:.1} bits of entropy, under {ENTROPY}: few words over and over; give \
                 more varied text",
                found.entropy_bits
            ),
        );
    }
    if found.repeated_share > REPEATED {
        complain(
            found.repeated_share > REPEATED_MOST,
            format!(
                "{} of the text's runs of {RUN} tokens stood before: it repeats itself; remove \
                 copies, or give more varied text",
                percent(found.repeated_share)
            ),
        );
    }
    if let (Some(per_input), Some(widest)) = (found.tokens_per_input, model.widest)
        && per_input < TOKENS_PER_INPUT
    {
        complain(
            per_input < TOKENS_PER_INPUT_LEAST,
            format!(
                "{} tokens for the {widest} inputs of the widest linear are {per_input:.2} for \
                 each, under {TOKENS_PER_INPUT}: its Hessian is singular or nearly so; raise \
                 --nsamples or --seqlen",
                found.set_tokens
            ),
        );
    }
    if found.fresh_share < FRESH {
        complain(
            false,
            format!(
                "samples overlap: {} tokens are drawn from {}, so that each is read {:.1} times; \
                 give more text or fewer samples",
                found.set_tokens,
                set.provenance.covered_tokens,
                1.0 / found.fresh_share
            ),
        );
    }
    if found.duplicate_share > 0.0 {
        let samples = set.samples.len();
        let message = format!(
            "{} of the {samples} samples are copies of others; give more text or fewer samples",
            (found.duplicate_share * samples as f64).round()
        );
        complain(false, message);
    }
    if found.special_share > SPECIAL {
        complain(
            false,
            format!(
                "{} of the tokens are special ones: little of the set is text",
                percent(found.special_share)
            ),
        );
    }
    if found.padding_share > 0.0 {
        complain(
            false,
            format!(
                "{} of the tokens are padding, which the model does not read; drop it",
                percent(found.padding_share)
            ),
        );
    }
    if found.template && found.documents.conversations == 0 {
        complain(
            false,
            "the model has a chat template and no document is a conversation; if it will chat, \
             give some as .jsonl with messages"
                .into(),
        );
    }
    if let Some(context) = model.context
        && set.provenance.seq_len > context
    {
        complain(
            false,
            format!(
                "samples have {} tokens, the model's context {context}",
                set.provenance.seq_len
            ),
        );
    }
    out
}
