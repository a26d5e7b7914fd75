//! Threads that stay awake between operations.

use std::{
    hint::spin_loop,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rayon::Yield;

/// How long a thread looks for work in vain. Longer than what a step does on one thread between two
/// operations; short enough that threads which wait for each other go on.
const PATIENCE: Duration = Duration::from_millis(1);

/// Works while the other threads of the caller's pool look for its tasks and do not sleep: a step
/// of decoding is some hundred operations of some hundred microseconds, and being woken for each
/// takes as long as part of it, more so where a sleeping processor is lent to others. Outside of a
/// pool it only works.
pub(crate) fn awake<R>(work: impl FnOnce() -> R) -> R {
    let Some(own) = rayon::current_thread_index().filter(|_| rayon::current_num_threads() > 1)
    else {
        return work();
    };
    let over = Over(Arc::default());
    let seen = Arc::clone(&over.0);
    rayon::spawn_broadcast(move |thread| {
        if thread.index() != own {
            look_for_work(&seen);
        }
    });
    work()
}

/// Says that the work is over, however it ended.
struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn look_for_work(over: &AtomicBool) {
    let mut last = Instant::now();
    while !over.load(Ordering::Relaxed) && last.elapsed() < PATIENCE {
        match rayon::yield_now() {
            Some(Yield::Executed) => last = Instant::now(),
            _ => spin_loop(),
        }
    }
}

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::awake;

    #[test]
    fn steps_that_share_a_pool_all_end() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let step = |i: u64| awake(|| (0..1000u64).into_par_iter().map(|x| x ^ i).sum::<u64>());
        let plain = |i: u64| (0..1000u64).map(|x| x ^ i).sum::<u64>();
        // More steps at a time than threads, each of which waits for tasks of its own.
        let sums: Vec<u64> = pool.install(|| (0..200u64).into_par_iter().map(step).collect());
        assert_eq!(sums, (0..200).map(plain).collect::<Vec<_>>());
        assert_eq!(step(7), plain(7));
    }

    #[test]
    fn a_step_that_fails_lets_the_others_rest() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let failed = pool.install(|| awake(|| Err::<(), _>("no")));
        assert_eq!(failed, Err("no"));
        assert_eq!(pool.install(|| awake(|| 1)), 1);
    }
}
