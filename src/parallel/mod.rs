//! Threads: a pool of our own, entered once per run, and the barrier between steps. The only file that names rayon.
//!
//! The calling thread works too, as rank 0. One region at a time runs on the pool; a second caller meanwhile runs its
//! region alone on its own thread, which gives the same bits. After a fork the child starts without a pool; the
//! parent's is leaked there, never joined. A child that was forked inside a region leaves it without the others.

mod claims;

use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, Thread};

use crate::sync::fork;
pub use claims::Claims;
use claims::Share;

/// The workers beside the calling thread.
#[derive(Default)]
struct Workers {
    /// `None` if one thread was asked for or no thread could be had.
    pool: Option<rayon::ThreadPool>,
    /// The pool's threads.
    threads: Vec<JoinHandle<()>>,
    /// The team size that was asked for; the pool may be smaller.
    asked: usize,
    /// Every member's share of the tasks of a phase.
    shares: Arc<[Share]>,
}

impl Workers {
    /// Starts `size − 1` threads; where the system refuses, half as many, down to none.
    fn start(size: usize) -> Self {
        let mut workers = size - 1;
        while workers > 0 {
            // Dropped where a thread is refused: those that were started are gone before fewer are asked for.
            let mut team = Self::none(size);
            let built = rayon::ThreadPoolBuilder::new()
                .num_threads(workers)
                .spawn_handler(|worker| {
                    let name = format!("cnnrs-{}", worker.index() + 1);
                    team.threads.push(std::thread::Builder::new().name(name).spawn(|| worker.run())?);
                    Ok(())
                })
                .build();
            if let Ok(pool) = built {
                team.pool = Some(pool);
                team.shares = (0..=workers).map(|_| Share::default()).collect();
                return team;
            }
            workers /= 2;
        }
        Self::none(size)
    }

    /// No workers, though a team of `size` was asked for.
    fn none(size: usize) -> Self {
        Self { pool: None, threads: Vec::new(), asked: size, shares: Arc::default() }
    }

    fn team(&self) -> usize {
        self.threads.len() + 1
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.pool = None; // ends the threads
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // a panic of a worker was reported where it happened
        }
    }
}

/// State of one process; replaced, not reused, after a fork.
struct Process {
    generation: u32,
    workers: Mutex<Workers>,
    /// Size of the running team, 0 before the first region.
    running: AtomicUsize,
}

static PROCESS: AtomicPtr<Process> = AtomicPtr::new(std::ptr::null_mut());

fn process() -> &'static Process {
    let generation = fork::generation();
    let mut found = PROCESS.load(Ordering::Acquire);
    loop {
        // SAFETY: null or published once, and never freed: a fork leaks it.
        match unsafe { found.as_ref() } {
            Some(process) if process.generation == generation => return process,
            _ => {}
        }
        let fresh = Process { generation, workers: Mutex::default(), running: AtomicUsize::new(0) };
        let fresh = Box::into_raw(Box::new(fresh));
        match PROCESS.compare_exchange(found, fresh, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => found = fresh,
            Err(other) => {
                // SAFETY: made by `into_raw` just above and published to nobody.
                drop(unsafe { Box::from_raw(fresh) });
                found = other;
            }
        }
    }
}

/// One thread's place in a region.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// 0 is the calling thread.
    pub rank: usize,
    /// Number of threads in the region.
    pub size: usize,
    barrier: &'a Barrier,
    shares: &'a [Share],
}

impl<'a> Member<'a> {
    /// Waits until every member of the region has come here.
    #[inline]
    pub fn wait(&self) {
        if self.size > 1 {
            self.barrier.wait(self.size, || {});
        }
    }

    /// [`wait`](Self::wait), and the last to come does `work` before anybody goes on; it must not unwind.
    #[inline]
    pub fn wait_behind(&self, work: impl FnOnce()) {
        if self.size > 1 {
            self.barrier.wait(self.size, work);
        } else {
            work();
        }
    }

    /// The tasks that this member runs of the `count` tasks of a phase; all members meet between two phases, which they
    /// count alike.
    #[inline]
    pub fn tasks(&self, phase: usize, count: usize) -> Claims<'a> {
        Claims::new(self.shares, phase, count, self.rank)
    }
}

/// A barrier that spins for some microseconds, then yields its core.
#[derive(Debug)]
struct Barrier {
    arrived: AtomicUsize,
    generation: AtomicU32,
    /// The process whose threads meet here. In a child forked meanwhile the others do not exist, and nobody waits.
    process: u32,
}

/// Spins before yielding: some tens of microseconds.
const SPINS: u32 = 4_000;

impl Barrier {
    fn new() -> Self {
        Self { arrived: AtomicUsize::new(0), generation: AtomicU32::new(0), process: fork::generation() }
    }

    /// Whether the others stayed behind in another process.
    fn cut(&self) -> bool {
        fork::generation() != self.process
    }

    fn wait(&self, size: usize, work: impl FnOnce()) {
        let generation = self.generation.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == size {
            // What the others did before they came here is seen, what is done here will be.
            work();
            self.arrived.store(0, Ordering::Relaxed);
            self.generation.store(generation.wrapping_add(1), Ordering::Release);
            return;
        }
        let mut spins = 0;
        while self.generation.load(Ordering::Acquire) == generation {
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
            } else if self.cut() {
                return;
            } else {
                std::thread::yield_now();
            }
        }
    }
}

/// A region that is under way.
struct Region {
    barrier: Barrier,
    shares: Arc<[Share]>,
    /// Workers that have not left it.
    left: AtomicUsize,
    caller: Thread,
}

/// Waits until all workers have left the region; also when the caller's part unwinds.
struct Join<'a>(&'a Region);

impl Drop for Join<'_> {
    fn drop(&mut self) {
        let mut spins = 0;
        while self.0.left.load(Ordering::Acquire) > 0 && !self.0.barrier.cut() {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::park() }
        }
    }
}

/// Runs `body` once per thread of a team of `size`: fewer if threads cannot be had, one if the pool is busy. Never more,
/// so that memory set aside for `size` members is enough.
///
/// `body` must not unwind: a member that leaves early would leave the others waiting. If the calling thread forks
/// inside of it, the child's `body` is to return soon; the other members do not exist there.
pub fn region(size: usize, body: &(dyn Fn(Member<'_>) + Sync)) {
    let alone = || body(Member { rank: 0, size: 1, barrier: &Barrier::new(), shares: &[Share::default()] });
    if size <= 1 || rayon::current_thread_index().is_some() {
        alone();
        return;
    }
    let process = process();
    let Ok(mut workers) = process.workers.try_lock() else {
        alone();
        return;
    };
    if workers.asked != size {
        *workers = Workers::default(); // the old threads are gone before new ones are asked for
        *workers = Workers::start(size);
        process.running.store(workers.team(), Ordering::Relaxed);
    }
    let size = workers.team();
    let Some(pool) = workers.pool.as_ref() else {
        drop(workers);
        alone();
        return;
    };
    let caller = std::thread::current();
    // The threads start behind this, and those of the region before have left it.
    workers.shares.iter().for_each(Share::clear);
    let shares = workers.shares.clone();
    let region = Arc::new(Region { barrier: Barrier::new(), shares, left: AtomicUsize::new(size - 1), caller });
    // SAFETY: only the type says that the borrow lives on: `join` below outlives every use of it by a worker, and a
    // forked child has no workers.
    let shared =
        unsafe { std::mem::transmute::<&(dyn Fn(Member<'_>) + Sync), &'static (dyn Fn(Member<'_>) + Sync)>(body) };
    let _join = Join(&region);
    pool.spawn_broadcast({
        let region = region.clone();
        move |context| {
            shared(Member { rank: context.index() + 1, size, barrier: &region.barrier, shares: &region.shares });
            if region.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                region.caller.unpark();
            }
        }
    });
    body(Member { rank: 0, size, barrier: &region.barrier, shares: &region.shares });
}

/// The team size of the running pool, if one runs: smaller than what was asked for where threads were refused.
pub fn running_threads() -> Option<usize> {
    match process().running.load(Ordering::Relaxed) {
        0 => None,
        team => Some(team),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    /// Team sizes that a region inside of `outer` sees.
    fn sizes_inside(outer: &dyn Fn(&(dyn Fn() + Sync))) -> Vec<usize> {
        let sizes = Mutex::new(Vec::new());
        outer(&|| region(2, &|member| sizes.lock().expect("no panic").push(member.size)));
        sizes.into_inner().expect("no panic")
    }

    #[test]
    fn a_region_inside_a_region_runs_alone() {
        let sizes = sizes_inside(&|body| region(2, &|_| body()));
        assert!(!sizes.is_empty() && sizes.iter().all(|&size| size == 1), "{sizes:?}");
    }

    #[test]
    fn a_region_inside_another_pool_runs() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("threads");
        let sizes = sizes_inside(&|body| {
            pool.broadcast(|_| body());
        });
        assert_eq!(sizes, [1, 1, 1]);
    }
}
