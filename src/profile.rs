//! Where the time of runs goes: while a thread records, every run that it starts leaves the duration of each step.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::plan::Plan;
use crate::plan::explain::StepReport;

thread_local! {
    static RECORD: RefCell<Option<Vec<Run>>> = const { RefCell::new(None) };
}

/// A run that was recorded.
#[derive(Debug)]
pub struct Run {
    /// The program's steps.
    pub steps: Vec<StepReport>,
    /// Nanoseconds from the start of the run to the end of each step; those of a run that was given up stay zero.
    pub ends: Vec<u64>,
    /// Members of the team.
    pub threads: usize,
}

/// Begins to record the runs of this thread; what was recorded before is dropped.
pub fn start() {
    RECORD.with_borrow_mut(|record| *record = Some(Vec::new()));
}

/// Ends recording; gives the runs since [`start`].
pub fn stop() -> Vec<Run> {
    RECORD.with_borrow_mut(Option::take).unwrap_or_default()
}

/// The clock of one run, if its thread records.
pub struct Clock {
    begun: Instant,
    ends: Vec<AtomicU64>,
}

impl Clock {
    /// A clock for `plan`, or none.
    pub fn start(plan: &Plan) -> Option<Self> {
        let recording = RECORD.with_borrow(Option::is_some);
        recording.then(|| Self { ends: plan.steps.iter().map(|_| AtomicU64::new(0)).collect(), begun: Instant::now() })
    }

    /// Notes that step `index` has ended.
    pub fn mark(&self, index: usize) {
        self.ends[index].store(self.begun.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }

    /// Keeps what was measured.
    pub fn keep(self, plan: &Plan, threads: usize) {
        let ends = self.ends.into_iter().map(AtomicU64::into_inner).collect();
        let run = Run { steps: plan.report(), ends, threads };
        RECORD.with_borrow_mut(|record| record.get_or_insert_default().push(run));
    }
}
