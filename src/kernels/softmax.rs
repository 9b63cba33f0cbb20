//! Softmax along any axis, its logarithm, their gradients, and cross-entropy with integer labels.

mod columns;
mod rows;

use std::ops::Range;

use super::Kernel;
use super::elementwise::{Chunks, load_first, store_first};
use crate::simd::{Isa, Simd, dispatch::multiversion};
use crate::tensor::{Args, Dst, Src};
use rows::{row_exp, row_max};

/// A tensor as lines along one axis: `outer` times `classes` times `inner` elements.
#[derive(Debug, Clone, Copy)]
pub struct Lines {
    /// Product of the sizes before the axis.
    pub outer: usize,
    /// Size of the axis.
    pub classes: usize,
    /// Product of the sizes behind the axis: the distance between neighbours of a line.
    pub inner: usize,
}

impl Lines {
    /// `rows` lines that are contiguous in memory.
    pub fn rows(rows: usize, classes: usize) -> Self {
        Self { outer: rows, classes, inner: 1 }
    }

    /// Floats of the tensor.
    pub fn volume(self) -> usize {
        self.outer * self.classes * self.inner
    }

    /// Rows, or blocks of neighbouring lines, as tasks.
    fn chunks(self) -> Chunks {
        if self.inner == 1 {
            return row_chunks(self.outer, self.classes);
        }
        let blocks = if self.classes == 0 { 0 } else { self.outer * self.inner.div_ceil(columns::BLOCK) };
        Chunks::new(blocks, 4 * self.classes * self.inner.min(columns::BLOCK))
    }
}

/// Tasks of row-wise work: an exponential counts as a few elements.
fn row_chunks(rows: usize, classes: usize) -> Chunks {
    Chunks::new(if classes == 0 { 0 } else { rows }, 4 * classes)
}

/// Softmax of every line, or its logarithm, shifted by the line's maximum. Operands: `src`, `dst` (a float per element;
/// may be the same memory).
///
/// A line with NaN, with +∞, or with nothing but −∞ gives NaN.
#[derive(Debug, Clone)]
pub struct Softmax {
    isa: Isa,
    lines: Lines,
    log: bool,
    chunks: Chunks,
}

impl Softmax {
    /// Softmax of those lines, or with `log` its logarithm.
    pub fn new(isa: Isa, lines: Lines, log: bool) -> Self {
        Self { isa, lines, log, chunks: lines.chunks() }
    }
}

impl Kernel for Softmax {
    fn name(&self) -> String {
        format!("{}softmax_{}", if self.log { "log_" } else { "" }, self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.chunks.tasks()
    }

    fn flops(&self) -> u64 {
        20 * self.lines.volume() as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let (items, lines) = (self.chunks.range(task), self.lines);
        let src = args.src::<f32>(0).at(0, lines.volume());
        let dst = args.dst::<f32>(1).at(0, lines.volume());
        let function = match (lines.inner, self.log) {
            (1, false) => rows::softmax,
            (1, true) => rows::log_softmax,
            (_, false) => columns::softmax,
            (_, true) => columns::log_softmax,
        };
        // SAFETY: the operands hold these lines; the chunk's lines belong to this task.
        unsafe { function(self.isa, src, dst, lines, items) };
    }
}

/// Gradient of softmax, `dst · (diff_dst − Σ diff_dst·dst)`, or of its logarithm, `diff_dst − exp(dst) · Σ diff_dst`.
/// Operands: `diff_dst`, `dst` (the result), `diff_src` (a float per element each; `diff_src` may be the memory of
/// either).
#[derive(Debug, Clone)]
pub struct SoftmaxBackward {
    isa: Isa,
    lines: Lines,
    log: bool,
    chunks: Chunks,
}

impl SoftmaxBackward {
    /// Gradient of softmax of those lines, or with `log` of its logarithm.
    pub fn new(isa: Isa, lines: Lines, log: bool) -> Self {
        Self { isa, lines, log, chunks: lines.chunks() }
    }
}

impl Kernel for SoftmaxBackward {
    fn name(&self) -> String {
        format!("{}softmax_backward_{}", if self.log { "log_" } else { "" }, self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.chunks.tasks()
    }

    fn flops(&self) -> u64 {
        let per_element = if self.log { 20 } else { 4 };
        per_element * self.lines.volume() as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let (items, lines) = (self.chunks.range(task), self.lines);
        let diff_dst = args.src::<f32>(0).at(0, lines.volume());
        let dst = args.src::<f32>(1).at(0, lines.volume());
        let diff_src = args.dst::<f32>(2).at(0, lines.volume());
        let function = match (lines.inner, self.log) {
            (1, false) => rows::softmax_backward,
            (1, true) => rows::log_softmax_backward,
            (_, false) => columns::softmax_backward,
            (_, true) => columns::log_softmax_backward,
        };
        // SAFETY: the operands hold these lines; the chunk's lines belong to this task.
        unsafe { function(self.isa, diff_dst, dst, diff_src, lines, items) };
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
