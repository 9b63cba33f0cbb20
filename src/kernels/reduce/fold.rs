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
}

macro_rules! folds {
    ($($name:ident $nothing:expr, $totals:ident, |$total:ident, $x:ident| $take:expr;)*) => {$(
        pub struct $name;

        impl Fold for $name {
            const NOTHING: f32 = $nothing;
            type Totals = $totals;

            #[inline(always)]
            unsafe fn take<S: Simd>($total: S::V, $x: S::V) -> S::V {
                // SAFETY: trait contract.
                unsafe { $take }
            }
        }
    )*};
}

folds! {
    Sum 0.0, Sum, |total, x| S::add(total, x);
    SumSquares 0.0, Sum, |total, x| S::fma(x, x, total);
    Max f32::NEG_INFINITY, Max, |total, x| math::maximum::<S>(total, x);
    Min f32::INFINITY, Min, |total, x| math::minimum::<S>(total, x);
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

/// Reduces `count` totals, a power of two, by halving: total i with total i + count/2, and so on down to one, which is
/// returned; the others are lost.
///
/// # Safety
/// `count` floats at `totals`; the CPU has the level's features.
#[inline(always)]
pub unsafe fn halve<S: Simd, F: Fold>(totals: *mut f32, count: usize) -> f32 {
    // SAFETY: both halves lie within `count` elements and do not meet.
    unsafe {
        let mut half = count / 2;
        while half > 0 {
            for i in (0..half).step_by(S::LANES) {
                let lanes = S::LANES.min(half - i);
                let (low, high) = (S::load_partial(totals.add(i), lanes), S::load_partial(totals.add(half + i), lanes));
                S::store_partial(totals.add(i), F::Totals::take::<S>(low, high), lanes);
            }
            half /= 2;
        }
        totals.read()
    }
}
