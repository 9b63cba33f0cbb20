//! Cross-entropy with integer labels, and its gradient.

use std::ops::Range;

use super::Kernel;
use super::elementwise::{Chunks, load_first, store_first};
use super::softmax::{row_chunks, row_exp, row_max};
use crate::simd::{Isa, Simd, dispatch::multiversion};
use crate::tensor::{Args, Dst, Src};

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
