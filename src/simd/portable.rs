//! The baseline level: eight lanes in an array, plain Rust, any CPU.

use super::{Isa, Simd};

/// Baseline vectors; see [`Simd`].
#[derive(Clone, Copy, Debug)]
pub struct Portable;

const LANES: usize = 8;
type V = [f32; LANES];
type M = [bool; LANES];

#[inline(always)]
fn map(a: V, f: impl Fn(f32) -> f32) -> V {
    let mut out = a;
    for x in &mut out {
        *x = f(*x);
    }
    out
}

#[inline(always)]
fn zip(a: V, b: V, f: impl Fn(f32, f32) -> f32) -> V {
    let mut out = a;
    for i in 0..LANES {
        out[i] = f(a[i], b[i]);
    }
    out
}

#[inline(always)]
fn test(a: V, b: V, f: impl Fn(f32, f32) -> bool) -> M {
    let mut out = [false; LANES];
    for i in 0..LANES {
        out[i] = f(a[i], b[i]);
    }
    out
}

/// Adding and subtracting 1.5·2²³ rounds |x| ≤ 2²² to the nearest integer, ties to even.
const ROUNDING: f32 = 12_582_912.0;

impl Simd for Portable {
    type V = V;
    type M = M;
    const LANES: usize = LANES;
    const ISA: Isa = Isa::Portable;

    #[inline(always)]
    unsafe fn splat(x: f32) -> V {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn splat_i32(x: i32) -> V {
        [f32::from_bits(x as u32); LANES]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> V {
        // SAFETY: eight readable floats by the trait's contract.
        unsafe { p.cast::<V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_streaming(p: *mut f32, v: V) {
        // SAFETY: trait contract.
        unsafe { Self::store(p, v) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: V) {
        // SAFETY: eight writable floats by the trait's contract.
        unsafe { p.cast::<V>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_partial(p: *const f32, n: usize) -> V {
        let mut out = [0.0; LANES];
        for (i, lane) in out.iter_mut().enumerate().take(n) {
            // SAFETY: `n` readable floats by the trait's contract.
            *lane = unsafe { p.add(i).read_unaligned() };
        }
        out
    }
    #[inline(always)]
    unsafe fn load_strided(p: *const f32, stride: usize) -> V {
        // SAFETY: every lane is readable by the trait's contract.
        std::array::from_fn(|lane| unsafe { p.add(lane * stride).read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store_partial(p: *mut f32, v: V, n: usize) {
        for (i, lane) in v.iter().enumerate().take(n) {
            // SAFETY: `n` writable floats by the trait's contract.
            unsafe { p.add(i).write_unaligned(*lane) };
        }
    }
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> V {
        // SAFETY: eight readable bytes by the trait's contract.
        let bytes = unsafe { p.cast::<[u8; LANES]>().read() };
        bytes.map(|byte| f32::from_bits(u32::from(byte)))
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, v: V) {
        // SAFETY: eight writable bytes by the trait's contract.
        unsafe { p.cast::<[u8; LANES]>().write(v.map(|x| x.to_bits() as u8)) }
    }
    #[inline(always)]
    unsafe fn prefetch(_p: *const f32) {}
    #[inline(always)]
    unsafe fn prefetch_far(_p: *const f32) {}

    #[inline(always)]
    unsafe fn add(a: V, b: V) -> V {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: V, b: V) -> V {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: V, b: V) -> V {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: V, b: V) -> V {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn fma(a: V, b: V, c: V) -> V {
        let mut out = c;
        for i in 0..LANES {
            out[i] += a[i] * b[i];
        }
        out
    }
    #[inline(always)]
    unsafe fn max(a: V, b: V) -> V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(a: V, b: V) -> V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn round(a: V) -> V {
        map(a, |x| if x.abs() < 4_194_304.0 { (x + ROUNDING) - ROUNDING } else { x })
    }
    #[inline(always)]
    unsafe fn pow2(n: V) -> V {
        map(n, |x| f32::from_bits(((x as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn split(a: V) -> (V, V) {
        let mantissa = map(a, |x| f32::from_bits(x.to_bits() & 0x007F_FFFF | 0x3F80_0000));
        (mantissa, map(a, |x| (x.to_bits() >> 23) as f32 - 127.0))
    }
    #[inline(always)]
    unsafe fn sqrt(a: V) -> V {
        map(a, f32::sqrt)
    }
    #[inline(always)]
    unsafe fn abs(a: V) -> V {
        map(a, f32::abs)
    }
    #[inline(always)]
    unsafe fn with_sign(a: V, sign: V) -> V {
        zip(a, sign, f32::copysign)
    }

    #[inline(always)]
    unsafe fn gt(a: V, b: V) -> M {
        test(a, b, |a, b| a > b)
    }
    #[inline(always)]
    #[allow(clippy::float_cmp)] // equality is the operation
    unsafe fn eq(a: V, b: V) -> M {
        test(a, b, |a, b| a == b)
    }
    #[inline(always)]
    unsafe fn is_nan(a: V) -> M {
        test(a, a, |a, _| a.is_nan())
    }
    #[inline(always)]
    unsafe fn eq_bits(a: V, b: V) -> M {
        test(a, b, |a, b| a.to_bits() == b.to_bits())
    }
    #[inline(always)]
    unsafe fn or(a: M, b: M) -> M {
        let mut out = a;
        for i in 0..LANES {
            out[i] |= b[i];
        }
        out
    }
    #[inline(always)]
    unsafe fn and_not(a: M, b: M) -> M {
        let mut out = a;
        for i in 0..LANES {
            out[i] &= !b[i];
        }
        out
    }
    #[inline(always)]
    unsafe fn any(m: M) -> bool {
        m.contains(&true)
    }
    #[inline(always)]
    unsafe fn select(m: M, a: V, b: V) -> V {
        let mut out = b;
        for i in 0..LANES {
            out[i] = if m[i] { a[i] } else { b[i] };
        }
        out
    }

    #[inline(always)]
    unsafe fn xor(a: V, b: V) -> V {
        zip(a, b, |a, b| f32::from_bits(a.to_bits() ^ b.to_bits()))
    }
    #[inline(always)]
    unsafe fn multiply(a: V, b: V) -> (V, V) {
        let product = |a: f32, b: f32| u64::from(a.to_bits()) * u64::from(b.to_bits());
        let low = zip(a, b, |a, b| f32::from_bits(product(a, b) as u32));
        (low, zip(a, b, |a, b| f32::from_bits((product(a, b) >> 32) as u32)))
    }
    #[inline(always)]
    unsafe fn fraction(a: V) -> V {
        map(a, |x| (x.to_bits() >> 8) as f32 * (1.0 / 16_777_216.0))
    }
    #[inline(always)]
    unsafe fn unzip(a: V, b: V) -> (V, V) {
        let lane = |at: usize| if at < Self::LANES { a[at] } else { b[at - Self::LANES] };
        (std::array::from_fn(|i| lane(2 * i)), std::array::from_fn(|i| lane(2 * i + 1)))
    }
    #[inline(always)]
    unsafe fn transpose8(src: *const f32, src_step: isize, dst: *mut f32, dst_step: usize) {
        for row in 0..8 {
            for column in 0..8 {
                // SAFETY: eight rows of eight floats on both sides by the trait's contract; moved as patterns.
                unsafe {
                    let value = src.offset(column as isize * src_step).add(row).cast::<u32>().read_unaligned();
                    dst.add(row * dst_step + column).cast::<u32>().write_unaligned(value);
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn swap<const W: usize>(v: V) -> V {
        std::array::from_fn(|lane| v[lane ^ W])
    }
    #[inline(always)]
    unsafe fn first(v: V) -> f32 {
        v[0]
    }
}
