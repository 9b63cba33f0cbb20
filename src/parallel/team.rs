//! The threads of a region: how they come together, meet, and part.
//!
//! Workers that have left a region stay for some tens of microseconds and look for the next one, so that calls that
//! follow each other closely wake nobody. One number says where things stand: which region was posted last, how many
//! workers have entered it, whether it takes more, and whether the workers have gone back to sleep.

use std::cell::{Cell, UnsafeCell};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::Thread;

use super::barrier::{Barrier, SPINS};
use super::claims::{Claims, Share};

/// What every member of a region does.
pub(super) type Body<'a> = dyn Fn(Member<'_>) + Sync + 'a;

/// Low bits of the notice: workers that have entered the region, of which there are fewer than 2^16.
const ENTERED: u64 = (1 << 16) - 1;
/// Nobody may enter any more.
const SHUT: u64 = 1 << 16;
/// A worker has gone back to sleep, and the others are about to.
const ASLEEP: u64 = 1 << 17;
/// One region, in the bits above.
const REGION: u64 = 1 << 18;

/// Spins before a worker that finds no region goes to sleep: some tens of microseconds.
const ATTENTION: u32 = 2_000;

thread_local! {
    /// The last region that this worker has entered or found shut.
    static SEEN: Cell<u64> = const { Cell::new(0) };
}

/// Who takes part in a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attendance {
    /// The whole team; whoever sleeps is woken.
    All,
    /// Workers that are awake and come before the caller has done its part of the first phase.
    Awake,
}

/// The calling thread and its workers, one region after the other.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Team {
    notice: AtomicU64,
    /// What the members of the posted region do.
    body: UnsafeCell<Option<&'static Body<'static>>>,
    /// Workers that have left the posted region.
    left: AtomicUsize,
    /// Whether the caller sleeps until all workers have left.
    parked: AtomicBool,
    caller: Mutex<Option<Thread>>,
    /// Workers beside the caller.
    workers: usize,
    barrier: Barrier,
    /// Every member's share of the tasks of a phase.
    shares: Vec<Share>,
}

// SAFETY: all but `body` is shareable. `body` is written by the caller while no worker is inside a region, and read by
// workers that have entered one that was posted behind the write.
unsafe impl Sync for Team {}

impl Team {
    pub(super) fn new(workers: usize) -> Self {
        assert!((workers as u64) < ENTERED, "{workers} workers");
        Self {
            notice: AtomicU64::new(SHUT | ASLEEP),
            body: UnsafeCell::new(None),
            left: AtomicUsize::new(0),
            parked: AtomicBool::new(false),
            caller: Mutex::new(None),
            workers,
            barrier: Barrier::new(),
            shares: (0..=workers).map(|_| Share::default()).collect(),
        }
    }

    /// The calling thread and its workers.
    pub(super) fn size(&self) -> usize {
        self.workers + 1
    }

    /// Lets workers that are woken behind this look for a region. Called while none is under way.
    pub(super) fn invite(&self) {
        self.notice.fetch_and(!ASLEEP, Ordering::Relaxed);
    }

    /// Runs `body` on the calling thread, and on workers as `attendance` says; `wake` wakes those that sleep. False if
    /// only workers that are awake were wanted and none is: nothing has run then. Called by one thread at a time.
    pub(super) fn run(&self, attendance: Attendance, body: &Body<'_>, wake: impl FnOnce()) -> bool {
        // Nobody reads any of this before the region is posted: all have left the one before.
        self.shares.iter().for_each(Share::clear);
        self.left.store(0, Ordering::Relaxed);
        self.barrier.expect((attendance == Attendance::All).then_some(self.size()));
        // SAFETY: only the type says that the borrow lives on: `part` below outlives every use of it by a worker, and a
        // forked child has no workers. No worker is inside a region, so nobody reads meanwhile.
        unsafe { *self.body.get() = Some(std::mem::transmute::<&Body<'_>, &'static Body<'static>>(body)) };
        let mut before = self.notice.load(Ordering::Relaxed);
        loop {
            if before & ASLEEP != 0 && attendance == Attendance::Awake {
                return false;
            }
            let posted = (before / REGION + 1) * REGION;
            match self.notice.compare_exchange_weak(before, posted, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => before = now,
            }
        }
        let part = Part(self);
        if before & ASLEEP != 0 {
            wake();
        }
        body(Member { rank: 0, team: Some(self), shares: &self.shares });
        drop(part);
        true
    }

    /// Ends entry to the posted region; gives the number of workers inside.
    fn shut(&self) -> usize {
        (self.notice.fetch_or(SHUT, Ordering::Acquire) & ENTERED) as usize
    }

    /// A worker's part: runs the regions that are posted until none has come for a while.
    pub(super) fn attend(&self, rank: usize) {
        let mut spins = 0;
        loop {
            let notice = self.notice.load(Ordering::Acquire);
            if notice & ASLEEP != 0 {
                return;
            }
            let region = notice / REGION;
            if region != SEEN.get() {
                spins = 0;
                if notice & SHUT != 0 {
                    SEEN.set(region);
                } else if self.replace(notice, notice + 1) {
                    SEEN.set(region);
                    self.work(rank);
                }
            } else if spins < ATTENTION {
                spins += 1;
                std::hint::spin_loop();
            } else if self.replace(notice, notice | ASLEEP) {
                return;
            }
        }
    }

    /// Makes `notice` into `next` unless it has changed.
    fn replace(&self, notice: u64, next: u64) -> bool {
        self.notice.compare_exchange(notice, next, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// A worker's part in a region that it has entered.
    fn work(&self, rank: usize) {
        // SAFETY: written before the region was posted, and not again before this worker has left it.
        if let Some(body) = unsafe { *self.body.get() } {
            body(Member { rank, team: Some(self), shares: &self.shares });
        }
        self.left.fetch_add(1, Ordering::SeqCst);
        if self.parked.load(Ordering::SeqCst)
            && let Some(caller) = &*self.caller.lock().unwrap_or_else(PoisonError::into_inner)
        {
            caller.unpark();
        }
    }
}

/// One thread's place in a region.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// 0 is the calling thread, and every other number below the size of the team is one worker's.
    pub rank: usize,
    /// `None` if the thread is alone.
    team: Option<&'a Team>,
    shares: &'a [Share],
}

impl<'a> Member<'a> {
    /// The only member of a region; `share` is a fresh one.
    pub(super) fn alone(share: &'a Share) -> Self {
        Self { rank: 0, team: None, shares: std::slice::from_ref(share) }
    }

    /// Waits until every member of the region has come here.
    #[inline]
    pub fn wait(&self) {
        self.wait_behind(|| {});
    }

    /// [`wait`](Self::wait), and the last to come does `work` before anybody goes on; it must not unwind.
    #[inline]
    pub fn wait_behind(&self, work: impl FnOnce()) {
        let Some(team) = self.team else { return work() };
        if self.rank == 0 && !team.barrier.known() {
            team.barrier.expect(Some(team.shut() + 1));
        }
        team.barrier.wait(work);
    }

    /// The tasks that this member runs of the `count` tasks of a phase; all members meet between two phases, which they
    /// count alike.
    #[inline]
    pub fn tasks(&self, phase: usize, count: usize) -> Claims<'a> {
        Claims::new(self.shares, phase, count, self.rank)
    }
}

/// The caller's part in a region. When it ends, also by unwinding, nobody enters the region any more and all workers have
/// left it.
struct Part<'a>(&'a Team);

impl Drop for Part<'_> {
    fn drop(&mut self) {
        let team = self.0;
        let entered = team.shut();
        let inside = || team.left.load(Ordering::SeqCst) < entered && !team.barrier.cut();
        let mut spins = 0;
        while inside() {
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
                continue;
            }
            *team.caller.lock().unwrap_or_else(PoisonError::into_inner) = Some(std::thread::current());
            team.parked.store(true, Ordering::SeqCst);
            while inside() {
                std::thread::park();
            }
            team.parked.store(false, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::time::{Duration, Instant};

    use super::*;

    /// A team of three whose workers attend until the test ends.
    fn with_team(test: impl FnOnce(&Team)) {
        let (team, over) = (Team::new(2), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for rank in 1..=2 {
                let (team, over) = (&team, &over);
                scope.spawn(move || {
                    while !over.load(Ordering::SeqCst) {
                        team.attend(rank);
                        std::thread::yield_now();
                    }
                });
            }
            test(&team);
            over.store(true, Ordering::SeqCst);
        });
    }

    /// Ranks of those that ran a region of `phases` phases, in order.
    fn ranks(team: &Team, attendance: Attendance, phases: usize) -> Option<Vec<usize>> {
        let ranks = Mutex::new(Vec::new());
        let done = AtomicU32::new(0);
        let ran = team.run(
            attendance,
            &|member| {
                ranks.lock().expect("no panic").push(member.rank);
                for phase in 0..phases {
                    done.fetch_add(member.tasks(phase, 7).count() as u32, Ordering::SeqCst);
                    member.wait();
                    assert_eq!(done.load(Ordering::SeqCst) as usize, 7 * (phase + 1));
                    member.wait();
                }
            },
            || {},
        );
        let mut ranks = ranks.into_inner().expect("no panic");
        ranks.sort_unstable();
        ran.then_some(ranks)
    }

    #[test]
    fn all_take_part_where_all_are_wanted() {
        with_team(|team| {
            for round in 0..300 {
                assert_eq!(ranks(team, Attendance::All, 1 + round % 5), Some(vec![0, 1, 2]));
                if round % 50 == 0 {
                    std::thread::sleep(Duration::from_millis(1)); // they go to sleep
                }
            }
        });
    }

    #[test]
    fn those_awake_take_part_and_none_if_all_sleep() {
        let team = Team::new(2);
        assert_eq!(ranks(&team, Attendance::Awake, 3), None);
        team.invite();
        // On their way: nobody waits for them.
        assert_eq!(ranks(&team, Attendance::Awake, 3), Some(vec![0]));
        let shared = AtomicU32::new(0);
        with_team(|team| {
            let start = Instant::now();
            while shared.load(Ordering::Relaxed) < 100 && start.elapsed() < Duration::from_secs(20) {
                team.invite();
                if let Some(ranks) = ranks(team, Attendance::Awake, 3) {
                    assert!(ranks[0] == 0 && ranks.windows(2).all(|pair| pair[0] < pair[1]), "{ranks:?}");
                    shared.fetch_add(u32::from(ranks.len() > 1), Ordering::Relaxed);
                }
            }
        });
        assert!(shared.into_inner() > 0, "no worker ever came");
    }

    #[test]
    fn a_region_without_phases_ends() {
        with_team(|team| {
            for _ in 0..100 {
                team.invite();
                assert!(team.run(Attendance::All, &|_| {}, || {}));
                let _ = team.run(Attendance::Awake, &|_| {}, || {});
            }
        });
    }
}
