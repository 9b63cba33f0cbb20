//! The register tile of weight gradients: positions × vectors of output channels, the pixels innermost.

use super::micro::{Spilled, SpilledAt, by_rows};
use crate::multiversion;
use crate::simd::{Isa, Simd};

// Plain index loops throughout, as in `micro`.

/// One tile of a weight gradient: `MR` positions of a segment × `NV` vectors of output channels, summed over pixels.
#[derive(Debug, Clone, Copy)]
pub struct GradTile {
    /// One pointer per pixel.
    pub table: *const *const f32,
    /// Floats from a pixel's pointer to the tile's first position.
    pub offset: isize,
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
    /// Floats from what a pixel reads, of the source and of the gradient, to what is asked for ahead; nothing is where they
    /// are null, or channels are no whole vectors.
    pub ahead: [usize; 2],
}

/// # Safety
/// Pointers of the table are readable for `MR` floats from `offset` on, `diff` for `channels` floats per pixel, results
/// writable for `channels` floats per position.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // as above
unsafe fn grad_body<S: Simd, const MR: usize, const NV: usize, const FULL: bool, const AHEAD: bool>(tile: &GradTile) {
    // SAFETY: the caller's word.
    unsafe {
        let mut counts = [S::LANES; NV];
        if !FULL {
            counts[NV - 1] = tile.channels - (NV - 1) * S::LANES;
        }
        let mut sums = [[S::splat(0.0); NV]; MR];
        let mut diff = tile.diff;
        for pixel in 0..tile.pixels {
            let row = (*tile.table.add(pixel)).wrapping_offset(tile.offset);
            let mut b = [S::splat(0.0); NV];
            for v in 0..NV {
                let at = diff.wrapping_add(v * S::LANES);
                b[v] = if FULL || v + 1 < NV { S::load(at) } else { S::load_partial(at, counts[v]) };
            }
            if AHEAD {
                S::prefetch(row.wrapping_add(tile.ahead[0]));
                for v in 0..NV {
                    S::prefetch(diff.wrapping_add(tile.ahead[1] + v * S::LANES));
                }
            }
            for i in 0..MR {
                let a = S::splat(row.wrapping_add(i).read());
                for v in 0..NV {
                    sums[i][v] = S::fma(a, b[v], sums[i][v]);
                }
            }
            diff = diff.wrapping_add(tile.diff_pitch);
        }
        let mut spilled = Spilled::<MR, NV>::new();
        for i in 0..MR {
            for v in 0..NV {
                S::store(spilled.at(i, v), sums[i][v]);
            }
        }
        for i in 0..MR {
            for v in 0..NV {
                let result = tile.result.wrapping_add(i * tile.pitch + v * S::LANES);
                let before = if tile.add { S::load_partial(result, counts[v]) } else { S::splat(0.0) };
                S::store_partial(result, S::add(before, S::load(spilled.at(i, v))), counts[v]);
            }
        }
    }
}

by_rows!(grad_1, GradTile, (), grad_body::<_, _, 1, false, false>);
by_rows!(grad_1_full, GradTile, (), grad_body::<_, _, 1, true, false>);
by_rows!(grad_1_ahead, GradTile, (), grad_body::<_, _, 1, true, true>);
by_rows!(grad_2, GradTile, (), grad_body::<_, _, 2, false, false>);
by_rows!(grad_2_full, GradTile, (), grad_body::<_, _, 2, true, false>);
by_rows!(grad_2_ahead, GradTile, (), grad_body::<_, _, 2, true, true>);

/// Runs a weight-gradient tile of `rows` × `vectors`.
///
/// # Safety
/// As [`grad_body`]; `rows` is 1 to [`MAX_ROWS`], `vectors` 1 or 2; the CPU has `isa`.
pub unsafe fn grad_tile(isa: Isa, rows: usize, vectors: usize, tile: &GradTile) {
    let full = tile.channels == vectors * isa.lanes();
    // SAFETY: the caller's word.
    unsafe {
        match (vectors, full, tile.ahead != [0; 2]) {
            (1, false, _) => grad_1(isa, rows, tile),
            (1, true, false) => grad_1_full(isa, rows, tile),
            (1, true, true) => grad_1_ahead(isa, rows, tile),
            (_, false, _) => grad_2(isa, rows, tile),
            (_, true, false) => grad_2_full(isa, rows, tile),
            (_, true, true) => grad_2_ahead(isa, rows, tile),
        }
    }
}
