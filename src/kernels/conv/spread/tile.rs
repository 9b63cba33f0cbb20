//! The register tiles: some source pixels × the vectors of a stretch.

use crate::multiversion;
use crate::simd::{Isa, Simd};

/// Most source pixels of a tile of `vectors` vectors, so that accumulators and operands stay in registers.
pub fn most_pixels(isa: Isa, vectors: usize) -> usize {
    match (isa, vectors) {
        (_, 1) | (Isa::Avx512, _) => 12,
        (Isa::Avx2, 2) => 6,
        (Isa::Avx2, 3) => 3,
        (Isa::Avx2 | Isa::Portable, _) => 2,
    }
}

/// Neighbouring source pixels and what they add to a line.
#[derive(Debug, Clone, Copy)]
pub struct Tile {
    /// The first pixel of the first line.
    pub src: *const f32,
    /// Channels of a source pixel.
    pub channels: usize,
    /// Floats from one source line to the next.
    pub line: usize,
    /// Source lines.
    pub rows: usize,
    /// The weights of the first line's first channel; the others follow.
    pub weights: *const f32,
    /// The copies of the result line.
    pub lines: *mut f32,
    /// Floats from one copy to the next.
    pub pitch: usize,
    /// The first pixel's number in its line.
    pub first: usize,
    /// Copies.
    pub copies: usize,
    /// Floats from one pixel's stretch to the next one's.
    pub step: usize,
    /// Floats of a stretch.
    pub width: usize,
    /// Pixels of the line whose last vector may end behind their stretch, since others follow there in that copy.
    pub whole: usize,
}

// Plain index loops throughout: closures and iterator adapters would not inherit the shell's target features.

/// # Safety
/// Pixels, weights and copies are as said.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // see above
unsafe fn tile_body<S: Simd, const P: usize, const NV: usize>(tile: &Tile) {
    // SAFETY: the caller's word.
    unsafe {
        let mut sums = [[S::splat(0.0); NV]; P];
        let mut weights = tile.weights;
        for row in 0..tile.rows {
            let line = tile.src.wrapping_add(row * tile.line);
            if tile.channels == 1 {
                let mut b = [S::splat(0.0); NV];
                for v in 0..NV {
                    b[v] = S::load(weights.wrapping_add(v * S::LANES));
                }
                for i in 0..P {
                    let a = S::splat(line.wrapping_add(i).read_unaligned());
                    for v in 0..NV {
                        sums[i][v] = S::fma(a, b[v], sums[i][v]);
                    }
                }
                weights = weights.wrapping_add(NV * S::LANES);
                continue;
            }
            let mut pixels = [std::ptr::null::<f32>(); P];
            for i in 0..P {
                pixels[i] = line.wrapping_add(i * tile.channels);
            }
            for k in 0..tile.channels {
                let mut b = [S::splat(0.0); NV];
                for v in 0..NV {
                    b[v] = S::load(weights.wrapping_add(v * S::LANES));
                }
                for i in 0..P {
                    let a = S::splat(pixels[i].wrapping_add(k).read_unaligned());
                    for v in 0..NV {
                        sums[i][v] = S::fma(a, b[v], sums[i][v]);
                    }
                }
                weights = weights.wrapping_add(NV * S::LANES);
            }
        }
        let last = tile.width - (NV - 1) * S::LANES;
        let mut copy = tile.first % tile.copies;
        for i in 0..P {
            let to = tile.lines.wrapping_add(copy * tile.pitch + (tile.first + i) * tile.step);
            for v in 0..NV - 1 {
                S::store(to.wrapping_add(v * S::LANES), sums[i][v]);
            }
            let to = to.wrapping_add((NV - 1) * S::LANES);
            if tile.first + i < tile.whole {
                S::store(to, sums[i][NV - 1]);
            } else {
                S::store_partial(to, sums[i][NV - 1], last);
            }
            copy = if copy + 1 == tile.copies { 0 } else { copy + 1 };
        }
    }
}

/// Most positions of a weight-gradient tile of `vectors` vectors.
pub fn most_rows(isa: Isa, vectors: usize) -> usize {
    match (isa, vectors) {
        // A pointer per position: with twelve, sums do not stay in registers.
        (Isa::Avx512, 2) => 8,
        _ => most_pixels(isa, vectors),
    }
}

/// Positions (kernel rows × source channels) of a weight gradient, summed over the pixels of a source line.
#[derive(Debug, Clone, Copy)]
pub struct GradTile {
    /// The first pixel of the source line that the first kernel row meets.
    pub src: *const f32,
    /// Floats from one source line to the next.
    pub line: usize,
    /// Channels of a source pixel.
    pub channels: usize,
    /// The first position.
    pub position: usize,
    /// Source pixels of a line.
    pub pixels: usize,
    /// The first source pixel all of whose results exist, and the first behind these.
    pub whole: (usize, usize),
    /// The result gradients, from the first one that the first source pixel might meet.
    pub diff: *const f32,
    /// One for each of these that exists, zero for the others.
    pub inside: *const f32,
    /// Floats from one pixel's stretch to the next one's.
    pub step: usize,
    /// The gradient: a stretch of whole vectors per position.
    pub sums: *mut f32,
}

/// Adds the products of source pixels some of whose results do not exist: those are left out, not multiplied by zero, for
/// the source may be infinite.
///
/// # Safety
/// As for [`grad_body`].
#[inline(always)]
#[allow(clippy::needless_range_loop)] // as above
unsafe fn border<S: Simd, const P: usize, const NV: usize>(
    tile: &GradTile,
    rows: &[*const f32; P],
    pixels: (usize, usize),
    mut sums: [[S::V; NV]; P],
) -> [[S::V; NV]; P] {
    // SAFETY: the caller's word.
    unsafe {
        for x in pixels.0..pixels.1 {
            for v in 0..NV {
                let at = x * tile.step + v * S::LANES;
                let b = S::load(tile.diff.wrapping_add(at));
                let inside = S::gt(S::load(tile.inside.wrapping_add(at)), S::splat(0.0));
                for i in 0..P {
                    let a = S::splat(rows[i].wrapping_add(x * tile.channels).read_unaligned());
                    sums[i][v] = S::select(inside, S::fma(a, b, sums[i][v]), sums[i][v]);
                }
            }
        }
        sums
    }
}

/// # Safety
/// Lines and sums are as said; the padded lines are readable for whole vectors.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // as above
unsafe fn grad_body<S: Simd, const P: usize, const NV: usize>(tile: &GradTile) {
    // SAFETY: the caller's word.
    unsafe {
        let mut sums = [[S::splat(0.0); NV]; P];
        let mut rows = [std::ptr::null::<f32>(); P];
        for i in 0..P {
            let position = tile.position + i;
            rows[i] = tile.src.wrapping_add(position / tile.channels * tile.line + position % tile.channels);
        }
        sums = border::<S, P, NV>(tile, &rows, (0, tile.whole.0), sums);
        for x in tile.whole.0..tile.whole.1 {
            let diff = tile.diff.wrapping_add(x * tile.step);
            let mut b = [S::splat(0.0); NV];
            for v in 0..NV {
                b[v] = S::load(diff.wrapping_add(v * S::LANES));
            }
            for i in 0..P {
                let a = S::splat(rows[i].wrapping_add(x * tile.channels).read_unaligned());
                for v in 0..NV {
                    sums[i][v] = S::fma(a, b[v], sums[i][v]);
                }
            }
        }
        sums = border::<S, P, NV>(tile, &rows, (tile.whole.1, tile.pixels), sums);
        for i in 0..P {
            for v in 0..NV {
                let to = tile.sums.wrapping_add((i * NV + v) * S::LANES);
                S::store(to, S::add(S::load(to), sums[i][v]));
            }
        }
    }
}

/// Defines a function that runs a body for a fixed number of vectors: one shell per number of rows and level.
macro_rules! by_rows {
    ($pick:ident, $call:ty, $body:ident, $vectors:literal; $($rows:literal)*) => {
        /// Runs a tile of `rows` rows.
        ///
        /// # Safety
        /// As for the body; the CPU has `isa`.
        unsafe fn $pick(isa: Isa, rows: usize, call: &$call) {
            match rows {
                $($rows => {
                    multiversion! { fn run(call: &$call) = $body, [$rows, $vectors]; }
                    // SAFETY: the caller's word.
                    unsafe { run(isa, call) }
                })*
                _ => unreachable!("more rows than a tile has"),
            }
        }
    };
}

by_rows!(tile_1, Tile, tile_body, 1; 1 2 3 4 5 6 7 8 9 10 11 12);
by_rows!(tile_2, Tile, tile_body, 2; 1 2 3 4 5 6 7 8 9 10 11 12);
by_rows!(tile_3, Tile, tile_body, 3; 1 2 3 4);
by_rows!(tile_4, Tile, tile_body, 4; 1 2 3);
by_rows!(grad_1, GradTile, grad_body, 1; 1 2 3 4 5 6 7 8 9 10 11 12);
by_rows!(grad_2, GradTile, grad_body, 2; 1 2 3 4 5 6 7 8);
by_rows!(grad_3, GradTile, grad_body, 3; 1 2 3 4);
by_rows!(grad_4, GradTile, grad_body, 4; 1 2 3);

/// Runs a tile of `pixels` source pixels × `vectors` vectors.
///
/// # Safety
/// As [`tile_body`]; `pixels` is 1 to [`most_pixels`], `vectors` 1 to 4; the CPU has `isa`.
pub unsafe fn tile(isa: Isa, pixels: usize, vectors: usize, call: &Tile) {
    // SAFETY: the caller's word.
    unsafe {
        match vectors {
            1 => tile_1(isa, pixels, call),
            2 => tile_2(isa, pixels, call),
            3 => tile_3(isa, pixels, call),
            _ => tile_4(isa, pixels, call),
        }
    }
}

/// Runs a weight-gradient tile of `rows` positions × `vectors` vectors.
///
/// # Safety
/// As [`grad_body`]; `rows` is 1 to [`most_rows`], `vectors` 1 to 4; the CPU has `isa`.
pub unsafe fn grad_tile(isa: Isa, rows: usize, vectors: usize, call: &GradTile) {
    // SAFETY: the caller's word.
    unsafe {
        match vectors {
            1 => grad_1(isa, rows, call),
            2 => grad_2(isa, rows, call),
            3 => grad_3(isa, rows, call),
            _ => grad_4(isa, rows, call),
        }
    }
}
