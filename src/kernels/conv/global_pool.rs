//! Convolution whose result only a pooling over whole images reads: tasks that make all pixels of some channels pool them.

use std::ops::Range;

use crate::kernels::Kernel;
use crate::kernels::reduce::Reduce;
use crate::tensor::Args;

/// A convolution whose work may be cut by result channels.
pub trait ByChannels: Kernel {
    /// Whether every task makes all pixels of its channels, or nothing of the result: a rule in shape and level only.
    fn owns_channels(&self) -> bool;

    /// The result channels that a task makes, if it [owns](Self::owns_channels) them; none in phases before the last.
    fn channels_of(&self, task: usize) -> Range<usize>;

    /// The number of the operand that is the result.
    fn result(&self) -> usize;

    /// The kernel's name, and what is `behind` its epilogue.
    fn name_with(&self, behind: &str) -> String;
}

/// A convolution and the reduction of its result over all pixels of an image. Operands: those of the convolution, the
/// reduced result.
#[derive(Debug)]
pub struct GlobalPool<K> {
    inner: K,
    pool: Reduce,
}

impl<K: ByChannels> GlobalPool<K> {
    /// Whether `inner` can do the reduction of its result, to the bits of a separate step.
    pub fn serves(inner: &K, pool: &Reduce) -> bool {
        inner.owns_channels() && pool.keeps_columns_apart()
    }

    /// `inner` and a reduction that it [serves](Self::serves).
    pub fn new(inner: K, pool: Reduce) -> Self {
        debug_assert!(Self::serves(&inner, &pool));
        Self { inner, pool }
    }
}

impl<K: ByChannels> Kernel for GlobalPool<K> {
    fn name(&self) -> String {
        self.inner.name_with(&format!("_global_{}", self.pool.kind().name()))
    }

    fn tasks(&self) -> usize {
        self.inner.tasks()
    }

    fn phases(&self) -> usize {
        self.inner.phases()
    }

    fn phase(&self, number: usize) -> Range<usize> {
        self.inner.phase(number)
    }

    fn scratch(&self) -> usize {
        self.inner.scratch()
    }

    fn flops(&self) -> u64 {
        self.inner.flops() + self.pool.flops()
    }

    unsafe fn prepare(&self, args: &Args<'_>, scratch: *mut u8) {
        // SAFETY: the caller's word.
        unsafe { self.inner.prepare(args, scratch) };
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        // SAFETY: the caller's word; the operands of the convolution come first.
        unsafe { self.inner.run(task, args, scratch) };
        let channels = self.inner.channels_of(task);
        if !channels.is_empty() {
            let (made, pooled) = (args.src(self.inner.result()), args.dst(args.count() - 1));
            // SAFETY: this task has made the channels, and nobody else touches them or what they are reduced to.
            unsafe { self.pool.run_columns(channels, made, pooled) };
        }
    }
}
