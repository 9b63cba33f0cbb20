//! Softmax over the last axis and its gradient.

use super::Kernel;
use super::elementwise::{Chunks, load_first, store_first};
use crate::simd::{Isa, Simd, dispatch::multiversion, math};
use crate::tensor::Args;

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
pub(super) unsafe fn row_max<S: Simd>(p: *const f32, n: usize) -> f32 {
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
pub(super) unsafe fn row_exp<S: Simd>(src: *const f32, max: f32, dst: *mut f32, n: usize) -> f32 {
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
pub(super) fn row_chunks(rows: usize, classes: usize) -> Chunks {
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
