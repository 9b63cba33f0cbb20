//! The vector trait and the mathematical functions, on every level that this CPU has.
#![allow(clippy::float_cmp)] // exact results are compared as such

#[cfg(target_arch = "x86_64")]
use cnnrs::simd::{Avx2, Avx512};
use cnnrs::simd::{Isa, Portable, Simd, dispatch::multiversion, math};

/// Numbers that tell apart what comparisons, signs and rounding may confuse.
const SPECIAL: [f32; 18] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -0.5,
    1.5,
    2.5,
    -2.5,
    3.75,
    1e-30,
    -1e30,
    12_345.67,
    -7.25,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    8_388_609.0,
];

fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

fn lanes_of<S: Simd>(v: S::V) -> Vec<f32> {
    let mut lanes = vec![0.0; S::LANES];
    // SAFETY: `LANES` floats; the caller has the level.
    unsafe { S::store(lanes.as_mut_ptr(), v) };
    lanes
}

fn truth_of<S: Simd>(m: S::M) -> Vec<bool> {
    // SAFETY: the caller has the level.
    let v = unsafe { S::select(m, S::splat(1.0), S::splat(0.0)) };
    lanes_of::<S>(v).into_iter().map(|x| x > 0.0).collect()
}

/// Every operation on all pairs of special numbers, lane by lane against plain Rust.
#[inline(always)]
unsafe fn arithmetic_body<S: Simd>() {
    let numbers: Vec<f32> = SPECIAL.iter().copied().cycle().take(SPECIAL.len() + S::LANES).collect();
    let check = |name: &str, got: Vec<f32>, want: &dyn Fn(usize) -> f32| {
        for (i, x) in got.into_iter().enumerate() {
            assert!(same(x, want(i)), "{name} on {:?}, lane {i}: {x} instead of {}", S::ISA, want(i));
        }
    };
    for first in 0..SPECIAL.len() {
        for second in 0..SPECIAL.len() {
            let (a, b) = (&numbers[first..first + S::LANES], &numbers[second..second + S::LANES]);
            // SAFETY: `LANES` numbers each; the shell has the level's features.
            unsafe {
                let (va, vb) = (S::load(a.as_ptr()), S::load(b.as_ptr()));
                check("add", lanes_of::<S>(S::add(va, vb)), &|i| a[i] + b[i]);
                check("sub", lanes_of::<S>(S::sub(va, vb)), &|i| a[i] - b[i]);
                check("mul", lanes_of::<S>(S::mul(va, vb)), &|i| a[i] * b[i]);
                check("div", lanes_of::<S>(S::div(va, vb)), &|i| a[i] / b[i]);
                check("sqrt", lanes_of::<S>(S::sqrt(va)), &|i| a[i].sqrt());
                check("max", lanes_of::<S>(S::max(va, vb)), &|i| if a[i] > b[i] { a[i] } else { b[i] });
                check("min", lanes_of::<S>(S::min(va, vb)), &|i| if a[i] < b[i] { a[i] } else { b[i] });
                check("abs", lanes_of::<S>(S::abs(va)), &|i| a[i].abs());
                check("with_sign", lanes_of::<S>(S::with_sign(S::abs(va), vb)), &|i| a[i].abs().copysign(b[i]));
                // The sign of a zero result is not promised.
                let rounded = S::add(S::round(va), S::splat(0.0));
                check("round", lanes_of::<S>(rounded), &|i| a[i].round_ties_even() + 0.0);
                let fused = S::ISA != Isa::Portable;
                let fma = |i: usize| if fused { a[i].mul_add(b[i], 1.0) } else { a[i] * b[i] + 1.0 };
                check("fma", lanes_of::<S>(S::fma(va, vb, S::splat(1.0))), &fma);

                let (gt, nan, eq) = (S::gt(va, vb), S::is_nan(va), S::eq_bits(va, vb));
                for i in 0..S::LANES {
                    assert_eq!(truth_of::<S>(gt)[i], a[i] > b[i]);
                    assert_eq!(truth_of::<S>(S::eq(va, vb))[i], a[i] == b[i]);
                    assert_eq!(truth_of::<S>(nan)[i], a[i].is_nan());
                    assert_eq!(truth_of::<S>(eq)[i], a[i].to_bits() == b[i].to_bits());
                    assert_eq!(truth_of::<S>(S::or(gt, nan))[i], a[i] > b[i] || a[i].is_nan());
                    assert_eq!(
                        truth_of::<S>(S::and_not(nan, eq))[i],
                        a[i].is_nan() && a[i].to_bits() != b[i].to_bits()
                    );
                }
                let selected = lanes_of::<S>(S::select(gt, va, vb));
                assert!(
                    (0..S::LANES).all(|i| selected[i].to_bits() == if a[i] > b[i] { a[i] } else { b[i] }.to_bits())
                );
            }
        }
    }
    // SAFETY: the shell has the level's features.
    unsafe {
        for n in -126..=127 {
            let got = lanes_of::<S>(S::pow2(S::splat(n as f32)));
            assert!(got.iter().all(|&x| f64::from(x).to_bits() == 2f64.powi(n).to_bits()), "pow2({n})");
        }
        for (mantissa, exponent) in [(1.0, -126), (1.999_999_9, 127), (1.5, 0), (1.0, 24), (1.25, -1)] {
            let (m, e) = S::split(S::splat((f64::from(mantissa) * 2f64.powi(exponent)) as f32));
            assert!(lanes_of::<S>(m).iter().all(|&x| same(x, mantissa)), "mantissa of {mantissa}·2^{exponent}");
            assert!(lanes_of::<S>(e).iter().all(|&x| same(x, exponent as f32)), "exponent of {mantissa}·2^{exponent}");
        }
        for address in [std::ptr::null(), std::ptr::without_provenance(usize::MAX), [1.0f32].as_ptr()] {
            S::prefetch(address); // a hint: no address is wrong
        }
        for pattern in [0, -1, 7, i32::MIN, i32::MAX] {
            assert!(lanes_of::<S>(S::splat_i32(pattern)).iter().all(|x| x.to_bits() as i32 == pattern));
        }
        let patterns: Vec<u32> =
            (0..32).map(|i: u32| i.wrapping_mul(0x9E37_79B9) ^ (i << 27)).chain([0, u32::MAX]).collect();
        for pair in patterns.windows(S::LANES + 1) {
            let (a, b) = (&pair[..S::LANES], &pair[1..]);
            let (va, vb) = (S::load(a.as_ptr().cast()), S::load(b.as_ptr().cast()));
            let (low, high) = S::multiply(va, vb);
            for i in 0..S::LANES {
                let product = u64::from(a[i]) * u64::from(b[i]);
                assert_eq!(lanes_of::<S>(S::xor(va, vb))[i].to_bits(), a[i] ^ b[i]);
                assert_eq!(lanes_of::<S>(low)[i].to_bits(), product as u32);
                assert_eq!(lanes_of::<S>(high)[i].to_bits(), (product >> 32) as u32);
                assert_eq!(lanes_of::<S>(S::fraction(va))[i], (a[i] >> 8) as f32 / 16_777_216.0);
            }
        }
        let ramp: Vec<f32> = (0..S::LANES).map(|i| i as f32 * 3.0 - 7.0).collect();
        let v = S::load(ramp.as_ptr());
        assert!(same(S::sum(v), ramp.iter().sum()));
        assert!(same(S::first(v), ramp[0]));
        let swapped = [S::swap::<1>(v), S::swap::<2>(v), S::swap::<4>(v)].map(lanes_of::<S>);
        for (width, got) in [1, 2, 4].into_iter().zip(swapped) {
            assert!((0..S::LANES).all(|i| same(got[i], ramp[i ^ width])), "swap of {width}");
        }
        if S::LANES == 16 {
            let got = lanes_of::<S>(S::swap::<8>(v));
            assert!((0..16).all(|i| same(got[i], ramp[i ^ 8])), "swap of 8");
        }
        for stride in [0, 1, 3, 17] {
            let src: Vec<f32> = (0..=(S::LANES - 1) * stride).map(|i| i as f32).collect();
            let got = lanes_of::<S>(S::load_strided(src.as_ptr(), stride));
            assert!((0..S::LANES).all(|i| same(got[i], (i * stride) as f32)), "stride {stride}");
        }
        assert!(same(S::max_lane(v), ramp[S::LANES - 1]));
    }
}
multiversion! { fn arithmetic() = arithmetic_body; }

/// Partial loads and stores, at the very end of their memory and at odd addresses.
#[inline(always)]
unsafe fn partial_body<S: Simd>() {
    for n in 0..=S::LANES {
        // Exactly `n` elements are owned: address sanitizers and page ends notice a wider read.
        let src: Vec<f32> = (0..n).map(|i| i as f32 + 1.0).collect();
        let mut dst = vec![-9.0f32; S::LANES + 2];
        // SAFETY: `n` elements are there; the shell has the level's features.
        unsafe {
            let v = S::load_partial(src.as_ptr(), n);
            for (i, x) in lanes_of::<S>(v).into_iter().enumerate() {
                assert!(same(x, if i < n { src[i] } else { 0.0 }));
            }
            S::store_partial(dst.as_mut_ptr().add(1), S::add(v, S::splat(100.0)), n);
        }
        for (i, &x) in dst.iter().enumerate() {
            assert!(same(x, if (1..=n).contains(&i) { 100.0 + i as f32 } else { -9.0 }), "lane {i} of {n}");
        }
    }
}
multiversion! { fn partial() = partial_body; }

#[test]
fn operations_agree_with_plain_floats() {
    for isa in Isa::available() {
        // SAFETY: the level is available.
        unsafe { arithmetic(isa) };
    }
}

#[test]
fn partial_accesses_touch_only_their_elements() {
    for isa in Isa::available() {
        // SAFETY: the level is available.
        unsafe { partial(isa) };
    }
}

#[test]
fn lanes_match_the_level() {
    assert_eq!(Portable::LANES, Isa::Portable.lanes());
    #[cfg(target_arch = "x86_64")]
    assert_eq!((Avx2::LANES, Avx512::LANES), (Isa::Avx2.lanes(), Isa::Avx512.lanes()));
}

/// Applies one function to eight or sixteen numbers at a time.
macro_rules! apply {
    ($name:ident, $body:ident, $function:path) => {
        #[inline(always)]
        unsafe fn $body<S: Simd>(x: &mut [f32]) {
            for part in x.chunks_exact_mut(S::LANES) {
                // SAFETY: `LANES` elements; the shell has the level's features.
                unsafe { S::store(part.as_mut_ptr(), $function(S::load(part.as_ptr()))) };
            }
        }
        multiversion! { fn $name(x: &mut [f32]) = $body; }
    };
}
apply!(exp, exp_body, math::exp::<S>);
apply!(tanh, tanh_body, math::tanh::<S>);
apply!(sigmoid, sigmoid_body, math::sigmoid::<S>);
apply!(expm1_negative, expm1_negative_body, math::expm1_negative::<S>);
apply!(log, log_body, math::log::<S>);
apply!(softplus, softplus_body, math::softplus::<S>);
apply!(silu, silu_body, silu_of::<S>);
apply!(silu_slope, silu_slope_body, math::silu_slope::<S>);
apply!(gelu, gelu_body, math::gelu::<S>);
apply!(gelu_slope, gelu_slope_body, math::gelu_slope::<S>);
apply!(gelu_tanh, gelu_tanh_body, math::gelu_tanh::<S>);
apply!(gelu_tanh_slope, gelu_tanh_slope_body, math::gelu_tanh_slope::<S>);

#[inline(always)]
unsafe fn silu_of<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the shell has the level's features.
    unsafe { math::gate::<S>(x, x) }
}

type Function = unsafe fn(Isa, &mut [f32]);
type Reference = fn(f64) -> f64;

/// Distance in units of the last place of a float as large as `want`.
fn ulps(got: f32, want: f64) -> f64 {
    if got.is_nan() || want.is_nan() {
        return if got.is_nan() && want.is_nan() { 0.0 } else { f64::INFINITY };
    }
    if f64::from(got) == want || (got.is_infinite() && f64::from(want as f32) == f64::from(got)) {
        return 0.0;
    }
    let exponent = want.abs().max(f64::from(f32::MIN_POSITIVE)).log2().floor() as i32;
    (f64::from(got) - want).abs() / 2f64.powi(exponent - 23)
}

/// Every 1021st float of all magnitudes and signs.
fn everywhere() -> Vec<f32> {
    (0..=u32::MAX).step_by(1021).map(f32::from_bits).take(4_206_592).collect()
}

fn all(function: Function, isa: Isa, x: &[f32]) -> Vec<f32> {
    let mut got = x.to_vec();
    // SAFETY: the level is available.
    unsafe { function(isa, &mut got) };
    got
}

fn one(function: Function, isa: Isa, x: f32) -> f32 {
    let mut lanes = [x; 16];
    // SAFETY: the level is available.
    unsafe { function(isa, &mut lanes) };
    assert!(lanes.iter().all(|&y| same(y, lanes[0])));
    lanes[0]
}

fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The normal distribution's `Φ(−x)`: a series near zero, a continued fraction in the tail.
fn upper_tail(x: f64) -> f64 {
    let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
    if x.is_nan() {
        return x;
    }
    if x.abs() < 3.0 {
        let (mut term, mut sum) = (x, x);
        for k in 1..60 {
            term *= x * x / f64::from(2 * k + 1);
            sum += term;
        }
        return 0.5 - density * sum;
    }
    let a = x.abs();
    let fraction = (1..80).rev().fold(a, |rest, k| a + f64::from(k) / rest);
    let tail = if density == 0.0 { 0.0 } else { density / fraction };
    if x > 0.0 { tail } else { 1.0 - tail }
}

fn density(x: f64) -> f64 {
    (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

/// `2·√(2/π)·(x + 0.044715·x³)` and its derivative.
fn cubic(x: f64) -> (f64, f64) {
    let c = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
    (c * (x + 0.044_715 * x * x * x), c * (1.0 + 0.134_145 * x * x))
}

/// Functions that cross zero, or whose argument is itself rounded: the error in units of the last place of a sum of
/// magnitudes, everywhere.
#[test]
fn slopes_keep_their_error_bounds() {
    type Magnitude = fn(f64) -> (f64, f64);
    let table: [(&str, Function, Magnitude, f64); 4] = [
        ("silu_slope", silu_slope, |x| gated(x, x, 1.0), 4.0),
        (
            "gelu_slope",
            gelu_slope,
            |x| {
                let (phi, line) = (upper_tail(-x), x * density(x));
                (phi + line, phi + line.abs())
            },
            8.0,
        ),
        (
            "gelu_tanh_slope",
            gelu_tanh_slope,
            |x| {
                let (v, slope) = cubic(x);
                let (value, size) = gated(x, v, slope);
                (value, size * (1.0 + v.abs().min(100.0)))
            },
            4.0,
        ),
        (
            "gelu_tanh",
            gelu_tanh,
            |x| {
                let v = cubic(x).0;
                let value = x * logistic(v);
                (value, value.abs() * (1.0 + (2.0 / 3.0) * (-v).clamp(0.0, 150.0)))
            },
            3.0,
        ),
    ];
    let floats = everywhere();
    for (name, function, magnitude, bound) in table {
        // Beyond, the limits hold.
        let wanted: Vec<(f64, f64)> = floats
            .iter()
            .map(|&x| magnitude(f64::from(x).clamp(-120.0, if name == "gelu_tanh" { f64::INFINITY } else { 120.0 })))
            .collect();
        for isa in Isa::available() {
            for ((&x, &y), &(want, size)) in floats.iter().zip(&all(function, isa, &floats)).zip(&wanted) {
                let error = (f64::from(y) - want).abs();
                let close = error <= bound * size * 2f64.powi(-23) + 128.0 * f64::from(f32::MIN_POSITIVE);
                let fine = close || f64::from(y) == want || (y.is_nan() && x.is_nan());
                let units = error / size * 2f64.powi(23);
                assert!(fine, "{name} on {}: {y:e} for {want:e} at {x:e}, {units} units", isa.name());
            }
        }
    }
}

/// Derivative of `x·sigmoid(v)` and the sum of the magnitudes of its terms.
fn gated(x: f64, v: f64, slope: f64) -> (f64, f64) {
    let s = logistic(v);
    let line = x * slope * s * logistic(-v);
    (s + line, s + line.abs())
}

#[test]
fn functions_keep_their_error_bounds() {
    let table: [(&str, Function, Reference, f64); 8] = [
        ("exp", exp, f64::exp, 1.2),
        ("tanh", tanh, f64::tanh, 1.5),
        ("sigmoid", sigmoid, logistic, 2.5),
        ("expm1_negative", expm1_negative, |x| if x > 0.0 { 0.0 } else { x.exp_m1() }, 2.0),
        ("log", log, f64::ln, 1.5),
        ("softplus", softplus, |x| x.max(0.0) + (-x.abs()).exp().ln_1p() + 0.0 * x.max(-1.0).min(1.0), 3.0),
        ("silu", silu, |x| if x < -1e3 { -0.0 } else { x * logistic(x) }, 3.0),
        ("gelu", gelu, |x| if x < -40.0 { -0.0 } else { x * upper_tail(-x) }, 5.0),
    ];
    let floats = everywhere();
    for (name, function, reference, bound) in table {
        let wanted: Vec<f64> = floats.iter().map(|&x| reference(f64::from(x))).collect();
        for isa in Isa::available() {
            for ((&x, &y), &want) in floats.iter().zip(&all(function, isa, &floats)).zip(&wanted) {
                let error = ulps(y, want);
                assert!(error <= bound, "{name} on {}: {error} ulp at {x:e}, stated {bound}", isa.name());
            }
        }
    }
}

#[test]
fn functions_are_exact_where_they_must_be() {
    for isa in Isa::available() {
        let is = |function: Function, x: f32, y: f32| {
            let got = one(function, isa, x);
            assert!(same(got, y), "{}: f({x}) = {got} instead of {y}", isa.name());
        };
        for function in [exp as Function, tanh, sigmoid, log, softplus, silu, gelu, gelu_tanh, expm1_negative] {
            is(function, f32::NAN, f32::NAN);
        }
        is(exp, 0.0, 1.0);
        is(exp, -0.0, 1.0);
        is(exp, f32::NEG_INFINITY, 0.0);
        is(exp, -104.0, 0.0);
        is(exp, -1e4, 0.0);
        is(exp, f32::INFINITY, f32::INFINITY);
        is(exp, 88.73, f32::INFINITY);
        assert!(one(exp, isa, 88.72).is_finite());
        for sign in [1.0, -1.0] {
            is(tanh, sign * 0.0, sign * 0.0);
            is(tanh, sign * f32::INFINITY, sign);
            is(tanh, sign * f32::MAX, sign);
            is(tanh, sign * 9.02, sign);
            is(tanh, sign * 1e-40, sign * 1e-40);
        }
        is(sigmoid, 0.0, 0.5);
        is(sigmoid, f32::INFINITY, 1.0);
        is(sigmoid, 1e4, 1.0);
        is(sigmoid, f32::NEG_INFINITY, 0.0);
        is(sigmoid, -1e4, 0.0);
        is(log, 1.0, 0.0);
        is(log, 0.0, f32::NEG_INFINITY);
        is(log, -0.0, f32::NEG_INFINITY);
        is(log, -1.0, f32::NAN);
        is(log, f32::NEG_INFINITY, f32::NAN);
        is(log, f32::INFINITY, f32::INFINITY);
        is(log, 1e-45, f64::from(1e-45f32).ln() as f32);
        is(softplus, f32::NEG_INFINITY, 0.0);
        is(softplus, f32::INFINITY, f32::INFINITY);
        is(softplus, 1e30, 1e30);
        is(expm1_negative, 0.0, 0.0);
        is(expm1_negative, f32::NEG_INFINITY, -1.0);
        is(expm1_negative, -1e-30, -1e-30);
        for function in [silu as Function, gelu, gelu_tanh] {
            is(function, f32::NEG_INFINITY, -0.0);
            is(function, -1e30, -0.0);
            is(function, f32::INFINITY, f32::INFINITY);
            is(function, 1e30, 1e30);
            is(function, 0.0, 0.0);
        }
        for function in [silu_slope as Function, gelu_slope, gelu_tanh_slope] {
            assert_eq!(one(function, isa, f32::NEG_INFINITY), 0.0);
            is(function, f32::INFINITY, 1.0);
            is(function, f32::NAN, f32::NAN);
        }
        is(silu_slope, 0.0, 0.5);
        is(gelu_tanh_slope, 0.0, 0.5);
        let tiny = one(sigmoid, isa, -100.0);
        assert!(tiny > 0.0 && tiny < 1e-43);
    }
}
