//! The plans that programs keep by batch size and configuration.

use std::collections::HashMap;
use std::sync::Arc;

use crate::plan::{Options, Plan};
use crate::sync::Brief;

/// Most plans that programs which belong together keep.
const MAX_PLANS: usize = 32;

/// What tells the plans of a cache apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// The program's number.
    pub program: u64,
    /// The batch size, where the graph has one.
    pub batch: Option<usize>,
    /// What the plan was compiled for.
    pub options: Options,
}

/// Plans with the time of their last use, and the clock.
#[derive(Debug, Default)]
struct Plans {
    clock: u64,
    kept: HashMap<Key, (u64, Arc<Plan>)>,
}

/// The plans of programs that belong together, such as those of one model: of all of them the least recently used goes
/// first.
#[derive(Debug, Default)]
pub struct PlanCache(Brief<Plans>);

impl PlanCache {
    /// The plan, if it is kept; it is the latest used now.
    pub fn get(&self, key: &Key) -> Option<Arc<Plan>> {
        self.0.with(|plans| {
            plans.clock += 1;
            let (used, plan) = plans.kept.get_mut(key)?;
            *used = plans.clock;
            Some(plan.clone())
        })
    }

    /// Keeps a plan; where the cache is full the least recently used one goes.
    pub fn put(&self, key: Key, plan: Arc<Plan>) {
        // What goes is dropped outside of the lock.
        let _gone = self.0.with(|plans| {
            let full = plans.kept.len() >= MAX_PLANS && !plans.kept.contains_key(&key);
            let oldest = plans.kept.iter().filter(|_| full).min_by_key(|(_, (used, _))| *used).map(|(key, _)| *key);
            let gone = oldest.and_then(|oldest| plans.kept.remove(&oldest));
            (gone, plans.kept.insert(key, (plans.clock, plan)))
        });
    }

    /// Number of plans kept.
    pub fn len(&self) -> usize {
        self.0.with(|plans| plans.kept.len())
    }

    /// Whether no plan is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops every plan of a program.
    pub fn forget(&self, program: u64) {
        // What goes is dropped outside of the lock.
        let _gone: Vec<_> = self.0.with(|plans| plans.kept.extract_if(|key, _| key.program == program).collect());
    }
}
