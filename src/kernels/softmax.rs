//! Softmax over the last axis, its gradient, and cross-entropy with integer labels.

use std::ops::Range;

use super::Kernel;
use super::elementwise::{Chunks, load_first, store_first};
use crate::simd::{Isa, Simd, dispatch::multiversion, math};
use crate::tensor::{Args, Dst, Src};

/// Sixteen zeros and sixteen times −∞: sixteen of them from `16 − n` on, added to a vector, leave its first `n` lanes
/// and turn the others, if they are zero, into what no maximum and no sum of exponentials notices.
const MASK: [f32; 32] = {
    let mut mask = [0.0; 32];
    let mut i = 16;
    while i < 32 {
        mask[i] = f32::NEG_INFINITY;
        i += 1;
    }
    mask
};

/// `n ≤ LANES` values, then −∞.
///
/// # Safety
/// `n` readable floats at `p`; the CPU has the level's features.
#[inline(always)]
unsafe fn load_row<S: Simd>(p: *const f32, n: usize) -> S::V {
    // SAFETY: `16 − n ..` has at least sixteen of the 32 entries.
    unsafe {
        if n == S::LANES { S::load(p) } else { S::add(S::load_partial(p, n), S::load(MASK.as_ptr().add(16 - n))) }
    }
}

/// Largest of `n ≥ 1` values, NaN aside; −∞ if there is none.
///
/// # Safety
/// `n` readable floats at `p`; the CPU has the level's features.
#[inline(always)]
unsafe fn row_max<S: Simd>(p: *const f32, n: usize) -> f32 {
    // SAFETY: every access lies within `n` elements.
    unsafe {
        let mut best = S::splat(f32::NEG_INFINITY);
        for i in (0..n).step_by(S::LANES) {
            // `best`, the second operand, stays where the value is NaN.
            best = S::max(load_row::<S>(p.add(i), S::LANES.min(n - i)), best);
        }
        S::max_lane(best)
    }
}

/// Writes `exp(x − max)` of a row and returns its sum; `dst` may be `src`.
///
/// # Safety
/// `n` floats at both addresses; the CPU has the level's features.
#[inline(always)]
unsafe fn row_exp<S: Simd>(src: *const f32, max: f32, dst: *mut f32, n: usize) -> f32 {
    // SAFETY: every access lies within `n` elements.
    unsafe {
        let (max, mut sum) = (S::splat(max), S::splat(0.0));
        for i in (0..n).step_by(S::LANES) {
            let lanes = S::LANES.min(n - i);
            let e = math::exp::<S>(S::sub(load_row::<S>(src.add(i), lanes), max));
            sum = S::add(sum, e);
            store_first::<S>(dst.add(i), e, lanes);
        }
        S::sum(sum)
    }
}

/// Softmax, shifted by each row's maximum. Operands: `src`, `dst` (`rows` × `classes` floats; may be the same memory).
///
/// A row with NaN, with +∞, or with nothing but −∞ gives NaN.
#[derive(Debug, Clone)]
pub struct Softmax {
    isa: Isa,
    rows: usize,
    classes: usize,
    chunks: Chunks,
}

/// Tasks of row-wise work: an exponential counts as a few elements.
fn row_chunks(rows: usize, classes: usize) -> Chunks {
    Chunks::new(if classes == 0 { 0 } else { rows }, 4 * classes)
}

impl Softmax {
    /// Softmax of `rows` rows over `classes` values.
    pub fn new(isa: Isa, rows: usize, classes: usize) -> Self {
        Self { isa, rows, classes, chunks: row_chunks(rows, classes) }
    }
}

#[inline(always)]
unsafe fn softmax_body<S: Simd>(src: *const f32, dst: *mut f32, rows: usize, n: usize) {
    // SAFETY: `rows · n` elements at both addresses.
    unsafe {
        for row in 0..rows {
            let (src, dst) = (src.add(row * n), dst.add(row * n));
            let sum = row_exp::<S>(src, row_max::<S>(src, n), dst, n);
            let sum = S::splat(sum);
            for i in (0..n).step_by(S::LANES) {
                let lanes = S::LANES.min(n - i);
                store_first::<S>(dst.add(i), S::div(load_first::<S>(dst.add(i), lanes), sum), lanes);
            }
        }
    }
}

multiversion! { fn softmax(src: *const f32, dst: *mut f32, rows: usize, n: usize) = softmax_body; }

impl Kernel for Softmax {
    fn name(&self) -> String {
        format!("softmax_{}", self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.chunks.tasks()
    }

    fn flops(&self) -> u64 {
        20 * (self.rows * self.classes) as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let (rows, n) = (self.chunks.range(task), self.classes);
        let src = args.src::<f32>(0).at(rows.start * n, rows.len() * n);
        let dst = args.dst::<f32>(1).at(rows.start * n, rows.len() * n);
        // SAFETY: the operands hold these rows, which belong to this task.
        unsafe { softmax(self.isa, src, dst, rows.len(), n) };
    }
}

/// Gradient of softmax, `dst · (diff_dst − Σ diff_dst·dst)`. Operands: `diff_dst`, `dst` (the result), `diff_src`
/// (`rows` × `classes` floats each; `diff_src` may be the memory of either).
#[derive(Debug, Clone)]
pub struct SoftmaxBackward {
    isa: Isa,
    rows: usize,
    classes: usize,
    chunks: Chunks,
}

impl SoftmaxBackward {
    /// Gradient of `rows` rows of `classes` values.
    pub fn new(isa: Isa, rows: usize, classes: usize) -> Self {
        Self { isa, rows, classes, chunks: row_chunks(rows, classes) }
    }
}

#[inline(always)]
unsafe fn softmax_backward_body<S: Simd>(
    diff_dst: *const f32,
    dst: *const f32,
    diff_src: *mut f32,
    rows: usize,
    n: usize,
) {
    // SAFETY: `rows · n` elements at all addresses.
    unsafe {
        for row in 0..rows {
            let (g, y, out) = (diff_dst.add(row * n), dst.add(row * n), diff_src.add(row * n));
            let mut dot = S::splat(0.0);
            for i in (0..n).step_by(S::LANES) {
                let lanes = S::LANES.min(n - i);
                dot = S::fma(load_first::<S>(g.add(i), lanes), load_first::<S>(y.add(i), lanes), dot);
            }
            let dot = S::splat(S::sum(dot));
            for i in (0..n).step_by(S::LANES) {
                let lanes = S::LANES.min(n - i);
                let centred = S::sub(load_first::<S>(g.add(i), lanes), dot);
                store_first::<S>(out.add(i), S::mul(load_first::<S>(y.add(i), lanes), centred), lanes);
            }
        }
    }
}

multiversion! {
    fn softmax_backward(diff_dst: *const f32, dst: *const f32, diff_src: *mut f32, rows: usize, n: usize)
        = softmax_backward_body;
}

impl Kernel for SoftmaxBackward {
    fn name(&self) -> String {
        format!("softmax_backward_{}", self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.chunks.tasks()
    }

    fn flops(&self) -> u64 {
        4 * (self.rows * self.classes) as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let (rows, n) = (self.chunks.range(task), self.classes);
        let diff_dst = args.src::<f32>(0).at(rows.start * n, rows.len() * n);
        let dst = args.src::<f32>(1).at(rows.start * n, rows.len() * n);
        let diff_src = args.dst::<f32>(2).at(rows.start * n, rows.len() * n);
        // SAFETY: the operands hold these rows, which belong to this task.
        unsafe { softmax_backward(self.isa, diff_dst, dst, diff_src, rows.len(), n) };
    }
}

/// Cross-entropy of each row, and its gradient. Operands: `logits` (`rows` × `classes` floats), `labels` (`rows` i64,
/// each in `0..classes`), `row_loss` (`rows` f64), `row_correct` (`rows` floats, 1 or 0), `diff` (`rows` × `classes`
/// floats; may be the memory of `logits`).
///
/// `row_loss` is `log Σ exp(x − max) − (x[label] − max)`; `diff` is the gradient of the mean of all rows,
/// `(softmax − onehot)/rows`; `row_correct` tells whether the label is the first of the largest logits. A row with NaN,
/// with +∞, or with nothing but −∞ has a NaN loss and is not correct.
#[derive(Debug, Clone)]
pub struct CrossEntropy {
    isa: Isa,
    rows: usize,
    classes: usize,
    chunks: Chunks,
}

impl CrossEntropy {
    /// `rows` rows of `classes ≥ 1` logits.
    pub fn new(isa: Isa, rows: usize, classes: usize) -> Self {
        Self { isa, rows, classes, chunks: row_chunks(rows, classes) }
    }
}

/// # Safety
/// The views hold `rows` and the labels lie in `0..n`.
#[inline(always)]
unsafe fn cross_entropy_body<S: Simd>(
    logits: Src<'_, f32>,
    labels: Src<'_, i64>,
    row_loss: Dst<'_, f64>,
    row_correct: Dst<'_, f32>,
    diff: Dst<'_, f32>,
    rows: Range<usize>,
    n: usize,
    share: f32,
) {
    // SAFETY: every access lies within a row of `n` elements.
    unsafe {
        for row in rows {
            // Checked before the run; the caller's array may have been written since.
            let label = (labels.get(row).max(0) as usize).min(n - 1);
            let (src, dst) = (logits.at(row * n, n), diff.at(row * n, n));
            let max = row_max::<S>(src, n);
            // `dst` may be `src`: everything about the logits is read before the exponentials are written.
            let own = src.add(label).read_unaligned();
            let first = own >= max && (0..label).all(|i| src.add(i).read_unaligned() < max);
            let sum = row_exp::<S>(src, max, dst, n);
            let loss = f64::from(sum).ln() - (f64::from(own) - f64::from(max));
            row_loss.set(row, loss);
            row_correct.set(row, f32::from(u8::from(first && !loss.is_nan())));

            let own = dst.add(label).read_unaligned();
            for i in (0..n).step_by(S::LANES) {
                let lanes = S::LANES.min(n - i);
                let probability = S::div(load_first::<S>(dst.add(i), lanes), S::splat(sum));
                store_first::<S>(dst.add(i), S::mul(probability, S::splat(share)), lanes);
            }
            dst.add(label).write_unaligned((own / sum - 1.0) * share);
        }
    }
}

multiversion! {
    fn cross_entropy(
        logits: Src<'_, f32>, labels: Src<'_, i64>, row_loss: Dst<'_, f64>, row_correct: Dst<'_, f32>,
        diff: Dst<'_, f32>, rows: Range<usize>, n: usize, share: f32,
    ) = cross_entropy_body;
}

impl Kernel for CrossEntropy {
    fn name(&self) -> String {
        format!("cross_entropy_{}", self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.chunks.tasks()
    }

    fn flops(&self) -> u64 {
        20 * (self.rows * self.classes) as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let (logits, labels) = (args.src(0), args.src(1));
        let (row_loss, row_correct, diff) = (args.dst(2), args.dst(3), args.dst(4));
        let share = 1.0 / self.rows as f32;
        let rows = self.chunks.range(task);
        // SAFETY: the operands hold these rows, which belong to this task; the labels were checked before the call.
        unsafe { cross_entropy(self.isa, logits, labels, row_loss, row_correct, diff, rows, self.classes, share) };
    }
}

/// The mean loss and the number of correct rows, added in the order of the rows. Operands: `row_loss` (`rows` f64),
/// `row_correct` (`rows` floats), `loss` (one float), `correct` (one float). Of no rows: NaN and 0.
#[derive(Debug, Clone)]
pub struct CrossEntropyReduce {
    rows: usize,
}

impl CrossEntropyReduce {
    /// Mean and count over `rows`.
    pub fn new(rows: usize) -> Self {
        Self { rows }
    }
}

impl Kernel for CrossEntropyReduce {
    fn name(&self) -> String {
        "cross_entropy_reduce".to_owned()
    }

    fn tasks(&self) -> usize {
        1
    }

    fn flops(&self) -> u64 {
        2 * self.rows as u64
    }

    unsafe fn run(&self, _task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let (row_loss, row_correct) = (args.src::<f64>(0), args.src::<f32>(1));
        let (mut loss, mut correct) = (0.0f64, 0.0f64);
        for row in 0..self.rows {
            // SAFETY: both operands hold `rows` elements.
            unsafe {
                loss += row_loss.get(row);
                correct += f64::from(row_correct.get(row));
            }
        }
        // SAFETY: one element each, and there is one task.
        unsafe {
            args.dst::<f32>(2).set(0, (loss / self.rows as f64) as f32);
            args.dst::<f32>(3).set(0, correct as f32);
        }
    }
}
