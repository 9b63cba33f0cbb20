//! The barrier between the phases of a region.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::sync::fork;

/// Spins before a core is yielded: some tens of microseconds.
pub(super) const SPINS: u32 = 4_000;

/// Spins for some microseconds, then yields its core.
#[derive(Debug)]
pub(super) struct Barrier {
    arrived: AtomicUsize,
    /// How many are to come. Whoever says it comes here afterwards, so that the last one to come has seen it.
    size: AtomicUsize,
    generation: AtomicU32,
    /// The process whose threads meet here. In a child forked meanwhile the others do not exist, and nobody waits.
    process: u32,
}

impl Barrier {
    pub(super) fn new() -> Self {
        Self {
            arrived: AtomicUsize::new(0),
            size: AtomicUsize::new(1),
            generation: AtomicU32::new(0),
            process: fork::generation(),
        }
    }

    /// Says how many are to come from now on; `None` if that will be said before the last of them comes.
    pub(super) fn expect(&self, size: Option<usize>) {
        self.size.store(size.unwrap_or(usize::MAX), Ordering::Relaxed);
    }

    /// Whether it is known how many are to come.
    pub(super) fn known(&self) -> bool {
        self.size.load(Ordering::Relaxed) != usize::MAX
    }

    /// Whether the others stayed behind in another process.
    pub(super) fn cut(&self) -> bool {
        fork::generation() != self.process
    }

    /// Waits until all have come; the last of them does `work` before anybody goes on.
    pub(super) fn wait(&self, work: impl FnOnce()) {
        let generation = self.generation.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.size.load(Ordering::Relaxed) {
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
