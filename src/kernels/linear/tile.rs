//! The register tile: `MR` rows × `NV` vectors of result channels over one chunk of the reduction.

use super::SRC_PITCH;
use crate::kernels::conv::{Spilled, SpilledAt, by_rows};
use crate::multiversion;
use crate::simd::{Isa, Simd};

/// What tiles do for weights that come next while they multiply: a *step* per term of the reduction asks for as many
/// floats of a row as the tile has channels, and may copy them to a panel.
#[derive(Debug, Clone, Copy)]
pub struct Feed {
    /// The first of the weights.
    pub from: *const f32,
    /// Floats from one row of them to the next.
    pub pitch: usize,
    /// Steps per row.
    pub columns: usize,
    /// Floats from what is copied to what is asked for.
    pub ahead: usize,
    /// The first panel, or null: then nothing is copied.
    pub to: *mut f32,
    /// Floats from one panel to the next.
    pub panel: usize,
}

impl Feed {
    /// Nothing to do.
    pub const NONE: Self =
        Self { from: std::ptr::null(), pitch: 0, columns: 1, ahead: 0, to: std::ptr::null_mut(), panel: 0 };
}

/// One tile of a product.
#[derive(Debug, Clone, Copy)]
pub struct Tile<'a> {
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
    /// What it does beside.
    pub feed: &'a Feed,
    /// Its steps, at most one per term.
    pub steps: (usize, usize),
}

/// What a tile does beside its products.
mod beside {
    pub const NOTHING: u8 = 0;
    pub const ASK: u8 = 1;
    pub const COPY: u8 = 2;
}

// Plain index loops throughout: closures and iterator adapters would not inherit the shell's target features.

/// # Safety
/// `MR` rows of the source are readable for `len` floats, the panel for `len` rows of `NV` vectors, `bias` (unless null)
/// for `channels`; each row of results is writable for `channels` floats. What is copied can be read, and belongs in its
/// panels at `NV` vectors per row.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // see above
unsafe fn tile_body<S: Simd, const MR: usize, const NV: usize, const BESIDE: u8>(tile: &Tile<'_>) {
    // SAFETY: the caller's word.
    unsafe {
        let mut sums = [[S::splat(0.0); NV]; MR];
        let mut weights = tile.panel;
        let (feed, nr) = (tile.feed, NV * S::LANES);
        let (mut left, mut from, mut to, mut column) = (0, feed.from, feed.to, 0);
        if BESIDE != beside::NOTHING {
            let row = tile.steps.0 / feed.columns;
            column = tile.steps.0 % feed.columns;
            left = tile.steps.1 - tile.steps.0;
            from = from.wrapping_add(row * feed.pitch + column * nr);
            to = to.wrapping_add(column * feed.panel + row * nr);
        }
        for k in 0..tile.len {
            if BESIDE != beside::NOTHING && left > 0 {
                for v in 0..NV {
                    let at = from.wrapping_add(v * S::LANES);
                    if v * S::LANES % 16 == 0 {
                        S::prefetch_far(at.wrapping_add(feed.ahead));
                    }
                    if BESIDE == beside::COPY {
                        S::store(to.wrapping_add(v * S::LANES), S::load(at));
                    }
                }
                left -= 1;
                column += 1;
                from = from.wrapping_add(nr);
                to = to.wrapping_add(feed.panel);
                if column == feed.columns {
                    column = 0;
                    from = from.wrapping_add(feed.pitch).wrapping_sub(feed.columns * nr);
                    to = to.wrapping_add(nr).wrapping_sub(feed.columns * feed.panel);
                }
            }
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

by_rows!(tile_1, Tile<'_>, (), tile_body::<_, _, 1, 0>);
by_rows!(tile_2, Tile<'_>, (), tile_body::<_, _, 2, 0>);
by_rows!(tile_2_ask, Tile<'_>, (), tile_body::<_, _, 2, 1>);
by_rows!(tile_2_copy, Tile<'_>, (), tile_body::<_, _, 2, 2>);

/// Runs a tile of `rows` × `vectors`; only tiles of two vectors do anything beside.
///
/// # Safety
/// As [`tile_body`]; `rows` is 1 to 12, `vectors` 1 or 2; the CPU has `isa`.
pub unsafe fn tile(isa: Isa, rows: usize, vectors: usize, tile: &Tile<'_>) {
    let beside = match tile.steps.0 < tile.steps.1 {
        false => beside::NOTHING,
        true if tile.feed.to.is_null() => beside::ASK,
        true => beside::COPY,
    };
    // SAFETY: the caller's word.
    unsafe {
        match (vectors, beside) {
            (1, _) => tile_1(isa, rows, tile),
            (_, beside::NOTHING) => tile_2(isa, rows, tile),
            (_, beside::ASK) => tile_2_ask(isa, rows, tile),
            _ => tile_2_copy(isa, rows, tile),
        }
    }
}
