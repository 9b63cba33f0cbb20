//! What a process knows about forks: how many lie behind it, and the gate that keeps them out of brief sections.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

/// Whether the handlers below are registered.
static WATCHING: AtomicBool = AtomicBool::new(false);
/// Grows with each fork between the first process that used the library and this one.
static GENERATION: AtomicU32 = AtomicU32::new(0);
/// Forks that are being prepared by threads of this process.
static FORKING: AtomicUsize = AtomicUsize::new(0);
/// Threads inside a section.
static INSIDE: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Sections this thread is inside of.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// Makes forks known to the library from now on; called when the extension is imported, and before any lock is used.
///
/// No lock guards it, which a fork could leave held: two threads may both register, and handlers that run twice do no
/// harm.
#[inline]
pub fn watch() {
    if !WATCHING.load(Ordering::Acquire) {
        #[cfg(unix)]
        {
            // SAFETY: registers three functions that live as long as the program; they only touch atomics and yield.
            unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
        }
        WATCHING.store(true, Ordering::Release);
    }
}

/// Before a fork: no thread enters a section any more, and all others have left theirs.
#[cfg(unix)]
extern "C" fn prepare() {
    FORKING.fetch_add(1, Ordering::SeqCst);
    let own = usize::from(DEPTH.get() > 0);
    while INSIDE.load(Ordering::SeqCst) > own {
        std::thread::yield_now();
    }
}

#[cfg(unix)]
extern "C" fn parent() {
    FORKING.fetch_sub(1, Ordering::SeqCst);
}

#[cfg(unix)]
extern "C" fn child() {
    GENERATION.fetch_add(1, Ordering::SeqCst);
    FORKING.store(0, Ordering::SeqCst);
    INSIDE.store(usize::from(DEPTH.get() > 0), Ordering::SeqCst);
}

/// A number that differs between a process and the children it forks.
#[inline]
pub fn generation() -> u32 {
    watch();
    GENERATION.load(Ordering::Acquire)
}

/// Keeps forks out while it lives: microseconds, and nothing outside the core is called meanwhile.
#[derive(Debug)]
pub struct Section(());

/// Enters a section, after a fork that is under way; sections nest.
#[inline]
pub fn section() -> Section {
    watch();
    let depth = DEPTH.get();
    if depth == 0 {
        loop {
            INSIDE.fetch_add(1, Ordering::SeqCst);
            if FORKING.load(Ordering::SeqCst) == 0 {
                break;
            }
            INSIDE.fetch_sub(1, Ordering::SeqCst);
            while FORKING.load(Ordering::SeqCst) > 0 {
                std::thread::yield_now();
            }
        }
    }
    DEPTH.set(depth + 1);
    Section(())
}

impl Drop for Section {
    #[inline]
    fn drop(&mut self) {
        let depth = DEPTH.get() - 1;
        DEPTH.set(depth);
        if depth == 0 {
            INSIDE.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// The cell's value, made inside a section if it is missing: a child never finds it half made.
pub fn once<T>(cell: &OnceLock<T>, make: impl FnOnce() -> T) -> &T {
    cell.get().unwrap_or_else(|| {
        let _section = section();
        cell.get_or_init(make)
    })
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn a_fork_waits_for_sections_and_sections_for_forks() {
        let inside = section();
        let nested = section();
        let waited = std::thread::scope(|scope| {
            let forking = scope.spawn(|| {
                let start = Instant::now();
                prepare();
                let entering = scope.spawn(|| drop(section()));
                std::thread::sleep(Duration::from_millis(20));
                assert!(!entering.is_finished(), "a section began during a fork");
                parent();
                start.elapsed()
            });
            std::thread::sleep(Duration::from_millis(50));
            drop(nested);
            assert!(!forking.is_finished());
            std::thread::sleep(Duration::from_millis(50));
            drop(inside);
            forking.join().expect("no panic")
        });
        assert!(waited >= Duration::from_millis(100));
    }
}
