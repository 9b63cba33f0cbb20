//! The vector trait and the mathematical functions, on every level that this CPU has.
#![allow(clippy::float_cmp)] // exact results are compared as such

#[path = "simd/math.rs"]
mod functions;

#[cfg(target_arch = "x86_64")]
use cnnrs::simd::{Avx2, Avx512};
use cnnrs::simd::{Isa, Portable, Simd, dispatch::multiversion};

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
        let more: Vec<f32> = ramp.iter().map(|x| x + 100.0).collect();
        let (even, odd) = S::unzip(v, S::load(more.as_ptr()));
        for (first, got) in [lanes_of::<S>(even), lanes_of::<S>(odd)].into_iter().enumerate() {
            let both: Vec<f32> = ramp[..S::LANES].iter().chain(&more[..S::LANES]).copied().collect();
            assert!(both.iter().skip(first).step_by(2).zip(&got).all(|(a, b)| same(*a, *b)), "unzip");
        }
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

/// Bytes as patterns and back, whole vectors and parts of them.
#[inline(always)]
unsafe fn bytes_body<S: Simd>() {
    for start in (0..256).step_by(S::LANES) {
        for n in 0..=S::LANES {
            let src: Vec<u8> = (start..start + n).map(|byte| byte as u8).collect();
            let mut dst = vec![77u8; S::LANES + 2];
            // SAFETY: `n` bytes are there; the shell has the level's features.
            unsafe {
                let v =
                    if n == S::LANES { S::load_bytes(src.as_ptr()) } else { S::load_bytes_partial(src.as_ptr(), n) };
                for (i, x) in lanes_of::<S>(v).into_iter().enumerate() {
                    assert_eq!(x.to_bits(), src.get(i).copied().map_or(0, u32::from));
                }
                let to = dst.as_mut_ptr().add(1);
                if n == S::LANES { S::store_bytes(to, v) } else { S::store_bytes_partial(to, v, n) }
            }
            assert_eq!((&dst[1..=n], dst[0]), (&src[..], 77), "{n} bytes from {start}");
            assert!(dst[n + 1..].iter().all(|&byte| byte == 77), "{n} bytes from {start}");
        }
    }
}
multiversion! { fn bytes() = bytes_body; }

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
        // SAFETY: as above.
        unsafe { bytes(isa) };
    }
}

#[test]
fn lanes_match_the_level() {
    assert_eq!(Portable::LANES, Isa::Portable.lanes());
    #[cfg(target_arch = "x86_64")]
    assert_eq!((Avx2::LANES, Avx512::LANES), (Isa::Avx2.lanes(), Isa::Avx512.lanes()));
}
