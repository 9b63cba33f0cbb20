//! The register tile: `MR` rows × `NV` vectors of result channels over one chunk of the reduction.

use super::SRC_PITCH;
use crate::kernels::conv::{Spilled, SpilledAt, by_rows};
use crate::multiversion;
use crate::simd::{Isa, Simd};

/// One tile of a product.
#[derive(Debug, Clone, Copy)]
pub struct Tile {
    /// The chunk's source: rows [`SRC_PITCH`] apart.
    pub src: *const f32,
    /// Terms of the chunk.
    pub len: usize,
    /// The chunk's weights: `nr` floats per term.
    pub panel: *const f32,
    /// Floats from one term's weights to the next.
    pub nr: usize,
    /// The first result.
    pub dst: *mut f32,
    /// Floats from one row of results to the next.
    pub pitch: usize,
    /// Channels to store, at most `NV` vectors.
    pub channels: usize,
    /// Whether to add to what is there.
    pub add: bool,
    /// What the last chunk adds to the sums: one number per channel.
    pub bias: *const f32,
}

// Plain index loops throughout: closures and iterator adapters would not inherit the shell's target features.

/// # Safety
/// `MR` rows of the source are readable for `len` floats, the panel for `len` rows of `NV` vectors, `bias` (unless null)
/// for `channels`; each row of results is writable for `channels` floats.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // see above
unsafe fn tile_body<S: Simd, const MR: usize, const NV: usize>(tile: &Tile) {
    // SAFETY: the caller's word.
    unsafe {
        let mut sums = [[S::splat(0.0); NV]; MR];
        let mut weights = tile.panel;
        for k in 0..tile.len {
            let mut b = [S::splat(0.0); NV];
            for v in 0..NV {
                b[v] = S::load(weights.wrapping_add(v * S::LANES));
            }
            let column = tile.src.wrapping_add(k);
            for i in 0..MR {
                let a = S::splat(column.wrapping_add(i * SRC_PITCH).read());
                for v in 0..NV {
                    sums[i][v] = S::fma(a, b[v], sums[i][v]);
                }
            }
            weights = weights.wrapping_add(tile.nr);
        }
        let mut spilled = Spilled::<MR, NV>::new();
        for i in 0..MR {
            for v in 0..NV {
                S::store(spilled.at(i, v), sums[i][v]);
            }
        }
        for v in 0..NV {
            let first = v * S::LANES;
            let count = (tile.channels - first).min(S::LANES);
            for i in 0..MR {
                let result = tile.dst.wrapping_add(i * tile.pitch + first);
                let before = if tile.add { S::load_partial(result, count) } else { S::splat(0.0) };
                let mut sum = S::add(before, S::load(spilled.at(i, v)));
                if !tile.bias.is_null() {
                    sum = S::add(sum, S::load_partial(tile.bias.wrapping_add(first), count));
                }
                S::store_partial(result, sum, count);
            }
        }
    }
}

by_rows!(tile_1, Tile, (), tile_body::<_, _, 1>);
by_rows!(tile_2, Tile, (), tile_body::<_, _, 2>);

/// Runs a tile of `rows` × `vectors`.
///
/// # Safety
/// As [`tile_body`]; `rows` is 1 to 12, `vectors` 1 or 2; the CPU has `isa`.
pub unsafe fn tile(isa: Isa, rows: usize, vectors: usize, tile: &Tile) {
    // SAFETY: the caller's word.
    unsafe { if vectors == 1 { tile_1(isa, rows, tile) } else { tile_2(isa, rows, tile) } }
}
