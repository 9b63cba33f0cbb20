//! The sum of a line's copies, for every result from its first source pixel to its last.
//!
//! Which copy that first pixel went to depends on where the result lies, so that the copies are rotated lane by lane, in
//! steps of 1, 2 and 4, before they are added up: the order of a sum, and with it its last bits, are the same everywhere.

use crate::multiversion;
use crate::simd::{Isa, Simd};

/// Most copies.
pub const MOST: usize = 5;

/// What the lines of a task have in common.
#[derive(Debug, Clone, Copy)]
pub struct Join {
    isa: Isa,
    copies: usize,
    /// Floats of a line.
    len: usize,
    /// For each step of the rotation a line of ones and zeros, one after the other, and behind them the sums.
    turns: *mut f32,
    pitch: usize,
}

/// Steps of the rotation of so many copies.
fn steps(copies: usize) -> usize {
    copies.next_power_of_two().trailing_zeros() as usize
}

impl Join {
    /// Floats of scratch for `copies` copies of lines of `len` floats.
    pub fn scratch(copies: usize, len: usize) -> usize {
        (steps(copies) + 1) * Self::pitch(len)
    }

    fn pitch(len: usize) -> usize {
        len.next_multiple_of(16)
    }

    /// For lines of `len` floats that begin `before` pixels of `channels` channels into the copies.
    ///
    /// # Safety
    /// `scratch` has room as said and is not used otherwise.
    pub unsafe fn new(isa: Isa, [copies, before, channels]: [usize; 3], len: usize, scratch: *mut f32) -> Self {
        let pitch = Self::pitch(len);
        // SAFETY: the caller's word.
        unsafe {
            std::ptr::write_bytes(scratch, 0, Self::scratch(copies, len));
            for (pixel, at) in (0..len).step_by(channels).enumerate() {
                // The first source pixel of a result lies `copies − 1` pixels before the last.
                let turn = (before + pixel + 1) % copies;
                for step in (0..steps(copies)).filter(|step| turn >> step & 1 == 1) {
                    for channel in 0..channels {
                        *scratch.add(step * pitch + at + channel) = 1.0;
                    }
                }
            }
        }
        Self { isa, copies, len, turns: scratch, pitch }
    }

    /// The sums of a line whose copies begin at `lines` and lie `pitch` floats apart.
    ///
    /// # Safety
    /// The copies are readable for whole vectors.
    pub unsafe fn sum(&self, lines: *const f32, pitch: usize) -> *const f32 {
        let sums = self.turns.wrapping_add(steps(self.copies) * self.pitch);
        // SAFETY: the caller's word; scratch is as large as `scratch` says.
        unsafe {
            match self.copies {
                2 => sum_2(self.isa, self, lines, pitch, sums),
                3 => sum_3(self.isa, self, lines, pitch, sums),
                4 => sum_4(self.isa, self, lines, pitch, sums),
                5 => sum_5(self.isa, self, lines, pitch, sums),
                _ => unreachable!("2 to 5 copies"),
            }
        }
        sums
    }
}

/// # Safety
/// As [`Join::sum`]; `K` copies.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // closures and iterators would not inherit the shell's target features
unsafe fn body<S: Simd, const K: usize>(join: &Join, lines: *const f32, pitch: usize, sums: *mut f32) {
    // SAFETY: the caller's word.
    unsafe {
        for at in (0..join.len).step_by(S::LANES) {
            let mut copies = [S::splat(0.0); K];
            for i in 0..K {
                copies[i] = S::load(lines.wrapping_add(i * pitch + at));
            }
            for step in 0..3 {
                if 1 << step >= K {
                    continue;
                }
                let turn = S::gt(S::load(join.turns.wrapping_add(step * join.pitch + at)), S::splat(0.0));
                let before = copies;
                for i in 0..K {
                    copies[i] = S::select(turn, before[(i + (1 << step)) % K], before[i]);
                }
            }
            let mut sum = copies[0];
            for i in 1..K {
                sum = S::add(sum, copies[i]);
            }
            S::store(sums.wrapping_add(at), sum);
        }
    }
}

multiversion! { fn sum_2(join: &Join, lines: *const f32, pitch: usize, sums: *mut f32) = body, [2]; }
multiversion! { fn sum_3(join: &Join, lines: *const f32, pitch: usize, sums: *mut f32) = body, [3]; }
multiversion! { fn sum_4(join: &Join, lines: *const f32, pitch: usize, sums: *mut f32) = body, [4]; }
multiversion! { fn sum_5(join: &Join, lines: *const f32, pitch: usize, sums: *mut f32) = body, [5]; }
