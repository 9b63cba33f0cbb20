//! Mathematical functions over any [`Simd`] level, in single precision throughout.
//!
//! The bounds hold for every float, with fused multiply-add or without, and `tests/rust/simd.rs` checks them. Results
//! below the smallest normal float are rounded like all others, or flushed where the caller has switched that on;
//! then denormal operands count as zero. NaN stays NaN in all of them.

use super::{Isa, Simd};

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

/// The larger; NaN if either is.
///
/// # Safety
/// The CPU has the level's features.
#[inline(always)]
pub unsafe fn maximum<S: Simd>(a: S::V, b: S::V) -> S::V {
    // SAFETY: the caller's contract is the trait's. `max` returns its second operand if either is NaN.
    unsafe { S::select(S::is_nan(a), a, S::max(a, b)) }
}

/// The smaller; NaN if either is.
///
/// # Safety
/// The CPU has the level's features.
#[inline(always)]
pub unsafe fn minimum<S: Simd>(a: S::V, b: S::V) -> S::V {
    // SAFETY: the caller's contract is the trait's. `min` returns its second operand if either is NaN.
    unsafe { S::select(S::is_nan(a), a, S::min(a, b)) }
}

/// `n` and `r` with `high + low = n·ln 2 + r`, `n` whole and `|r| ≤ ln 2 / 2`.
///
/// ln 2 is taken in two parts, of which the first times `n` is exact; `low` is far smaller than one.
#[inline(always)]
unsafe fn reduce<S: Simd>(high: S::V, low: Option<S::V>) -> (S::V, S::V) {
    // SAFETY: the caller's contract is the trait's.
    unsafe {
        let (log2_e, ln_2) = (S::splat(std::f32::consts::LOG2_E), S::splat(-355.0 / 512.0));
        let (n, r) = if let Some(low) = low {
            let n = S::round(S::mul(S::add(high, low), log2_e));
            (n, S::add(S::fma(n, ln_2, high), low))
        } else {
            let n = S::round(S::mul(high, log2_e));
            (n, S::fma(n, ln_2, high))
        };
        (n, S::fma(n, S::splat(2.121_944_4e-4), r))
    }
}

/// `e^r − 1` for `|r| ≤ ln 2 / 2` (Cephes `expf`).
#[inline(always)]
unsafe fn near_zero<S: Simd>(r: S::V) -> S::V {
    // SAFETY: the caller's contract is the trait's.
    unsafe {
        let tail =
            horner::<S, 6>(r, [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5]);
        S::fma(tail, S::mul(r, r), r)
    }
}

/// `v·2^n` for whole `n` in −252..=254, in two factors so that neither overflows on the way to a finite result.
#[inline(always)]
unsafe fn scale<S: Simd>(v: S::V, n: S::V) -> S::V {
    // SAFETY: the caller's contract is the trait's; the halves suit `pow2`.
    unsafe {
        let half = S::round(S::mul(n, S::splat(0.5)));
        S::mul(S::mul(v, S::pow2(half)), S::pow2(S::sub(n, half)))
    }
}

/// `e^x` within 1.2 ulp; `exp(0)` = 1 exactly, 0 from −104 down, ∞ from 88.73 up.
///
/// # Safety
/// The CPU has the level's features.
#[inline(always)]
pub unsafe fn exp<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller's contract is the trait's. `n` lies in −152..=128; `max` and `min` return their second operand
    // if that is NaN, which then makes `r` NaN whatever `pow2` yields.
    unsafe {
        let x = S::min(S::splat(89.0), S::max(S::splat(-105.0), x));
        let (n, r) = reduce::<S>(x, None);
        scale::<S>(S::add(S::splat(1.0), near_zero::<S>(r)), n)
    }
}

/// `e^x − 1` for `x ≤ 0` within 2 ulp; 0 for positive lanes, −1 from −17.4 down.
///
/// # Safety
/// The CPU has the level's features.
#[inline(always)]
pub unsafe fn expm1_negative<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller's contract is the trait's; `n` lies in −36..=0.
    unsafe {
        let x = S::min(S::splat(0.0), S::max(S::splat(-25.0), x));
        let (n, r) = reduce::<S>(x, None);
        // 2^n − 1 is exact as long as the other term counts.
        let power = S::pow2(n);
        S::fma(near_zero::<S>(r), power, S::sub(power, S::splat(1.0)))
    }
}

/// `k·ln 2 + log(1 + f)` for whole `k` and `f` in −0.3..=0.5 (fdlibm `logf`).
#[inline(always)]
unsafe fn log_near_one<S: Simd>(f: S::V, k: S::V) -> S::V {
    // SAFETY: the caller's contract is the trait's.
    unsafe {
        let s = S::div(f, S::add(S::splat(2.0), f));
        let z = S::mul(s, s);
        let r = S::mul(z, horner::<S, 4>(z, [2.427_907_9e-1, 2.849_878_7e-1, 4.000_097_2e-1, 6.666_666e-1]));
        let half_square = S::mul(S::splat(0.5), S::mul(f, f));
        let low = S::fma(k, S::splat(9.058_001e-6), S::mul(s, S::add(half_square, r)));
        let small = S::sub(S::sub(half_square, low), f);
        S::sub(S::mul(k, S::splat(6.931_381e-1)), small)
    }
}

/// Natural logarithm within 1.5 ulp; `log(1)` = 0, `log(±0)` = −∞, NaN below zero, ∞ stays.
///
/// # Safety
/// The CPU has the level's features.
#[inline(always)]
pub unsafe fn log<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller's contract is the trait's.
    unsafe {
        let (zero, one) = (S::splat(0.0), S::splat(1.0));
        // Denormals are normal 24 binary places up.
        let tiny = S::gt(S::splat(f32::MIN_POSITIVE), x);
        let (m, e) = S::split(S::select(tiny, S::mul(x, S::splat(16_777_216.0)), x));
        let high = S::gt(m, S::splat(std::f32::consts::SQRT_2));
        let f = S::sub(S::select(high, S::mul(m, S::splat(0.5)), m), one);
        let k = S::add(S::sub(e, S::select(tiny, S::splat(24.0), zero)), S::select(high, one, zero));
        let finite = S::select(S::gt(S::splat(f32::INFINITY), x), log_near_one::<S>(f, k), x);
        let below = S::select(S::gt(zero, x), S::splat(f32::NAN), S::splat(f32::NEG_INFINITY));
        S::select(S::gt(x, zero), finite, S::select(S::is_nan(x), x, below))
    }
}

/// `log(1 + e^x)` within 3 ulp; 0 at −∞, ∞ at ∞.
///
/// # Safety
/// The CPU has the level's features.
#[inline(always)]
pub unsafe fn softplus<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller's contract is the trait's.
    unsafe {
        let (zero, one, half) = (S::splat(0.0), S::splat(1.0), S::splat(0.5));
        let e = exp::<S>(S::sub(zero, S::abs(x)));
        // Above one half, 1 + e = 2·(1 + (e − 1)/2), without a rounding.
        let high = S::gt(e, half);
        let f = S::select(high, S::mul(S::sub(e, one), half), e);
        S::add(S::max(zero, x), log_near_one::<S>(f, S::select(high, one, zero)))
    }
}

/// `e^x` to the bits of [`exp`] for `x` in 0..=80, where one factor is enough.
#[inline(always)]
unsafe fn exp_positive<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller's contract is the trait's; `n` lies in 0..=116.
    unsafe {
        let (n, r) = reduce::<S>(x, None);
        S::mul(S::add(S::splat(1.0), near_zero::<S>(r)), S::pow2(n))
    }
}

/// `tanh x` within 1.5 ulp, odd to the bit; ±0 stay, ±1 from ±9.02 on.
///
/// With AVX-512 by a table of polynomials ([`super::tanh`]); else below 0.625 an odd polynomial (Cephes `tanhf`), above it
/// `1 − 2/(e^2x + 1)`.
///
/// # Safety
/// The CPU has the level's features.
#[inline(always)]
pub unsafe fn tanh<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller's contract is the trait's.
    unsafe {
        if S::ISA == Isa::Avx512 {
            return super::tanh::tanh::<S>(x);
        }
        let one = S::splat(1.0);
        // A NaN as second operand passes through `min`, then fails the comparison and goes through the polynomial.
        let a = S::min(S::splat(10.0), S::abs(x));
        let square = S::mul(a, a);
        let tail =
            horner::<S, 5>(square, [-5.704_988_7e-3, 2.063_908_8e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1]);
        let small = S::fma(S::mul(tail, square), a, a);
        let large = S::sub(one, S::div(S::splat(2.0), S::add(exp_positive::<S>(S::add(a, a)), one)));
        S::with_sign(S::abs(S::select(S::gt(a, S::splat(0.625)), large, small)), x)
    }
}

/// `1 / (1 + e^−x)` within 2.5 ulp; `sigmoid(0)` = ½ exactly, small results keep their relative precision.
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

/// `x · sigmoid(v)` within 3 ulp; −0 in the limit at −∞. `v` has the sign of `x` and is −112 at most where `x` is −128.
///
/// # Safety
/// The CPU has the level's features.
#[inline(always)]
pub unsafe fn gate<S: Simd>(x: S::V, v: S::V) -> S::V {
    // SAFETY: the caller's contract is the trait's.
    unsafe {
        let (zero, one) = (S::splat(0.0), S::splat(1.0));
        let (n, r) = reduce::<S>(S::max(S::splat(-112.0), S::sub(zero, S::abs(v))), None);
        let power = S::add(one, near_zero::<S>(r));
        // For negative x the factor x goes in before the power of two: their product may be normal where e^v is not.
        let negative = scale::<S>(S::mul(S::max(S::splat(-128.0), x), power), n);
        S::div(S::select(S::gt(zero, x), negative, x), S::add(one, scale::<S>(power, n)))
    }
}

/// Derivative of `x · sigmoid(v(x))` from `x`, `v` and the slope of `v`; 0 and 1 in the limits.
///
/// # Safety
/// The CPU has the level's features.
#[inline(always)]
pub unsafe fn gate_slope<S: Simd>(x: S::V, v: S::V, slope: S::V) -> S::V {
    // SAFETY: the caller's contract is the trait's.
    unsafe {
        let (zero, one) = (S::splat(0.0), S::splat(1.0));
        let e = exp::<S>(S::sub(zero, S::abs(v)));
        // sigmoid(|v|) and sigmoid(−|v|), both to their last places.
        let large = S::div(one, S::add(one, e));
        let small = S::mul(e, large);
        let negative = S::gt(zero, x);
        let (at, other) = (S::select(negative, small, large), S::select(negative, large, small));
        S::mul(at, S::fma(S::mul(x, slope), other, one))
    }
}

/// For `a = min(|x|, 14.7)`: `n` and `p` with `e^(−a²/2) = p·2^n`, `Φ(−a)·e^(a²/2)`, and `a`.
///
/// The square is taken in two parts, the first of which is exact, because the exponential turns an absolute error of
/// its argument into a relative one. The quotient of the tail by the density is smooth: a polynomial in
/// `(a − 3.75)/(a + 3.75)` over `a + 3.75`, off by 1.5e-8 of itself at most.
#[inline(always)]
unsafe fn bell<S: Simd>(x: S::V) -> (S::V, S::V, S::V, S::V) {
    // SAFETY: the caller's contract is the trait's; `n` lies in −152..=0.
    unsafe {
        let a = S::min(S::splat(14.7), S::abs(x));
        let head = S::mul(S::round(S::mul(a, S::splat(256.0))), S::splat(1.0 / 256.0));
        let high = S::mul(S::mul(head, head), S::splat(-0.5));
        let low = S::mul(S::mul(S::sub(a, head), S::add(a, head)), S::splat(-0.5));
        let (n, r) = reduce::<S>(high, Some(low));
        let power = S::add(S::splat(1.0), near_zero::<S>(r));
        let t = S::div(S::splat(1.0), S::add(a, S::splat(3.75)));
        let w = S::mul(S::sub(a, S::splat(3.75)), t);
        let sum = horner::<S, 9>(
            w,
            [
                4.434_502e-4,
                5.096_288e-4,
                -4.169_019_4e-3,
                1.200_072_4e-3,
                3.749_250_6e-2,
                -1.515_208_3e-1,
                3.529_396e-1,
                -5.881_883e-1,
                7.502_941e-1,
            ],
        );
        (n, power, S::mul(sum, t), a)
    }
}

/// `x · Φ(x)`, Φ the normal distribution, within 5 ulp, also where it is tiny; −0 in the limit at −∞.
///
/// Between −1 and 1 Φ is ½ plus an odd polynomial, off by 7.2e-10 of it at most.
///
/// # Safety
/// The CPU has the level's features.
#[inline(always)]
pub unsafe fn gelu<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller's contract is the trait's.
    unsafe {
        let (n, power, quotient, a) = bell::<S>(x);
        let tail = S::mul(power, quotient);
        let positive = S::mul(x, S::sub(S::splat(1.0), scale::<S>(tail, n)));
        let negative = scale::<S>(S::mul(S::max(S::splat(-14.7), x), tail), n);
        let outside = S::select(S::gt(S::splat(0.0), x), negative, positive);
        let slope = horner::<S, 6>(
            S::mul(x, x),
            [-7.654_207e-6, 1.134_863_7e-4, -1.186_33e-3, 9.973_323e-3, -6.649_036e-2, 0.398_942_3],
        );
        let inside = S::mul(x, S::fma(x, slope, S::splat(0.5)));
        S::select(S::gt(a, S::splat(1.0)), outside, inside)
    }
}

/// Derivative of [`gelu`]: `Φ(x) + x·φ(x)`, within 8 units of the last place of `Φ(x) + |x|·φ(x)`; 0 and 1 in the
/// limits.
///
/// # Safety
/// The CPU has the level's features.
#[inline(always)]
pub unsafe fn gelu_slope<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller's contract is the trait's.
    unsafe {
        let (n, power, quotient, a) = bell::<S>(x);
        // 1/√(2π) times a; the derivatives at x and −x add up to one.
        let left = scale::<S>(S::mul(power, S::fma(a, S::splat(-0.398_942_3), quotient)), n);
        S::select(S::gt(S::splat(0.0), x), left, S::sub(S::splat(1.0), left))
    }
}

/// `2·√(2/π)·(x + 0.044715·x³)`, and its derivative.
#[inline(always)]
unsafe fn cubic<S: Simd>(x: S::V) -> (S::V, S::V) {
    // SAFETY: the caller's contract is the trait's.
    unsafe {
        let (line, cube) = (S::splat(1.595_769), S::splat(7.135_481_6e-2));
        let square = S::mul(x, x);
        (S::mul(x, S::fma(cube, square, line)), S::fma(S::mul(cube, S::splat(3.0)), square, line))
    }
}

/// `0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`, within 3 ulp and, for negative `x`, 2 more for each unit of the
/// exponent `2·√(2/π)·|x + 0.044715·x³|`; −0 in the limit at −∞.
///
/// # Safety
/// The CPU has the level's features.
#[inline(always)]
pub unsafe fn gelu_tanh<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller's contract is the trait's.
    unsafe { gate::<S>(x, cubic::<S>(x).0) }
}

/// Derivative of [`gelu_tanh`].
///
/// # Safety
/// The CPU has the level's features.
#[inline(always)]
pub unsafe fn gelu_tanh_slope<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller's contract is the trait's. Beyond ±16 the limits are reached; NaN passes through both bounds.
    unsafe {
        let x = S::min(S::splat(16.0), S::max(S::splat(-16.0), x));
        let (v, slope) = cubic::<S>(x);
        gate_slope::<S>(x, v, slope)
    }
}

/// Derivative of `x · sigmoid(x)`.
///
/// # Safety
/// The CPU has the level's features.
#[inline(always)]
pub unsafe fn silu_slope<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller's contract is the trait's. Beyond ±128 the limits are reached; NaN passes through both bounds.
    unsafe {
        let x = S::min(S::splat(128.0), S::max(S::splat(-128.0), x));
        gate_slope::<S>(x, x, S::splat(1.0))
    }
}
