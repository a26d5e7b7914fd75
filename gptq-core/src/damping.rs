//! Damping: how much is added to the Hessian's diagonal, and what to do when that is too little.

use crate::Error;

/// The policy. `percent · mean(diag H)` is added to every diagonal entry; if Cholesky still fails,
/// `percent` grows by `auto_increment` until it succeeds or reaches 1.
///
/// Arithmetic on percentages is in f64, as in the reference, so that the number of attempts is too.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Damping {
    /// `damp_percent`, as a share: 0.01 is one percent. In (0, 1).
    pub percent: f64,
    /// `damp_auto_increment`; 0 gives up after the first attempt.
    pub auto_increment: f64,
}

impl Default for Damping {
    fn default() -> Self {
        Self { percent: 0.01, auto_increment: 0.01 }
    }
}

impl Damping {
    /// Smaller steps would mean more factorisations than anyone waits for.
    const LEAST_INCREMENT: f64 = 1e-4;

    /// Refuses shares outside (0, 1) and increments that are negative or too small to get anywhere.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn validate(&self) -> Result<(), Error> {
        let increments = self.auto_increment == 0.0 || self.auto_increment >= Self::LEAST_INCREMENT;
        if self.percent > 0.0 && self.percent < 1.0 && increments {
            return Ok(());
        }
        Err(Error::Config {
            message: format!(
                "damp_percent is {} and damp_auto_increment {}, but need 0 < damp_percent < 1 and \
                 an increment of 0 or at least {}",
                self.percent,
                self.auto_increment,
                Self::LEAST_INCREMENT
            ),
        })
    }

    /// The shares to try, in order.
    pub(crate) fn attempts(self) -> impl Iterator<Item = f64> {
        let next = move |p: &f64| (self.auto_increment > 0.0).then_some(p + self.auto_increment);
        std::iter::successors(Some(self.percent), next).take_while(|&p| p < 1.0)
    }
}

/// The damping that worked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DampOutcome {
    /// The share of the mean diagonal that was added.
    pub percent: f64,
    /// Factorisations tried, the successful one included.
    pub attempts: u32,
}
