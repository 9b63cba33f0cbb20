//! The products of one position: up to 12 tiles × two vectors of result channels in registers.

use super::RUN;
use crate::multiversion;
use crate::simd::{Isa, Simd};

/// Most tiles of pixels at once.
pub const MAX_ROWS: usize = 12;

/// Source rows of one position times a panel of its weights.
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    /// The first tile's channels at this position.
    pub source: *const f32,
    /// Floats from one tile to the next.
    pub pitch: usize,
    /// Source channels.
    pub depth: usize,
    /// A row of two vectors per source channel.
    pub weights: *const f32,
    /// The first tile's sums.
    pub sums: *mut f32,
    /// Floats from one tile's sums to the next.
    pub sums_pitch: usize,
}

/// Sums are added to memory every [`RUN`] products.
///
/// # Safety
/// `MR` rows of `depth` floats at `pitch`, `depth` rows of two vectors of weights; two vectors of sums per row are
/// writable.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // closures would not inherit the shell's target features
unsafe fn rows_body<S: Simd, const MR: usize>(rows: &Rows) {
    // SAFETY: the caller's word.
    unsafe {
        let mut weights = rows.weights;
        let mut source = [std::ptr::null::<f32>(); MR];
        for i in 0..MR {
            source[i] = rows.source.wrapping_add(i * rows.pitch);
        }
        let mut first = 0;
        while first < rows.depth {
            let end = rows.depth.min(first + RUN);
            let mut sums = [[S::splat(0.0); 2]; MR];
            for k in first..end {
                let b = [S::load(weights), S::load(weights.wrapping_add(S::LANES))];
                for i in 0..MR {
                    let a = S::splat(source[i].wrapping_add(k).read());
                    for v in 0..2 {
                        sums[i][v] = S::fma(a, b[v], sums[i][v]);
                    }
                }
                weights = weights.wrapping_add(2 * S::LANES);
            }
            for i in 0..MR {
                for v in 0..2 {
                    let at = rows.sums.wrapping_add(i * rows.sums_pitch + v * S::LANES);
                    let before = if first == 0 { S::splat(0.0) } else { S::load(at) };
                    S::store(at, S::add(before, sums[i][v]));
                }
            }
            first = end;
        }
    }
}

macro_rules! by_rows {
    ($($rows:literal)*) => {
        /// Multiplies `count` rows.
        ///
        /// # Safety
        /// As for the body; `count` is 1 to [`MAX_ROWS`]; the CPU has `isa`.
        pub unsafe fn multiply(isa: Isa, count: usize, rows: &Rows) {
            match count {
                $($rows => {
                    multiversion! { fn run(rows: &Rows) = rows_body, [$rows]; }
                    // SAFETY: the caller's word.
                    unsafe { run(isa, rows) }
                })*
                _ => unreachable!("1 to 12 rows"),
            }
        }
    };
}

by_rows!(1 2 3 4 5 6 7 8 9 10 11 12);
