//! Average pooling.

use std::ops::Range;

use super::{Overrun, PoolGeometry, Span, cover, halves, load, split_rows, store, taps, vectors};
use crate::kernels::Kernel;
use crate::kernels::elementwise::Chunks;
use crate::kernels::strips::Strips;
use crate::simd::{Isa, Simd, dispatch::multiversion};
use crate::tensor::{Args, Dst, Src};

/// For each output position of an axis, one over the length of its window: of the part on the padded input, or on the
/// input alone; 0 where nothing is left. A window's divisor is the product of its two lengths.
fn reciprocals(geometry: &PoolGeometry, axis: usize, count_include_pad: bool) -> Vec<f64> {
    let window = &geometry.window;
    assert!(window.dilation == [1, 1], "avg_pool expects dilation 1, received {:?}", window.dilation);
    let padded = geometry.input()[axis] + window.pad[axis][0] + window.pad[axis][1];
    let length = |(o, span): (usize, &Span)| {
        if count_include_pad {
            padded.saturating_sub(o * window.stride[axis]).min(window.kernel[axis])
        } else {
            span.count
        }
    };
    let reciprocal = |length: usize| if length == 0 { 0.0 } else { 1.0 / length as f64 };
    taps(geometry, axis).iter().enumerate().map(length).map(reciprocal).collect()
}

/// Mean of each window. Operands: `src` (`n·ih·iw·c` floats), `dst` (`n·oh·ow·c` floats).
///
/// The divisor is the size of the window's part on the padded input, or on the input alone. Rows are summed first, then
/// their sums.
#[derive(Debug, Clone)]
pub struct AvgPool {
    isa: Isa,
    geometry: PoolGeometry,
    rows: Vec<Span>,
    columns: Vec<Span>,
    reciprocals: [Vec<f64>; 2],
    /// Whether [`halves`] applies.
    halves: bool,
    chunks: Chunks,
}

impl AvgPool {
    /// Pooling of that geometry, whose dilation is 1.
    pub fn new(isa: Isa, geometry: PoolGeometry, count_include_pad: bool) -> Self {
        let isa = geometry.level(isa);
        let (rows, columns) = (taps(&geometry, 0), taps(&geometry, 1));
        let reciprocals = [0, 1].map(|axis| reciprocals(&geometry, axis, count_include_pad));
        let halves = halves::applies(isa, &geometry);
        Self { isa, geometry, rows, columns, reciprocals, halves, chunks: geometry.output_rows() }
    }
}

/// Mean of one window, `counts` taps from `src` on, `row_step` elements apart down and `c` across.
///
/// # Safety
/// Every tap and `dst` have `c` elements, or whole vectors if `WHOLE`.
#[inline(always)]
unsafe fn window<S: Simd, const WHOLE: bool>(
    src: *const f32,
    counts: [usize; 2],
    row_step: usize,
    scale: f32,
    dst: *mut f32,
    c: usize,
) {
    // SAFETY: the caller's word.
    unsafe {
        let scale = S::splat(scale);
        for (k, lanes) in vectors::<S>(c) {
            let mut sum = S::splat(0.0);
            for row in 0..counts[0] {
                let first = src.wrapping_add(row * row_step + k);
                let mut row_sum = load::<S, WHOLE>(first, lanes);
                for column in 1..counts[1] {
                    row_sum = S::add(row_sum, load::<S, WHOLE>(first.wrapping_add(column * c), lanes));
                }
                sum = if row == 0 { row_sum } else { S::add(sum, row_sum) };
            }
            store::<S, WHOLE>(dst.wrapping_add(k), S::mul(sum, scale), lanes);
        }
    }
}

/// One output row.
///
/// # Safety
/// As [`avg_pool_body`]; if `WHOLE`, vectors may overrun the pixels read, and those written in this row.
#[inline(always)]
unsafe fn row<S: Simd, const WHOLE: bool>(
    kernel: &AvgPool,
    image: usize,
    oy: usize,
    src: Src<'_, f32>,
    dst: Dst<'_, f32>,
) {
    let PoolGeometry { ih, iw, c, oh, ow, .. } = kernel.geometry;
    let plane = src.at(image * ih * iw * c, ih * iw * c);
    let (rows, height) = (kernel.rows[oy], kernel.reciprocals[0][oy]);
    for (ox, (columns, width)) in kernel.columns.iter().zip(&kernel.reciprocals[1]).enumerate() {
        let first = plane.wrapping_add((rows.start * iw + columns.start) * c);
        let dst = dst.at(((image * oh + oy) * ow + ox) * c, c);
        let scale = (height * width) as f32;
        // SAFETY: the spans keep every tap inside the plane. The common sizes are spelled out so that they unroll.
        unsafe {
            match (rows.count, columns.count) {
                (2, 2) => window::<S, WHOLE>(first, [2, 2], iw * c, scale, dst, c),
                (3, 3) => window::<S, WHOLE>(first, [3, 3], iw * c, scale, dst, c),
                // No taps at all: the sum of nothing.
                (h, w) => window::<S, WHOLE>(first, [if w == 0 { 0 } else { h }, w], iw * c, scale, dst, c),
            }
        }
    }
}

/// # Safety
/// The views are as long as the geometry says; the rows belong to this task.
#[inline(always)]
unsafe fn avg_pool_body<S: Simd>(kernel: &AvgPool, rows: Range<usize>, src: Src<'_, f32>, dst: Dst<'_, f32>) {
    let PoolGeometry { ih, iw, c, oh, ow, .. } = kernel.geometry;
    let overrun = Overrun::new::<S>(c);
    let written = rows.end * ow * c;
    for (image, oy) in split_rows(rows, oh) {
        let read = (image * ih + kernel.rows[oy].start + kernel.rows[oy].count) * iw * c;
        let whole = overrun.fits(read, src.len()) && overrun.fits((image * oh + oy + 1) * ow * c, written);
        // SAFETY: with `whole`, no vector leaves the source or the rows of this task.
        unsafe {
            if whole && kernel.halves {
                let (from, to) = ((image * ih + 2 * oy) * iw * c, (image * oh + oy) * ow * c);
                halves::forward::<S>(src.at(from, 2 * ow * c), iw * c, dst.at(to, ow * c), ow, c);
            } else if whole {
                row::<S, true>(kernel, image, oy, src, dst);
            } else {
                row::<S, false>(kernel, image, oy, src, dst);
            }
        }
    }
}

multiversion! {
    fn avg_pool(kernel: &AvgPool, rows: Range<usize>, src: Src<'_, f32>, dst: Dst<'_, f32>) = avg_pool_body;
}

impl Kernel for AvgPool {
    fn name(&self) -> String {
        format!("avg_pool_{}", self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.chunks.tasks()
    }

    fn flops(&self) -> u64 {
        self.geometry.operations()
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        // SAFETY: the operands are as documented; the rows belong to this task.
        unsafe { avg_pool(self.isa, self, self.chunks.range(task), args.src(0), args.dst(1)) };
    }
}

/// Gradient of [`AvgPool`]. Operands: `diff_dst` (`n·oh·ow·c` floats), `diff_src` (`n·ih·iw·c` floats, all of them
/// written).
///
/// Every input pixel adds up, in order, its share of the windows that cover it.
#[derive(Debug, Clone)]
pub struct AvgPoolBackward {
    isa: Isa,
    geometry: PoolGeometry,
    rows: Vec<Span>,
    /// Windows over each input column; if `simple`, input columns under each window.
    columns: Vec<Span>,
    simple: bool,
    reciprocals: [Vec<f64>; 2],
    /// Whether [`halves`] applies.
    halves: bool,
    chunks: Chunks,
}

impl AvgPoolBackward {
    /// Gradient for the pooling of that geometry, whose dilation is 1.
    pub fn new(isa: Isa, geometry: PoolGeometry, count_include_pad: bool) -> Self {
        let isa = geometry.level(isa);
        let simple = geometry.is_apart() && geometry.c <= isa.lanes();
        let columns = if simple { taps(&geometry, 1) } else { cover(&geometry, 1) };
        let reciprocals = [0, 1].map(|axis| reciprocals(&geometry, axis, count_include_pad));
        let (rows, halves) = (cover(&geometry, 0), halves::applies(isa, &geometry));
        Self { isa, geometry, rows, columns, simple, reciprocals, halves, chunks: geometry.input_rows() }
    }
}

/// Gradient of one input pixel from windows with the reciprocal heights and widths given, the first at `diff_dst`.
///
/// # Safety
/// Every window, `row_step` elements apart down and `c` across, and `diff_src` have `c` elements, or whole vectors if
/// `WHOLE`.
#[inline(always)]
unsafe fn pixel<S: Simd, const WHOLE: bool>(
    diff_dst: *const f32,
    heights: &[f64],
    widths: &[f64],
    row_step: usize,
    diff_src: *mut f32,
    c: usize,
) {
    // SAFETY: the caller's word.
    unsafe {
        for (k, lanes) in vectors::<S>(c) {
            let mut sum = S::splat(0.0);
            for (row, height) in heights.iter().enumerate() {
                for (column, width) in widths.iter().enumerate() {
                    let g = load::<S, WHOLE>(diff_dst.wrapping_add(row * row_step + column * c + k), lanes);
                    sum = S::fma(g, S::splat((height * width) as f32), sum);
                }
            }
            store::<S, WHOLE>(diff_src.wrapping_add(k), sum, lanes);
        }
    }
}

/// One input row under at most one row of windows, with one vector a pixel.
///
/// # Safety
/// As [`avg_pool_backward_body`]; if `WHOLE`, vectors may overrun the pixels read, and those written in this row.
#[inline(always)]
unsafe fn row_backward_simple<S: Simd, const WHOLE: bool>(
    kernel: &AvgPoolBackward,
    image: usize,
    iy: usize,
    diff_dst: Src<'_, f32>,
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
            let scale = (kernel.reciprocals[0][rows.start] * kernel.reciprocals[1][ox]) as f32;
            let g = S::fma(load::<S, WHOLE>(diff_dst.at(at, c), c), S::splat(scale), zero);
            for ix in done..columns.start {
                store::<S, WHOLE>(diff_src.add(ix * c), zero, c);
            }
            done = columns.start + columns.count;
            for ix in columns.start..done {
                store::<S, WHOLE>(diff_src.add(ix * c), g, c);
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
/// As [`avg_pool_backward_body`]; if `WHOLE`, vectors may overrun the pixels read, and those written in this row.
#[inline(always)]
unsafe fn row_backward<S: Simd, const WHOLE: bool>(
    kernel: &AvgPoolBackward,
    image: usize,
    iy: usize,
    diff_dst: Src<'_, f32>,
    diff_src: Dst<'_, f32>,
) {
    let PoolGeometry { ih, iw, c, oh, ow, .. } = kernel.geometry;
    let rows = kernel.rows[iy];
    let heights = &kernel.reciprocals[0][rows.start..rows.start + rows.count];
    let diff_dst = diff_dst.at(image * oh * ow * c, oh * ow * c);
    for (ix, columns) in kernel.columns.iter().enumerate() {
        let first = diff_dst.wrapping_add((rows.start * ow + columns.start) * c);
        let widths = &kernel.reciprocals[1][columns.start..columns.start + columns.count];
        let out = diff_src.at(((image * ih + iy) * iw + ix) * c, c);
        // SAFETY: the spans keep every window inside the plane. One window, the commonest, is spelled out.
        unsafe {
            match (heights, widths) {
                (&[height], &[width]) => pixel::<S, WHOLE>(first, &[height], &[width], ow * c, out, c),
                _ => pixel::<S, WHOLE>(first, heights, widths, ow * c, out, c),
            }
        }
    }
}

/// # Safety
/// The views are as long as the geometry says; the rows belong to this task.
#[inline(always)]
unsafe fn avg_pool_backward_body<S: Simd>(
    kernel: &AvgPoolBackward,
    rows: Range<usize>,
    diff_dst: Src<'_, f32>,
    diff_src: Dst<'_, f32>,
) {
    let PoolGeometry { ih, iw, c, oh, ow, .. } = kernel.geometry;
    let overrun = Overrun::new::<S>(c);
    let (end, written) = (rows.end, rows.end * iw * c);
    let mut next = rows.start;
    for (image, iy) in split_rows(rows, ih) {
        let line = image * ih + iy;
        if line < next {
            continue;
        }
        next = line + 1;
        let read = (image * oh + kernel.rows[iy].start + kernel.rows[iy].count) * ow * c;
        let readable = overrun.fits(read, diff_dst.len());
        if kernel.halves && iy % 2 == 0 && iy / 2 < oh && line + 1 < end {
            let from = diff_dst.at((image * oh + iy / 2) * ow * c, ow * c);
            let to = diff_src.at(line * iw * c, 2 * iw * c);
            // SAFETY: both lines belong to this task; with `readable`, no vector leaves the source.
            unsafe {
                if readable {
                    halves::backward::<S, true>(from, to, [ow, iw], c);
                } else {
                    halves::backward::<S, false>(from, to, [ow, iw], c);
                }
            }
            next = line + 2;
            continue;
        }
        let whole = readable && overrun.fits((line + 1) * iw * c, written);
        // SAFETY: with `whole`, no vector leaves the source or the rows of this task.
        unsafe {
            match (kernel.simple, whole) {
                (true, true) => row_backward_simple::<S, true>(kernel, image, iy, diff_dst, diff_src),
                (true, false) => row_backward_simple::<S, false>(kernel, image, iy, diff_dst, diff_src),
                (false, true) => row_backward::<S, true>(kernel, image, iy, diff_dst, diff_src),
                (false, false) => row_backward::<S, false>(kernel, image, iy, diff_dst, diff_src),
            }
        }
    }
}

multiversion! {
    fn avg_pool_backward(
        kernel: &AvgPoolBackward, rows: Range<usize>, diff_dst: Src<'_, f32>, diff_src: Dst<'_, f32>,
    ) = avg_pool_backward_body;
}

impl Kernel for AvgPoolBackward {
    fn name(&self) -> String {
        format!("avg_pool_backward_{}", self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.chunks.tasks()
    }

    fn flops(&self) -> u64 {
        self.geometry.operations()
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        // SAFETY: the caller's word; the rows belong to this task.
        unsafe { self.make(self.elements(task), args) };
    }
}

impl Strips for AvgPoolBackward {
    fn what(&self) -> String {
        "avg_pool".to_owned()
    }

    fn isa(&self) -> Isa {
        self.isa
    }

    fn operands(&self) -> usize {
        2
    }

    fn lines(&self) -> Chunks {
        self.chunks
    }

    fn line(&self) -> usize {
        self.geometry.line()
    }

    unsafe fn make(&self, elements: Range<usize>, args: &Args<'_>) {
        // SAFETY: the operands are as documented; the rows belong to the caller.
        unsafe { avg_pool_backward(self.isa, self, self.geometry.rows_of(elements), args.src(0), args.dst(1)) };
    }
}
