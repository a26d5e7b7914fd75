//! Tasks that threads take one by one.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

/// Runs `work` on every task. Each thread of the pool that is free begins with its own run of
/// neighbouring tasks and goes from one to the next; when it has none left, it takes those at the
/// ends of the others' runs. So what a thread reads is one piece of memory, which hardware follows
/// better than many (a tenth of the time of a product that memory limits), and the last tasks end
/// together, whatever each of them costs.
///
/// For tasks of some microseconds: taking one is a lock that nobody holds for long.
pub(crate) fn share<T: Send>(tasks: Vec<T>, work: impl Fn(T) + Sync) {
    let threads = rayon::current_num_threads().min(tasks.len());
    if threads < 2 {
        return tasks.into_iter().for_each(work);
    }
    let count = tasks.len();
    let mut rest = tasks.into_iter();
    let run = |thread| {
        let length = count * (thread + 1) / threads - count * thread / threads;
        Mutex::new(rest.by_ref().take(length).collect())
    };
    let runs: Vec<Mutex<VecDeque<T>>> = (0..threads).map(run).collect();
    let take = |run: &Mutex<VecDeque<T>>, which: fn(&mut VecDeque<T>) -> Option<T>| {
        which(&mut run.lock().unwrap_or_else(PoisonError::into_inner))
    };
    let begin_with = |thread: usize| {
        let (before, from) = runs.split_at(thread);
        while let Some(task) = take(&from[0], VecDeque::pop_front) {
            work(task);
        }
        for run in from[1..].iter().chain(before) {
            while let Some(task) = take(run, VecDeque::pop_back) {
                work(task);
            }
        }
    };
    rayon::scope(|scope| {
        let begin_with = &begin_with;
        for thread in 1..threads {
            scope.spawn(move |_| begin_with(thread));
        }
        begin_with(0);
    });
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::share;

    #[test]
    fn every_task_is_done_once() {
        for threads in 1..4 {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for count in [0, 1, 2, 3, 100] {
                let done: Vec<_> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                let tasks: Vec<_> = done.iter().collect();
                pool.install(|| {
                    share(tasks, |done| {
                        done.fetch_add(1, Ordering::Relaxed);
                    });
                });
                assert!(done.iter().all(|done| done.load(Ordering::Relaxed) == 1));
            }
        }
    }
}
