//! Normalization of a few long rows: tasks are stretches of columns.

use super::row::{differentiate, normalize, slopes, weighted};
use super::rows::row_backward;
use crate::kernels::Kernel;
use crate::kernels::elementwise::Chunks;
use crate::simd::{Isa, dispatch::multiversion};
use crate::tensor::Args;

/// The affine map of a few long rows, whose statistics are known, forward or backward; operands and formulas are those
/// of [`Apply`](super::Apply).
#[derive(Debug, Clone)]
pub struct LongRowApply {
    isa: Isa,
    rows: usize,
    len: usize,
    groups: usize,
    backward: bool,
    /// Columns of one row.
    chunks: Chunks,
}

impl LongRowApply {
    /// `rows` rows of `len` numbers in `groups` groups, forward or backward.
    pub fn new(isa: Isa, rows: usize, len: usize, groups: usize, backward: bool) -> Self {
        Self { isa, rows, len, groups, backward, chunks: Chunks::new(len, 1) }
    }
}

multiversion! {
    fn long_row(
        src: *const f32, weight: *const f32, bias: *const f32, mean: f32, rstd: f32, dst: *mut f32, n: usize,
    ) = normalize;
}
multiversion! {
    fn long_row_backward(
        diff: *const f32, src: *const f32, weight: *const f32, numbers: [f32; 4], dst: *mut f32, n: usize,
    ) = differentiate;
}

impl Kernel for LongRowApply {
    fn name(&self) -> String {
        format!("long_row_{}{}", if self.backward { "backward_" } else { "" }, self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.rows * self.chunks.tasks()
    }

    fn flops(&self) -> u64 {
        4 * (self.rows * self.len) as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let (index, columns) = (task / self.chunks.tasks(), self.chunks.range(task % self.chunks.tasks()));
        let (group, n) = (index % self.groups * self.len + columns.start, columns.len());
        let start = index * self.len + columns.start;
        // SAFETY: the operands hold the columns of this row, which belong to this task, and a float per row.
        unsafe {
            let number = |operand: usize| args.src::<f32>(operand).get(index);
            if self.backward {
                let (diff, src) = (args.src::<f32>(0).at(start, n), args.src::<f32>(1).at(start, n));
                let weight = args.src::<f32>(2).at(group, n);
                let numbers = [number(3), number(4), number(5), number(6)];
                long_row_backward(self.isa, diff, src, weight, numbers, args.dst::<f32>(7).at(start, n), n);
            } else {
                let src = args.src::<f32>(0).at(start, n);
                let (weight, bias) = (args.src::<f32>(1).at(group, n), args.src::<f32>(2).at(group, n));
                long_row(self.isa, src, weight, bias, number(3), number(4), args.dst::<f32>(5).at(start, n), n);
            }
        }
    }
}

/// Sums over a few long rows. Operands: `diff_dst`, `src`, `weight`, `mean`, `rstd`, `partials` (doubles: for each
/// stretch of columns and row, Σ diff_dst·weight and Σ diff_dst·weight·(src − mean)), then, if asked for, `diff_weight`
/// and `diff_bias`.
#[derive(Debug, Clone)]
pub struct LongRowSums {
    isa: Isa,
    rows: usize,
    len: usize,
    groups: usize,
    weights: bool,
    chunks: Chunks,
}

impl LongRowSums {
    /// `rows` rows, at least one per group, of `len` numbers in `groups` groups.
    pub fn new(isa: Isa, rows: usize, len: usize, groups: usize, weights: bool) -> Self {
        Self { isa, rows, len, groups, weights, chunks: Chunks::new(len, 1) }
    }

    /// Stretches of columns: a function of the shape alone.
    pub fn parts(&self) -> usize {
        self.chunks.tasks()
    }
}

multiversion! {
    fn long_row_sums(diff: *const f32, src: *const f32, weight: *const f32, mean: f32, n: usize) -> (f64, f64)
        = weighted;
}

impl Kernel for LongRowSums {
    fn name(&self) -> String {
        format!("long_row_sums_{}", self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.chunks.tasks()
    }

    fn flops(&self) -> u64 {
        8 * (self.rows * self.len) as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let columns = self.chunks.range(task);
        let n = columns.len();
        for index in 0..self.rows {
            let start = index * self.len + columns.start;
            let group = index % self.groups * self.len + columns.start;
            let (diff, src) = (args.src::<f32>(0).at(start, n), args.src::<f32>(1).at(start, n));
            let weight = args.src::<f32>(2).at(group, n);
            // SAFETY: the operands hold these columns of every row; sums and gradients of these columns belong to this
            // task.
            unsafe {
                let (mean, rstd) = (args.src::<f32>(3).get(index), args.src::<f32>(4).get(index));
                let sums = long_row_sums(self.isa, diff, src, weight, mean, n);
                args.dst::<f64>(5).set(2 * (task * self.rows + index), sums.0);
                args.dst::<f64>(5).set(2 * (task * self.rows + index) + 1, sums.1);
                if self.weights {
                    let pair = Some([6, 7].map(|operand| args.dst::<f32>(operand).at(group, n)));
                    row_backward(self.isa, diff, src, weight, mean, rstd, None, pair, index < self.groups, n);
                }
            }
        }
    }
}

/// Slope and offset of each row, from the stretches' sums in order. Operands: `partials` (of [`LongRowSums`]), `rstd`,
/// `slope`, `offset` (a float per row each).
#[derive(Debug, Clone)]
pub struct LongRowSlopes {
    rows: usize,
    len: usize,
    parts: usize,
}

impl LongRowSlopes {
    /// `rows` rows of `len` numbers in so many stretches.
    pub fn new(rows: usize, len: usize, parts: usize) -> Self {
        Self { rows, len, parts }
    }
}

impl Kernel for LongRowSlopes {
    fn name(&self) -> String {
        "long_row_slopes".to_owned()
    }

    fn tasks(&self) -> usize {
        1
    }

    fn flops(&self) -> u64 {
        2 * (self.rows * self.parts) as u64
    }

    unsafe fn run(&self, _task: usize, args: &Args<'_>, _scratch: *mut u8) {
        for index in 0..self.rows {
            let mut totals = (0.0, 0.0);
            // SAFETY: two sums per stretch and row; a float per row; there is one task.
            unsafe {
                for part in 0..self.parts {
                    totals.0 += args.src::<f64>(0).get(2 * (part * self.rows + index));
                    totals.1 += args.src::<f64>(0).get(2 * (part * self.rows + index) + 1);
                }
                let (slope, offset) = slopes(args.src::<f32>(1).get(index), totals, self.len);
                args.dst::<f32>(2).set(index, slope);
                args.dst::<f32>(3).set(index, offset);
            }
        }
    }
}
