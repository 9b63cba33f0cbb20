//! Threads: a pool of our own, entered once per run, and the barrier between steps. The only file that names rayon.
//!
//! The calling thread works too, as rank 0. One region at a time runs on the pool; a second caller meanwhile runs its
//! region alone on its own thread, which gives the same bits. After a fork the child starts without a pool; the
//! parent's is leaked there, never joined. A child that was forked inside a region leaves it without the others.

mod barrier;
mod claims;
mod team;

use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::sync::fork;
use claims::Share;
pub use team::{Attendance, Member};
use team::{Body, Team};

/// The workers beside the calling thread.
struct Workers {
    /// `None` if one thread was asked for or no thread could be had.
    pool: Option<rayon::ThreadPool>,
    /// The pool's threads.
    threads: Vec<JoinHandle<()>>,
    /// The team size that was asked for; the pool may be smaller.
    asked: usize,
    team: Arc<Team>,
    /// Regions that found no worker awake since the last invitation.
    missed: u32,
}

impl Default for Workers {
    fn default() -> Self {
        Self::none(0)
    }
}

impl Workers {
    /// Starts `size − 1` threads; where the system refuses, half as many, down to none.
    fn start(size: usize) -> Self {
        let mut workers = size - 1;
        while workers > 0 {
            // Dropped where a thread is refused: those that were started are gone before fewer are asked for.
            let mut started = Self::none(size);
            let built = rayon::ThreadPoolBuilder::new()
                .num_threads(workers)
                .spawn_handler(|worker| {
                    let name = format!("cnnrs-{}", worker.index() + 1);
                    started.threads.push(std::thread::Builder::new().name(name).spawn(|| worker.run())?);
                    Ok(())
                })
                .build();
            if let Ok(pool) = built {
                started.pool = Some(pool);
                started.team = Arc::new(Team::new(workers));
                return started;
            }
            workers /= 2;
        }
        Self::none(size)
    }

    /// No workers, though a team of `size` was asked for.
    fn none(size: usize) -> Self {
        Self { pool: None, threads: Vec::new(), asked: size, team: Arc::new(Team::new(0)), missed: 0 }
    }

    /// Runs `body` on the team; false if it is to be run alone.
    fn run(&self, attendance: Attendance, body: &Body<'_>) -> bool {
        self.pool.is_some() && self.team.run(attendance, body, || self.wake())
    }

    /// Wakes the workers, so that they look for regions for a while.
    fn wake(&self) {
        if let Some(pool) = &self.pool {
            let team = self.team.clone();
            pool.spawn_broadcast(move |context| team.attend(context.index() + 1));
        }
    }

    /// Wakes the workers for regions to come.
    fn invite(&mut self) {
        self.missed = 0;
        self.team.invite();
        self.wake();
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

impl Process {
    /// Has a team of `size`, if threads can be had.
    fn have(&self, workers: &mut Workers, size: usize) {
        if workers.asked != size {
            *workers = Workers::default(); // the old threads are gone before new ones are asked for
            *workers = Workers::start(size);
            self.running.store(workers.team.size(), Ordering::Relaxed);
        }
    }
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

/// Every so many regions that find no worker awake, workers are invited to be there for the next ones.
const INVITATION: u32 = 16;

/// Runs `body` once per thread of a team of `size`: fewer if threads cannot be had or `attendance` says so, one if the pool
/// is busy. Never more, so that memory set aside for `size` members is enough.
///
/// `body` must not unwind: a member that leaves early would leave the others waiting. If the calling thread forks
/// inside of it, the child's `body` is to return soon; the other members do not exist there.
pub fn region(size: usize, attendance: Attendance, body: &Body<'_>) {
    let alone = || body(Member::alone(&Share::default()));
    if size <= 1 || rayon::current_thread_index().is_some() {
        alone();
        return;
    }
    let process = process();
    let Ok(mut workers) = process.workers.try_lock() else {
        alone();
        return;
    };
    match attendance {
        Attendance::All => {
            process.have(&mut workers, size);
            if workers.run(attendance, body) {
                return;
            }
        }
        Attendance::Awake => {
            if workers.asked == size && workers.run(attendance, body) {
                return;
            }
            workers.missed += 1;
            if workers.missed == INVITATION {
                process.have(&mut workers, size);
                workers.invite();
            }
        }
    }
    drop(workers);
    alone();
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

    /// Team sizes of the regions that `outer` runs.
    fn sizes(outer: &dyn Fn(&(dyn Fn() + Sync))) -> Vec<usize> {
        let sizes = Mutex::new(Vec::new());
        outer(&|| {
            let size = AtomicUsize::new(0);
            region(2, Attendance::All, &|member| {
                size.fetch_add(1, Ordering::SeqCst);
                member.wait();
            });
            sizes.lock().expect("no panic").push(size.into_inner());
        });
        sizes.into_inner().expect("no panic")
    }

    #[test]
    fn a_region_inside_a_region_runs_alone() {
        let sizes = sizes(&|body| region(2, Attendance::All, &|_| body()));
        assert!(!sizes.is_empty() && sizes.iter().all(|&size| size == 1), "{sizes:?}");
    }

    #[test]
    fn a_region_inside_another_pool_runs() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("threads");
        let sizes = sizes(&|body| {
            pool.broadcast(|_| body());
        });
        assert_eq!(sizes, [1, 1, 1]);
    }
}
