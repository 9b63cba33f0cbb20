//! The register tiles: some pixels × two vectors of channels, or some taps × two vectors, all channels in turn.

use super::positions::Tap;
use crate::kernels::conv::epilogue::{Finish, mode};
use crate::multiversion;
use crate::simd::{Isa, Simd};

/// Vectors of channels side by side.
const NV: usize = 2;
/// Floats of a cache line.
const LINE: usize = 16;

/// Result pixels of a full tile, so that accumulators and weights stay in registers.
pub fn tile_pixels(isa: Isa) -> usize {
    match isa {
        Isa::Avx512 => 8,
        Isa::Avx2 => 4,
        Isa::Portable => 2,
    }
}

/// Taps of a full tile of the weight gradient.
pub fn tile_taps(isa: Isa) -> usize {
    match isa {
        Isa::Avx512 => 8,
        Isa::Avx2 => 6,
        Isa::Portable => 3,
    }
}

/// Neighbouring result pixels that reach the same taps.
#[derive(Debug, Clone, Copy)]
pub struct Tile<'a> {
    /// The first pixel's place in the source, from which taps are counted.
    pub src: *const f32,
    /// Floats from one pixel's place to the next.
    pub src_pitch: usize,
    /// Kernel rows.
    pub rows: &'a [Tap],
    /// Kernel columns.
    pub columns: &'a [Tap],
    /// Whether neighbouring pixels and neighbouring columns are as far from each other.
    pub dense: bool,
    /// Floats ahead of the last row and of the results that memory is asked for, or 0.
    pub ahead: usize,
    /// All weights.
    pub weights: *const f32,
    /// What follows the sums.
    pub finish: Finish,
    /// The first result.
    pub dst: *mut f32,
    /// Floats from one result to the next.
    pub dst_pitch: usize,
    /// Channels.
    pub channels: usize,
}

/// # Safety
/// `V` vectors of channels from `k` on, of which `lanes` of the last count, in every tap of every pixel, in weights, bias
/// and results; all lanes if `FULL`.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // closures and iterator adapters would not inherit the shell's target features
unsafe fn strip<S: Simd, const PX: usize, const V: usize, const FULL: bool>(tile: &Tile<'_>, k: usize, lanes: usize) {
    // SAFETY: the caller's word.
    unsafe {
        let mut sums = [[S::splat(0.0); V]; PX];
        for row in tile.rows {
            let src = tile.src.wrapping_offset(row.source).wrapping_add(k);
            let weights = tile.weights.wrapping_add(row.weight + k);
            let mut columns = tile.columns;
            if tile.dense {
                while let [a, b, c, rest @ ..] = columns {
                    taps::<S, PX, V, 3, FULL>(&mut sums, tile, src, weights, [*a, *b, *c], lanes);
                    columns = rest;
                }
                if let [a, b] = columns {
                    taps::<S, PX, V, 2, FULL>(&mut sums, tile, src, weights, [*a, *b], lanes);
                    columns = &[];
                }
            }
            for &column in columns {
                taps::<S, PX, V, 1, FULL>(&mut sums, tile, src, weights, [column], lanes);
            }
        }
        if tile.ahead > 0 {
            prefetch::<S, PX, V>(tile, k);
        }
        match tile.finish.mode() {
            mode::PLAIN => finish::<S, PX, V, FULL, { mode::PLAIN }>(tile, &sums, k, lanes),
            mode::NORM => finish::<S, PX, V, FULL, { mode::NORM }>(tile, &sums, k, lanes),
            _ => finish::<S, PX, V, FULL, { mode::ADD }>(tile, &sums, k, lanes),
        }
    }
}

/// Writes the results of finished sums.
///
/// # Safety
/// As [`strip`]; `MODE` is the epilogue's.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // as above
unsafe fn finish<S: Simd, const PX: usize, const V: usize, const FULL: bool, const MODE: u8>(
    tile: &Tile<'_>,
    sums: &[[S::V; V]; PX],
    k: usize,
    lanes: usize,
) {
    // SAFETY: the caller's word.
    unsafe {
        for v in 0..V {
            let channel = tile.finish.per_channel::<S, FULL, MODE>(k + v * S::LANES, lanes);
            for i in 0..PX {
                let sum = S::add(sums[i][v], channel.bias);
                let at = tile.dst.wrapping_add(i * tile.dst_pitch + k + v * S::LANES);
                store::<S, FULL>(at, tile.finish.finish::<S, FULL, MODE>(sum, &channel, at, lanes), lanes);
            }
        }
    }
}

/// Adds the products of `T` neighbouring taps; what several pixels read is loaded once.
///
/// # Safety
/// As [`strip`]; with several taps, the tile is dense.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // as above
unsafe fn taps<S: Simd, const PX: usize, const V: usize, const T: usize, const FULL: bool>(
    sums: &mut [[S::V; V]; PX],
    tile: &Tile<'_>,
    src: *const f32,
    weights: *const f32,
    columns: [Tap; T],
    lanes: usize,
) {
    // SAFETY: the caller's word.
    unsafe {
        let src = src.wrapping_offset(columns[0].source);
        let mut w = [[S::splat(0.0); V]; T];
        for t in 0..T {
            for v in 0..V {
                w[t][v] = load::<S, FULL>(weights.wrapping_add(columns[t].weight + v * S::LANES), lanes);
            }
        }
        for j in 0..PX + T - 1 {
            for v in 0..V {
                let x = load::<S, FULL>(src.wrapping_add(j * tile.src_pitch + v * S::LANES), lanes);
                for t in 0..T {
                    if t <= j && j < PX + t {
                        sums[j - t][v] = S::fma(x, w[t][v], sums[j - t][v]);
                    }
                }
            }
        }
    }
}

/// Asks for what a later tile will read and write, which the processor does not foresee.
///
/// # Safety
/// The CPU has the level's features.
#[inline(always)]
unsafe fn prefetch<S: Simd, const PX: usize, const V: usize>(tile: &Tile<'_>, k: usize) {
    let (Some(row), Some(column)) = (tile.rows.last(), tile.columns.first()) else { return };
    let src = tile.src.wrapping_offset(row.source + column.source).wrapping_add(k + tile.ahead);
    let dst = tile.dst.wrapping_add(k + tile.ahead);
    for i in 0..PX {
        for v in (0..V * S::LANES).step_by(LINE) {
            // SAFETY: a hint that may name any address.
            unsafe {
                S::prefetch(src.wrapping_add(i * tile.src_pitch + v));
                S::prefetch(dst.wrapping_add(i * tile.dst_pitch + v));
            }
        }
    }
}

/// # Safety
/// `lanes` floats at `p`, or a whole vector if `FULL`.
#[inline(always)]
unsafe fn load<S: Simd, const FULL: bool>(p: *const f32, lanes: usize) -> S::V {
    // SAFETY: the caller's word.
    unsafe { if FULL { S::load(p) } else { S::load_partial(p, lanes) } }
}

/// # Safety
/// `lanes` floats at `p`, or a whole vector if `FULL`.
#[inline(always)]
unsafe fn store<S: Simd, const FULL: bool>(p: *mut f32, v: S::V, lanes: usize) {
    // SAFETY: the caller's word.
    unsafe { if FULL { S::store(p, v) } else { S::store_partial(p, v, lanes) } }
}

/// Where channels do not fill the last vectors, these start earlier and compute some channels a second time, to the same
/// bits; only pixels of less than one vector need partial ones.
///
/// # Safety
/// Every tap of every pixel, weights, bias and results have `channels` floats; nobody else uses the results.
#[inline(always)]
unsafe fn tile_body<S: Simd, const PX: usize>(tile: &Tile<'_>) {
    let (channels, wide) = (tile.channels, NV * S::LANES);
    // SAFETY: every strip lies within the channels.
    unsafe {
        if channels < S::LANES {
            strip::<S, PX, 1, false>(tile, 0, channels);
            return;
        }
        let mut k = 0;
        while k + wide <= channels {
            strip::<S, PX, NV, true>(tile, k, S::LANES);
            k += wide;
        }
        while k < channels {
            strip::<S, PX, 1, true>(tile, k.min(channels - S::LANES), S::LANES);
            k += S::LANES;
        }
    }
}

/// Taps of one kernel row of a weight gradient, summed over a rectangle of output pixels.
#[derive(Debug, Clone, Copy)]
pub struct GradTile {
    /// The first tap of the first pixel.
    pub src: *const f32,
    /// Floats from one pixel's source to the next, across and down.
    pub src_pitch: [usize; 2],
    /// Floats from one tap's source to the next.
    pub src_step: usize,
    /// The first pixel's gradient.
    pub diff: *const f32,
    /// Floats from one pixel's gradient to the next, across and down.
    pub diff_pitch: [usize; 2],
    /// Pixels across and down.
    pub pixels: [usize; 2],
    /// The first tap's sums, to be added to.
    pub sums: *mut f32,
    /// Floats from one tap's sums to the next.
    pub sums_pitch: usize,
    /// Channels.
    pub channels: usize,
}

/// # Safety
/// As [`strip`], for source, gradient and sums.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // as above
unsafe fn grad_strip<S: Simd, const TAPS: usize, const V: usize, const FULL: bool>(
    tile: &GradTile,
    k: usize,
    lanes: usize,
) {
    // SAFETY: the caller's word.
    unsafe {
        let mut sums = [[S::splat(0.0); V]; TAPS];
        for line in 0..tile.pixels[1] {
            let mut src = tile.src.wrapping_add(line * tile.src_pitch[1] + k);
            let mut diff = tile.diff.wrapping_add(line * tile.diff_pitch[1] + k);
            for _ in 0..tile.pixels[0] {
                let mut g = [S::splat(0.0); V];
                for v in 0..V {
                    g[v] = load::<S, FULL>(diff.wrapping_add(v * S::LANES), lanes);
                }
                for t in 0..TAPS {
                    for v in 0..V {
                        let x = load::<S, FULL>(src.wrapping_add(t * tile.src_step + v * S::LANES), lanes);
                        sums[t][v] = S::fma(x, g[v], sums[t][v]);
                    }
                }
                src = src.wrapping_add(tile.src_pitch[0]);
                diff = diff.wrapping_add(tile.diff_pitch[0]);
            }
        }
        for t in 0..TAPS {
            for v in 0..V {
                let at = tile.sums.wrapping_add(t * tile.sums_pitch + k + v * S::LANES);
                store::<S, FULL>(at, S::add(load::<S, FULL>(at, lanes), sums[t][v]), lanes);
            }
        }
    }
}

/// # Safety
/// Every tap of every pixel, every pixel's gradient and every tap's sums have `channels` floats; nobody else uses the
/// sums.
#[inline(always)]
unsafe fn grad_body<S: Simd, const TAPS: usize>(tile: &GradTile) {
    let (channels, wide) = (tile.channels, NV * S::LANES);
    // SAFETY: every strip lies within the channels.
    unsafe {
        let mut k = 0;
        while k + wide <= channels {
            grad_strip::<S, TAPS, NV, true>(tile, k, S::LANES);
            k += wide;
        }
        if k + S::LANES <= channels {
            grad_strip::<S, TAPS, 1, true>(tile, k, S::LANES);
            k += S::LANES;
        }
        if k < channels {
            grad_strip::<S, TAPS, 1, false>(tile, k, channels - k);
        }
    }
}

/// Defines a function that runs a body for a count: one shell per count and level.
macro_rules! by_count {
    ($(#[$meta:meta])* $pick:ident, $tile:ty, $body:ident; $($count:literal)*) => {
        $(#[$meta])*
        pub unsafe fn $pick(isa: Isa, count: usize, tile: &$tile) {
            match count {
                $($count => {
                    multiversion! { fn run(tile: &$tile) = $body, [$count]; }
                    // SAFETY: the caller's word.
                    unsafe { run(isa, tile) }
                })*
                _ => unreachable!("tiles have 1 to 8 pixels or taps"),
            }
        }
    };
}

by_count! {
    /// Runs a tile of `count` pixels.
    ///
    /// # Safety
    /// As [`tile_body`]; `count` is 1 to [`tile_pixels`]; the CPU has `isa`.
    tile, Tile<'_>, tile_body; 1 2 3 4 5 6 7 8
}
by_count! {
    /// Runs a tile of `count` taps of a weight gradient.
    ///
    /// # Safety
    /// As [`grad_body`]; `count` is 1 to [`tile_taps`]; the CPU has `isa`.
    grad_tile, GradTile, grad_body; 1 2 3 4 5 6 7 8
}
