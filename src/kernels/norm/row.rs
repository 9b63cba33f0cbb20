//! What is computed of one row whose numbers lie side by side.

use super::BLOCK;
use crate::kernels::elementwise::{load_first, store_first};
use crate::simd::Simd;

/// Sixteen ones and sixteen zeros: from `16 − n` on, the first `n` lanes.
const MASK: [f32; 32] = {
    let mut mask = [0.0; 32];
    let mut i = 0;
    while i < 16 {
        mask[i] = 1.0;
        i += 1;
    }
    mask
};

/// Σ a and Σ b over `n` numbers of which `term` makes a pair `(a, b)` from a place and a number of lanes: four vectors
/// side by side in single precision for at most `BLOCK` steps, then in double.
macro_rules! sums {
    ($s:ident, $n:expr, |$at:ident, $lanes:ident| $term:expr) => {{
        let (n, mut start, mut totals) = ($n, 0usize, (0.0f64, 0.0f64));
        while start < n {
            let end = n.min(start + BLOCK * 4 * $s::LANES);
            let (mut first, mut second) = ([$s::splat(0.0); 4], [$s::splat(0.0); 4]);
            let mut i = start;
            while i + 4 * $s::LANES <= end {
                for v in 0..4 {
                    let ($at, $lanes) = (i + v * $s::LANES, $s::LANES);
                    let (a, b) = $term;
                    first[v] = $s::add(first[v], a);
                    second[v] = $s::add(second[v], b);
                }
                i += 4 * $s::LANES;
            }
            while i < end {
                let ($at, $lanes) = (i, $s::LANES.min(end - i));
                let (a, b) = $term;
                first[0] = $s::add(first[0], a);
                second[0] = $s::add(second[0], b);
                i += $lanes;
            }
            let halves = |sums: [$s::V; 4]| $s::add($s::add(sums[0], sums[1]), $s::add(sums[2], sums[3]));
            totals.0 += f64::from($s::sum(halves(first)));
            totals.1 += f64::from($s::sum(halves(second)));
            start = end;
        }
        totals
    }};
}

/// Σ (x − pivot) and Σ (x − pivot)².
///
/// # Safety
/// `n` floats at `src`.
#[inline(always)]
unsafe fn deviations<S: Simd>(src: *const f32, n: usize, pivot: f32) -> (f64, f64) {
    // SAFETY: every load lies within the row; a mask has at least sixteen entries from any place on.
    unsafe {
        let pivot = S::splat(pivot);
        sums!(S, n, |at, lanes| {
            let d = S::sub(load_first::<S>(src.add(at), lanes), pivot);
            let d = if lanes == S::LANES { d } else { S::mul(d, S::load(MASK.as_ptr().add(16 - lanes))) };
            (d, S::mul(d, d))
        })
    }
}

/// Mean and 1/√(variance + eps) of a row.
///
/// # Safety
/// `n ≥ 1` floats at `src`.
#[inline(always)]
pub(super) unsafe fn statistics<S: Simd>(src: *const f32, n: usize, eps: f32) -> (f32, f32) {
    // SAFETY: the caller's word.
    unsafe {
        let (first, count) = (src.read_unaligned(), n as f64);
        let pivot = (f64::from(first) + deviations::<S>(src, n, first).0 / count) as f32;
        let (sum, squares) = deviations::<S>(src, n, pivot);
        let shift = sum / count;
        let variance = squares / count - shift * shift;
        // Rounding may take an empty spread below zero; NaN stays.
        let variance = if variance < 0.0 { 0.0 } else { variance };
        ((f64::from(pivot) + shift) as f32, (1.0 / (variance + f64::from(eps)).sqrt()) as f32)
    }
}

/// # Safety
/// `n` floats at every address; `dst` may be `src`.
#[inline(always)]
pub(super) unsafe fn normalize<S: Simd>(
    src: *const f32,
    weight: *const f32,
    bias: *const f32,
    mean: f32,
    rstd: f32,
    dst: *mut f32,
    n: usize,
) {
    // SAFETY: every access lies within `n` elements.
    unsafe {
        let (mean, rstd) = (S::splat(mean), S::splat(rstd));
        for i in (0..n).step_by(S::LANES) {
            let lanes = S::LANES.min(n - i);
            let load = |p: *const f32| load_first::<S>(p.add(i), lanes);
            let normal = S::mul(S::sub(load(src), mean), rstd);
            store_first::<S>(dst.add(i), S::fma(normal, load(weight), load(bias)), lanes);
        }
    }
}

/// Σ diff_dst·weight and Σ diff_dst·weight·(src − mean).
///
/// # Safety
/// `n` floats at every address.
#[inline(always)]
pub(super) unsafe fn weighted<S: Simd>(
    diff: *const f32,
    src: *const f32,
    weight: *const f32,
    mean: f32,
    n: usize,
) -> (f64, f64) {
    // SAFETY: every load lies within `n` elements; lanes beyond them have a gradient of zero.
    unsafe {
        let mean = S::splat(mean);
        sums!(S, n, |at, lanes| {
            let load = |p: *const f32| load_first::<S>(p.add(at), lanes);
            let g = S::mul(load(diff), load(weight));
            (g, S::mul(g, S::sub(load(src), mean)))
        })
    }
}

/// Adds (or, if `fresh`, writes) what a row contributes to the gradients of weight and bias.
///
/// # Safety
/// `n` floats at every address.
#[inline(always)]
pub(super) unsafe fn contribute<S: Simd>(
    diff: *const f32,
    src: *const f32,
    mean: f32,
    rstd: f32,
    fresh: bool,
    diff_weight: *mut f32,
    diff_bias: *mut f32,
    n: usize,
) {
    // SAFETY: every access lies within `n` elements.
    unsafe {
        let (mean, rstd) = (S::splat(mean), S::splat(rstd));
        for i in (0..n).step_by(S::LANES) {
            let lanes = S::LANES.min(n - i);
            let load = |p: *const f32| load_first::<S>(p.add(i), lanes);
            let g = load(diff);
            let normal = S::mul(S::sub(load(src), mean), rstd);
            let (weight, bias) =
                if fresh { (S::splat(0.0), S::splat(0.0)) } else { (load(diff_weight), load(diff_bias)) };
            store_first::<S>(diff_weight.add(i), S::fma(g, normal, weight), lanes);
            store_first::<S>(diff_bias.add(i), S::add(g, bias), lanes);
        }
    }
}

/// diff_dst·weight·rstd + (src − mean)·slope + offset.
///
/// # Safety
/// `n` floats at every address; `dst` may be `diff` or `src`.
#[inline(always)]
pub(super) unsafe fn differentiate<S: Simd>(
    diff: *const f32,
    src: *const f32,
    weight: *const f32,
    numbers: [f32; 4],
    dst: *mut f32,
    n: usize,
) {
    // SAFETY: every access lies within `n` elements.
    unsafe {
        let [mean, rstd, slope, offset] = numbers;
        let (mean, rstd, slope, offset) = (S::splat(mean), S::splat(rstd), S::splat(slope), S::splat(offset));
        for i in (0..n).step_by(S::LANES) {
            let lanes = S::LANES.min(n - i);
            let load = |p: *const f32| load_first::<S>(p.add(i), lanes);
            let base = S::fma(S::sub(load(src), mean), slope, offset);
            let g = S::mul(load(diff), load(weight));
            store_first::<S>(dst.add(i), S::fma(g, rstd, base), lanes);
        }
    }
}

/// Slope and offset of a row's gradient from its weighted sums.
#[inline(always)]
pub(super) fn slopes(rstd: f32, sums: (f64, f64), n: usize) -> (f32, f32) {
    let (rstd, n) = (f64::from(rstd), n as f64);
    ((-rstd * rstd * rstd * sums.1 / n) as f32, (-rstd * sums.0 / n) as f32)
}

/// The gradients of one row that are asked for: `diff_weight` and `diff_bias` are added to, or written if `fresh`.
///
/// # Safety
/// `n` floats at every address; `dst` may be `diff` or `src`.
#[inline(always)]
pub(super) unsafe fn row_backward_body<S: Simd>(
    diff: *const f32,
    src: *const f32,
    weight: *const f32,
    mean: f32,
    rstd: f32,
    dst: Option<*mut f32>,
    diff_weight: Option<[*mut f32; 2]>,
    fresh: bool,
    n: usize,
) {
    // SAFETY: the caller's word; the gradients of weight and bias are taken before `dst` is written.
    unsafe {
        if let Some([diff_weight, diff_bias]) = diff_weight {
            contribute::<S>(diff, src, mean, rstd, fresh, diff_weight, diff_bias, n);
        }
        if let Some(dst) = dst {
            let (slope, offset) = slopes(rstd, weighted::<S>(diff, src, weight, mean, n), n);
            differentiate::<S>(diff, src, weight, [mean, rstd, slope, offset], dst, n);
        }
    }
}
