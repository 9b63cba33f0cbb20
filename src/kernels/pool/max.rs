//! Maximum pooling.

use std::ops::Range;

use super::winner::{Mark, Winner};
use super::{Overrun, PoolGeometry, Span, load, split_rows, store, taps, vectors};
use crate::kernels::Kernel;
use crate::kernels::elementwise::Chunks;
use crate::simd::{Isa, Simd, dispatch::multiversion};
use crate::tensor::{Args, Dst, Src};

/// Maximum of each window. Operands: `src` (`n·ih·iw·c` floats), `dst` (`n·oh·ow·c` floats) and, if winners are noted,
/// `index` (as many of them).
///
/// Ties go to the first tap; the first NaN wins over everything and gives the standard NaN. A window that reads padding
/// only (dilation can step over a small input) gives −∞ and no winner.
#[derive(Debug, Clone)]
pub struct MaxPool {
    pub(super) isa: Isa,
    pub(super) geometry: PoolGeometry,
    winner: Option<Winner>,
    pub(super) rows: Vec<Span>,
    pub(super) columns: Vec<Span>,
    chunks: Chunks,
}

impl MaxPool {
    /// Pooling of that geometry; planes have fewer than 2³¹ pixels, and windows no more taps than `winner` tells apart.
    pub fn new(isa: Isa, geometry: PoolGeometry, winner: Option<Winner>) -> Self {
        assert!(
            winner.is_none_or(|winner| winner.fits(&geometry.window)),
            "too many taps: {:?}",
            geometry.window.kernel
        );
        let isa = geometry.level(isa);
        let (rows, columns) = (taps(&geometry, 0), taps(&geometry, 1));
        Self { isa, geometry, winner, rows, columns, chunks: geometry.output_rows() }
    }
}

/// The taps of one window that lie on the input: `rows` × `columns` of them. The first is at position `flat` of its plane
/// and is number `tap` of its window, whose rows have `kernel` taps.
#[derive(Clone, Copy)]
struct Taps {
    flat: usize,
    tap: usize,
    kernel: usize,
    rows: usize,
    columns: usize,
    row_step: usize,
    column_step: usize,
}

impl Taps {
    /// Position and number of one of them.
    #[inline(always)]
    fn at(self, row: usize, column: usize) -> (usize, usize) {
        let flat = self.flat + row * self.row_step + column * self.column_step;
        (flat, self.tap + row * self.kernel + column)
    }
}

/// Maxima of one window: `c` channels at `dst` and, if `INDEX`, at `index`.
///
/// # Safety
/// Every tap of `plane` (the first pixel of the image, `c` floats a pixel), `dst`, and `index` if `INDEX`, have `c`
/// elements, or whole vectors if `WHOLE`.
#[inline(always)]
unsafe fn window<S: Simd, I: Mark, const INDEX: bool, const WHOLE: bool>(
    plane: *const f32,
    taps: Taps,
    dst: *mut f32,
    index: *mut I,
    c: usize,
) {
    // SAFETY: the caller's word.
    unsafe {
        for (k, lanes) in vectors::<S>(c) {
            let channels = plane.wrapping_add(k);
            let mut best = load::<S, WHOLE>(channels.wrapping_add(taps.flat * c), lanes);
            let mut winner = I::splat::<S>(taps.flat, taps.tap);
            let mut undefined = S::is_nan(best);
            let (mut line, mut first) = (taps.flat, taps.tap);
            for row in 0..taps.rows {
                let skipped = usize::from(row == 0);
                let (mut flat, mut tap) = (line + skipped * taps.column_step, first + skipped);
                for _ in skipped..taps.columns {
                    let x = load::<S, WHOLE>(channels.wrapping_add(flat * c), lanes);
                    if INDEX {
                        winner = S::select(S::gt(x, best), I::splat::<S>(flat, tap), winner);
                    }
                    // Ignores NaN in `x`, keeps it in `best`: settled at the end.
                    best = S::max(x, best);
                    undefined = S::or(undefined, S::is_nan(x));
                    (flat, tap) = (flat + taps.column_step, tap + 1);
                }
                (line, first) = (line + taps.row_step, first + taps.kernel);
            }
            if !INDEX || S::any(undefined) {
                best = S::select(undefined, S::splat(f32::NAN), best);
            }
            store::<S, WHOLE>(dst.wrapping_add(k), best, lanes);
            if INDEX {
                if S::any(undefined) {
                    winner = first_nan::<S, I, WHOLE>(channels, taps, winner, [c, lanes]);
                }
                I::store::<S, WHOLE>(index.wrapping_add(k), winner, lanes);
            }
        }
    }
}

/// `winner` with the first tap that is NaN in the lanes that have one.
///
/// # Safety
/// As [`window`], for the `lanes` channels at `channels` of `c`.
#[inline(always)]
unsafe fn first_nan<S: Simd, I: Mark, const WHOLE: bool>(
    channels: *const f32,
    taps: Taps,
    mut winner: S::V,
    [c, lanes]: [usize; 2],
) -> S::V {
    // SAFETY: the caller's word. From the last tap to the first.
    unsafe {
        for row in (0..taps.rows).rev() {
            for column in (0..taps.columns).rev() {
                let (flat, tap) = taps.at(row, column);
                let x = load::<S, WHOLE>(channels.wrapping_add(flat * c), lanes);
                winner = S::select(S::is_nan(x), I::splat::<S>(flat, tap), winner);
            }
        }
    }
    winner
}

/// One output row, of windows with these rows of the plane; its results begin with element `start`.
///
/// # Safety
/// The rows are readable, those of the results belong to the task, as do those of the index, which is there if `INDEX`; if
/// `WHOLE`, vectors may overrun the pixels read, and those written in this row.
#[inline(always)]
pub(super) unsafe fn row<S: Simd, I: Mark, const INDEX: bool, const WHOLE: bool>(
    kernel: &MaxPool,
    plane: *const f32,
    rows: Span,
    start: usize,
    dst: Dst<'_, f32>,
    index: Option<Dst<'_, I>>,
) {
    let PoolGeometry { iw, c, window: shape, .. } = kernel.geometry;
    let [row_step, column_step] = [shape.dilation[0] * iw, shape.dilation[1]];
    let kw = shape.kernel[1];
    for (ox, columns) in kernel.columns.iter().enumerate() {
        let at = start + ox * c;
        let dst = dst.at(at, c);
        let index = if let Some(index) = index { index.at(at, c) } else { std::ptr::null_mut() };
        let flat = rows.start * iw + columns.start;
        let taps = |tap, kernel, rows, columns| Taps { flat, tap, kernel, rows, columns, row_step, column_step };
        // SAFETY: the spans keep every tap inside the plane. The common windows are spelled out so that they unroll, with
        // numbers that are constants.
        unsafe {
            match (rows.count, columns.count) {
                (2, 2) if kw == 2 => window::<S, I, INDEX, WHOLE>(plane, taps(2 * rows.tap, 2, 2, 2), dst, index, c),
                (3, 3) if kw == 3 => window::<S, I, INDEX, WHOLE>(plane, taps(3 * rows.tap, 3, 3, 3), dst, index, c),
                (0, _) | (_, 0) => {
                    for (k, lanes) in vectors::<S>(c) {
                        S::store_partial(dst.add(k), S::splat(f32::NEG_INFINITY), lanes);
                        if INDEX {
                            I::store::<S, false>(index.wrapping_add(k), S::splat_i32(I::NONE), lanes);
                        }
                    }
                }
                (h, w) => {
                    window::<S, I, INDEX, WHOLE>(plane, taps(rows.tap * kw + columns.tap, kw, h, w), dst, index, c);
                }
            }
        }
    }
}

/// # Safety
/// The views are as long as the geometry says; the rows belong to this task.
#[inline(always)]
unsafe fn max_pool_body<S: Simd, I: Mark, const INDEX: bool>(
    kernel: &MaxPool,
    rows: Range<usize>,
    src: Src<'_, f32>,
    dst: Dst<'_, f32>,
    index: Dst<'_, I>,
) {
    let PoolGeometry { ih, iw, c, oh, ow, .. } = kernel.geometry;
    let overrun = Overrun::new::<S>(c);
    let written = rows.end * ow * c;
    for (image, oy) in split_rows(rows, oh) {
        let span = kernel.rows[oy];
        let last = span.start + span.count.saturating_sub(1) * kernel.geometry.window.dilation[0];
        let read = (image * ih + last + 1) * iw * c;
        let start = (image * oh + oy) * ow * c;
        let whole = overrun.fits(read, src.len()) && overrun.fits(start + ow * c, written);
        let plane = src.at(image * ih * iw * c, ih * iw * c);
        let index = if INDEX { Some(index) } else { None };
        // SAFETY: with `whole`, no vector leaves the source or the rows of this task.
        unsafe {
            if whole {
                row::<S, I, INDEX, true>(kernel, plane, span, start, dst, index);
            } else {
                row::<S, I, INDEX, false>(kernel, plane, span, start, dst, index);
            }
        }
    }
}

multiversion! {
    fn max_pool(kernel: &MaxPool, rows: Range<usize>, src: Src<'_, f32>, dst: Dst<'_, f32>, index: Dst<'_, i32>)
        = max_pool_body, [i32, false];
}
multiversion! {
    fn max_pool_tap(kernel: &MaxPool, rows: Range<usize>, src: Src<'_, f32>, dst: Dst<'_, f32>, index: Dst<'_, u8>)
        = max_pool_body, [u8, true];
}
multiversion! {
    fn max_pool_index(kernel: &MaxPool, rows: Range<usize>, src: Src<'_, f32>, dst: Dst<'_, f32>, index: Dst<'_, i32>)
        = max_pool_body, [i32, true];
}

impl Kernel for MaxPool {
    fn name(&self) -> String {
        let winner = self.winner.map_or(String::new(), |winner| format!("_{}", winner.name()));
        format!("max_pool{winner}_{}", self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.chunks.tasks()
    }

    fn flops(&self) -> u64 {
        self.geometry.operations()
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let (rows, src, dst) = (self.chunks.range(task), args.src(0), args.dst(1));
        // SAFETY: the operands are as documented; without an index the last view is not looked at.
        unsafe {
            match self.winner {
                None => max_pool(self.isa, self, rows, src, dst, args.dst(1)),
                Some(Winner::Tap) => max_pool_tap(self.isa, self, rows, src, dst, args.dst(2)),
                Some(Winner::Position) => max_pool_index(self.isa, self, rows, src, dst, args.dst(2)),
            }
        }
    }
}
