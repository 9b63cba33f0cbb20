//! Lines whose neighbours lie side by side: each lane of a vector is a line of its own.

use std::ops::Range;

use super::Lines;
use crate::kernels::elementwise::{load_first, store_first};
use crate::simd::{Simd, dispatch::multiversion, math};

/// Neighbouring lines that make one item of work: whole vectors on every level.
pub(super) const BLOCK: usize = 64;

/// The first element and the number of lines of each vector of the items' blocks.
#[inline(always)]
fn vectors<S: Simd>(lines: Lines, items: Range<usize>) -> impl Iterator<Item = (usize, usize)> {
    let blocks = lines.inner.div_ceil(BLOCK);
    items.flat_map(move |item| {
        let (outer, first) = (item / blocks, item % blocks * BLOCK);
        let last = lines.inner.min(first + BLOCK);
        let vector = move |column| (outer * lines.classes * lines.inner + column, S::LANES.min(last - column));
        (first..last).step_by(S::LANES).map(vector)
    })
}

/// Element `index` of each of `lanes` neighbouring lines that start at `p`.
///
/// # Safety
/// Those floats are readable; the CPU has the level's features.
#[inline(always)]
unsafe fn load<S: Simd>(p: *const f32, lines: Lines, index: usize, lanes: usize) -> S::V {
    // SAFETY: the caller's word.
    unsafe { load_first::<S>(p.add(index * lines.inner), lanes) }
}

/// # Safety
/// As [`load`], for writing.
#[inline(always)]
unsafe fn store<S: Simd>(p: *mut f32, v: S::V, lines: Lines, index: usize, lanes: usize) {
    // SAFETY: the caller's word.
    unsafe { store_first::<S>(p.add(index * lines.inner), v, lanes) };
}

/// Each lane's maximum, NaN aside; −∞ if there is none.
///
/// # Safety
/// `lanes` floats at each of the line's elements from `src` on; the CPU has the level's features.
#[inline(always)]
unsafe fn max<S: Simd>(src: *const f32, lines: Lines, lanes: usize) -> S::V {
    // SAFETY: the caller's word. `best`, the second operand, stays where the value is NaN.
    unsafe {
        let mut best = S::splat(f32::NEG_INFINITY);
        for i in 0..lines.classes {
            best = S::max(load::<S>(src, lines, i, lanes), best);
        }
        best
    }
}

/// # Safety
/// The tensor's floats at both addresses; the CPU has the level's features.
#[inline(always)]
unsafe fn softmax_body<S: Simd>(src: *const f32, dst: *mut f32, lines: Lines, items: Range<usize>) {
    for (first, lanes) in vectors::<S>(lines, items) {
        // SAFETY: every access lies within `lanes` elements of a row of the tensor.
        unsafe {
            let (src, dst) = (src.add(first), dst.add(first));
            let (max, mut sum) = (max::<S>(src, lines, lanes), S::splat(0.0));
            for i in 0..lines.classes {
                let e = math::exp::<S>(S::sub(load::<S>(src, lines, i, lanes), max));
                sum = S::add(sum, e);
                store::<S>(dst, e, lines, i, lanes);
            }
            for i in 0..lines.classes {
                store::<S>(dst, S::div(load::<S>(dst, lines, i, lanes), sum), lines, i, lanes);
            }
        }
    }
}

/// # Safety
/// As [`softmax_body`].
#[inline(always)]
unsafe fn log_softmax_body<S: Simd>(src: *const f32, dst: *mut f32, lines: Lines, items: Range<usize>) {
    for (first, lanes) in vectors::<S>(lines, items) {
        // SAFETY: every access lies within `lanes` elements of a row of the tensor; sixteen floats hold any vector.
        unsafe {
            let (src, dst) = (src.add(first), dst.add(first));
            let (max, mut sum) = (max::<S>(src, lines, lanes), S::splat(0.0));
            for i in 0..lines.classes {
                let x = load::<S>(src, lines, i, lanes);
                sum = S::add(sum, math::exp::<S>(S::sub(x, max)));
            }
            let mut sums = [0.0f32; 16];
            S::store(sums.as_mut_ptr(), sum);
            for sum in &mut sums[..lanes] {
                *sum = f64::from(*sum).ln() as f32;
            }
            let log = S::load(sums.as_ptr());
            for i in 0..lines.classes {
                let shifted = S::sub(load::<S>(src, lines, i, lanes), max);
                store::<S>(dst, S::sub(shifted, log), lines, i, lanes);
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
    items: Range<usize>,
) {
    for (first, lanes) in vectors::<S>(lines, items) {
        // SAFETY: every access lies within `lanes` elements of a row of the tensor.
        unsafe {
            let (g, y, out) = (diff_dst.add(first), dst.add(first), diff_src.add(first));
            let mut dot = S::splat(0.0);
            for i in 0..lines.classes {
                dot = S::fma(load::<S>(g, lines, i, lanes), load::<S>(y, lines, i, lanes), dot);
            }
            for i in 0..lines.classes {
                let centred = S::sub(load::<S>(g, lines, i, lanes), dot);
                store::<S>(out, S::mul(load::<S>(y, lines, i, lanes), centred), lines, i, lanes);
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
    items: Range<usize>,
) {
    for (first, lanes) in vectors::<S>(lines, items) {
        // SAFETY: every access lies within `lanes` elements of a row of the tensor.
        unsafe {
            let (g, y, out) = (diff_dst.add(first), dst.add(first), diff_src.add(first));
            let mut sum = S::splat(0.0);
            for i in 0..lines.classes {
                sum = S::add(sum, load::<S>(g, lines, i, lanes));
            }
            for i in 0..lines.classes {
                let share = S::mul(math::exp::<S>(load::<S>(y, lines, i, lanes)), sum);
                store::<S>(out, S::sub(load::<S>(g, lines, i, lanes), share), lines, i, lanes);
            }
        }
    }
}

multiversion! {
    pub(super) fn softmax(src: *const f32, dst: *mut f32, lines: Lines, items: Range<usize>) = softmax_body;
}
multiversion! {
    pub(super) fn log_softmax(src: *const f32, dst: *mut f32, lines: Lines, items: Range<usize>) = log_softmax_body;
}
multiversion! {
    pub(super) fn softmax_backward(
        diff_dst: *const f32, dst: *const f32, diff_src: *mut f32, lines: Lines, items: Range<usize>,
    ) = softmax_backward_body;
}
multiversion! {
    pub(super) fn log_softmax_backward(
        diff_dst: *const f32, dst: *const f32, diff_src: *mut f32, lines: Lines, items: Range<usize>,
    ) = log_softmax_backward_body;
}
