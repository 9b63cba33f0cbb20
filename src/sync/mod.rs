//! Locks that a fork cannot leave held by a thread that the child does not have.
//!
//! * [`Brief`]: for sections of a few microseconds that call nothing outside the core. A fork waits for them, so the
//!   child finds each of these locks free and what it guards whole.
//! * [`RunLock`]: shared or exclusive, held as long as a run. A fork does not wait for it; in the child it counts as
//!   free, whoever held it in the parent.
//!
//! What a child sees: caches, packed weights and working memory as they were between two sections; memory that a run
//! of another thread had taken out is lost to the child. Stored tensors are a byte copy: where another thread was
//! writing them, some hold new values and some old ones, each of them usable.

mod brief;
pub mod fork;
mod run_lock;

pub use brief::Brief;
pub use run_lock::{Access, Held, InsideRun, RunLock, Waiting};
