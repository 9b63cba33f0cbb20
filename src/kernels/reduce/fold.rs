//! How values become one: the kinds of reduction, and the loop that takes rows into totals.

use crate::simd::{Simd, math};

/// Most values that are added in one run: sums of blocks are added to the total, so that the error of long sums stays
/// small.
pub const BLOCK: usize = 64;

/// A kind of reduction.
pub trait Fold: 'static {
    /// What nothing reduces to.
    const NOTHING: f32;

    /// What reduces totals of this kind.
    type Totals: Fold<Totals = Self::Totals>;

    /// `total` and one more value.
    ///
    /// # Safety
    /// The CPU has the level's features.
    unsafe fn take<S: Simd>(total: S::V, x: S::V) -> S::V;

    /// The last `n` values of a line of at least `LANES`, which ends at `end`; the other lanes change nothing.
    ///
    /// # Safety
    /// `LANES` readable floats before `end`; the CPU has the level's features.
    unsafe fn rest<S: Simd>(end: *const f32, n: usize) -> S::V;
}

macro_rules! folds {
    ($($name:ident $nothing:expr, $totals:ident, $rest:ident, |$total:ident, $x:ident| $take:expr;)*) => {$(
        pub struct $name;

        impl Fold for $name {
            const NOTHING: f32 = $nothing;
            type Totals = $totals;

            #[inline(always)]
            unsafe fn take<S: Simd>($total: S::V, $x: S::V) -> S::V {
                // SAFETY: trait contract.
                unsafe { $take }
            }

            #[inline(always)]
            unsafe fn rest<S: Simd>(end: *const f32, n: usize) -> S::V {
                // SAFETY: trait contract.
                unsafe { $rest::<S>(end, n) }
            }
        }
    )*};
}

folds! {
    Sum 0.0, Sum, padded, |total, x| S::add(total, x);
    SumSquares 0.0, Sum, padded, |total, x| S::fma(x, x, total);
    Max f32::NEG_INFINITY, Max, repeated, |total, x| math::maximum::<S>(total, x);
    Min f32::INFINITY, Min, repeated, |total, x| math::minimum::<S>(total, x);
}

/// Sets `n` totals to what nothing reduces to.
///
/// # Safety
/// `n` writable floats at `totals`.
#[inline(always)]
pub unsafe fn open<F: Fold>(totals: *mut f32, n: usize) {
    for i in 0..n {
        // SAFETY: the caller's word.
        unsafe { totals.add(i).write_unaligned(F::NOTHING) };
    }
}

/// Takes rows of `n` values into `n` totals, columns in registers, at most `BLOCK` rows at a time.
///
/// # Safety
/// `rows` times `n` elements at `src`, `stride` apart, and `n` at `totals`; the CPU has the level's features.
#[inline(always)]
pub unsafe fn take_rows<S: Simd, F: Fold>(src: *const f32, rows: usize, stride: usize, totals: *mut f32, n: usize) {
    // SAFETY: every access lies within the first `n` elements of a row or of the totals.
    unsafe {
        for top in (0..rows).step_by(BLOCK) {
            let block = top..(top + BLOCK).min(rows);
            let mut i = 0;
            while i + 4 * S::LANES <= n {
                let mut sums = [S::splat(F::NOTHING); 4];
                for row in block.clone() {
                    for (v, sum) in sums.iter_mut().enumerate() {
                        *sum = F::take::<S>(*sum, S::load(src.add(row * stride + i + v * S::LANES)));
                    }
                }
                for (v, sum) in sums.into_iter().enumerate() {
                    let at = totals.add(i + v * S::LANES);
                    S::store(at, F::Totals::take::<S>(S::load(at), sum));
                }
                i += 4 * S::LANES;
            }
            while i < n {
                let lanes = S::LANES.min(n - i);
                let mut sum = S::splat(F::NOTHING);
                for row in block.clone() {
                    sum = F::take::<S>(sum, S::load_partial(src.add(row * stride + i), lanes));
                }
                let at = totals.add(i);
                S::store_partial(at, F::Totals::take::<S>(S::load_partial(at, lanes), sum), lanes);
                i += lanes;
            }
        }
    }
}

/// Zeros beside the values: sums do not change.
///
/// # Safety
/// As for [`Fold::rest`].
#[inline(always)]
unsafe fn padded<S: Simd>(end: *const f32, n: usize) -> S::V {
    // SAFETY: the caller's word.
    unsafe { S::load_partial(end.sub(n), n) }
}

/// Values that were taken before: extremes do not change.
///
/// # Safety
/// As for [`Fold::rest`].
#[inline(always)]
unsafe fn repeated<S: Simd>(end: *const f32, _n: usize) -> S::V {
    // SAFETY: the caller's word.
    unsafe { S::load(end.sub(S::LANES)) }
}

/// Totals of a line of at least `LANES` values, one per lane, four vectors side by side, at most `BLOCK` at a time.
///
/// # Safety
/// `len` elements at `src`; the CPU has the level's features.
#[inline(always)]
pub unsafe fn take_line<S: Simd, F: Fold>(src: *const f32, len: usize) -> S::V {
    let vectors = len / S::LANES;
    // SAFETY: every access lies within the line.
    unsafe {
        let mut totals = [S::splat(F::NOTHING); 4];
        for top in (0..vectors / 4).step_by(BLOCK) {
            let mut sums = [S::splat(F::NOTHING); 4];
            for row in top..(top + BLOCK).min(vectors / 4) {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = F::take::<S>(*sum, S::load(src.add((4 * row + v) * S::LANES)));
                }
            }
            for (total, sum) in totals.iter_mut().zip(sums) {
                *total = F::Totals::take::<S>(*total, sum);
            }
        }
        let mut last = S::splat(F::NOTHING);
        for v in vectors / 4 * 4..vectors {
            last = F::take::<S>(last, S::load(src.add(v * S::LANES)));
        }
        if !len.is_multiple_of(S::LANES) {
            last = F::take::<S>(last, F::rest::<S>(src.add(len), len % S::LANES));
        }
        if vectors < 4 {
            return last;
        }
        let [a, b, c, d] = totals;
        let total = F::Totals::take::<S>(F::Totals::take::<S>(a, c), F::Totals::take::<S>(b, d));
        F::Totals::take::<S>(total, last)
    }
}

/// The total of all lanes: lane i with lane i + LANES/2, and so on.
///
/// # Safety
/// The CPU has the level's features.
#[inline(always)]
pub unsafe fn take_lanes<S: Simd, F: Fold>(v: S::V) -> f32 {
    // SAFETY: the caller's word.
    unsafe {
        let v = if S::LANES > 8 { F::take::<S>(v, S::swap::<8>(v)) } else { v };
        let v = F::take::<S>(v, S::swap::<4>(v));
        let v = F::take::<S>(v, S::swap::<2>(v));
        S::first(F::take::<S>(v, S::swap::<1>(v)))
    }
}

/// One total for each of `LANES` lines, or of the first `lines` of them: lines become lanes.
///
/// # Safety
/// `lines` times `len` elements at `src`, `pitch` apart; the CPU has the level's features.
#[inline(always)]
pub unsafe fn take_across<S: Simd, F: Fold>(src: *const f32, lines: usize, pitch: usize, len: usize) -> S::V {
    // SAFETY: every access lies within a line.
    unsafe {
        let mut total = S::splat(F::NOTHING);
        for k in 0..len {
            let mut lanes = [0.0f32; 16];
            let x = if lines == S::LANES {
                S::load_strided(src.add(k), pitch)
            } else {
                for (line, value) in lanes.iter_mut().enumerate().take(lines) {
                    *value = src.add(line * pitch + k).read_unaligned();
                }
                S::load(lanes.as_ptr())
            };
            total = F::take::<S>(total, x);
        }
        total
    }
}
