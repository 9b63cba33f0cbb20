//! The products of one position: up to 12 tiles × two vectors of result channels in registers.

use crate::multiversion;
use crate::simd::{Isa, Simd};

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
    /// Whether to add to what is there.
    pub add: bool,
    /// Products that are summed in registers before the sum is put aside.
    pub run: usize,
}

/// Sums are added to memory every `run` products.
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
            let end = rows.depth.min(first + rows.run);
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
                    let before = if first == 0 && !rows.add { S::splat(0.0) } else { S::load(at) };
                    S::store(at, S::add(before, sums[i][v]));
                }
            }
            first = end;
        }
    }
}

/// The sum over tiles of source channels times gradients, of one position.
#[derive(Debug, Clone, Copy)]
pub struct Outer {
    /// The first tile's first source channel.
    pub source: *const f32,
    /// Floats from one tile's source to the next.
    pub source_pitch: usize,
    /// The first tile's two vectors of gradients.
    pub gradient: *const f32,
    /// Floats from one tile's gradients to the next.
    pub gradient_pitch: usize,
    /// Tiles.
    pub tiles: usize,
    /// The first source channel's sums.
    pub sums: *mut f32,
    /// Floats from one source channel's sums to the next.
    pub sums_pitch: usize,
    /// Whether to add to what is there.
    pub add: bool,
    /// Products that are summed in registers before the sum is put aside.
    pub run: usize,
}

/// Sums are added to memory every `run` tiles.
///
/// # Safety
/// `tiles` rows of `MR` source channels and of two vectors of gradients; two vectors of sums per channel are writable.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // as above
unsafe fn outer_body<S: Simd, const MR: usize>(outer: &Outer) {
    // SAFETY: the caller's word.
    unsafe {
        let (mut source, mut gradient) = (outer.source, outer.gradient);
        let mut first = 0;
        while first < outer.tiles {
            let end = outer.tiles.min(first + outer.run);
            let mut sums = [[S::splat(0.0); 2]; MR];
            for _ in first..end {
                let b = [S::load(gradient), S::load(gradient.wrapping_add(S::LANES))];
                for i in 0..MR {
                    let a = S::splat(source.wrapping_add(i).read());
                    for v in 0..2 {
                        sums[i][v] = S::fma(a, b[v], sums[i][v]);
                    }
                }
                source = source.wrapping_add(outer.source_pitch);
                gradient = gradient.wrapping_add(outer.gradient_pitch);
            }
            for i in 0..MR {
                for v in 0..2 {
                    let at = outer.sums.wrapping_add(i * outer.sums_pitch + v * S::LANES);
                    let before = if first == 0 && !outer.add { S::splat(0.0) } else { S::load(at) };
                    S::store(at, S::add(before, sums[i][v]));
                }
            }
            first = end;
        }
    }
}

macro_rules! by_rows {
    ($name:ident, $rows:ty, $body:ident; $($count:literal)*) => {
        /// Runs `count` rows.
        ///
        /// # Safety
        /// As for the body; `count` is 1 to 12; the CPU has `isa`.
        pub unsafe fn $name(isa: Isa, count: usize, rows: &$rows) {
            match count {
                $($count => {
                    multiversion! { fn run(rows: &$rows) = $body, [$count]; }
                    // SAFETY: the caller's word.
                    unsafe { run(isa, rows) }
                })*
                _ => unreachable!("1 to 12 rows"),
            }
        }
    };
}

by_rows!(multiply, Rows, rows_body; 1 2 3 4 5 6 7 8 9 10 11 12);
by_rows!(sum_over_tiles, Outer, outer_body; 1 2 3 4 5 6 7 8 9 10 11 12);
