//! The products of one position: up to 12 rows × two vectors in registers.

use crate::kernels::ahead::LINE;
use crate::multiversion;
use crate::simd::{Isa, Simd};

/// Rows of one position times a panel: tiles by source channels times weights, or source channels by tiles times
/// gradients.
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    /// The first row's first term.
    pub source: *const f32,
    /// Floats from one tile's source to the next one's.
    pub pitch: usize,
    /// Terms of a sum.
    pub depth: usize,
    /// Two vectors per term.
    pub panel: *const f32,
    /// The first row's sums.
    pub sums: *mut f32,
    /// Floats from one row's sums to the next one's.
    pub sums_pitch: usize,
    /// Whether to add to what is there.
    pub add: bool,
    /// Products that are summed in registers before the sum is added to memory.
    pub run: usize,
    /// What is read soon, of which a line is asked for at every term; nothing is where rows are source channels.
    pub ahead: *const f32,
}

/// The terms are source channels, the rows tiles; or the other way round if `TILES`.
///
/// # Safety
/// The source is readable for `MR` rows of `depth` terms, the panel for `depth` times two vectors; two vectors of sums per
/// row are writable.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // closures would not inherit the shell's target features
unsafe fn rows_body<S: Simd, const MR: usize, const TILES: bool>(rows: &Rows) {
    // SAFETY: the caller's word.
    unsafe {
        let (row, term) = if TILES { (1, rows.pitch) } else { (rows.pitch, 1) };
        let mut panel = rows.panel;
        let mut source = [std::ptr::null::<f32>(); MR];
        for i in 0..MR {
            source[i] = rows.source.wrapping_add(i * row);
        }
        let mut ahead = rows.ahead;
        let mut first = 0;
        while first < rows.depth {
            let end = rows.depth.min(first + rows.run);
            let mut sums = [[S::splat(0.0); 2]; MR];
            for k in first..end {
                let b = [S::load(panel), S::load(panel.wrapping_add(S::LANES))];
                for i in 0..MR {
                    let a = S::splat(source[i].wrapping_add(k * term).read());
                    for v in 0..2 {
                        sums[i][v] = S::fma(a, b[v], sums[i][v]);
                    }
                }
                panel = panel.wrapping_add(2 * S::LANES);
                if !TILES {
                    S::prefetch_far(ahead);
                    ahead = ahead.wrapping_add(LINE);
                }
            }
            for i in 0..MR {
                for v in 0..2 {
                    let at = rows.sums.wrapping_add(i * rows.sums_pitch + v * S::LANES);
                    let before = if first == 0 && !rows.add { S::splat(0.0) } else { S::load(at) };
                    S::store(at, S::add(before, sums[i][v]));
                }
            }
            first = end;
        }
    }
}

macro_rules! by_rows {
    ($(#[$meta:meta])* $name:ident, $tiles:literal; $($count:literal)*) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// As for the body; `count` is 1 to 12; the CPU has `isa`.
        pub unsafe fn $name(isa: Isa, count: usize, rows: &Rows) {
            match count {
                $($count => {
                    multiversion! { fn run(rows: &Rows) = rows_body, [$count, $tiles]; }
                    // SAFETY: the caller's word.
                    unsafe { run(isa, rows) }
                })*
                _ => unreachable!("1 to 12 rows"),
            }
        }
    };
}

by_rows!(
    /// Sums over source channels for `count` tiles.
    sum_over_channels, false; 1 2 3 4 5 6 7 8 9 10 11 12
);
by_rows!(
    /// Sums over tiles for `count` source channels.
    sum_over_tiles, true; 1 2 3 4 5 6 7 8 9 10 11 12
);
