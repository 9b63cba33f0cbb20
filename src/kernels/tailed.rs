//! Two kernels as one, the second of them small.

use std::ops::Range;

use super::Kernel;
use crate::tensor::Args;

/// A kernel, and behind it, serially, one whose operands follow those of the first. The second has one phase and needs no
/// scratch.
#[derive(Debug)]
pub struct Tailed<A, B> {
    first: A,
    last: B,
    /// Operands of the first.
    operands: usize,
}

impl<A: Kernel, B: Kernel> Tailed<A, B> {
    /// `first` with so many operands, and `last` behind it.
    pub fn new(first: A, operands: usize, last: B) -> Self {
        assert!(last.scratch() == 0 && last.phases() == 1);
        Self { first, last, operands }
    }
}

impl<A: Kernel, B: Kernel> Kernel for Tailed<A, B> {
    fn name(&self) -> String {
        self.first.name()
    }

    fn tasks(&self) -> usize {
        self.first.tasks()
    }

    fn phases(&self) -> usize {
        self.first.phases()
    }

    fn phase(&self, number: usize) -> Range<usize> {
        self.first.phase(number)
    }

    unsafe fn tail(&self, args: &Args<'_>) {
        let own = args.from(self.operands);
        for task in 0..self.last.tasks() {
            // SAFETY: the caller's word; what the first has written is there, and no scratch is needed.
            unsafe { self.last.run(task, &own, std::ptr::null_mut()) };
        }
    }

    fn scratch(&self) -> usize {
        self.first.scratch()
    }

    fn flops(&self) -> u64 {
        self.first.flops() + self.last.flops()
    }

    unsafe fn prepare(&self, args: &Args<'_>, scratch: *mut u8) {
        // SAFETY: the caller's word.
        unsafe { self.first.prepare(args, scratch) };
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        // SAFETY: the caller's word; the operands of the first come first.
        unsafe { self.first.run(task, args, scratch) };
    }
}
