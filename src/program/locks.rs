//! The locks of the stored tensors that a run touches.

use std::cell::RefCell;
use std::sync::Arc;

use super::Program;
use crate::error::Result;
use crate::plan::Plan;
use crate::sync::{Access, Held, Waiting, fork};

impl Program {
    /// Locks all stored tensors, in one order for all programs: by address, each once.
    pub(super) fn lock(&self, plan: &Plan, waiting: Waiting<'_>) -> Result<Locks<'_>> {
        let mut locks = Locks(LOCKS.take());
        let same = |a: &usize, b: &usize| Arc::ptr_eq(&self.parameters[*a], &self.parameters[*b]);
        let mut wanted = self.lock_order.chunk_by(same).map(|slots| {
            let writes = slots.iter().any(|slot| plan.written.binary_search(slot).is_ok());
            (&self.parameters[slots[0]], if writes { Access::Write } else { Access::Read })
        });
        // One section for all that are free; nobody waits inside it.
        let section = fork::section();
        let busy = wanted.find(|(stored, access)| {
            let held = stored.lock_if_free(*access, waiting);
            let busy = held.is_none();
            locks.0.extend(held);
            busy
        });
        drop(section);
        for (stored, access) in busy.into_iter().chain(wanted) {
            locks.0.push(stored.lock(access, waiting)?);
        }
        Ok(locks)
    }
}

thread_local! {
    /// Room for the locks of this thread's next run.
    static LOCKS: RefCell<Vec<Held<'static>>> = const { RefCell::new(Vec::new()) };
}

/// Held for the length of a run.
pub(super) struct Locks<'a>(Vec<Held<'a>>);

impl Drop for Locks<'_> {
    fn drop(&mut self) {
        let section = fork::section();
        self.0.clear();
        drop(section);
        // The standard library collects into the same memory; it is empty, so that no guard outlives its lock.
        LOCKS.set(std::mem::take(&mut self.0).into_iter().map(|_| unreachable!("no guard is left")).collect());
    }
}
