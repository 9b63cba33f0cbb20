//! Transcendental functions over any [`Simd`] level, in single precision throughout.
//!
//! The bounds hold for every float, with fused multiply-add or without, and `tests/rust/simd.rs` checks them. Results
//! below the smallest normal float are rounded like all others, or flushed where the caller has switched that on.

use super::Simd;

/// Polynomial in `x` by Horner's rule, highest coefficient first.
#[inline(always)]
unsafe fn horner<S: Simd, const N: usize>(x: S::V, coefficients: [f32; N]) -> S::V {
    // SAFETY: the caller's contract is the trait's.
    unsafe {
        let mut sum = S::splat(coefficients[0]);
        for &coefficient in &coefficients[1..] {
            sum = S::fma(sum, x, S::splat(coefficient));
        }
        sum
    }
}

/// `e^x` within 1.2 ulp; `exp(0)` = 1 exactly, 0 from −104 down, ∞ from 88.73 up, NaN stays.
///
/// `x = n·ln 2 + r` with `|r| ≤ ln 2 / 2`, ln 2 in two parts of which the first times `n` is exact; then a polynomial
/// (Cephes `expf`) and the power of two, in two factors so that neither overflows on the way to a finite result.
///
/// # Safety
/// The CPU has the level's features.
#[inline(always)]
pub unsafe fn exp<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller's contract is the trait's. `n` lies in −152..=128, so its halves suit `pow2`; `max` and `min`
    // return their second operand if that is NaN, which then makes `r` NaN whatever `pow2` yields.
    unsafe {
        let x = S::min(S::splat(89.0), S::max(S::splat(-105.0), x));
        let n = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        let r = S::fma(n, S::splat(-355.0 / 512.0), x);
        let r = S::fma(n, S::splat(2.121_944_4e-4), r);
        let tail =
            horner::<S, 6>(r, [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5]);
        let power = S::add(S::splat(1.0), S::fma(tail, S::mul(r, r), r));
        let half = S::round(S::mul(n, S::splat(0.5)));
        S::mul(S::mul(power, S::pow2(half)), S::pow2(S::sub(n, half)))
    }
}

/// `tanh x` within 1.5 ulp, odd to the bit; ±0 stay, ±1 from ±9.02 on, NaN stays.
///
/// Below 0.625 an odd polynomial (Cephes `tanhf`), above it `1 − 2/(e^2x + 1)`.
///
/// # Safety
/// The CPU has the level's features.
#[inline(always)]
pub unsafe fn tanh<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller's contract is the trait's.
    unsafe {
        let one = S::splat(1.0);
        // A NaN as second operand passes through `min`, then fails the comparison and goes through the polynomial.
        let a = S::min(S::splat(10.0), S::abs(x));
        let square = S::mul(a, a);
        let tail =
            horner::<S, 5>(square, [-5.704_988_7e-3, 2.063_908_8e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1]);
        let small = S::fma(S::mul(tail, square), a, a);
        let large = S::sub(one, S::div(S::splat(2.0), S::add(exp::<S>(S::add(a, a)), one)));
        S::with_sign(S::abs(S::select(S::gt(a, S::splat(0.625)), large, small)), x)
    }
}

/// `1 / (1 + e^−x)` within 2.5 ulp; `sigmoid(0)` = ½ exactly, small results keep their relative precision, NaN stays.
///
/// # Safety
/// The CPU has the level's features.
#[inline(always)]
pub unsafe fn sigmoid<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller's contract is the trait's.
    unsafe {
        let (zero, one) = (S::splat(0.0), S::splat(1.0));
        // e ≤ 1: neither branch can overflow.
        let e = exp::<S>(S::sub(zero, S::abs(x)));
        S::div(S::select(S::gt(zero, x), e, one), S::add(one, e))
    }
}
