//! Cross-entropy with integer labels, class weights, smoothing and a label to ignore, and its gradient.

use std::ops::Range;

use super::Kernel;
use super::elementwise::{Chunks, load_first, store_first};
use super::softmax::{row_chunks, row_exp, row_max};
use crate::simd::{Isa, Simd, dispatch::multiversion};
use crate::tensor::{Args, Dst, Src};

/// What each row is compared with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Targets {
    /// The share ε of the target that is spread evenly over all classes.
    pub smoothing: f32,
    /// Rows with this label count for nothing.
    pub ignore: Option<i64>,
    /// Whether classes have weights.
    pub weighted: bool,
}

impl Targets {
    /// The label alone.
    pub const PLAIN: Self = Self { smoothing: 0.0, ignore: None, weighted: false };

    /// Whether the mean's divisor depends on the labels.
    pub fn totals(&self) -> bool {
        self.weighted || self.ignore.is_some()
    }
}

/// Cross-entropy of each row, and its gradient. Operands: `logits` (`rows` × `classes` floats), `labels` (`rows` i64,
/// each in `0..classes` or the ignored one), `row_loss` (`rows` f64), `row_correct` (`rows` floats, 1 or 0), `diff`
/// (`rows` × `classes` floats; may be the memory of `logits`), then `totals` (of [`CrossEntropyTotals`]) if there are
/// any, and `weights` (`classes` floats) if classes have weights (1 otherwise).
///
/// With −log p = `log Σ exp(x − max) − (x − max)` for each class, `row_loss` is
/// `(1 − ε) · weights[label] · −log p[label] + ε/classes · Σ weights · −log p`; `diff` is the gradient of the sum of all
/// rows' losses over the sum of their labels' weights; `row_correct` tells whether the label is the first of the
/// largest logits. An ignored row has neither loss nor gradient and is not correct. A row with NaN, with +∞, or with
/// nothing but −∞ has a NaN loss and is not correct.
#[derive(Debug, Clone)]
pub struct CrossEntropy {
    isa: Isa,
    rows: usize,
    classes: usize,
    targets: Targets,
    chunks: Chunks,
}

impl CrossEntropy {
    /// `rows` rows of `classes ≥ 1` logits.
    pub fn new(isa: Isa, rows: usize, classes: usize, targets: Targets) -> Self {
        Self { isa, rows, classes, targets, chunks: row_chunks(rows, classes) }
    }
}

/// The operands that all bodies have.
#[derive(Clone, Copy)]
struct Rows<'a> {
    logits: Src<'a, f32>,
    labels: Src<'a, i64>,
    row_loss: Dst<'a, f64>,
    row_correct: Dst<'a, f32>,
    diff: Dst<'a, f32>,
}

/// Whether `label` is the first of the largest of the logits at `src`.
///
/// # Safety
/// `label + 1` floats at `src`.
#[inline(always)]
unsafe fn is_first(src: *const f32, label: usize, max: f32) -> bool {
    // SAFETY: the caller's word.
    unsafe { src.add(label).read_unaligned() >= max && (0..label).all(|i| src.add(i).read_unaligned() < max) }
}

/// Targets that are the label alone; every row weighs `share`.
///
/// # Safety
/// The views hold `rows` of `n` elements.
#[inline(always)]
unsafe fn plain_body<S: Simd>(views: Rows<'_>, rows: Range<usize>, n: usize, share: f32) {
    // SAFETY: every access lies within a row of `n` elements.
    unsafe {
        for row in rows {
            // Checked before the run; the caller's array may have been written since.
            let label = (views.labels.get(row).max(0) as usize).min(n - 1);
            let (src, dst) = (views.logits.at(row * n, n), views.diff.at(row * n, n));
            let max = row_max::<S>(src, n);
            // `dst` may be `src`: everything about the logits is read before the exponentials are written.
            let own = src.add(label).read_unaligned();
            let first = is_first(src, label, max);
            let sum = row_exp::<S>(src, max, dst, n);
            let loss = f64::from(sum).ln() - (f64::from(own) - f64::from(max));
            views.row_loss.set(row, loss);
            views.row_correct.set(row, f32::from(u8::from(first && !loss.is_nan())));

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

const ONES: [f32; 16] = [1.0; 16];

/// Any targets; every row weighs `share` times the weight of its label.
///
/// # Safety
/// The views hold `rows` of `n` elements, and `weights` holds `n` if `WEIGHTED`.
#[inline(always)]
unsafe fn spread_body<S: Simd, const WEIGHTED: bool>(
    views: Rows<'_>,
    rows: Range<usize>,
    n: usize,
    share: f32,
    targets: Targets,
    weights: *const f32,
) {
    // SAFETY: every access lies within a row of `n` elements; `ONES` is as long as any vector.
    unsafe {
        let weight = |i: usize, lanes: usize| {
            if WEIGHTED { load_first::<S>(weights.add(i), lanes) } else { load_first::<S>(ONES.as_ptr(), lanes) }
        };
        let soft = f64::from(targets.smoothing) / n as f64;
        for row in rows {
            let label = views.labels.get(row);
            let (src, dst) = (views.logits.at(row * n, n), views.diff.at(row * n, n));
            if targets.ignore == Some(label) {
                for i in (0..n).step_by(S::LANES) {
                    store_first::<S>(dst.add(i), S::splat(0.0), S::LANES.min(n - i));
                }
                views.row_loss.set(row, 0.0);
                views.row_correct.set(row, 0.0);
                continue;
            }
            // Checked before the run; the caller's array may have been written since.
            let label = (label.max(0) as usize).min(n - 1);
            let own_weight = if WEIGHTED { weights.add(label).read_unaligned() } else { 1.0 };
            let max = row_max::<S>(src, n);
            // `dst` may be `src`: everything about the logits is read before the exponentials are written.
            let own = src.add(label).read_unaligned();
            let first = is_first(src, label, max);
            let (mut all, mut distance) = (0.0, 0.0);
            if targets.smoothing > 0.0 {
                let (mut weight_sum, mut sum) = (S::splat(0.0), S::splat(0.0));
                for i in (0..n).step_by(S::LANES) {
                    // Weights of 0 take the lanes beyond the row out.
                    let lanes = S::LANES.min(n - i);
                    let w = weight(i, lanes);
                    weight_sum = S::add(weight_sum, w);
                    sum = S::fma(S::sub(load_first::<S>(src.add(i), lanes), S::splat(max)), w, sum);
                }
                (all, distance) = (f64::from(S::sum(weight_sum)), f64::from(S::sum(sum)));
            }
            let sum = row_exp::<S>(src, max, dst, n);
            let log_sum = f64::from(sum).ln();
            let hard = (1.0 - f64::from(targets.smoothing)) * f64::from(own_weight);
            let mut loss = hard * (log_sum - (f64::from(own) - f64::from(max)));
            if targets.smoothing > 0.0 {
                loss += soft * (all * log_sum - distance);
            }
            views.row_loss.set(row, loss);
            views.row_correct.set(row, f32::from(u8::from(first && !loss.is_nan())));

            let own = dst.add(label).read_unaligned();
            let (total, even) = ((hard + soft * all) as f32, soft as f32);
            for i in (0..n).step_by(S::LANES) {
                let lanes = S::LANES.min(n - i);
                let probability = S::div(load_first::<S>(dst.add(i), lanes), S::splat(sum));
                let target = S::mul(weight(i, lanes), S::splat(even));
                let diff = S::sub(S::mul(probability, S::splat(total)), target);
                store_first::<S>(dst.add(i), S::mul(diff, S::splat(share)), lanes);
            }
            let target = (hard + soft * f64::from(own_weight)) as f32;
            dst.add(label).write_unaligned((own / sum * total - target) * share);
        }
    }
}

multiversion! {
    fn plain(views: Rows<'_>, rows: Range<usize>, n: usize, share: f32) = plain_body;
}
multiversion! {
    fn spread(
        views: Rows<'_>, rows: Range<usize>, n: usize, share: f32, targets: Targets, weights: *const f32,
    ) = spread_body, [false];
}
multiversion! {
    fn spread_weighted(
        views: Rows<'_>, rows: Range<usize>, n: usize, share: f32, targets: Targets, weights: *const f32,
    ) = spread_body, [true];
}

impl Kernel for CrossEntropy {
    fn name(&self) -> String {
        let kind = match (self.targets.weighted, self.targets.smoothing > 0.0) {
            (false, false) => "",
            (false, true) => "_smooth",
            (true, false) => "_weighted",
            (true, true) => "_weighted_smooth",
        };
        format!("cross_entropy{kind}_{}", self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.chunks.tasks()
    }

    fn flops(&self) -> u64 {
        20 * (self.rows * self.classes) as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let (rows, n, targets) = (self.chunks.range(task), self.classes, self.targets);
        let views = Rows {
            logits: args.src(0),
            labels: args.src(1),
            row_loss: args.dst(2),
            row_correct: args.dst(3),
            diff: args.dst(4),
        };
        // SAFETY: the operands hold these rows, which belong to this task, the totals and the weights.
        unsafe {
            if targets == Targets::PLAIN {
                return plain(self.isa, views, rows, n, 1.0 / self.rows as f32);
            }
            let share =
                if targets.totals() { (1.0 / args.src::<f64>(5).get(0)) as f32 } else { 1.0 / self.rows as f32 };
            if targets.weighted {
                spread_weighted(self.isa, views, rows, n, share, targets, args.src::<f32>(6).at(0, n));
            } else {
                spread(self.isa, views, rows, n, share, targets, std::ptr::null());
            }
        }
    }
}

/// The sum of the weights of all labels that are not ignored, in the order of the rows, and their number. Operands:
/// `labels` (`rows` i64), `totals` (two f64), and `weights` (`classes` floats) if classes have weights (1 otherwise).
#[derive(Debug, Clone)]
pub struct CrossEntropyTotals {
    rows: usize,
    classes: usize,
    targets: Targets,
}

impl CrossEntropyTotals {
    /// Sums over `rows` labels of `classes ≥ 1` classes.
    pub fn new(rows: usize, classes: usize, targets: Targets) -> Self {
        Self { rows, classes, targets }
    }
}

impl Kernel for CrossEntropyTotals {
    fn name(&self) -> String {
        "cross_entropy_totals".to_owned()
    }

    fn tasks(&self) -> usize {
        1
    }

    fn flops(&self) -> u64 {
        2 * self.rows as u64
    }

    unsafe fn run(&self, _task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let labels = args.src::<i64>(0);
        let (mut weight, mut count) = (0.0f64, 0usize);
        for row in 0..self.rows {
            // SAFETY: one label a row; a label that was written since the check is brought into range.
            unsafe {
                let label = labels.get(row);
                if self.targets.ignore != Some(label) {
                    let label = (label.max(0) as usize).min(self.classes - 1);
                    weight += if self.targets.weighted { f64::from(args.src::<f32>(2).get(label)) } else { 1.0 };
                    count += 1;
                }
            }
        }
        // SAFETY: two elements, and there is one task.
        unsafe {
            args.dst::<f64>(1).set(0, weight);
            args.dst::<f64>(1).set(1, count as f64);
        }
    }
}

/// The mean loss and the numbers of correct and of counted rows, added in the order of the rows. Operands: `row_loss`
/// (`rows` f64), `row_correct` (`rows` floats), `loss`, `correct`, `counted` (one float each), and `totals` (of
/// [`CrossEntropyTotals`]; all rows with a weight of 1 otherwise) if there are any. Of no rows the loss is NaN.
#[derive(Debug, Clone)]
pub struct CrossEntropyReduce {
    rows: usize,
    totals: bool,
}

impl CrossEntropyReduce {
    /// Mean and counts over `rows`.
    pub fn new(rows: usize, totals: bool) -> Self {
        Self { rows, totals }
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
        // SAFETY: two totals; one element of each result, and there is one task.
        unsafe {
            let all = self.rows as f64;
            let (weight, counted) =
                if self.totals { (args.src::<f64>(5).get(0), args.src::<f64>(5).get(1)) } else { (all, all) };
            args.dst::<f32>(2).set(0, (loss / weight) as f32);
            args.dst::<f32>(3).set(0, correct as f32);
            args.dst::<f32>(4).set(0, counted as f32);
        }
    }
}
