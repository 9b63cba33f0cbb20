//! The lock of what runs read and write: shared or exclusive, in order of arrival, known to nobody but its process.

use std::cell::Cell;
use std::collections::VecDeque;
use std::thread::Thread;
use std::time::Duration;

use super::{Brief, fork};
use crate::error::{Error, Result};

/// How often a waiting thread asks whether it should give up.
const PERIOD: Duration = Duration::from_millis(20);

const NESTED: &str = "called inside a running call of the same thread (from a signal handler or a finalizer) while the \
    tensors are in use: it cannot wait for them";

thread_local! {
    /// Runs this thread is inside of: more than one where a signal handler or a finalizer calls a model.
    static RUNS: Cell<usize> = const { Cell::new(0) };
}

/// Says that this thread is inside a run (or an assignment), while it lives.
///
/// Such a thread holds locks or waits for them, so a call that a signal handler makes meanwhile never waits for one: it
/// might wait for itself.
#[derive(Debug)]
pub struct InsideRun(());

impl InsideRun {
    /// Enters a run.
    pub fn enter() -> Self {
        RUNS.set(RUNS.get() + 1);
        Self(())
    }

    /// Whether this thread is inside a run.
    pub fn now() -> bool {
        RUNS.get() > 0
    }
}

impl Drop for InsideRun {
    fn drop(&mut self) {
        RUNS.set(RUNS.get() - 1);
    }
}

/// How a thread waits for a lock.
#[derive(Clone, Copy)]
pub struct Waiting<'a> {
    nested: bool,
    give_up: &'a dyn Fn() -> bool,
}

impl<'a> Waiting<'a> {
    /// Waits until `give_up`, asked now and then, says otherwise; inside a run not at all.
    pub fn here(give_up: &'a dyn Fn() -> bool) -> Self {
        Self { nested: InsideRun::now(), give_up }
    }
}

/// What the holder of a [`RunLock`] may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read, beside other readers.
    Read,
    /// Write, alone.
    Write,
}

#[derive(Debug)]
struct State {
    /// The process that the rest speaks of; in another one nobody holds the lock and nobody waits.
    generation: u32,
    readers: usize,
    writer: bool,
    /// Those who wait, first come first.
    queue: VecDeque<(u64, Access, Thread)>,
    tickets: u64,
    /// A fork happened while somebody wrote, and nobody has locked since.
    cut: bool,
}

impl State {
    const fn new() -> Self {
        Self { generation: 0, readers: 0, writer: false, queue: VecDeque::new(), tickets: 0, cut: false }
    }

    /// Frees a lock whose holders stayed behind in another process.
    fn renew(&mut self) {
        let generation = fork::generation();
        if self.generation != generation {
            *self = Self { generation, cut: self.cut || self.writer, tickets: self.tickets, ..Self::new() };
        }
    }

    fn fits(&self, access: Access) -> bool {
        !self.writer && (access == Access::Read || self.readers == 0)
    }

    fn take(&mut self, access: Access) -> Taken {
        match access {
            Access::Read => self.readers += 1,
            Access::Write => self.writer = true,
        }
        Taken { generation: self.generation, cut: std::mem::take(&mut self.cut) }
    }

    /// Takes the lock if it is free and nobody waits for it; a nested call passes those who wait.
    fn take_if_free(&mut self, access: Access, nested: bool) -> Option<Taken> {
        self.renew();
        (self.fits(access) && (nested || self.queue.is_empty())).then(|| self.take(access))
    }

    /// Wakes who stands first, if the lock is free for it.
    fn wake(&self) {
        if let Some((_, access, thread)) = self.queue.front()
            && self.fits(*access)
        {
            thread.unpark();
        }
    }
}

struct Taken {
    generation: u32,
    cut: bool,
}

/// A lock that is held as long as a run.
///
/// Threads get it in the order in which they came, so that a loop of steps and a loop of calls both go on. A fork does
/// not wait for it: the child finds it free.
#[derive(Debug)]
pub struct RunLock(Brief<State>);

impl Default for RunLock {
    fn default() -> Self {
        Self(Brief::new(State::new()))
    }
}

/// The lock, held until this is dropped.
#[derive(Debug)]
pub struct Held<'a> {
    lock: &'a RunLock,
    access: Access,
    generation: u32,
    /// A fork happened in the middle of a write, of which this process has some part, and this is the first lock since.
    pub cut: bool,
}

/// A place in the queue, given up when this is dropped.
struct Place<'a> {
    lock: &'a RunLock,
    ticket: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.lock.0.with(|state| {
            state.queue.retain(|waiting| waiting.0 != self.ticket);
            state.wake();
        });
    }
}

impl RunLock {
    /// The lock if it is free and nobody waits for it; a nested call passes those who wait.
    pub fn lock_if_free(&self, access: Access, waiting: Waiting<'_>) -> Option<Held<'_>> {
        let taken = self.0.with(|state| state.take_if_free(access, waiting.nested))?;
        Some(self.held(access, taken))
    }

    fn held(&self, access: Access, Taken { generation, cut }: Taken) -> Held<'_> {
        Held { lock: self, access, generation, cut }
    }

    /// Waits for the lock. A nested call fails at once where it would have to wait.
    pub fn lock(&self, access: Access, waiting: Waiting<'_>) -> Result<Held<'_>> {
        let Waiting { nested, give_up } = waiting;
        let arrived = self.0.with(|state| {
            if let Some(taken) = state.take_if_free(access, nested) {
                return Ok(taken);
            }
            if !nested {
                state.tickets += 1;
                state.queue.push_back((state.tickets, access, std::thread::current()));
            }
            Err(state.tickets)
        });
        let ticket = match arrived {
            Ok(taken) => return Ok(self.held(access, taken)),
            Err(_) if nested => return Err(Error::State(NESTED.into())),
            Err(ticket) => ticket,
        };
        let place = Place { lock: self, ticket };
        loop {
            std::thread::park_timeout(PERIOD);
            let taken = self.0.with(|state| {
                state.renew();
                let first = state.queue.front().is_none_or(|waiting| waiting.0 == place.ticket);
                (first && state.fits(access)).then(|| state.take(access))
            });
            if let Some(taken) = taken {
                return Ok(self.held(access, taken)); // the place is dropped, and the next in the queue woken
            }
            if give_up() {
                return Err(Error::Interrupted);
            }
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.lock.0.with(|state| {
            if fork::generation() != self.generation {
                return; // taken in the parent of this process
            }
            match self.access {
                Access::Read => state.readers -= 1,
                Access::Write => state.writer = false,
            }
            state.wake();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    fn never() -> bool {
        false
    }

    fn lock(lock: &RunLock, access: Access) -> Held<'_> {
        lock.lock(access, Waiting::here(&never)).expect("nobody gives up")
    }

    #[test]
    fn writers_are_alone_and_readers_are_not() {
        let (shared, value, together) = (RunLock::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        let _held = lock(&shared, Access::Write);
                        let before = value.load(Ordering::Relaxed);
                        std::hint::spin_loop();
                        value.store(before + 1, Ordering::Relaxed);
                    }
                });
                scope.spawn(|| {
                    for _ in 0..2000 {
                        let _held = lock(&shared, Access::Read);
                        assert_eq!(value.load(Ordering::Relaxed), value.load(Ordering::Relaxed));
                    }
                });
            }
        });
        assert_eq!(value.into_inner(), 6000);
        let one = lock(&shared, Access::Read);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _two = lock(&shared, Access::Read);
                together.fetch_add(1, Ordering::Relaxed);
            });
        });
        drop(one);
        assert_eq!(together.into_inner(), 1);
    }

    #[test]
    fn a_loop_of_writes_lets_a_reader_in() {
        let shared = RunLock::default();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let _held = lock(&shared, Access::Write);
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            let start = Instant::now();
            for _ in 0..20 {
                drop(lock(&shared, Access::Read));
            }
            stop.store(true, Ordering::Relaxed);
            assert!(start.elapsed() < Duration::from_secs(5));
        });
    }

    #[test]
    fn who_gives_up_leaves_the_queue() {
        let shared = RunLock::default();
        let reading = lock(&shared, Access::Read);
        std::thread::scope(|scope| {
            let gone = scope.spawn(|| shared.lock(Access::Write, Waiting::here(&|| true)).map(drop));
            assert_eq!(gone.join().expect("no panic"), Err(Error::Interrupted));
        });
        drop(lock(&shared, Access::Read)); // would stand behind the writer for ever
        drop(reading);
    }

    #[test]
    fn a_nested_call_never_waits() {
        let shared = RunLock::default();
        let reading = lock(&shared, Access::Read);
        let inside = InsideRun::enter();
        let nested = Waiting::here(&never);
        drop(inside);
        assert!(shared.lock(Access::Read, nested).is_ok());
        assert!(matches!(shared.lock(Access::Write, nested), Err(Error::State(_))));
        drop(reading);
        assert!(shared.lock(Access::Write, nested).is_ok());
    }
}
