//! Copying a tensor as it is.

use super::Kernel;
use crate::tensor::Args;

/// Bytes per task.
const CHUNK: usize = 1 << 18;

/// `src → dst`, byte for byte.
#[derive(Debug)]
pub struct Copy {
    bytes: usize,
}

impl Copy {
    /// A copy of so many bytes.
    pub fn new(bytes: usize) -> Self {
        Self { bytes }
    }
}

impl Kernel for Copy {
    fn name(&self) -> String {
        "copy".to_owned()
    }

    fn tasks(&self) -> usize {
        self.bytes.div_ceil(CHUNK)
    }

    fn flops(&self) -> u64 {
        0
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let start = task * CHUNK;
        let count = CHUNK.min(self.bytes - start);
        // SAFETY: both operands hold `bytes` bytes and are different memory; this range belongs to this task.
        unsafe {
            std::ptr::copy_nonoverlapping(
                args.src::<u8>(0).at(start, count),
                args.dst::<u8>(1).at(start, count),
                count,
            );
        }
    }
}
