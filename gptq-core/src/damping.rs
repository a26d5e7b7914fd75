//! Damping: how much is added to the Hessian's diagonal, and what to do when that is too little.

use ndarray::{Array1, Array2};

use crate::{Error, Linalg, hessian::mirror};

/// The policy. `percent · mean(diag H)` is added to every diagonal entry; if Cholesky still fails,
/// `percent` grows by `auto_increment` until it succeeds or reaches 1.
///
/// If it never does, all of that is tried again on a raised diagonal: no entry below a millionth of
/// the largest, and every entry larger by as much; then ten times that, up to a tenth of the
/// largest.
///
/// Arithmetic on percentages is in f64, as in the reference, so that the number of attempts is too.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Damping {
    /// `damp_percent`, as a share: 0.01 is one percent. In (0, 1).
    pub percent: f64,
    /// `damp_auto_increment`; 0 tries `percent` alone.
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
    /// Its rank among all that the policy tries; 1 is the first.
    pub attempts: u32,
    /// How often the diagonal was raised before: 0 as it should be, at most 6.
    pub floor: u32,
    /// What the last raise added to each entry, and its least value; 0 without one.
    pub floor_added: f64,
}

/// How often the diagonal is raised.
const FLOORS: u32 = 6;

/// Adds damping to an ordered H until it can be factored, and replaces its upper triangle with the
/// factor. Below the diagonal H stays what it was, and all of it where nothing helps. Returns the
/// damped diagonal. Only where the first
/// attempt fails is there a second matrix, to keep what succeeded.
///
/// The outcome is that of trying all in order, but since more on the diagonal never hurts, few have
/// to be tried: a Hessian that nothing saves costs a dozen factorisations instead of hundreds.
pub(crate) fn damp_and_factor(
    h: &mut Array2<f32>,
    damping: Damping,
    linalg: &dyn Linalg,
) -> Result<(Array1<f32>, DampOutcome), Error> {
    let shares: Vec<f64> = damping.attempts().collect();
    let last = shares.len() - 1;
    let diagonal = h.diag().to_owned();
    let largest = f64::from(diagonal.fold(0f32, |m, d| m.max(d.abs())));
    let added = |floor: u32| match floor {
        0 => 0.0,
        _ => 1e-7 * largest * 10f64.powi(floor as i32),
    };
    let mut intact = true;
    let mut factor = |floor: u32, rank: usize| {
        if !std::mem::replace(&mut intact, false) {
            mirror(h.view_mut().reversed_axes());
        }
        let diagonal = damped(&diagonal, added(floor) as f32, shares[rank]);
        h.diag_mut().assign(&diagonal);
        match linalg.inverse_factor(h) {
            // A later attempt would overwrite it, and there is none after rank 0.
            Ok(()) => Ok(Ok((diagonal, (rank > 0).then(|| h.clone())))),
            Err(Error::NonPositivePivot { column, .. }) => Ok(Err(column)),
            Err(other) => Err(other),
        }
    };
    let mut failed_at = 0;
    for floor in 0..=FLOORS {
        match first_success(shares.len(), |rank| factor(floor, rank))? {
            Ok((rank, (diagonal, kept))) => {
                if let Some(kept) = kept {
                    *h = kept;
                }
                let attempts = (floor as usize * shares.len() + rank + 1) as u32;
                let (percent, floor_added) = (shares[rank], added(floor));
                return Ok((diagonal, DampOutcome { percent, attempts, floor, floor_added }));
            }
            Err(column) => failed_at = column,
        }
        // Where the last of all fails, so does everything between.
        if floor == 0
            && let Err(column) = factor(FLOORS, last)?
        {
            failed_at = column;
            break;
        }
    }
    mirror(h.view_mut().reversed_axes());
    h.diag_mut().assign(&diagonal);
    Err(Error::NotPositiveDefinite {
        column: failed_at,
        attempts: (FLOORS + 1) * shares.len() as u32,
        last_percent: shares[last],
        unsolved: None,
    })
}

/// The diagonal with `added` on every entry, at least that much everywhere, and a share of the mean
/// on top.
fn damped(diagonal: &Array1<f32>, added: f32, share: f64) -> Array1<f32> {
    let raised = match added {
        0.0 => diagonal.clone(),
        _ => diagonal.mapv(|d| (d + added).max(added)),
    };
    let mean = raised.iter().map(|&d| f64::from(d)).sum::<f64>() / raised.len().max(1) as f64;
    raised.mapv_into(|d| d + (share * mean) as f32)
}

/// The first of `0..count` that succeeds, if success is final: all after it would succeed too. Or
/// how the last one failed. Takes growing steps, then halves what was stepped over.
fn first_success<T, F>(
    count: usize,
    mut attempt: impl FnMut(usize) -> Result<Result<T, F>, Error>,
) -> Result<Result<(usize, T), F>, Error> {
    let (mut from, mut step) = (0, 1);
    let mut found = loop {
        let rank = (from + step - 1).min(count - 1);
        match attempt(rank)? {
            Ok(result) => break (rank, result),
            Err(failure) if rank + 1 == count => return Ok(Err(failure)),
            Err(_) => (from, step) = (rank + 1, 2 * step),
        }
    };
    while from < found.0 {
        let middle = (from + found.0) / 2;
        match attempt(middle)? {
            Ok(result) => found = (middle, result),
            Err(_) => from = middle + 1,
        }
    }
    Ok(Ok(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_success_is_found_in_few_attempts() {
        for count in 1..200usize {
            for first in 0..=count {
                let mut attempts = 0;
                let found = first_success(count, |rank| {
                    attempts += 1;
                    Ok(if rank >= first { Ok(rank) } else { Err(rank) })
                });
                let want = if first < count { Ok((first, first)) } else { Err(count - 1) };
                assert_eq!(found, Ok(want));
                let few = 2 * first.max(1).ilog2() as usize + 3;
                assert!(attempts <= few, "{attempts} attempts for {first} of {count}");
            }
        }
    }
}
