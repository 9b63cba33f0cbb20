//! Counting.

use super::Kernel;
use crate::tensor::Args;

/// A counter grows by one. Operand: `counter` (one int64, read and written).
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
        // SAFETY: one int64, and there is one task.
        unsafe { args.dst::<i64>(0).set(0, args.src::<i64>(0).get(0).wrapping_add(1)) };
    }
}
