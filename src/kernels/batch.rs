//! One kernel for each index of leading axes.

use super::Kernel;
use crate::tensor::{Args, MAX_PARTED, Slot};

/// Runs a kernel that [prepares](Kernel::prepare) nothing on the first, second, … of `count` equal parts of every operand:
/// products of stacked matrices.
#[derive(Debug)]
pub struct Batch<K> {
    inner: K,
    count: usize,
}

impl<K: Kernel> Batch<K> {
    /// `inner`, `count` times; it has at most [`MAX_PARTED`] operands.
    pub fn new(inner: K, count: usize) -> Self {
        Self { inner, count }
    }
}

impl<K: Kernel> Kernel for Batch<K> {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn tasks(&self) -> usize {
        self.count * self.inner.tasks()
    }

    fn scratch(&self) -> usize {
        self.inner.scratch()
    }

    fn flops(&self) -> u64 {
        (self.count as u64).saturating_mul(self.inner.flops())
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        let (index, task) = (task / self.inner.tasks(), task % self.inner.tasks());
        let mut slots = [Slot::new(std::ptr::null_mut(), 0); MAX_PARTED];
        let part = args.part(index, self.count, &mut slots);
        // SAFETY: the parts are the operands of one call of the inner kernel, and each of its tasks runs once.
        unsafe { self.inner.run(task, &part, scratch) };
    }
}
