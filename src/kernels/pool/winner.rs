//! How maximum pooling notes for its gradient where each maximum stood.

use super::{load, store};
use crate::simd::Simd;
use crate::window::Window2d;

/// What is written of the winner of a window, one number per result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Winner {
    /// A byte: which tap of its window it is, `ky·kw + kx`, taps in padding counted; 255 if the window reads padding only.
    Tap,
    /// An i32: its flat position `iy·iw + ix` in the input plane; −1 if the window reads padding only.
    Position,
}

impl Winner {
    /// Most taps of a window whose winner is a byte.
    pub const MOST_TAPS: usize = u8::MAX as usize;

    /// The least that tells the winners of such a window apart.
    pub fn least(window: &Window2d) -> Self {
        if Self::Tap.fits(window) { Self::Tap } else { Self::Position }
    }

    /// Whether every tap of such a window has a number.
    pub(super) fn fits(self, window: &Window2d) -> bool {
        self == Self::Position || window.kernel[0].saturating_mul(window.kernel[1]) <= Self::MOST_TAPS
    }

    /// Bytes of one.
    pub fn size(self) -> usize {
        match self {
            Self::Tap => size_of::<u8>(),
            Self::Position => size_of::<i32>(),
        }
    }

    /// The name's part in that of a kernel.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tap => "tap",
            Self::Position => "index",
        }
    }
}

/// The elements of an index.
pub(super) trait Mark: Copy {
    /// What a window that reads padding only gets.
    const NONE: i32;

    /// What notes the tap number `tap` of a window, which lies at `position` of its plane, in every lane.
    ///
    /// # Safety
    /// The CPU has the level's features.
    unsafe fn splat<S: Simd>(position: usize, tap: usize) -> S::V;

    /// `n` elements, or a vector of them if `WHOLE`, as 32-bit patterns.
    ///
    /// # Safety
    /// They are readable; the CPU has the level's features.
    unsafe fn load<S: Simd, const WHOLE: bool>(p: *const Self, n: usize) -> S::V;

    /// Patterns from [`Self::splat`] or [`Self::NONE`], to `n` elements, or a vector of them if `WHOLE`.
    ///
    /// # Safety
    /// They are writable; the CPU has the level's features.
    unsafe fn store<S: Simd, const WHOLE: bool>(p: *mut Self, v: S::V, n: usize);
}

impl Mark for u8 {
    const NONE: i32 = u8::MAX as i32;

    #[inline(always)]
    unsafe fn splat<S: Simd>(_position: usize, tap: usize) -> S::V {
        // SAFETY: the caller's word.
        unsafe { S::splat_i32(tap as i32) }
    }

    #[inline(always)]
    unsafe fn load<S: Simd, const WHOLE: bool>(p: *const Self, n: usize) -> S::V {
        // SAFETY: the caller's word.
        unsafe { if WHOLE || n == S::LANES { S::load_bytes(p) } else { S::load_bytes_partial(p, n) } }
    }

    #[inline(always)]
    unsafe fn store<S: Simd, const WHOLE: bool>(p: *mut Self, v: S::V, n: usize) {
        // SAFETY: the caller's word.
        unsafe { if WHOLE || n == S::LANES { S::store_bytes(p, v) } else { S::store_bytes_partial(p, v, n) } }
    }
}

impl Mark for i32 {
    const NONE: i32 = -1;

    #[inline(always)]
    unsafe fn splat<S: Simd>(position: usize, _tap: usize) -> S::V {
        // SAFETY: the caller's word.
        unsafe { S::splat_i32(position as i32) }
    }

    #[inline(always)]
    unsafe fn load<S: Simd, const WHOLE: bool>(p: *const Self, n: usize) -> S::V {
        // SAFETY: the caller's word; patterns are moved, never computed with.
        unsafe { load::<S, WHOLE>(p.cast(), n) }
    }

    #[inline(always)]
    unsafe fn store<S: Simd, const WHOLE: bool>(p: *mut Self, v: S::V, n: usize) {
        // SAFETY: as above.
        unsafe { store::<S, WHOLE>(p.cast(), v, n) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn up_to_255_taps_are_told_apart_by_a_byte() {
        let least = |kernel| Winner::least(&Window2d { kernel, ..Window2d::UNIT });
        assert_eq!([[1, 1], [15, 17], [1, 255]].map(least), [Winner::Tap; 3]);
        assert_eq!([[16, 16], [256, 1], [usize::MAX, 2]].map(least), [Winner::Position; 3]);
    }
}
