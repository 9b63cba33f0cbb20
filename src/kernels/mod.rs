//! Kernels: one op each, on raw views, split into tasks whose number and borders depend on the shape and the ISA only.
//!
//! A kernel knows its geometry from construction and its operands from the call. It allocates nothing, reads no
//! environment, and does not know how many threads there are: the executor runs tasks `0..tasks()` in any order, on any
//! threads, each exactly once, with scratch memory of its own. Different tasks write different elements, and what a
//! task computes does not depend on who runs it; so results are the same bits for any number of threads.

use std::fmt::Debug;
use std::ops::Range;

use crate::tensor::Args;

mod ahead;
pub mod axis_map;
pub mod batch;
pub mod conv;
pub mod copy;
pub mod counter;
pub mod cross_entropy;
pub mod draw;
pub mod dropout;
pub mod elementwise;
pub mod image;
pub mod linear;
pub mod norm;
mod panels;
pub mod pool;
pub mod reduce;
pub mod softmax;
mod streaming;
pub mod strided;
pub mod strips;
pub mod tailed;
pub mod update;

/// Tasks that big work is cut into: enough for tens of threads, few enough to cost nothing.
const TASKS: usize = 64;
/// Multiply-adds of a task where there is plenty of work.
const TASK_WORK: usize = 1 << 17;
/// Multiply-adds that are worth being shared by two threads that are awake.
const SHARED_WORK: usize = 1 << 14;

/// Tasks that so many multiply-adds are worth; few ones are so many that two or four threads have the same.
fn tasks_for(work: usize) -> usize {
    match work / TASK_WORK {
        0..2 => 1 + usize::from(work >= SHARED_WORK),
        few @ 2..8 => few.next_power_of_two(),
        many => many.min(TASKS),
    }
}

/// Part number `index` of `parts` nearly equal parts of `0..total`.
fn share(index: usize, parts: usize, total: usize) -> Range<usize> {
    index * total / parts..(index + 1) * total / parts
}

/// Greatest common divisor.
fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// One operation with its geometry, ready to run.
pub trait Kernel: Debug + Send + Sync {
    /// Algorithm, tile and ISA: `conv_direct_12x32_avx512`.
    fn name(&self) -> String;

    /// Pieces of work; zero for an empty result.
    fn tasks(&self) -> usize;

    /// Groups of tasks, each of which begins when the one before has ended; the tasks of one are independent.
    fn phases(&self) -> usize {
        1
    }

    /// The tasks of a phase.
    fn phase(&self, number: usize) -> Range<usize> {
        debug_assert_eq!(number, 0);
        0..self.tasks()
    }

    /// A little serial work behind the last phase, done by whichever thread comes to its end last, before anybody goes
    /// on: cheaper than a step of its own, which the others would wait for at a barrier more.
    ///
    /// # Safety
    /// As for [`run`](Self::run); all tasks have ended.
    unsafe fn tail(&self, _args: &Args<'_>) {}

    /// Bytes of scratch one task needs, on a 64-byte boundary, contents undefined at entry but for what
    /// [`prepare`](Self::prepare) has left.
    fn scratch(&self) -> usize {
        0
    }

    /// What a thread does before the first task of a phase that it runs: it may leave in its scratch what its tasks there,
    /// whichever they are, read but do not change. So threads share no memory that one of them has just written.
    ///
    /// # Safety
    /// As for [`run`](Self::run).
    unsafe fn prepare(&self, _args: &Args<'_>, _scratch: *mut u8) {}

    /// Floating-point operations of the whole call, for reports and for the choice to stay on one thread.
    fn flops(&self) -> u64;

    /// Runs one task.
    ///
    /// # Safety
    /// `task < tasks()`; the operands are those the kernel's documentation lists, each at least as long as the
    /// geometry says; `scratch` points to at least `scratch()` bytes on a 64-byte boundary that no other task uses,
    /// [prepared](Self::prepare); the CPU has the kernel's ISA.
    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8);
}
