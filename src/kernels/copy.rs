//! Copying tensors as they are.

use std::ops::Range;

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

/// `src → dst`, byte for byte, for several tensors. Operands: `src`, `dst` of each; all of them different memory.
#[derive(Debug)]
pub struct Copies {
    bytes: Vec<usize>,
    /// The tensors of each task.
    tasks: Vec<Range<usize>>,
}

impl Copies {
    /// Copies of so many bytes each; neighbours share a task.
    pub fn new(bytes: Vec<usize>) -> Self {
        let (mut tasks, mut first, mut filled) = (Vec::new(), 0, 0);
        for (index, &size) in bytes.iter().enumerate() {
            if filled > 0 && filled + size > CHUNK {
                tasks.push(first..index);
                (first, filled) = (index, 0);
            }
            filled += size;
        }
        if first < bytes.len() {
            tasks.push(first..bytes.len());
        }
        Self { bytes, tasks }
    }
}

impl Kernel for Copies {
    fn name(&self) -> String {
        "copy".to_owned()
    }

    fn tasks(&self) -> usize {
        self.tasks.len()
    }

    fn flops(&self) -> u64 {
        0
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        for index in self.tasks[task].clone() {
            let (bytes, src, dst) = (self.bytes[index], args.src::<u8>(2 * index), args.dst::<u8>(2 * index + 1));
            // SAFETY: both operands hold that many bytes and are different memory; the tensor belongs to this task.
            unsafe { std::ptr::copy_nonoverlapping(src.at(0, bytes), dst.at(0, bytes), bytes) };
        }
    }
}
