//! Lines that are contiguous in memory: vectors run along the line.

use std::ops::Range;

use super::Lines;
use crate::kernels::elementwise::{load_first, store_first};
use crate::simd::{Simd, dispatch::multiversion, math};

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
pub(in crate::kernels) unsafe fn row_max<S: Simd>(p: *const f32, n: usize) -> f32 {
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
pub(in crate::kernels) unsafe fn row_exp<S: Simd>(src: *const f32, max: f32, dst: *mut f32, n: usize) -> f32 {
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

/// Sum of `exp(x − max)` of a row.
///
/// # Safety
/// `n` floats at `src`; the CPU has the level's features.
#[inline(always)]
unsafe fn row_sum_exp<S: Simd>(src: *const f32, max: f32, n: usize) -> f32 {
    // SAFETY: every access lies within `n` elements.
    unsafe {
        let (max, mut sum) = (S::splat(max), S::splat(0.0));
        for i in (0..n).step_by(S::LANES) {
            let x = load_row::<S>(src.add(i), S::LANES.min(n - i));
            sum = S::add(sum, math::exp::<S>(S::sub(x, max)));
        }
        S::sum(sum)
    }
}

/// # Safety
/// The tensor's floats at both addresses; the CPU has the level's features.
#[inline(always)]
unsafe fn softmax_body<S: Simd>(src: *const f32, dst: *mut f32, lines: Lines, rows: Range<usize>) {
    let n = lines.classes;
    // SAFETY: every access lies within a row of `n` elements.
    unsafe {
        for row in rows {
            let (src, dst) = (src.add(row * n), dst.add(row * n));
            let sum = S::splat(row_exp::<S>(src, row_max::<S>(src, n), dst, n));
            for i in (0..n).step_by(S::LANES) {
                let lanes = S::LANES.min(n - i);
                store_first::<S>(dst.add(i), S::div(load_first::<S>(dst.add(i), lanes), sum), lanes);
            }
        }
    }
}

/// # Safety
/// As [`softmax_body`].
#[inline(always)]
unsafe fn log_softmax_body<S: Simd>(src: *const f32, dst: *mut f32, lines: Lines, rows: Range<usize>) {
    let n = lines.classes;
    // SAFETY: every access lies within a row of `n` elements.
    unsafe {
        for row in rows {
            let (src, dst) = (src.add(row * n), dst.add(row * n));
            let max = row_max::<S>(src, n);
            let sum = row_sum_exp::<S>(src, max, n);
            let (max, log) = (S::splat(max), S::splat(f64::from(sum).ln() as f32));
            for i in (0..n).step_by(S::LANES) {
                let lanes = S::LANES.min(n - i);
                let shifted = S::sub(load_first::<S>(src.add(i), lanes), max);
                store_first::<S>(dst.add(i), S::sub(shifted, log), lanes);
            }
        }
    }
}

/// # Safety
/// The tensor's floats at all addresses; the CPU has the level's features.
#[inline(always)]
unsafe fn softmax_backward_body<S: Simd>(
    diff_dst: *const f32,
    dst: *const f32,
    diff_src: *mut f32,
    lines: Lines,
    rows: Range<usize>,
) {
    let n = lines.classes;
    // SAFETY: every access lies within a row of `n` elements.
    unsafe {
        for row in rows {
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

/// # Safety
/// As [`softmax_backward_body`].
#[inline(always)]
unsafe fn log_softmax_backward_body<S: Simd>(
    diff_dst: *const f32,
    dst: *const f32,
    diff_src: *mut f32,
    lines: Lines,
    rows: Range<usize>,
) {
    let n = lines.classes;
    // SAFETY: every access lies within a row of `n` elements.
    unsafe {
        for row in rows {
            let (g, y, out) = (diff_dst.add(row * n), dst.add(row * n), diff_src.add(row * n));
            let mut sum = S::splat(0.0);
            for i in (0..n).step_by(S::LANES) {
                sum = S::add(sum, load_first::<S>(g.add(i), S::LANES.min(n - i)));
            }
            let sum = S::splat(S::sum(sum));
            for i in (0..n).step_by(S::LANES) {
                let lanes = S::LANES.min(n - i);
                let share = S::mul(math::exp::<S>(load_first::<S>(y.add(i), lanes)), sum);
                store_first::<S>(out.add(i), S::sub(load_first::<S>(g.add(i), lanes), share), lanes);
            }
        }
    }
}

multiversion! {
    pub(super) fn softmax(src: *const f32, dst: *mut f32, lines: Lines, rows: Range<usize>) = softmax_body;
}
multiversion! {
    pub(super) fn log_softmax(src: *const f32, dst: *mut f32, lines: Lines, rows: Range<usize>) = log_softmax_body;
}
multiversion! {
    pub(super) fn softmax_backward(
        diff_dst: *const f32, dst: *const f32, diff_src: *mut f32, lines: Lines, rows: Range<usize>,
    ) = softmax_backward_body;
}
multiversion! {
    pub(super) fn log_softmax_backward(
        diff_dst: *const f32, dst: *const f32, diff_src: *mut f32, lines: Lines, rows: Range<usize>,
    ) = log_softmax_backward_body;
}
