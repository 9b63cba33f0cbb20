//! Faults that tests inject. Without one, a run reads a single flag.

use std::sync::atomic::{AtomicU64, Ordering};

const NONE: u64 = u64::MAX;

/// Step and rank of the member that is to panic.
static PANIC: AtomicU64 = AtomicU64::new(NONE);

/// Makes the next run panic in its step number `step`, on the member `rank` of its team, if it has both.
pub fn inject_panic(step: u32, rank: u32) {
    PANIC.store(u64::from(step) << 32 | u64::from(rank), Ordering::SeqCst);
}

/// The step and rank that the run which asks is to panic at: given once.
#[inline]
pub fn panic_at() -> Option<(usize, usize)> {
    if PANIC.load(Ordering::Relaxed) == NONE {
        return None;
    }
    let fault = PANIC.swap(NONE, Ordering::SeqCst);
    (fault != NONE).then_some(((fault >> 32) as usize, (fault & 0xffff_ffff) as usize))
}
