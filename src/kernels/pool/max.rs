//! Maximum pooling.

use std::ops::Range;

use super::{Overrun, PoolGeometry, Span, cover, load, split_rows, store, taps, vectors};
use crate::kernels::Kernel;
use crate::kernels::elementwise::Chunks;
use crate::simd::{Isa, Simd, dispatch::multiversion};
use crate::tensor::{Args, Dst, Src};

/// Maximum of each window. Operands: `src` (`n·ih·iw·c` floats), `dst` (`n·oh·ow·c` floats) and, `with_index`, `index`
/// (as many i32).
///
/// Ties go to the first tap; the first NaN wins over everything and gives the standard NaN. `index` is the flat position
/// `iy·iw + ix` of the winner in its input plane. A window that reads padding only (dilation can step over a small
/// input) gives −∞ and −1.
#[derive(Debug, Clone)]
pub struct MaxPool {
    pub(super) isa: Isa,
    pub(super) geometry: PoolGeometry,
    with_index: bool,
    pub(super) rows: Vec<Span>,
    pub(super) columns: Vec<Span>,
    chunks: Chunks,
}

impl MaxPool {
    /// Pooling of that geometry; planes have fewer than 2³¹ pixels.
    pub fn new(isa: Isa, geometry: PoolGeometry, with_index: bool) -> Self {
        let isa = geometry.level(isa);
        let (rows, columns) = (taps(&geometry, 0), taps(&geometry, 1));
        Self { isa, geometry, with_index, rows, columns, chunks: geometry.output_rows() }
    }
}

/// The taps of one window: `rows` × `columns` of them, `flat` the position of the first in its plane.
#[derive(Clone, Copy)]
struct Taps {
    flat: usize,
    rows: usize,
    columns: usize,
    row_step: usize,
    column_step: usize,
}

/// Maxima of one window: `c` channels at `dst` and, if `INDEX`, at `index`.
///
/// # Safety
/// Every tap of `plane` (the first pixel of the image, `c` floats a pixel), `dst`, and `index` if `INDEX`, have `c`
/// elements, or whole vectors if `WHOLE`.
#[inline(always)]
unsafe fn window<S: Simd, const INDEX: bool, const WHOLE: bool>(
    plane: *const f32,
    taps: Taps,
    dst: *mut f32,
    index: *mut f32,
    c: usize,
) {
    // SAFETY: the caller's word.
    unsafe {
        for (k, lanes) in vectors::<S>(c) {
            let channels = plane.wrapping_add(k);
            let mut best = load::<S, WHOLE>(channels.wrapping_add(taps.flat * c), lanes);
            let mut best_index = S::splat_i32(taps.flat as i32);
            let mut undefined = S::is_nan(best);
            for row in 0..taps.rows {
                for column in 0..taps.columns {
                    if row == 0 && column == 0 {
                        continue;
                    }
                    let flat = taps.flat + row * taps.row_step + column * taps.column_step;
                    let x = load::<S, WHOLE>(channels.wrapping_add(flat * c), lanes);
                    let nan = S::is_nan(x);
                    if INDEX {
                        let better = S::and_not(S::or(S::gt(x, best), nan), undefined);
                        best_index = S::select(better, S::splat_i32(flat as i32), best_index);
                    }
                    // Ignores NaN in `x`, keeps it in `best`: settled at the end.
                    best = S::max(x, best);
                    undefined = S::or(undefined, nan);
                }
            }
            let best = S::select(undefined, S::splat(f32::NAN), best);
            store::<S, WHOLE>(dst.wrapping_add(k), best, lanes);
            if INDEX {
                store::<S, WHOLE>(index.wrapping_add(k), best_index, lanes);
            }
        }
    }
}

/// One output row, of windows with these rows of the plane; its results begin with element `start`.
///
/// # Safety
/// The rows are readable, those of the results belong to the task, as do those of the index, which is there if `INDEX`; if
/// `WHOLE`, vectors may overrun the pixels read, and those written in this row.
#[inline(always)]
pub(super) unsafe fn row<S: Simd, const INDEX: bool, const WHOLE: bool>(
    kernel: &MaxPool,
    plane: *const f32,
    rows: Span,
    start: usize,
    dst: Dst<'_, f32>,
    index: Option<Dst<'_, i32>>,
) {
    let PoolGeometry { iw, c, window: shape, .. } = kernel.geometry;
    let steps = [shape.dilation[0] * iw, shape.dilation[1]];
    for (ox, columns) in kernel.columns.iter().enumerate() {
        let at = start + ox * c;
        let dst = dst.at(at, c);
        let index = if let Some(index) = index { index.at(at, c).cast() } else { std::ptr::null_mut() };
        let taps = |rows_count, columns_count| Taps {
            flat: rows.start * iw + columns.start,
            rows: rows_count,
            columns: columns_count,
            row_step: steps[0],
            column_step: steps[1],
        };
        // SAFETY: the spans keep every tap inside the plane. The common sizes are spelled out so that they unroll.
        unsafe {
            match (rows.count, columns.count) {
                (2, 2) => window::<S, INDEX, WHOLE>(plane, taps(2, 2), dst, index, c),
                (3, 3) => window::<S, INDEX, WHOLE>(plane, taps(3, 3), dst, index, c),
                (0, _) | (_, 0) => {
                    for (k, lanes) in vectors::<S>(c) {
                        S::store_partial(dst.add(k), S::splat(f32::NEG_INFINITY), lanes);
                        if INDEX {
                            S::store_partial(index.wrapping_add(k), S::splat_i32(-1), lanes);
                        }
                    }
                }
                (h, w) => window::<S, INDEX, WHOLE>(plane, taps(h, w), dst, index, c),
            }
        }
    }
}

/// # Safety
/// The views are as long as the geometry says; the rows belong to this task.
#[inline(always)]
unsafe fn max_pool_body<S: Simd, const INDEX: bool>(
    kernel: &MaxPool,
    rows: Range<usize>,
    src: Src<'_, f32>,
    dst: Dst<'_, f32>,
    index: Dst<'_, i32>,
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
                row::<S, INDEX, true>(kernel, plane, span, start, dst, index);
            } else {
                row::<S, INDEX, false>(kernel, plane, span, start, dst, index);
            }
        }
    }
}

multiversion! {
    fn max_pool(kernel: &MaxPool, rows: Range<usize>, src: Src<'_, f32>, dst: Dst<'_, f32>, index: Dst<'_, i32>)
        = max_pool_body, [false];
}
multiversion! {
    fn max_pool_index(kernel: &MaxPool, rows: Range<usize>, src: Src<'_, f32>, dst: Dst<'_, f32>, index: Dst<'_, i32>)
        = max_pool_body, [true];
}

impl Kernel for MaxPool {
    fn name(&self) -> String {
        format!("max_pool{}_{}", if self.with_index { "_index" } else { "" }, self.isa.name())
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
            if self.with_index {
                max_pool_index(self.isa, self, rows, src, dst, args.dst(2));
            } else {
                max_pool(self.isa, self, rows, src, dst, args.dst(1));
            }
        }
    }
}

/// Gradient of [`MaxPool`]. Operands: `diff_dst` (`n·oh·ow·c` floats), `index` (as many i32, from the forward pass),
/// `diff_src` (`n·ih·iw·c` floats, all of them written).
///
/// Every input pixel adds up, in order, the gradients of the covering windows whose index names it.
#[derive(Debug, Clone)]
pub struct MaxPoolBackward {
    isa: Isa,
    geometry: PoolGeometry,
    rows: Vec<Span>,
    /// Windows over each input column; if `simple`, input columns under each window.
    columns: Vec<Span>,
    simple: bool,
    chunks: Chunks,
}

impl MaxPoolBackward {
    /// Gradient for the pooling of that geometry.
    pub fn new(isa: Isa, geometry: PoolGeometry) -> Self {
        let isa = geometry.level(isa);
        let simple = geometry.is_simple(isa);
        let columns = if simple { taps(&geometry, 1) } else { cover(&geometry, 1) };
        Self { isa, geometry, rows: cover(&geometry, 0), columns, simple, chunks: geometry.input_rows() }
    }
}

/// Gradient of one input pixel from `rows` × `columns` windows, the first of which is at `diff_dst` and `index`.
///
/// # Safety
/// Every window, `row_step` elements apart down and `c` across, and `diff_src` have `c` elements, or whole vectors if
/// `WHOLE`.
#[inline(always)]
unsafe fn pixel<S: Simd, const WHOLE: bool>(
    diff_dst: *const f32,
    index: *const f32,
    counts: [usize; 2],
    row_step: usize,
    flat: usize,
    diff_src: *mut f32,
    c: usize,
) {
    // SAFETY: the caller's word.
    unsafe {
        let (zero, own) = (S::splat(0.0), S::splat_i32(flat as i32));
        for (k, lanes) in vectors::<S>(c) {
            let mut sum = zero;
            for row in 0..counts[0] {
                for column in 0..counts[1] {
                    let at = row * row_step + column * c + k;
                    let hit = S::eq_bits(load::<S, WHOLE>(index.wrapping_add(at), lanes), own);
                    sum = S::add(sum, S::select(hit, load::<S, WHOLE>(diff_dst.wrapping_add(at), lanes), zero));
                }
            }
            store::<S, WHOLE>(diff_src.wrapping_add(k), sum, lanes);
        }
    }
}

/// One input row under at most one row of windows, with one vector a pixel.
///
/// # Safety
/// As [`max_pool_backward_body`]; if `WHOLE`, vectors may overrun the pixels read, and those written in this row.
#[inline(always)]
unsafe fn row_backward_simple<S: Simd, const WHOLE: bool>(
    kernel: &MaxPoolBackward,
    image: usize,
    iy: usize,
    diff_dst: Src<'_, f32>,
    index: Src<'_, i32>,
    diff_src: Dst<'_, f32>,
) {
    let PoolGeometry { ih, iw, c, oh, ow, .. } = kernel.geometry;
    let rows = kernel.rows[iy];
    let diff_src = diff_src.at((image * ih + iy) * iw * c, iw * c);
    // SAFETY: windows and pixels lie in their rows.
    unsafe {
        let zero = S::splat(0.0);
        let mut done = 0;
        for (ox, columns) in kernel.columns.iter().enumerate().take(ow * rows.count) {
            let at = ((image * oh + rows.start) * ow + ox) * c;
            let g = load::<S, WHOLE>(diff_dst.at(at, c), c);
            let winner = load::<S, WHOLE>(index.at(at, c).cast(), c);
            for ix in done..columns.start {
                store::<S, WHOLE>(diff_src.add(ix * c), zero, c);
            }
            done = columns.start + columns.count;
            for ix in columns.start..done {
                let hit = S::eq_bits(winner, S::splat_i32((iy * iw + ix) as i32));
                store::<S, WHOLE>(diff_src.add(ix * c), S::select(hit, g, zero), c);
            }
        }
        for ix in done..iw {
            store::<S, WHOLE>(diff_src.add(ix * c), zero, c);
        }
    }
}

/// One input row.
///
/// # Safety
/// As [`max_pool_backward_body`]; if `WHOLE`, vectors may overrun the pixels read, and those written in this row.
#[inline(always)]
unsafe fn row_backward<S: Simd, const WHOLE: bool>(
    kernel: &MaxPoolBackward,
    image: usize,
    iy: usize,
    diff_dst: Src<'_, f32>,
    index: Src<'_, i32>,
    diff_src: Dst<'_, f32>,
) {
    let PoolGeometry { ih, iw, c, oh, ow, .. } = kernel.geometry;
    let rows = kernel.rows[iy];
    let diff_dst = diff_dst.at(image * oh * ow * c, oh * ow * c);
    let index = index.at(image * oh * ow * c, oh * ow * c).cast::<f32>();
    for (ix, columns) in kernel.columns.iter().enumerate() {
        let first = (rows.start * ow + columns.start) * c;
        let (g, i) = (diff_dst.wrapping_add(first), index.wrapping_add(first));
        let flat = iy * iw + ix;
        let out = diff_src.at((image * ih * iw + flat) * c, c);
        // SAFETY: the spans keep every window inside the plane. One window, the commonest, is spelled out.
        unsafe {
            match (rows.count, columns.count) {
                (1, 1) => pixel::<S, WHOLE>(g, i, [1, 1], ow * c, flat, out, c),
                (h, w) => pixel::<S, WHOLE>(g, i, [h, w], ow * c, flat, out, c),
            }
        }
    }
}

/// # Safety
/// The views are as long as the geometry says; the rows belong to this task.
#[inline(always)]
unsafe fn max_pool_backward_body<S: Simd>(
    kernel: &MaxPoolBackward,
    rows: Range<usize>,
    diff_dst: Src<'_, f32>,
    index: Src<'_, i32>,
    diff_src: Dst<'_, f32>,
) {
    let PoolGeometry { ih, iw, c, oh, ow, .. } = kernel.geometry;
    let overrun = Overrun::new::<S>(c);
    let written = rows.end * iw * c;
    for (image, iy) in split_rows(rows, ih) {
        let span = kernel.rows[iy];
        let read = (image * oh + span.start + span.count) * ow * c;
        let there = diff_dst.len().min(index.len());
        let whole = overrun.fits(read, there) && overrun.fits((image * ih + iy + 1) * iw * c, written);
        // SAFETY: with `whole`, no vector leaves the sources or the rows of this task.
        unsafe {
            match (kernel.simple, whole) {
                (true, true) => row_backward_simple::<S, true>(kernel, image, iy, diff_dst, index, diff_src),
                (true, false) => row_backward_simple::<S, false>(kernel, image, iy, diff_dst, index, diff_src),
                (false, true) => row_backward::<S, true>(kernel, image, iy, diff_dst, index, diff_src),
                (false, false) => row_backward::<S, false>(kernel, image, iy, diff_dst, index, diff_src),
            }
        }
    }
}

multiversion! {
    fn max_pool_backward(
        kernel: &MaxPoolBackward, rows: Range<usize>, diff_dst: Src<'_, f32>, index: Src<'_, i32>,
        diff_src: Dst<'_, f32>,
    ) = max_pool_backward_body;
}

impl Kernel for MaxPoolBackward {
    fn name(&self) -> String {
        format!("max_pool_backward_{}", self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.chunks.tasks()
    }

    fn flops(&self) -> u64 {
        self.geometry.operations()
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        // SAFETY: the operands are as documented; the rows belong to this task.
        unsafe {
            max_pool_backward(self.isa, self, self.chunks.range(task), args.src(0), args.src(1), args.dst(2));
        }
    }
}
