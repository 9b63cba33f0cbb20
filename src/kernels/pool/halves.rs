//! Lines of average pooling by 2×2 windows that lie side by side on the image: the commonest one, without a look at
//! borders or divisors. For pixels that one vector holds.

use super::{PoolGeometry, load, store};
use crate::simd::{Isa, Simd};

/// A window's share of each pixel.
const QUARTER: f32 = 0.25;

/// Whether windows are 2×2, side by side, and all on the image, and one vector holds a pixel.
pub(super) fn applies(isa: Isa, geometry: &PoolGeometry) -> bool {
    let PoolGeometry { ih, iw, c, oh, ow, window, .. } = *geometry;
    window.halves() && 2 * oh <= ih && 2 * ow <= iw && c <= isa.lanes() && c > 0
}

/// A line of `ow` means, of two lines `step` floats apart. Vectors may overrun the last pixel.
///
/// # Safety
/// Two lines of `2·ow` pixels and `dst` of `ow`, with a vector's overrun each; the CPU has the level's features.
#[inline(always)]
pub(super) unsafe fn forward<S: Simd>(src: *const f32, step: usize, dst: *mut f32, ow: usize, c: usize) {
    // SAFETY: the caller's word.
    unsafe {
        let scale = S::splat(QUARTER);
        for ox in 0..ow {
            let (top, bottom) = (src.wrapping_add(2 * ox * c), src.wrapping_add(2 * ox * c + step));
            let first = S::add(S::load(top), S::load(top.wrapping_add(c)));
            let second = S::add(S::load(bottom), S::load(bottom.wrapping_add(c)));
            S::store(dst.wrapping_add(ox * c), S::mul(S::add(first, second), scale));
        }
    }
}

/// The gradient of two lines of `iw` pixels under a line of `ow` windows.
///
/// # Safety
/// `diff_dst` is readable for `ow` pixels, with a vector's overrun if `WHOLE`; `diff_src` is writable for two lines; the CPU
/// has the level's features.
#[inline(always)]
pub(super) unsafe fn backward<S: Simd, const WHOLE: bool>(
    diff_dst: *const f32,
    diff_src: *mut f32,
    [ow, iw]: [usize; 2],
    c: usize,
) {
    // SAFETY: the caller's word. A pixel's overrun ends in its line, whose rest is written next.
    unsafe {
        let (scale, zero, line) = (S::splat(QUARTER), S::splat(0.0), iw * c);
        for ox in 0..ow {
            let share = S::fma(load::<S, WHOLE>(diff_dst.wrapping_add(ox * c), c), scale, zero);
            for to in [diff_src.wrapping_add(2 * ox * c), diff_src.wrapping_add(2 * ox * c + line)] {
                if (2 * ox + 1) * c + S::LANES <= line {
                    S::store(to, share);
                    S::store(to.wrapping_add(c), share);
                } else {
                    store::<S, false>(to, share, c);
                    store::<S, false>(to.wrapping_add(c), share, c);
                }
            }
        }
        for ix in 2 * ow..iw {
            store::<S, false>(diff_src.wrapping_add(ix * c), zero, c);
            store::<S, false>(diff_src.wrapping_add(ix * c + line), zero, c);
        }
    }
}
