use cnnrs::simd::{Isa, Simd, dispatch::multiversion, math};

use crate::same;

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
apply!(tanh_by_table, tanh_by_table_body, cnnrs::simd::tanh::tanh::<S>);
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
        ("softplus", softplus, |x| x.max(0.0) + (-x.abs()).exp().ln_1p(), 3.0),
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

/// Also on levels that look up in memory and compute it otherwise.
#[test]
fn tanh_by_table_keeps_its_bound_and_the_order() {
    let edges = (0..32u32).map(|quarter| ((122 << 2) + quarter) << 21);
    let mut floats: Vec<f32> = edges.flat_map(|edge| edge - 2000..edge + 2000).map(f32::from_bits).collect();
    floats.extend(everywhere().into_iter().filter(|x| x.is_sign_positive() && !x.is_nan()));
    floats.sort_by(f32::total_cmp);
    floats.truncate(floats.len() / 16 * 16);
    for isa in Isa::available() {
        // Where nothing is fused, a product is rounded, too.
        let (bound, name) = (if isa == Isa::Portable { 1.5 } else { 1.0 }, isa.name());
        let results = all(tanh_by_table, isa, &floats);
        for (&x, &y) in floats.iter().zip(&results) {
            let error = ulps(y, f64::from(x).tanh());
            assert!(error <= bound, "on {name}: {error} ulp at {x:e}, stated {bound}");
            assert!(y <= 1.0);
        }
        let negative: Vec<f32> = floats.iter().map(|x| -x).collect();
        let odd = all(tanh_by_table, isa, &negative).into_iter().zip(&results).all(|(y, z)| same(y, -z));
        assert!(odd, "on {name}");
        if isa != Isa::Portable {
            let step = results.windows(2).zip(&floats).find(|(pair, _)| pair[0] > pair[1]);
            assert!(step.is_none(), "on {name}: falls behind {:?}", step.map(|(_, x)| x));
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
        for function in
            [exp as Function, tanh, tanh_by_table, sigmoid, log, softplus, silu, gelu, gelu_tanh, expm1_negative]
        {
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
