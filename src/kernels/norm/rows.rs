//! Normalization of rows: layer normalization, and group normalization without pixels.
//!
//! A row is a bin whose numbers lie side by side; row `r` belongs to group `r mod groups`, whose weights and biases are
//! a stretch of `len`. Every task takes whole rows and reads them from memory once.

use super::BLOCK;
use super::row::{normalize, row_backward_body, statistics};
use crate::kernels::Kernel;
use crate::kernels::elementwise::Chunks;
use crate::simd::{Isa, Simd, dispatch::multiversion};
use crate::tensor::Args;

/// Normalization of rows. Operands: `src` (`rows` × `len` floats), `weight`, `bias` (`groups` × `len` floats each),
/// `dst` (may be the memory of `src`), `mean`, `rstd` (a float per row each).
#[derive(Debug, Clone)]
pub struct RowNorm {
    isa: Isa,
    groups: usize,
    len: usize,
    eps: f32,
    rows: usize,
    chunks: Chunks,
}

impl RowNorm {
    /// `rows` rows of `len ≥ 1` numbers in `groups` groups.
    pub fn new(isa: Isa, rows: usize, len: usize, groups: usize, eps: f32) -> Self {
        Self { isa, groups, len, eps, rows, chunks: Chunks::new(rows, 2 * len) }
    }
}

/// # Safety
/// `n` floats at the first four addresses, one at the others; `dst` may be `src`.
#[inline(always)]
unsafe fn row_body<S: Simd>(
    src: *const f32,
    weight: *const f32,
    bias: *const f32,
    dst: *mut f32,
    n: usize,
    eps: f32,
) -> (f32, f32) {
    // SAFETY: the caller's word.
    unsafe {
        let (mean, rstd) = statistics::<S>(src, n, eps);
        normalize::<S>(src, weight, bias, mean, rstd, dst, n);
        (mean, rstd)
    }
}

multiversion! {
    fn row(src: *const f32, weight: *const f32, bias: *const f32, dst: *mut f32, n: usize, eps: f32) -> (f32, f32)
        = row_body;
}

impl Kernel for RowNorm {
    fn name(&self) -> String {
        format!("row_norm_{}", self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.chunks.tasks()
    }

    fn flops(&self) -> u64 {
        10 * (self.rows * self.len) as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let n = self.len;
        for index in self.chunks.range(task) {
            let group = index % self.groups * n;
            let src = args.src::<f32>(0).at(index * n, n);
            let (weight, bias) = (args.src::<f32>(1).at(group, n), args.src::<f32>(2).at(group, n));
            let dst = args.dst::<f32>(3).at(index * n, n);
            // SAFETY: the operands hold the row, which belongs to this task.
            unsafe {
                let (mean, rstd) = row(self.isa, src, weight, bias, dst, n, self.eps);
                args.dst::<f32>(4).set(index, mean);
                args.dst::<f32>(5).set(index, rstd);
            }
        }
    }
}

/// Gradients of [`RowNorm`]. Operands: `diff_dst`, `src`, `weight`, `mean`, `rstd`, then, if asked for, `diff_src` (may
/// be the memory of `diff_dst` or `src`), and, if asked for, the parts of `diff_weight` and of `diff_bias`
/// ([`parts`](Self::parts) × `groups` × `len` floats each), to be added in order.
#[derive(Debug, Clone)]
pub struct RowNormBackward {
    isa: Isa,
    rows: usize,
    len: usize,
    groups: usize,
    parts: usize,
    source: bool,
    weights: bool,
}

impl RowNormBackward {
    /// Gradients of `rows` rows of `len ≥ 1` numbers in `groups` groups, and which of them.
    pub fn new(isa: Isa, rows: usize, len: usize, groups: usize, source: bool, weights: bool) -> Self {
        let parts = (rows * len / (16 << 10)).min(rows / (8 * groups)).clamp(1, 16);
        Self { isa, rows, len, groups, parts, source, weights }
    }

    /// Number of partial gradients, 1 to 16: a function of the shape alone.
    pub fn parts(&self) -> usize {
        self.parts
    }
}

multiversion! {
    pub(super) fn row_backward(
        diff: *const f32, src: *const f32, weight: *const f32, mean: f32, rstd: f32, dst: Option<*mut f32>,
        diff_weight: Option<[*mut f32; 2]>, fresh: bool, n: usize,
    ) = row_backward_body;
}

impl Kernel for RowNormBackward {
    fn name(&self) -> String {
        format!("row_norm_backward_{}", self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.parts
    }

    fn scratch(&self) -> usize {
        if self.weights { 2 * self.groups * self.len * (size_of::<f64>() + size_of::<f32>()) } else { 0 }
    }

    fn flops(&self) -> u64 {
        15 * (self.rows * self.len) as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        let (n, channels) = (self.len, self.groups * self.len);
        let (first, last) = (self.rows * task / self.parts, self.rows * (task + 1) / self.parts);
        let mut sums = self.weights.then(|| {
            // SAFETY: the scratch, which is this task's own, holds two doubles and two floats per channel.
            unsafe { Sums::new(scratch.cast(), 2 * channels) }
        });
        for (done, index) in (first..last).enumerate() {
            let group = index % self.groups * n;
            let diff = args.src::<f32>(0).at(index * n, n);
            let src = args.src::<f32>(1).at(index * n, n);
            let weight = args.src::<f32>(2).at(group, n);
            let dst = self.source.then(|| args.dst::<f32>(5).at(index * n, n));
            let pair = sums.as_mut().map(|sums| {
                if done.is_multiple_of(BLOCK * self.groups) {
                    sums.flush();
                }
                let (weight, bias) = sums.block.split_at_mut(channels);
                [weight[group..].as_mut_ptr(), bias[group..].as_mut_ptr()]
            });
            // SAFETY: the operands hold the row, which belongs to this task.
            unsafe {
                let (mean, rstd) = (args.src::<f32>(3).get(index), args.src::<f32>(4).get(index));
                row_backward(self.isa, diff, src, weight, mean, rstd, dst, pair, false, n);
            }
        }
        let Some(mut sums) = sums else { return };
        sums.flush();
        let results = 5 + usize::from(self.source);
        for (i, &total) in sums.total.iter().enumerate() {
            let result = args.dst::<f32>(results + i / channels);
            // SAFETY: this part of both results belongs to this task.
            unsafe { result.set(task * channels + i % channels, total as f32) };
        }
    }
}

/// Sums in double precision of blocks in single.
struct Sums<'a> {
    total: &'a mut [f64],
    block: &'a mut [f32],
}

impl Sums<'_> {
    /// `count` sums of nothing.
    ///
    /// # Safety
    /// `memory` has room for `count` doubles and `count` floats, which nobody else uses.
    unsafe fn new(memory: *mut f64, count: usize) -> Self {
        // SAFETY: the caller's word; zeros are valid numbers.
        unsafe {
            memory.cast::<u8>().write_bytes(0, count * (size_of::<f64>() + size_of::<f32>()));
            let total = std::slice::from_raw_parts_mut(memory, count);
            Self { total, block: std::slice::from_raw_parts_mut(memory.add(count).cast(), count) }
        }
    }

    /// Moves the block's sums to the total.
    fn flush(&mut self) {
        for (total, block) in self.total.iter_mut().zip(&mut *self.block) {
            *total += f64::from(*block);
            *block = 0.0;
        }
    }
}
