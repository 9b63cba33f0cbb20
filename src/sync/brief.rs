//! A lock for brief sections.

use std::sync::{Mutex, PoisonError};

use super::fork;

/// A value behind a lock that is only held for a few microseconds, and never while a fork happens.
///
/// What runs under it stays inside the core (never Python), waits for nothing, and hands large values out to be dropped
/// behind it.
#[derive(Debug, Default)]
pub struct Brief<T>(Mutex<T>);

impl<T> Brief<T> {
    /// The value, unlocked.
    pub const fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Runs `body` on the value.
    #[inline]
    pub fn with<R>(&self, body: impl FnOnce(&mut T) -> R) -> R {
        let _section = fork::section();
        let mut value = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        body(&mut value)
    }
}
