//! Tiles of both operands of a weight gradient: into positions, summed over tiles, back into weights.

use super::source::{Positions, spare_len, transform_gradient, transform_source};
use super::tile::{Rows, sum_over_tiles};
use super::transform::{IN, Transform, WeightsTransposed, square};
use super::{Kind, Taps, Task};
use crate::kernels::conv::micro::tile_rows;
use crate::kernels::share;
use crate::simd::{Isa, Simd, dispatch::multiversion};
use std::ops::Range;

/// Source channels of a panel.
pub const WIDTH: usize = 16;

/// Places for the positions of some tiles: those of the source, then those of the gradients, in panels of channels.
#[derive(Debug)]
pub struct Sides {
    pub isa: Isa,
    pub task: Task,
    pub source: Positions,
    pub gradient: Positions,
}

/// Sums that are added up over tiles, at one position.
#[derive(Clone, Copy)]
pub struct Sums {
    pub to: *mut f32,
    /// Floats from one source channel to the next.
    pub pitch: usize,
    /// Whether to add to what is there.
    pub add: bool,
}

impl Sides {
    /// For so many tiles.
    pub fn new(isa: Isa, task: Task, tiles: usize) -> Self {
        let places = |channels, width| Positions::in_panels(task.positions(), tiles, channels, width);
        Self { isa, task, source: places(task.sc, WIDTH), gradient: places(task.dc, 2 * isa.lanes()) }
    }

    /// Floats of all positions.
    pub fn floats(&self) -> usize {
        self.source.floats() + self.gradient.floats()
    }

    /// Floats that [`transform`](Self::transform) wants besides.
    pub fn spare_len(&self) -> usize {
        spare_len(&self.task)
    }

    /// Gradients of a panel.
    pub fn width(&self) -> usize {
        2 * self.isa.lanes()
    }

    /// Transforms the pixels of the tiles from number `first` on to `rows` of the positions `to`.
    ///
    /// # Safety
    /// The operands are those of the task, `spare` was zero before the first tile; the rows are writable.
    pub unsafe fn transform(
        &self,
        (first, rows): (usize, Range<usize>),
        [src, diff_dst]: [*const f32; 2],
        spare: *mut f32,
        to: *mut f32,
    ) {
        let (isa, of) = (self.isa, &self.task);
        let gradients = to.wrapping_add(self.source.floats());
        let mut tile = of.tile(first);
        // SAFETY: the caller's word.
        unsafe {
            let to = to.wrapping_add(rows.start * self.source.pitch);
            transform_source(isa, of, (tile, rows.len()), src, spare, to, &self.source);
        }
        for row in rows {
            let next = of.next(tile);
            // SAFETY: the caller's word.
            unsafe {
                let to = gradients.wrapping_add(row * self.gradient.pitch);
                transform_gradient(isa, of, [tile, next], diff_dst, spare, to, &self.gradient);
            }
            tile = next;
        }
    }

    /// Sums over `tiles` tiles at all positions of a transformed weight, for channels of the source and of gradients.
    ///
    /// # Safety
    /// `positions` hold the tiles and channels, the first of which begins a panel; the sums of the panels are writable.
    pub unsafe fn products(
        &self,
        weight: usize,
        tiles: usize,
        channels: &[Range<usize>; 2],
        positions: *const f32,
        sums: Sums,
    ) {
        let mut sums = sums;
        for position in self.task.scheme.positions_of(weight) {
            // SAFETY: the caller's word.
            unsafe { self.products_at(position, tiles, channels, positions, sums) };
            sums.add = true;
        }
    }

    /// The same at one position, panel by panel.
    ///
    /// # Safety
    /// As [`products`](Self::products).
    unsafe fn products_at(
        &self,
        position: usize,
        tiles: usize,
        [of_source, of_gradient]: &[Range<usize>; 2],
        positions: *const f32,
        sums: Sums,
    ) {
        let mr = tile_rows(self.isa, 2);
        let source = positions.wrapping_add(position * self.source.plane);
        let gradient = positions.wrapping_add(self.source.floats() + position * self.gradient.plane);
        for g in of_gradient.clone().step_by(self.width()) {
            for s in of_source.clone().step_by(WIDTH) {
                let channels = WIDTH.min(of_source.end - s);
                let parts = channels.div_ceil(mr);
                for part in 0..parts {
                    let rows = share(part, parts, channels);
                    let row = s - of_source.start + rows.start;
                    let rows_of = Rows {
                        source: source.wrapping_add(self.source.channel(s + rows.start)),
                        pitch: self.source.pitch,
                        depth: tiles,
                        panel: gradient.wrapping_add(self.gradient.channel(g)),
                        sums: sums.to.wrapping_add(row * sums.pitch + g - of_gradient.start),
                        sums_pitch: sums.pitch,
                        add: sums.add,
                        run: self.task.scheme.run,
                        ahead: std::ptr::null(),
                    };
                    // SAFETY: the caller's word.
                    unsafe { sum_over_tiles(self.isa, rows.len(), &rows_of) };
                }
            }
        }
    }

    /// Transforms sums of one source channel, whose positions are `plane` floats apart, into gradients by its weights, the
    /// first of which is `to`.
    ///
    /// # Safety
    /// As [`weights_body`].
    pub unsafe fn weights_of(&self, from: *const f32, plane: usize, to: *mut f32, taps: &Taps, channels: usize) {
        let weights_of = match self.task.scheme.kind {
            Kind::F4 => weights_3,
            Kind::F3K4 => weights_4,
            Kind::Strided => weights_strided,
            _ => weights_5,
        };
        // SAFETY: the caller's word.
        unsafe { weights_of(self.isa, from, plane, to, taps, channels) };
    }
}

/// # Safety
/// `from` is readable for whole vectors of `channels` at every position, `to` writable for `channels` at every tap there is.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // closures would not inherit the shell's target features
unsafe fn weights_body<S: Simd, const SIDE: usize, const TAPS: usize>(
    from: *const f32,
    plane: usize,
    to: *mut f32,
    taps: &Taps,
    channels: usize,
) where
    WeightsTransposed: Transform<SIDE, TAPS>,
{
    // SAFETY: the caller's word.
    unsafe {
        for c in (0..channels).step_by(S::LANES) {
            let lanes = S::LANES.min(channels - c);
            let mut values = [[S::splat(0.0); SIDE]; SIDE];
            for y in 0..SIDE {
                for x in 0..SIDE {
                    let at = from.wrapping_add((y * SIDE + x) * plane + c);
                    values[y][x] = S::load_partial(at, lanes);
                }
            }
            let values = square::<S, WeightsTransposed, SIDE, TAPS>(values);
            for y in 0..TAPS.min(taps.count[0]) {
                for x in 0..TAPS.min(taps.count[1]) {
                    let at = y * taps.step[0] + x * taps.step[1] + c;
                    S::store_partial(to.wrapping_add(at), values[y][x], lanes);
                }
            }
        }
    }
}

multiversion! {
    /// Transforms sums of one source channel into gradients by its 3×3 weights.
    fn weights_3(from: *const f32, plane: usize, to: *mut f32, taps: &Taps, channels: usize) = weights_body, [IN, 3];
}
multiversion! {
    /// The same by 4×4 weights.
    fn weights_4(from: *const f32, plane: usize, to: *mut f32, taps: &Taps, channels: usize) = weights_body, [IN, 4];
}
multiversion! {
    /// The same by 5×5 weights.
    fn weights_5(from: *const f32, plane: usize, to: *mut f32, taps: &Taps, channels: usize) = weights_body, [IN, 5];
}
multiversion! {
    /// The same by 3×3 weights with stride 2.
    fn weights_strided(from: *const f32, plane: usize, to: *mut f32, taps: &Taps, channels: usize) = weights_body, [4, 3];
}
