//! Several output channels per input channel, as one each.

use crate::kernels::Kernel;
use crate::kernels::elementwise::Chunks;
use crate::tensor::Args;

/// Every element several times in a row: NHWC, channel `k` of the result is channel `k / times`. Operands: `src` (`len`
/// floats), `dst` (`len·times` floats).
#[derive(Debug, Clone)]
pub struct Repeat {
    len: usize,
    times: usize,
    chunks: Chunks,
}

impl Repeat {
    /// `len` elements, `times` times each.
    pub fn new(len: usize, times: usize) -> Self {
        Self { len, times, chunks: Chunks::new(len, times) }
    }
}

/// # Safety
/// `len` floats at `src`, `len·times` at `dst`.
#[inline(always)]
unsafe fn repeat(src: *const f32, len: usize, times: usize, dst: *mut f32) {
    for i in 0..len {
        // SAFETY: inside both.
        unsafe {
            let value = src.add(i).read_unaligned();
            for j in 0..times {
                dst.add(i * times + j).write_unaligned(value);
            }
        }
    }
}

impl Kernel for Repeat {
    fn name(&self) -> String {
        format!("repeat_{}", self.times)
    }

    fn tasks(&self) -> usize {
        self.chunks.tasks()
    }

    fn flops(&self) -> u64 {
        (self.len * self.times) as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let (range, times) = (self.chunks.range(task), self.times);
        let src = args.src::<f32>(0).at(range.start, range.len());
        let dst = args.dst::<f32>(1).at(range.start * times, range.len() * times);
        // SAFETY: the operands hold the chunk, which belongs to this task. Two is spelled out: it is the commonest.
        unsafe {
            match times {
                2 => repeat(src, range.len(), 2, dst),
                _ => repeat(src, range.len(), times, dst),
            }
        }
    }
}

/// Gradient of [`Repeat`]: sums of neighbours, in order. Operands: `diff_dst` (`len·times` floats), `diff_src` (`len`
/// floats).
#[derive(Debug, Clone)]
pub struct SumRepeated {
    len: usize,
    times: usize,
    chunks: Chunks,
}

impl SumRepeated {
    /// `len` sums of `times` neighbours each.
    pub fn new(len: usize, times: usize) -> Self {
        Self { len, times, chunks: Chunks::new(len, times) }
    }
}

/// # Safety
/// `len·times` floats at `src`, `len` at `dst`; `times` is at least 1.
#[inline(always)]
unsafe fn sum(src: *const f32, len: usize, times: usize, dst: *mut f32) {
    for i in 0..len {
        // SAFETY: inside both.
        unsafe {
            let first = src.add(i * times);
            let mut sum = first.read_unaligned();
            for j in 1..times {
                sum += first.add(j).read_unaligned();
            }
            dst.add(i).write_unaligned(sum);
        }
    }
}

impl Kernel for SumRepeated {
    fn name(&self) -> String {
        format!("sum_repeated_{}", self.times)
    }

    fn tasks(&self) -> usize {
        self.chunks.tasks()
    }

    fn flops(&self) -> u64 {
        (self.len * self.times) as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let (range, times) = (self.chunks.range(task), self.times);
        let src = args.src::<f32>(0).at(range.start * times, range.len() * times);
        let dst = args.dst::<f32>(1).at(range.start, range.len());
        // SAFETY: as for `Repeat`.
        unsafe {
            match times {
                2 => sum(src, range.len(), 2, dst),
                _ => sum(src, range.len(), times, dst),
            }
        }
    }
}
