//! Who runs which task: every member has a contiguous share of each phase's tasks, and whoever has finished takes from
//! the ends of the others' shares, so that no member waits for one that the system has put aside.
//!
//! A share is one number: the phase that it is of, and the first and the last task that nobody has claimed. Shares are not
//! set when a phase begins; whoever finds one of the phase before takes it for untouched. That is unambiguous, because
//! every member claims from its own share in every phase before it goes to the barrier.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bits of a task's number, and of a phase's.
const TASK: u32 = 28;
const PHASE: u32 = 8;

/// What is left of one member's share, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Share(AtomicU64);

/// Member `rank`'s share of `count` tasks: contiguous, sizes differing by at most one.
fn whole(rank: usize, size: usize, count: usize) -> Range<usize> {
    rank * count / size..(rank + 1) * count / size
}

fn encode(phase: u64, left: &Range<usize>) -> u64 {
    phase << (2 * TASK) | (left.start as u64) << TASK | left.end as u64
}

impl Share {
    /// Forgets what was: the first phase of a region is number 1.
    pub(super) fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Claims a task, the first one that is left or the last; `all` is the share when the phase begins.
    fn claim(&self, phase: u64, all: &Range<usize>, first: bool) -> Option<usize> {
        let mask = (1 << TASK) - 1;
        // Claiming orders nothing: what tasks read was written before the last barrier.
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            let left = if seen >> (2 * TASK) == phase {
                (seen >> TASK & mask) as usize..(seen & mask) as usize
            } else {
                all.clone()
            };
            let (task, rest) = match (left.is_empty(), first) {
                (true, _) => (None, left),
                (false, true) => (Some(left.start), left.start + 1..left.end),
                (false, false) => (Some(left.end - 1), left.start..left.end - 1),
            };
            let wanted = encode(phase, &rest);
            if wanted == seen {
                return task;
            }
            match self.0.compare_exchange_weak(seen, wanted, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return task,
                Err(now) => seen = now,
            }
        }
    }
}

/// The tasks of one phase that one member runs: its own in order, then those that it takes from others.
#[derive(Debug)]
pub struct Claims<'a> {
    shares: &'a [Share],
    phase: u64,
    count: usize,
    rank: usize,
    /// How many members' shares are known to be used up, from this one's on.
    empty: usize,
}

impl<'a> Claims<'a> {
    /// `phase` counts the phases of the region, the same for all members.
    pub(super) fn new(shares: &'a [Share], phase: usize, count: usize, rank: usize) -> Self {
        assert!(count < 1 << TASK, "{count} tasks in one phase");
        Self { shares, phase: (phase + 1) as u64 & ((1 << PHASE) - 1), count, rank, empty: 0 }
    }
}

impl Iterator for Claims<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let size = self.shares.len();
        while self.empty < size {
            let owner = (self.rank + self.empty) % size;
            let all = whole(owner, size, self.count);
            let task = self.shares[owner].claim(self.phase, &all, self.empty == 0);
            if task.is_some() {
                return task;
            }
            self.empty += 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(size: usize) -> Vec<Share> {
        (0..size).map(|_| Share::default()).collect()
    }

    #[test]
    fn one_member_runs_all_tasks_in_order() {
        let shares = shares(1);
        assert_eq!(Claims::new(&shares, 0, 5, 0).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert_eq!(Claims::new(&shares, 1, 0, 0).count(), 0);
        assert_eq!(Claims::new(&shares, 2, 2, 0).collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn a_member_runs_its_own_share_then_the_ends_of_others() {
        let shares = shares(2);
        for phase in [0, 1, 2, 300] {
            let mut slow = Claims::new(&shares, phase, 7, 0);
            assert_eq!(slow.next(), Some(0));
            assert_eq!(Claims::new(&shares, phase, 7, 1).collect::<Vec<_>>(), [3, 4, 5, 6, 2, 1]);
            assert_eq!(slow.next(), None);
        }
    }

    #[test]
    fn a_share_whose_owner_has_not_come_is_taken_whole() {
        let shares = shares(3);
        for phase in 0..600 {
            let count = phase % 11;
            let mut all: Vec<usize> = Claims::new(&shares, phase, count, 1).collect();
            all.sort_unstable();
            assert_eq!(all, (0..count).collect::<Vec<_>>());
            // The others come late, find nothing, and have been there.
            assert_eq!(Claims::new(&shares, phase, count, 0).next(), None);
            assert_eq!(Claims::new(&shares, phase, count, 2).next(), None);
        }
    }

    #[test]
    fn threads_claim_every_task_once() {
        let shares = shares(4);
        let ran: Vec<AtomicU64> = (0..1000).map(|_| AtomicU64::new(0)).collect();
        for phase in 0..50 {
            std::thread::scope(|scope| {
                for rank in 0..4 {
                    let (shares, ran) = (&shares, &ran);
                    scope.spawn(move || {
                        for task in Claims::new(shares, phase, ran.len(), rank) {
                            ran[task].fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
            });
            assert!(ran.iter().all(|times| times.load(Ordering::Relaxed) == phase as u64 + 1));
        }
    }
}
