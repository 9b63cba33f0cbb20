//! Threads: a pool of our own, entered once per run, and the barrier between steps. The only file that names rayon.
//!
//! The calling thread works too, as rank 0. One region at a time runs on the pool; a second caller meanwhile runs its
//! region alone on its own thread, which gives the same bits. After a fork the child starts without a pool; the
//! parent's is leaked there, never joined.

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, Once, PoisonError};

/// The workers beside the calling thread.
struct Workers {
    /// `None` if one thread was asked for or no thread could be had.
    pool: Option<rayon::ThreadPool>,
    /// The team size that was asked for; the pool may be smaller.
    asked: usize,
}

impl Workers {
    /// Starts `size − 1` threads; where the system refuses, half as many, down to none.
    fn start(size: usize) -> Self {
        let mut workers = size - 1;
        while workers > 0 {
            let built = rayon::ThreadPoolBuilder::new()
                .num_threads(workers)
                .thread_name(|index| format!("cnnrs-{}", index + 1))
                .build();
            if let Ok(pool) = built {
                return Self { pool: Some(pool), asked: size };
            }
            workers /= 2;
        }
        Self { pool: None, asked: size }
    }
}

/// State of this process; replaced, not reused, after a fork.
struct Process {
    workers: Mutex<Option<Workers>>,
}

static PROCESS: AtomicPtr<Process> = AtomicPtr::new(std::ptr::null_mut());
static INSIDE_CHILD: AtomicBool = AtomicBool::new(false);

fn process() -> &'static Process {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        #[cfg(unix)]
        {
            extern "C" fn child() {
                PROCESS.store(std::ptr::null_mut(), Ordering::SeqCst);
                INSIDE_CHILD.store(true, Ordering::SeqCst);
            }
            // SAFETY: registers an async-signal-safe function that lives as long as the program.
            unsafe { libc::pthread_atfork(None, None, Some(child)) };
        }
    });
    let found = PROCESS.load(Ordering::Acquire);
    let found = if found.is_null() {
        let fresh = Box::into_raw(Box::new(Process { workers: Mutex::new(None) }));
        match PROCESS.compare_exchange(std::ptr::null_mut(), fresh, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => fresh,
            Err(other) => {
                // SAFETY: made by `into_raw` just above and published to nobody.
                drop(unsafe { Box::from_raw(fresh) });
                other
            }
        }
    } else {
        found
    };
    // SAFETY: published once, never freed: a fork leaks it.
    unsafe { &*found }
}

/// True in a process that was forked after the library had been used.
pub fn after_fork() -> bool {
    INSIDE_CHILD.load(Ordering::Relaxed)
}

/// One thread's place in a region.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// 0 is the calling thread.
    pub rank: usize,
    /// Number of threads in the region.
    pub size: usize,
    barrier: &'a Barrier,
}

impl Member<'_> {
    /// Waits until every member of the region has come here.
    #[inline]
    pub fn wait(&self) {
        if self.size > 1 {
            self.barrier.wait(self.size);
        }
    }

    /// This member's share of `count` tasks: contiguous, sizes differing by at most one.
    #[inline]
    pub fn share(&self, count: usize) -> std::ops::Range<usize> {
        self.rank * count / self.size..(self.rank + 1) * count / self.size
    }
}

/// A barrier that spins for some microseconds, then yields its core.
#[derive(Debug, Default)]
struct Barrier {
    arrived: AtomicUsize,
    generation: AtomicU32,
}

/// Spins before yielding: some tens of microseconds.
const SPINS: u32 = 4_000;

impl Barrier {
    fn wait(&self, size: usize) {
        let generation = self.generation.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == size {
            self.arrived.store(0, Ordering::Relaxed);
            self.generation.store(generation.wrapping_add(1), Ordering::Release);
            return;
        }
        let mut spins = 0;
        while self.generation.load(Ordering::Acquire) == generation {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }
}

/// Runs `body` once per thread of a team of `size`: fewer if threads cannot be had, one if the pool is busy. Never more,
/// so that memory set aside for `size` members is enough.
///
/// `body` must not unwind: a member that leaves early would leave the others waiting.
pub fn region(size: usize, body: &(dyn Fn(Member<'_>) + Sync)) {
    let barrier = Barrier::default();
    let alone = || body(Member { rank: 0, size: 1, barrier: &barrier });
    if size <= 1 || rayon::current_thread_index().is_some() {
        alone();
        return;
    }
    let Ok(mut workers) = process().workers.try_lock() else {
        alone();
        return;
    };
    if workers.as_ref().is_none_or(|workers| workers.asked != size) {
        *workers = None;
        *workers = Some(Workers::start(size));
    }
    let Some(pool) = workers.as_ref().and_then(|workers| workers.pool.as_ref()) else {
        drop(workers);
        alone();
        return;
    };
    let size = pool.current_num_threads() + 1;
    let barrier = &barrier;
    pool.in_place_scope(|scope| {
        scope.spawn_broadcast(move |_, context| body(Member { rank: context.index() + 1, size, barrier }));
        body(Member { rank: 0, size, barrier });
    });
}

/// The team size of the running pool, if one runs: smaller than what was asked for where threads were refused.
pub fn running_threads() -> Option<usize> {
    let workers = process().workers.lock().unwrap_or_else(PoisonError::into_inner);
    workers.as_ref().map(|workers| workers.pool.as_ref().map_or(1, |pool| pool.current_num_threads() + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_all_tasks_once() {
        let barrier = Barrier::default();
        for (size, count) in [(1, 7), (2, 7), (5, 3), (3, 0)] {
            let all: Vec<usize> =
                (0..size).flat_map(|rank| Member { rank, size, barrier: &barrier }.share(count)).collect();
            assert_eq!(all, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn members_meet_at_every_barrier() {
        let counter = AtomicUsize::new(0);
        let wrong = AtomicUsize::new(0);
        region(3, &|member| {
            for round in 1..=200 {
                counter.fetch_add(1, Ordering::SeqCst);
                member.wait();
                if counter.load(Ordering::SeqCst) != round * member.size {
                    wrong.fetch_add(1, Ordering::SeqCst);
                }
                member.wait();
            }
        });
        assert_eq!(wrong.load(Ordering::SeqCst), 0);
    }
}
