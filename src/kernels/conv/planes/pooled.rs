//! Pooling over 2×2 before results are turned: a quarter of them is left to turn and to write.

use super::{CHANNELS, Line, VECTORS, by_channels, sums_of};
use crate::function::UnaryKind;
use crate::kernels::conv::epilogue::{Finish, mode};
use crate::kernels::elementwise;
use crate::kernels::pool::{PoolKind, largest};
use crate::multiversion;
use crate::simd::{Isa, Simd};

/// A line of pooled results.
#[derive(Debug, Clone, Copy)]
pub struct Pooled {
    pub isa: Isa,
    /// The lines above each other; their room for a tile, which is one, holds both and what they are pooled to.
    pub lines: [Line; 2],
    /// Nothing is added.
    pub finish: Finish,
    /// The activation that follows, unless `finish` has it.
    pub later: Option<UnaryKind>,
    pub pool: PoolKind,
    /// Room for half the pixels in whole tiles, and one more.
    pub result: *mut f32,
}

/// # Safety
/// As for a line without pooling, twice.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // closures and iterators would not inherit the shell's target features
unsafe fn body<S: Simd, const C: usize>(call: &Pooled) {
    // SAFETY: the caller's word.
    unsafe {
        let width = VECTORS * S::LANES;
        let pixels = call.lines[0].pixels;
        let tile = call.lines[0].by_channels;
        let pooled = tile.wrapping_add(2 * CHANNELS * width);
        for x in (0..pixels).step_by(width) {
            for half in 0..2 {
                let sums = sums_of::<S, C>(&call.lines[half], x);
                for c in 0..C {
                    let to = tile.wrapping_add((half * C + c) * width);
                    for v in 0..VECTORS {
                        S::store(to.wrapping_add(v * S::LANES), finished::<S>(&call.finish, sums[c][v], c));
                    }
                }
            }
            if let Some(kind) = call.later {
                elementwise::activate(call.isa, kind, tile, tile, 2 * C * width);
            }
            for c in 0..C {
                let [top, bottom] = [tile.wrapping_add(c * width), tile.wrapping_add((C + c) * width)];
                let top = S::unzip(S::load(top), S::load(top.wrapping_add(S::LANES)));
                let bottom = S::unzip(S::load(bottom), S::load(bottom.wrapping_add(S::LANES)));
                let value = match call.pool {
                    PoolKind::Mean => {
                        // As `AvgPool`: the upper two, the lower two, then both sums.
                        let sum = S::add(S::add(top.0, top.1), S::add(bottom.0, bottom.1));
                        S::mul(sum, S::splat(0.25))
                    }
                    PoolKind::Max => largest::<S, 4>([top.0, top.1, bottom.0, bottom.1]),
                };
                S::store(pooled.wrapping_add(c * S::LANES), value);
            }
            for pixel in (0..S::LANES.min((pixels - x) / 2)).step_by(8) {
                let to = call.result.wrapping_add((x / 2 + pixel) * C);
                S::transpose8(pooled.wrapping_add(pixel), S::LANES as isize, to, C);
            }
        }
    }
}

/// What follows sums of channel `c`.
///
/// # Safety
/// The operands per channel have it; the CPU has the level's features.
#[inline(always)]
unsafe fn finished<S: Simd>(finish: &Finish, sums: S::V, c: usize) -> S::V {
    // SAFETY: the caller's word.
    unsafe {
        let mut value = sums;
        if !finish.bias.is_null() {
            value = S::add(value, S::splat(finish.bias.wrapping_add(c).read_unaligned()));
        }
        if finish.norm[0].is_null() {
            let channel = finish.one_channel::<S, { mode::PLAIN }>(c);
            return finish.finish::<S, true, { mode::PLAIN }>(value, &channel, std::ptr::null(), S::LANES);
        }
        let channel = finish.one_channel::<S, { mode::NORM }>(c);
        finish.finish::<S, true, { mode::NORM }>(value, &channel, std::ptr::null(), S::LANES)
    }
}

by_channels!(
    /// Runs a line of pooled results.
    pub line(Pooled), body
);
