//! The register tiles: `MR` pointers × `NV` vectors of channels, the reduction innermost and free of branches.

use crate::multiversion;
use crate::simd::{Isa, Simd};

/// Most result pixels of a tile.
pub const MAX_ROWS: usize = 12;

/// Result pixels of a full tile, so that accumulators, operands and pointers stay in registers.
pub fn tile_rows(isa: Isa, vectors: usize) -> usize {
    match (isa, vectors) {
        (Isa::Avx512, _) | (Isa::Avx2, 1) => 12,
        (Isa::Avx2, _) => 6,
        (Isa::Portable, 1) => 4,
        (Isa::Portable, _) => 2,
    }
}

/// One tile of a product through pointers.
#[derive(Debug, Clone, Copy)]
pub struct Tile {
    /// `segments × MR` pointers, segment-major.
    pub table: *const *const f32,
    /// For each segment in the table, its number: where its weights start in the panel.
    pub numbers: *const u32,
    /// Segments in the table.
    pub segments: usize,
    /// Floats per segment.
    pub len: usize,
    /// The panel's weights.
    pub panel: *const f32,
    /// Floats from one row of the panel to the next.
    pub pitch: usize,
    /// `MR` addresses of results.
    pub results: *const *mut f32,
    /// Channels to store, at most `NV` vectors.
    pub channels: usize,
    /// One value per channel, or null.
    pub bias: *const f32,
    /// Whether to finish with max(x, 0).
    pub relu: bool,
}

/// # Safety
/// The pointers of the table are readable for `len` floats, the panel for every segment's rows of `NV` vectors at
/// `pitch`, bias for `channels`; each result is writable for `channels` floats.
#[inline(always)]
unsafe fn tile_body<S: Simd, const MR: usize, const NV: usize>(tile: &Tile) {
    // SAFETY: the caller's word.
    unsafe {
        let mut sums = [[S::splat(0.0); NV]; MR];
        for segment in 0..tile.segments {
            let rows: [*const f32; MR] = std::array::from_fn(|i| *tile.table.add(segment * MR + i));
            let start = *tile.numbers.add(segment) as usize * tile.len;
            let mut weights = tile.panel.add(start * tile.pitch);
            for k in 0..tile.len {
                let b: [S::V; NV] = std::array::from_fn(|v| S::load(weights.add(v * S::LANES)));
                for (row, sums) in rows.iter().zip(&mut sums) {
                    let a = S::splat(row.add(k).read_unaligned());
                    for v in 0..NV {
                        sums[v] = S::fma(a, b[v], sums[v]);
                    }
                }
                weights = weights.add(tile.pitch);
            }
        }
        for v in 0..NV {
            let first = v * S::LANES;
            let count = tile.channels.saturating_sub(first).min(S::LANES);
            let bias = if tile.bias.is_null() {
                S::splat(0.0)
            } else {
                S::load_partial(tile.bias.wrapping_add(first), count)
            };
            for (i, sums) in sums.iter().enumerate() {
                let mut sum = S::add(sums[v], bias);
                if tile.relu {
                    sum = S::max(S::splat(0.0), sum);
                }
                let result = (*tile.results.add(i)).wrapping_add(first);
                if count == S::LANES { S::store(result, sum) } else { S::store_partial(result, sum, count) }
            }
        }
    }
}

/// One tile of a weight gradient: `MR` positions of a segment × `NV` vectors of output channels, summed over pixels.
#[derive(Debug, Clone, Copy)]
pub struct GradTile {
    /// One pointer per pixel: its segment.
    pub table: *const *const f32,
    /// The tile's first position in each segment.
    pub offset: usize,
    /// Pixels.
    pub pixels: usize,
    /// The first pixel's gradient, offset to the tile's first channel.
    pub diff: *const f32,
    /// Floats from one pixel's gradient to the next.
    pub diff_pitch: usize,
    /// First result.
    pub result: *mut f32,
    /// Floats from one position's results to the next.
    pub pitch: usize,
    /// Channels, at most `NV` vectors.
    pub channels: usize,
    /// Whether to add to what is there.
    pub add: bool,
}

/// # Safety
/// Pointers of the table are readable for `MR` floats from `offset` on, `diff` for `channels` floats per pixel, results writable for
/// `channels` floats per position.
#[inline(always)]
unsafe fn grad_body<S: Simd, const MR: usize, const NV: usize, const FULL: bool>(tile: &GradTile) {
    // SAFETY: the caller's word.
    unsafe {
        let count = |v: usize| if FULL { S::LANES } else { tile.channels.saturating_sub(v * S::LANES).min(S::LANES) };
        let counts: [usize; NV] = std::array::from_fn(count);
        let mut sums = [[S::splat(0.0); NV]; MR];
        let mut diff = tile.diff;
        for pixel in 0..tile.pixels {
            let row = (*tile.table.add(pixel)).wrapping_add(tile.offset);
            let b: [S::V; NV] = std::array::from_fn(|v| {
                let at = diff.wrapping_add(v * S::LANES);
                if FULL { S::load(at) } else { S::load_partial(at, counts[v]) }
            });
            for (i, sums) in sums.iter_mut().enumerate() {
                let a = S::splat(row.add(i).read_unaligned());
                for v in 0..NV {
                    sums[v] = S::fma(a, b[v], sums[v]);
                }
            }
            diff = diff.wrapping_add(tile.diff_pitch);
        }
        for (i, sums) in sums.iter().enumerate() {
            for v in 0..NV {
                let result = tile.result.wrapping_add(i * tile.pitch + v * S::LANES);
                let before = if tile.add { S::load_partial(result, counts[v]) } else { S::splat(0.0) };
                S::store_partial(result, S::add(before, sums[v]), counts[v]);
            }
        }
    }
}

/// Defines a function that runs a body for a number of rows and fixed further parameters: one shell per number of rows
/// and level.
macro_rules! by_rows {
    ($pick:ident, $tile:ty, $body:ident::<_, _ $(, $param:literal)*>) => {
        by_rows!(@ $pick, $tile, $body, [$($param),*]; 1 2 3 4 5 6 7 8 9 10 11 12);
    };
    (@ $pick:ident, $tile:ty, $body:ident, $params:tt; $($rows:literal)*) => {
        /// Runs a tile of `rows` rows.
        ///
        /// # Safety
        /// As for the body; `rows` is 1 to 12; the CPU has `isa`.
        unsafe fn $pick(isa: Isa, rows: usize, tile: &$tile) {
            match rows {
                $($rows => {
                    by_rows!(# $body, $tile, $rows, $params);
                    // SAFETY: the caller's word.
                    unsafe { run(isa, tile) }
                })*
                _ => unreachable!("tiles have 1 to 12 rows"),
            }
        }
    };
    (# $body:ident, $tile:ty, $rows:literal, [$($param:literal),*]) => {
        multiversion! { fn run(tile: &$tile) = $body, [$rows $(, $param)*]; }
    };
}

by_rows!(tile_1, Tile, tile_body::<_, _, 1>);
by_rows!(tile_2, Tile, tile_body::<_, _, 2>);
by_rows!(grad_1, GradTile, grad_body::<_, _, 1, false>);
by_rows!(grad_1_full, GradTile, grad_body::<_, _, 1, true>);
by_rows!(grad_2, GradTile, grad_body::<_, _, 2, false>);
by_rows!(grad_2_full, GradTile, grad_body::<_, _, 2, true>);

/// Runs a tile of `rows` × `vectors`.
///
/// # Safety
/// As [`tile_body`]; `rows` is 1 to [`MAX_ROWS`], `vectors` 1 or 2; the CPU has `isa`.
pub unsafe fn tile(isa: Isa, rows: usize, vectors: usize, tile: &Tile) {
    // SAFETY: the caller's word.
    unsafe { if vectors == 1 { tile_1(isa, rows, tile) } else { tile_2(isa, rows, tile) } }
}

/// Runs a weight-gradient tile of `rows` × `vectors`.
///
/// # Safety
/// As [`grad_body`]; `rows` is 1 to [`MAX_ROWS`], `vectors` 1 or 2; the CPU has `isa`.
pub unsafe fn grad_tile(isa: Isa, rows: usize, vectors: usize, tile: &GradTile) {
    let full = tile.channels == vectors * isa.lanes();
    // SAFETY: the caller's word.
    unsafe {
        match (vectors, full) {
            (1, false) => grad_1(isa, rows, tile),
            (1, true) => grad_1_full(isa, rows, tile),
            (_, false) => grad_2(isa, rows, tile),
            (_, true) => grad_2_full(isa, rows, tile),
        }
    }
}
