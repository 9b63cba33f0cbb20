//! The gradient of maximum pooling.

use std::ops::Range;

use super::winner::{Mark, Winner};
use super::{Overrun, PoolGeometry, Span, cover, load, readers, split_rows, store, taps, vectors};
use crate::kernels::elementwise::Chunks;
use crate::kernels::strips::Strips;
use crate::kernels::{Kernel, gcd};
use crate::simd::{Isa, Simd, dispatch::multiversion};
use crate::tensor::{Args, Dst, Src};
use crate::window::Window2d;

/// Vectors of a pixel up to which pixels under one window are written side by side; more are written one after the other.
const FEW: usize = 4;

/// Gradient of [`MaxPool`](super::MaxPool). Operands: `diff_dst` (`n·oh·ow·c` floats), `index` (as many winners, from the
/// forward pass), `diff_src` (`n·ih·iw·c` floats, all of them written).
///
/// Every input pixel adds up, in order, the gradients of the covering windows whose index names it; the sums are the same
/// bits whatever the winners are noted as.
#[derive(Debug, Clone)]
pub struct MaxPoolBackward {
    isa: Isa,
    geometry: PoolGeometry,
    winner: Winner,
    /// Windows over each input row.
    rows: Vec<Span>,
    /// Windows over each input column; if `simple`, input columns under each window.
    columns: Vec<Span>,
    /// Per axis, from a window over an input pixel to the next: how much further it is, and how much lower the tap.
    steps: [usize; 2],
    falls: [usize; 2],
    simple: bool,
    chunks: Chunks,
}

impl MaxPoolBackward {
    /// Gradient for the pooling of that geometry, which noted its winners so.
    pub fn new(isa: Isa, geometry: PoolGeometry, winner: Winner) -> Self {
        assert!(winner.fits(&geometry.window), "too many taps: {:?}", geometry.window.kernel);
        let isa = geometry.level(isa);
        let simple = geometry.is_apart();
        let Window2d { stride, dilation, .. } = geometry.window;
        let divisors = [0, 1].map(|axis| gcd(stride[axis], dilation[axis]));
        // A position may be any: all windows are looked at that span the pixel.
        let (windows, steps, falls): (fn(&PoolGeometry, usize) -> Vec<Span>, _, _) = match winner {
            Winner::Tap => {
                (readers, [0, 1].map(|i| dilation[i] / divisors[i]), [0, 1].map(|i| stride[i] / divisors[i]))
            }
            Winner::Position => (cover, [1; 2], [0; 2]),
        };
        let columns = if simple { taps(&geometry, 1) } else { windows(&geometry, 1) };
        let (rows, chunks) = (windows(&geometry, 0), geometry.input_rows());
        Self { isa, geometry, winner, rows, columns, steps, falls, simple, chunks }
    }
}

/// The windows over one input pixel, which is at `flat` in its plane: `counts` of them, `steps` elements apart; the first
/// reads it by its tap number `tap`, each further one by one that is lower by `falls`.
#[derive(Clone, Copy)]
struct Windows {
    flat: usize,
    tap: usize,
    counts: [usize; 2],
    steps: [usize; 2],
    falls: [usize; 2],
}

/// Gradient of one input pixel from the windows over it, the first of which is at `diff_dst` and `index`.
///
/// # Safety
/// Every window and `diff_src` have `c` elements, or whole vectors if `WHOLE`.
#[inline(always)]
unsafe fn pixel<S: Simd, I: Mark, const WHOLE: bool>(
    diff_dst: *const f32,
    index: *const I,
    windows: Windows,
    diff_src: *mut f32,
    c: usize,
) {
    let Windows { flat, tap, counts, steps, falls } = windows;
    // SAFETY: the caller's word.
    unsafe {
        let zero = S::splat(0.0);
        for (k, lanes) in vectors::<S>(c) {
            let (mut sum, mut line, mut first) = (zero, k, tap);
            for _ in 0..counts[0] {
                let (mut at, mut tap) = (line, first);
                for _ in 0..counts[1] {
                    let own = I::splat::<S>(flat, tap);
                    let hit = S::eq_bits(I::load::<S, WHOLE>(index.wrapping_add(at), lanes), own);
                    sum = S::add(sum, S::select(hit, load::<S, WHOLE>(diff_dst.wrapping_add(at), lanes), zero));
                    (at, tap) = (at + steps[1], tap.wrapping_sub(falls[1]));
                }
                (line, first) = (line + steps[0], first.wrapping_sub(falls[0]));
            }
            store::<S, WHOLE>(diff_src.wrapping_add(k), sum, lanes);
        }
    }
}

/// Gradients of `count` pixels, each one vector if `ONE`, from one window over each: the first is at `flat` in its plane
/// and read by tap `tap`.
///
/// # Safety
/// `diff_src` is that of the first pixel. All have `c` elements, or whole vectors if `WHOLE`, which the next overwrites.
#[inline(always)]
unsafe fn pixels<S: Simd, I: Mark, const WHOLE: bool, const ONE: bool>(
    diff_dst: *const f32,
    index: *const I,
    [flat, tap, count]: [usize; 3],
    diff_src: *mut f32,
    c: usize,
) {
    // SAFETY: the caller's word.
    unsafe {
        let own = |i| I::splat::<S>(flat + i, tap + i);
        if ONE {
            let (g, winner) = (load::<S, WHOLE>(diff_dst, c), I::load::<S, WHOLE>(index, c));
            for i in 0..count {
                let share = S::select(S::eq_bits(winner, own(i)), g, S::splat(0.0));
                store::<S, WHOLE>(diff_src.wrapping_add(i * c), share, c);
            }
        } else if c.is_multiple_of(S::LANES) && c <= FEW * S::LANES {
            for k in (0..c).step_by(S::LANES) {
                let g = S::load(diff_dst.wrapping_add(k));
                let winner = I::load::<S, true>(index.wrapping_add(k), S::LANES);
                for i in 0..count {
                    S::store(diff_src.wrapping_add(i * c + k), sum_of_one::<S>(winner, own(i), g));
                }
            }
        } else {
            for i in 0..count {
                for (k, lanes) in vectors::<S>(c) {
                    let g = load::<S, WHOLE>(diff_dst.wrapping_add(k), lanes);
                    let winner = I::load::<S, WHOLE>(index.wrapping_add(k), lanes);
                    let sum = sum_of_one::<S>(winner, own(i), g);
                    store::<S, WHOLE>(diff_src.wrapping_add(i * c + k), sum, lanes);
                }
            }
        }
    }
}

/// `g` where the winner is `own`, as a sum that begins with 0: never −0.
///
/// # Safety
/// The CPU has the level's features.
#[inline(always)]
unsafe fn sum_of_one<S: Simd>(winner: S::V, own: S::V, g: S::V) -> S::V {
    // SAFETY: the caller's word.
    unsafe {
        let zero = S::splat(0.0);
        S::add(zero, S::select(S::eq_bits(winner, own), g, zero))
    }
}

/// One input row under at most one row of windows, which lie side by side. A pixel is one vector, if `ONE`, or whole ones.
///
/// # Safety
/// As [`max_pool_backward_body`]; if `WHOLE`, vectors may overrun the pixels read, and those written in this row.
#[inline(always)]
unsafe fn row_simple<S: Simd, I: Mark, const WHOLE: bool, const ONE: bool>(
    kernel: &MaxPoolBackward,
    image: usize,
    iy: usize,
    diff_dst: Src<'_, f32>,
    index: Src<'_, I>,
    diff_src: Dst<'_, f32>,
) {
    let PoolGeometry { ih, iw, c, oh, ow, window, .. } = kernel.geometry;
    let rows = kernel.rows[iy];
    let (line, tap) = (iy * iw, rows.tap * window.kernel[1]);
    let diff_src = diff_src.at((image * ih * iw + line) * c, iw * c);
    // SAFETY: windows and pixels lie in their rows.
    unsafe {
        let mut done = 0;
        for (ox, columns) in kernel.columns.iter().enumerate().take(ow * rows.count) {
            let at = ((image * oh + rows.start) * ow + ox) * c;
            let (g, i) = (diff_dst.at(at, c), index.at(at, c));
            zeros::<S, WHOLE, ONE>(diff_src, done..columns.start, c);
            done = columns.start + columns.count;
            let to = diff_src.add(columns.start * c);
            // The commonest is spelled out, with numbers that are the same all along the row.
            match (columns.tap, columns.count) {
                (0, 2) => pixels::<S, I, WHOLE, ONE>(g, i, [line + columns.start, tap, 2], to, c),
                (first, count) => pixels::<S, I, WHOLE, ONE>(g, i, [line + columns.start, tap + first, count], to, c),
            }
        }
        zeros::<S, WHOLE, ONE>(diff_src, done..iw, c);
    }
}

/// Zeros for some pixels of a row, each one vector if `ONE`.
///
/// # Safety
/// They have `c` elements, or whole vectors if `WHOLE`, which what follows overwrites.
#[inline(always)]
unsafe fn zeros<S: Simd, const WHOLE: bool, const ONE: bool>(row: *mut f32, pixels: Range<usize>, c: usize) {
    for pixel in pixels {
        for k in (0..if ONE { 1 } else { c }).step_by(S::LANES) {
            let lanes = if ONE { c } else { S::LANES.min(c - k) };
            // SAFETY: the caller's word.
            unsafe { store::<S, WHOLE>(row.wrapping_add(pixel * c + k), S::splat(0.0), lanes) };
        }
    }
}

/// One input row.
///
/// # Safety
/// As [`max_pool_backward_body`]; if `WHOLE`, vectors may overrun the pixels read, and those written in this row.
#[inline(always)]
unsafe fn row<S: Simd, I: Mark, const WHOLE: bool>(
    kernel: &MaxPoolBackward,
    image: usize,
    iy: usize,
    diff_dst: Src<'_, f32>,
    index: Src<'_, I>,
    diff_src: Dst<'_, f32>,
) {
    let PoolGeometry { ih, iw, c, oh, ow, window, .. } = kernel.geometry;
    let (rows, kw) = (kernel.rows[iy], window.kernel[1]);
    let diff_dst = diff_dst.at(image * oh * ow * c, oh * ow * c);
    let index = index.at(image * oh * ow * c, oh * ow * c);
    let steps = [kernel.steps[0] * ow * c, kernel.steps[1] * c];
    let falls = [kernel.falls[0] * kw, kernel.falls[1]];
    for (ix, columns) in kernel.columns.iter().enumerate() {
        let first = (rows.start * ow + columns.start) * c;
        let (g, i) = (diff_dst.wrapping_add(first), index.wrapping_add(first));
        let (flat, tap) = (iy * iw + ix, rows.tap * kw + columns.tap);
        let out = diff_src.at((image * ih * iw + flat) * c, c);
        let windows = |counts| Windows { flat, tap, counts, steps, falls };
        // SAFETY: the spans keep every window inside the plane. The common counts are spelled out so that they unroll.
        unsafe {
            match (rows.count, columns.count) {
                (1, 1) => pixel::<S, I, WHOLE>(g, i, windows([1, 1]), out, c),
                (1, 2) => pixel::<S, I, WHOLE>(g, i, windows([1, 2]), out, c),
                (2, 1) => pixel::<S, I, WHOLE>(g, i, windows([2, 1]), out, c),
                (2, 2) => pixel::<S, I, WHOLE>(g, i, windows([2, 2]), out, c),
                (3, 3) => pixel::<S, I, WHOLE>(g, i, windows([3, 3]), out, c),
                (h, w) => pixel::<S, I, WHOLE>(g, i, windows([h, w]), out, c),
            }
        }
    }
}

/// # Safety
/// The views are as long as the geometry says; the rows belong to this task.
#[inline(always)]
unsafe fn max_pool_backward_body<S: Simd, I: Mark>(
    kernel: &MaxPoolBackward,
    rows: Range<usize>,
    diff_dst: Src<'_, f32>,
    index: Src<'_, I>,
    diff_src: Dst<'_, f32>,
) {
    let PoolGeometry { ih, iw, c, oh, ow, .. } = kernel.geometry;
    let overrun = Overrun::new::<S>(c);
    let written = rows.end * iw * c;
    for (image, iy) in split_rows(rows, ih) {
        let span = kernel.rows[iy];
        let last = span.start + span.count.saturating_sub(1) * kernel.steps[0];
        let read = (image * oh + last + 1) * ow * c;
        let there = diff_dst.len().min(index.len());
        let whole = overrun.fits(read, there) && overrun.fits((image * ih + iy + 1) * iw * c, written);
        // SAFETY: with `whole`, no vector leaves the sources or the rows of this task.
        unsafe {
            match (kernel.simple, c <= S::LANES, whole) {
                (true, true, true) => row_simple::<S, I, true, true>(kernel, image, iy, diff_dst, index, diff_src),
                (true, true, false) => row_simple::<S, I, false, true>(kernel, image, iy, diff_dst, index, diff_src),
                (true, false, true) => row_simple::<S, I, true, false>(kernel, image, iy, diff_dst, index, diff_src),
                (true, false, false) => row_simple::<S, I, false, false>(kernel, image, iy, diff_dst, index, diff_src),
                (false, _, true) => row::<S, I, true>(kernel, image, iy, diff_dst, index, diff_src),
                (false, _, false) => row::<S, I, false>(kernel, image, iy, diff_dst, index, diff_src),
            }
        }
    }
}

multiversion! {
    fn max_pool_tap_backward(
        kernel: &MaxPoolBackward, rows: Range<usize>, diff_dst: Src<'_, f32>, index: Src<'_, u8>,
        diff_src: Dst<'_, f32>,
    ) = max_pool_backward_body, [u8];
}
multiversion! {
    fn max_pool_index_backward(
        kernel: &MaxPoolBackward, rows: Range<usize>, diff_dst: Src<'_, f32>, index: Src<'_, i32>,
        diff_src: Dst<'_, f32>,
    ) = max_pool_backward_body, [i32];
}

impl Kernel for MaxPoolBackward {
    fn name(&self) -> String {
        format!("max_pool_{}_backward_{}", self.winner.name(), self.isa.name())
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

impl Strips for MaxPoolBackward {
    fn what(&self) -> String {
        format!("max_pool_{}", self.winner.name())
    }

    fn isa(&self) -> Isa {
        self.isa
    }

    fn operands(&self) -> usize {
        3
    }

    fn lines(&self) -> Chunks {
        self.chunks
    }

    fn line(&self) -> usize {
        self.geometry.line()
    }

    unsafe fn make(&self, elements: Range<usize>, args: &Args<'_>) {
        let (rows, diff_dst, diff_src) = (self.geometry.rows_of(elements), args.src(0), args.dst(2));
        // SAFETY: the operands are as documented; the rows belong to the caller.
        unsafe {
            match self.winner {
                Winner::Tap => max_pool_tap_backward(self.isa, self, rows, diff_dst, args.src(1), diff_src),
                Winner::Position => max_pool_index_backward(self.isa, self, rows, diff_dst, args.src(1), diff_src),
            }
        }
    }
}
