//! The register tiles: `MR` pointers × `NV` vectors of channels, the reduction innermost and free of branches.

use super::epilogue::{Finish, mode};
use crate::multiversion;
use crate::simd::{Isa, Simd};

/// Most result pixels of a tile.
pub const MAX_ROWS: usize = 12;

/// Products that an accumulator takes before its sum is put aside. The error of a sum grows with the number of its
/// terms, that of a sum of sums with the number of each.
pub const RUN: usize = 256;

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
pub struct Tile<'a> {
    /// Per row, where segments are counted from; a row of `MR` pointers per segment, or one row for all of them.
    pub table: *const *const f32,
    /// Pointers from one segment's row to the next: `MR` or 0.
    pub table_pitch: usize,
    /// Floats from a row's pointer to each segment.
    pub deltas: *const isize,
    /// First segment and the one after the last.
    pub segments: *const (usize, usize),
    /// Floats per segment.
    pub len: usize,
    /// The panel's weights.
    pub panel: *const f32,
    /// Floats from one row of the panel to the next.
    pub pitch: usize,
    /// Floats from one panel to the next, where a tile has several.
    pub next_panel: usize,
    /// `MR` addresses of results, offset by `channel`.
    pub results: *const *mut f32,
    /// The panel's first channel.
    pub channel: usize,
    /// Channels of a panel to store, at most `NV` vectors.
    pub channels: usize,
    /// Tiles to run one after the other, of so many tables by so many panels, panels innermost: one panel, unless all
    /// channels of each are stored. What ends one tile and what starts the next are worked on at a time.
    pub count: [usize; 2],
    /// Bytes from one tile's `table`, `segments` and `results` to the next's.
    pub tables_pitch: usize,
    /// What follows the sums; `channel` is its channel, too, where it has operands per channel.
    pub finish: &'a Finish,
    /// What is read soon: asked for while the products are summed.
    pub ahead: Ahead,
}

/// Memory that tiles ask for ahead of its use, a little at every step of the reduction.
#[derive(Debug, Clone, Copy)]
pub struct Ahead {
    /// Best in mapped memory: looking up another address takes long.
    pub from: *const f32,
    /// Floats to go on by at every step.
    pub step: usize,
    /// Floats from where one tile begins to where the next does.
    pub piece: usize,
}

impl Ahead {
    /// What tiles ask for behind so many.
    pub fn behind(self, count: usize) -> Self {
        Self { from: self.from.wrapping_add(count * self.piece), ..self }
    }
}

// Plain index loops throughout: closures and iterator adapters would not inherit the shell's target features.

/// # Safety
/// Every row's segments are readable for `len` floats, each of the panels (times `NV / 2`, where there are more than two
/// vectors) for every segment's rows at `pitch`, operands per channel of the epilogue for the `channels` of each; each result
/// is writable for these from `channel` on.
#[inline(always)]
unsafe fn tile_body<S: Simd, const MR: usize, const NV: usize>(tile: &Tile<'_>) {
    let mut spilled = Spilled::<MR, NV>::new();
    // Memory, whatever the compiler knows of its use: it would keep what is put aside in registers from tile to tile, and save
    // those at every one's end.
    let spilled = std::hint::black_box(&mut spilled);
    let [slots, panels] = tile.count;
    let mut ahead = tile.ahead.from;
    for slot in 0..slots {
        let tables = slot * tile.tables_pitch;
        for panel in 0..panels {
            let one = One {
                table: tile.table.wrapping_byte_add(tables),
                segments: tile.segments.wrapping_byte_add(tables),
                results: tile.results.wrapping_byte_add(tables),
                panel: tile.panel.wrapping_add(panel * tile.next_panel),
                channel: tile.channel + panel * NV * S::LANES,
                ahead,
            };
            // SAFETY: the caller's word.
            unsafe { one_body::<S, MR, NV>(tile, one, spilled) };
            ahead = ahead.wrapping_add(tile.ahead.piece);
        }
    }
}

/// What one of several tiles has of its own.
#[derive(Clone, Copy)]
struct One {
    table: *const *const f32,
    segments: *const (usize, usize),
    results: *const *mut f32,
    panel: *const f32,
    channel: usize,
    ahead: *const f32,
}

/// # Safety
/// As for [`tile_body`].
#[inline(always)]
#[allow(clippy::needless_range_loop)] // see above
unsafe fn one_body<S: Simd, const MR: usize, const NV: usize>(
    tile: &Tile<'_>,
    one: One,
    spilled: &mut std::mem::MaybeUninit<Spilled<MR, NV>>,
) {
    // SAFETY: the caller's word.
    unsafe {
        let One { results, channel, mut ahead, .. } = one;
        let segments = *one.segments;
        let mut sums = [[S::splat(0.0); NV]; MR];
        // Counted from the first segment of all: sums do not depend on which of them padding lets a tile leave out.
        let (mut left, mut any_aside) = (RUN - segments.0 * tile.len % RUN, false);
        let mut weights = one.panel.wrapping_add(segments.0 * tile.len * tile.pitch);
        for i in 0..MR {
            let result = (*results.add(i)).wrapping_add(channel);
            for v in 0..NV {
                S::prefetch(result.wrapping_add(v * S::LANES));
            }
        }
        for segment in segments.0..segments.1 {
            let table = one.table.wrapping_add(segment * tile.table_pitch);
            let delta = *tile.deltas.add(segment);
            let mut rows = [std::ptr::null::<f32>(); MR];
            for i in 0..MR {
                rows[i] = (*table.add(i)).wrapping_offset(delta);
            }
            let mut done = 0;
            while done < tile.len {
                if left == 0 {
                    left = RUN;
                    put_aside::<S, MR, NV>(&mut sums, spilled, any_aside);
                    any_aside = true;
                }
                let count = left.min(tile.len - done);
                for k in 0..count {
                    let mut b = [S::splat(0.0); NV];
                    for v in 0..NV {
                        // Beyond two vectors, of the panels behind.
                        b[v] = S::load(weights.wrapping_add(v / 2 * tile.next_panel + v % 2 * S::LANES));
                    }
                    for i in 0..MR {
                        let a = S::splat(rows[i].wrapping_add(k).read());
                        for v in 0..NV {
                            sums[i][v] = S::fma(a, b[v], sums[i][v]);
                        }
                    }
                    weights = weights.wrapping_add(tile.pitch);
                    // With one vector the loads are what takes longest: none is spent on what the processor fetches anyway.
                    if NV > 1 {
                        S::prefetch(ahead);
                        ahead = ahead.wrapping_add(tile.ahead.step);
                    }
                }
                left -= count;
                done += count;
                for i in 0..MR {
                    rows[i] = rows[i].wrapping_add(count);
                }
            }
        }
        if any_aside {
            for i in 0..MR {
                for v in 0..NV {
                    sums[i][v] = S::add(S::load(spilled.at(i, v)), sums[i][v]);
                }
            }
        }
        if tile.channels == NV * S::LANES {
            return match tile.finish.mode() {
                mode::PLAIN => finish_whole::<S, MR, NV, { mode::PLAIN }>(tile, one, sums),
                mode::NORM => finish_whole::<S, MR, NV, { mode::NORM }>(tile, one, sums),
                _ => finish_whole::<S, MR, NV, { mode::ADD }>(tile, one, sums),
            };
        }
        for i in 0..MR {
            for v in 0..NV {
                S::store(spilled.at(i, v), sums[i][v]);
            }
        }
        match tile.finish.mode() {
            mode::PLAIN => finish::<S, MR, NV, { mode::PLAIN }>(tile, one, spilled),
            mode::NORM => finish::<S, MR, NV, { mode::NORM }>(tile, one, spilled),
            _ => finish::<S, MR, NV, { mode::ADD }>(tile, one, spilled),
        }
    }
}

multiversion! {
    fn row_4(tile: &Tile<'_>) = tile_body, [1, 4];
}
multiversion! {
    fn row_8(tile: &Tile<'_>) = tile_body, [1, 8];
}

/// Panels that one row may take at a time, the most first: alone, the two sums of a panel would wait for their own latency.
pub const ROW_PANELS: [usize; 3] = [4, 2, 1];

/// Adds the sums to those put aside before, if `more`, and starts anew.
///
/// # Safety
/// The CPU has the level's features.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // as above
unsafe fn put_aside<S: Simd, const MR: usize, const NV: usize>(
    sums: &mut [[S::V; NV]; MR],
    spilled: &mut std::mem::MaybeUninit<Spilled<MR, NV>>,
    more: bool,
) {
    // SAFETY: the caller's word.
    unsafe {
        for i in 0..MR {
            for v in 0..NV {
                let aside = if more { S::load(spilled.at(i, v)) } else { S::splat(0.0) };
                S::store(spilled.at(i, v), S::add(aside, sums[i][v]));
                sums[i][v] = S::splat(0.0);
            }
        }
    }
}

/// [`finish`] for whole vectors, straight from the registers.
///
/// # Safety
/// As for [`tile_body`], with `NV` whole vectors of channels; `MODE` is the epilogue's.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // as above
unsafe fn finish_whole<S: Simd, const MR: usize, const NV: usize, const MODE: u8>(
    tile: &Tile<'_>,
    one: One,
    sums: [[S::V; NV]; MR],
) {
    // SAFETY: the caller's word.
    unsafe {
        for v in 0..NV {
            let first = one.channel + v * S::LANES;
            let channel = tile.finish.per_channel::<S, true, MODE>(first, S::LANES);
            for i in 0..MR {
                let sum = S::add(sums[i][v], channel.bias);
                let result = (*one.results.add(i)).wrapping_add(first);
                S::store(result, tile.finish.finish::<S, true, MODE>(sum, &channel, result, S::LANES));
            }
        }
    }
}

/// Writes the results of finished sums.
///
/// # Safety
/// As for [`tile_body`]; the sums were spilled; `MODE` is the epilogue's.
#[inline(always)]
unsafe fn finish<S: Simd, const MR: usize, const NV: usize, const MODE: u8>(
    tile: &Tile<'_>,
    one: One,
    sums: &mut std::mem::MaybeUninit<Spilled<MR, NV>>,
) {
    // SAFETY: the caller's word.
    unsafe {
        for v in 0..NV {
            let first = v * S::LANES;
            let count = tile.channels.saturating_sub(first).min(S::LANES);
            let channel = tile.finish.per_channel::<S, false, MODE>(one.channel + first, count);
            for i in 0..MR {
                let sum = S::add(S::load(sums.at(i, v)), channel.bias);
                let result = (*one.results.add(i)).wrapping_add(one.channel + first);
                S::store_partial(result, tile.finish.finish::<S, false, MODE>(sum, &channel, result, count), count);
            }
        }
    }
}

/// # Safety
/// `channels` floats are readable at each of `rows` results; the CPU has the level's features.
#[inline(always)]
unsafe fn nan_body<S: Simd>(results: *const *mut f32, rows: usize, channels: usize) -> bool {
    // SAFETY: the caller's word.
    unsafe {
        let mut nan = S::is_nan(S::splat(0.0));
        for row in 0..rows {
            for at in (0..channels).step_by(S::LANES) {
                let from = (*results.add(row)).wrapping_add(at);
                nan = S::or(nan, S::is_nan(S::load_partial(from, S::LANES.min(channels - at))));
            }
        }
        S::any(nan)
    }
}

multiversion! {
    /// Whether one of the first `channels` of the results at `rows` addresses is NaN.
    pub fn has_nan(results: *const *mut f32, rows: usize, channels: usize) -> bool = nan_body;
}

/// Where accumulators go after a run of products and after the last one. A place of its own: were the loops of the epilogue to
/// index the accumulators themselves, the compiler would keep those in memory all along.
#[repr(align(64))]
pub struct Spilled<const MR: usize, const NV: usize>([[[f32; 16]; NV]; MR]);

impl<const MR: usize, const NV: usize> Spilled<MR, NV> {
    /// Room for the tile.
    #[inline(always)]
    pub fn new() -> std::mem::MaybeUninit<Self> {
        std::mem::MaybeUninit::uninit()
    }
}

/// The address of one spilled vector.
pub trait SpilledAt {
    /// Its place: 16 floats on a boundary of 64 bytes.
    fn at(&mut self, row: usize, vector: usize) -> *mut f32;
}

impl<const MR: usize, const NV: usize> SpilledAt for std::mem::MaybeUninit<Spilled<MR, NV>> {
    #[inline(always)]
    fn at(&mut self, row: usize, vector: usize) -> *mut f32 {
        debug_assert!(row < MR && vector < NV);
        self.as_mut_ptr().cast::<f32>().wrapping_add((row * NV + vector) * 16)
    }
}

/// Defines a function that runs a body for a number of rows and fixed further parameters: one shell per number of rows
/// and level.
macro_rules! by_rows {
    ($pick:ident, $tile:ty, $result:ty, $body:ident::<_, _ $(, $param:literal)*>) => {
        by_rows!(@ $pick, $tile, $result, $body, [$($param),*]; 1 2 3 4 5 6 7 8 9 10 11 12);
    };
    (@ $pick:ident, $tile:ty, $result:ty, $body:ident, $params:tt; $($rows:literal)*) => {
        /// Runs a tile of `rows` rows.
        ///
        /// # Safety
        /// As for the body; `rows` is 1 to 12; the CPU has `isa`.
        unsafe fn $pick(isa: Isa, rows: usize, tile: &$tile) -> $result {
            match rows {
                $($rows => {
                    by_rows!(# $body, $tile, $result, $rows, $params);
                    // SAFETY: the caller's word.
                    unsafe { run(isa, tile) }
                })*
                _ => unreachable!("tiles have 1 to 12 rows"),
            }
        }
    };
    (# $body:ident, $tile:ty, $result:ty, $rows:literal, [$($param:literal),*]) => {
        multiversion! { fn run(tile: &$tile) -> $result = $body, [$rows $(, $param)*]; }
    };
}

pub(in crate::kernels) use by_rows;

by_rows!(tile_1, Tile<'_>, (), tile_body::<_, _, 1>);
by_rows!(tile_2, Tile<'_>, (), tile_body::<_, _, 2>);
/// Runs a tile of `rows` × `vectors`.
///
/// # Safety
/// As [`tile_body`]; `rows` is 1 to [`MAX_ROWS`], `vectors` 1 or 2, or those of two or four panels for one row; the CPU
/// has `isa`.
pub unsafe fn tile(isa: Isa, rows: usize, vectors: usize, tile: &Tile<'_>) {
    // SAFETY: the caller's word.
    unsafe {
        match vectors {
            1 => tile_1(isa, rows, tile),
            2 => tile_2(isa, rows, tile),
            4 => row_4(isa, tile),
            _ => row_8(isa, tile),
        }
    }
}
