//! When a linear's inputs say too little, and what is done about it.

use gptq_core::FallbackStrategy;
use serde_json::{Value, json};

use crate::Error;

/// What becomes of a linear that hardly a token reached, or whose Hessian cannot be factored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FallbackPolicy {
    /// How such a linear is quantized instead.
    pub strategy: FallbackStrategy,
    /// Fewer tokens than this are too few.
    pub threshold: FallbackThreshold,
}

/// The least number of tokens that a Hessian is trusted with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FallbackThreshold {
    /// A share of all calibration tokens, in 0..=1.
    Share(f64),
    /// That many.
    Tokens(u64),
}

impl Default for FallbackPolicy {
    /// Round to nearest below 0.5 % of the tokens, as GPTQModel.
    fn default() -> Self {
        Self { strategy: FallbackStrategy::default(), threshold: FallbackThreshold::Share(0.005) }
    }
}

impl FallbackThreshold {
    /// # Errors
    /// [`Error::Input`].
    pub(crate) fn validate(self) -> Result<(), Error> {
        match self {
            FallbackThreshold::Share(share) if !(0.0..=1.0).contains(&share) => {
                Err(Error::input(format!(
                    "the fallback threshold is {}% of the tokens, but must be from 0% to 100%",
                    100.0 * share
                )))
            }
            _ => Ok(()),
        }
    }

    /// Why `tokens` of `total` are too few, if they are.
    pub(crate) fn refuses(self, tokens: u64, total: u64) -> Option<String> {
        let least = match self {
            FallbackThreshold::Share(share) => share * total as f64,
            FallbackThreshold::Tokens(least) => least as f64,
        };
        // Without a token there is nothing to solve, whatever the threshold.
        let too_few = tokens == 0 || (tokens as f64) < least;
        too_few.then(|| {
            format!("saw {tokens} of {total} tokens, fewer than {}", least.ceil().max(1.0))
        })
    }
}

impl FallbackPolicy {
    /// As GPTQModel writes it.
    pub(crate) fn to_json(self) -> Value {
        let threshold = match self.threshold {
            FallbackThreshold::Share(share) => json!(format!("{}%", 100.0 * share)),
            FallbackThreshold::Tokens(tokens) => json!(tokens),
        };
        json!({"strategy": self.strategy.as_str(), "threshold": threshold})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_of_all_tokens_and_no_token_is_never_enough() {
        let share = FallbackThreshold::Share(0.005);
        assert_eq!(share.refuses(5, 1000), None);
        assert_eq!(share.refuses(4, 1000).unwrap(), "saw 4 of 1000 tokens, fewer than 5");
        assert!(FallbackThreshold::Share(0.0).refuses(0, 1000).is_some());
        assert_eq!(FallbackThreshold::Share(0.0).refuses(1, 1000), None);
        assert!(FallbackThreshold::Tokens(7).refuses(6, 1000).is_some());
        assert_eq!(FallbackThreshold::Tokens(7).refuses(7, 1000), None);
    }

    #[test]
    fn shares_outside_of_everything_are_refused() {
        for share in [-0.1, 1.1, f64::NAN] {
            assert!(FallbackThreshold::Share(share).validate().is_err(), "{share}");
        }
    }
}
