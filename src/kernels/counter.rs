//! Counting.

use super::Kernel;
use crate::tensor::Args;

/// Counters grow by one, an operand that is there twice by two. Operands: `counter` (one int64 each, read and written).
#[derive(Debug, Clone)]
pub struct Increment;

impl Kernel for Increment {
    fn name(&self) -> String {
        "increment".to_owned()
    }

    fn tasks(&self) -> usize {
        1
    }

    fn flops(&self) -> u64 {
        1
    }

    unsafe fn run(&self, _task: usize, args: &Args<'_>, _scratch: *mut u8) {
        for index in 0..args.count() {
            // SAFETY: one int64, and there is one task.
            unsafe { args.dst::<i64>(index).set(0, args.src::<i64>(index).get(0).wrapping_add(1)) };
        }
    }
}
