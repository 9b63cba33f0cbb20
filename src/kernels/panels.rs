//! Copies of a matrix of weights as panels of `nr` result channels: in a panel, `nr` weights for every term of the
//! reduction, zero beyond the last channel. Memory is read by lines, whichever way it lies.

use crate::multiversion;
use crate::simd::{Isa, Simd};

/// Rows of memory that are asked for ahead of the one that is copied.
pub const AHEAD: usize = 16;

/// Part of a matrix of weights and where its panels go.
#[derive(Debug, Clone, Copy)]
pub struct Weights {
    /// The first weight.
    pub from: *const f32,
    /// Floats from one row of the matrix to the next.
    pub pitch: usize,
    /// Terms of the reduction.
    pub depth: usize,
    /// Result channels.
    pub channels: usize,
    /// Result channels per panel.
    pub nr: usize,
    /// The panels, one behind the other.
    pub to: *mut f32,
}

/// A row of the matrix holds the channels of one term.
///
/// # Safety
/// `depth` rows of `channels` floats are readable, whole panels writable.
#[inline(always)]
unsafe fn copy_body<S: Simd>(of: &Weights) {
    // SAFETY: the caller's word; prefetching may go anywhere.
    unsafe {
        for k in 0..of.depth {
            let row = of.from.wrapping_add(k * of.pitch);
            let ahead = row.wrapping_add(AHEAD * of.pitch);
            let mut panel = of.to.wrapping_add(k * of.nr);
            let mut channel = 0;
            while channel < of.channels {
                let end = channel + of.nr;
                let mut lane = 0;
                while channel < end {
                    S::prefetch_far(ahead.wrapping_add(channel));
                    let value = if channel + S::LANES <= of.channels {
                        S::load(row.wrapping_add(channel))
                    } else {
                        S::load_partial(row.wrapping_add(channel.min(of.channels)), of.channels.saturating_sub(channel))
                    };
                    S::store(panel.wrapping_add(lane), value);
                    lane += S::LANES;
                    channel += S::LANES;
                }
                panel = panel.wrapping_add(of.depth * of.nr);
            }
        }
    }
}

/// A row of the matrix holds the terms of one channel.
///
/// # Safety
/// `channels` rows of `depth` floats are readable, whole panels writable.
#[inline(always)]
unsafe fn transpose_body<S: Simd>(of: &Weights) {
    // SAFETY: the caller's word; prefetching may go anywhere.
    unsafe {
        let whole = of.depth / 8 * 8;
        let lanes = of.channels.next_multiple_of(of.nr);
        let mut channel = 0;
        while channel < lanes {
            let rows = of.from.wrapping_add(channel * of.pitch);
            let to = of.to.wrapping_add(channel / of.nr * of.nr * of.depth + channel % of.nr);
            let count = of.channels.saturating_sub(channel).min(8);
            let mut k = 0;
            if count == 8 {
                while k < whole {
                    S::transpose8(rows.wrapping_add(k), of.pitch as isize, to.wrapping_add(k * of.nr), of.nr);
                    k += 8;
                }
            }
            while k < of.depth {
                for lane in 0..8 {
                    let value =
                        if lane < count { rows.wrapping_add(lane * of.pitch + k).read_unaligned() } else { 0.0 };
                    *to.wrapping_add(k * of.nr + lane) = value;
                }
                k += 1;
            }
            channel += 8;
        }
    }
}

multiversion! {
    fn copied(of: &Weights) = copy_body;
}
multiversion! {
    fn transposed(of: &Weights) = transpose_body;
}

/// Fills the panels from rows that hold the channels of one term, or, if `turned`, the terms of one channel.
///
/// # Safety
/// The rows are readable and `to` has room for `depth` floats for each channel of whole panels; the CPU has `isa`.
pub unsafe fn fill(isa: Isa, of: &Weights, turned: bool) {
    // SAFETY: the caller's word.
    unsafe { if turned { transposed(isa, of) } else { copied(isa, of) } }
}
