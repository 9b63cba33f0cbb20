//! Pooling over NHWC images. Forward, every output pixel reads its window; backward, every input pixel gathers from
//! the windows that cover it, in index order: tasks write what they own, and nothing is written twice.
//!
//! Where windows meet the border is settled per axis at construction: the inner loops divide nothing and skip nothing.
//! When the channels do not fill whole vectors, the last vector of a pixel may run into the pixel after it, which is
//! written later; only rows at the end of a task or of a tensor use partial vectors ([`Overrun`]).

mod avg;
mod halves;
mod max;
mod max_backward;
mod parts;
mod winner;

pub use avg::{AvgPool, AvgPoolBackward};
pub use max::MaxPool;
pub use max_backward::MaxPoolBackward;
pub(in crate::kernels) use parts::MaxLines;
pub use winner::Winner;

use std::ops::Range;

use super::elementwise::{Chunks, load_first, store_first};
use crate::simd::{Isa, Simd};
use crate::window::Window2d;

/// Shapes of one pooling: `n` images of `ih`×`iw` pixels and `c` channels give `n` of `oh`×`ow`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PoolGeometry {
    /// Images.
    pub n: usize,
    /// Input height.
    pub ih: usize,
    /// Input width.
    pub iw: usize,
    /// Channels.
    pub c: usize,
    /// Output height.
    pub oh: usize,
    /// Output width.
    pub ow: usize,
    /// Kernel, stride, dilation and padding.
    pub window: Window2d,
}

impl PoolGeometry {
    /// The level to use where `isa` is available: vectors no wider than the channels need, as far as there is a choice.
    /// Wider ones would do the same sums, and cross cache lines more often.
    fn level(&self, isa: Isa) -> Isa {
        if self.c <= Isa::Avx2.lanes() { isa.min(Isa::Avx2) } else { isa }
    }

    /// True if no input pixel belongs to two windows: a backward pass may then go from window to window rather than from
    /// pixel to pixel, where no vector of a pixel runs into the next before that is written.
    fn is_apart(&self) -> bool {
        let Window2d { kernel, stride, dilation, .. } = self.window;
        kernel[0] <= stride[0] && kernel[1] <= stride[1] && dilation == [1, 1]
    }

    fn input(&self) -> [usize; 2] {
        [self.ih, self.iw]
    }

    fn output(&self) -> [usize; 2] {
        [self.oh, self.ow]
    }

    /// Most taps of a window that lie on the input.
    fn taps_per_window(&self) -> usize {
        self.window.kernel[0].min(self.ih) * self.window.kernel[1].min(self.iw)
    }

    /// Operations of one pass, forward or backward: one per tap of each output element.
    fn operations(&self) -> u64 {
        (self.n * self.oh * self.ow * self.c * self.taps_per_window()) as u64
    }

    /// Tasks of the forward pass: bands of output rows, counted over all images.
    fn output_rows(&self) -> Chunks {
        let row = self.ow * self.c;
        Chunks::new(if row == 0 { 0 } else { self.n * self.oh }, row * self.taps_per_window())
    }

    /// Tasks of the backward pass: bands of input rows, counted over all images.
    fn input_rows(&self) -> Chunks {
        let row = self.line();
        let cover = |axis: usize| self.window.kernel[axis].div_ceil(self.window.stride[axis]).min(self.output()[axis]);
        Chunks::new(if row == 0 { 0 } else { self.n * self.ih }, row * cover(0).max(1) * cover(1).max(1))
    }

    /// Elements of an input row.
    fn line(&self) -> usize {
        self.iw * self.c
    }

    /// The input rows that some elements are.
    fn rows_of(&self, elements: Range<usize>) -> Range<usize> {
        elements.start / self.line()..elements.end / self.line()
    }
}

/// What becomes of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolKind {
    /// Its mean.
    Mean,
    /// Its largest element; the first NaN wins over everything and gives the standard NaN.
    Max,
}

impl PoolKind {
    /// What the name of a kernel that pools its results says of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "_avg_pool",
            Self::Max => "_max_pool",
        }
    }
}

/// The largest of some elements, to the bits of [`MaxPool`].
///
/// # Safety
/// The CPU has the level's features.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // closures would not inherit the shell's target features
pub(super) unsafe fn largest<S: Simd, const N: usize>(values: [S::V; N]) -> S::V {
    // SAFETY: the caller's word.
    unsafe {
        let (mut best, mut undefined) = (values[0], S::is_nan(values[0]));
        for i in 1..N {
            // Ignores NaN in the new one, keeps it in `best`: settled at the end.
            best = S::max(values[i], best);
            undefined = S::or(undefined, S::is_nan(values[i]));
        }
        S::select(undefined, S::splat(f32::NAN), best)
    }
}

/// Positions `start`, `start + step`, … (`count` of them) on an axis; the step is known from elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    start: usize,
    count: usize,
    /// Which tap of a window the first position is, or is read by.
    tap: usize,
}

/// For each output position of an axis, the input positions that its window reads; padding is left out. The step is
/// the dilation.
fn taps(geometry: &PoolGeometry, axis: usize) -> Vec<Span> {
    let (window, size) = (&geometry.window, geometry.input()[axis]);
    let (kernel, dilation, before) = (window.kernel[axis], window.dilation[axis], window.pad[axis][0]);
    let span = |o: usize| {
        let at = o * window.stride[axis];
        let first = before.saturating_sub(at).div_ceil(dilation);
        let end = (size + before).saturating_sub(at).div_ceil(dilation).min(kernel);
        if first < end { Span { start: at + first * dilation - before, count: end - first, tap: first } } else { NONE }
    };
    (0..geometry.output()[axis]).map(span).collect()
}

const NONE: Span = Span { start: 0, count: 0, tap: 0 };

/// For each input position of an axis, the output positions whose windows span it; with dilation, some of them may
/// step over it, and taps are not told. The step is 1.
fn cover(geometry: &PoolGeometry, axis: usize) -> Vec<Span> {
    let window = &geometry.window;
    let (extent, stride, before) = (window.extent(axis), window.stride[axis], window.pad[axis][0]);
    let span = |i: usize| {
        let first = (i + before + 1).saturating_sub(extent).div_ceil(stride);
        let end = ((i + before) / stride + 1).min(geometry.output()[axis]);
        if first < end { Span { start: first, count: end - first, tap: 0 } } else { NONE }
    };
    (0..geometry.input()[axis]).map(span).collect()
}

/// For each input position of an axis, the output positions whose windows read it. From one to the next the reading tap
/// moves back by `stride / g`, and the step is `dilation / g`, for `g` the greatest common divisor of both. Takes as many
/// operations as there are windows and taps.
fn readers(geometry: &PoolGeometry, axis: usize) -> Vec<Span> {
    let mut spans = vec![NONE; geometry.input()[axis]];
    for (o, read) in taps(geometry, axis).into_iter().enumerate() {
        for tap in 0..read.count {
            let span = &mut spans[read.start + tap * geometry.window.dilation[axis]];
            if span.count == 0 {
                (span.start, span.tap) = (o, read.tap + tap);
            }
            span.count += 1;
        }
    }
    spans
}

/// How rows of pixels are split into vectors, and whether the vectors may overrun their pixel.
#[derive(Debug, Clone, Copy)]
struct Overrun {
    /// Floats by which the last vector of a pixel exceeds it.
    excess: usize,
}

impl Overrun {
    fn new<S: Simd>(channels: usize) -> Self {
        Self { excess: channels.next_multiple_of(S::LANES) - channels }
    }

    /// True if whole vectors may be used for pixels that end at `end` or before, when `limit` elements are there.
    fn fits(self, end: usize, limit: usize) -> bool {
        end + self.excess <= limit
    }
}

/// Offsets of the vectors of a pixel and the lanes of each that count.
#[inline(always)]
fn vectors<S: Simd>(channels: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..channels).step_by(S::LANES).map(move |k| (k, S::LANES.min(channels - k)))
}

/// # Safety
/// `n` floats at `p`, or a whole vector of them if `WHOLE`; the CPU has the level's features.
#[inline(always)]
unsafe fn load<S: Simd, const WHOLE: bool>(p: *const f32, n: usize) -> S::V {
    // SAFETY: the caller's word.
    unsafe { if WHOLE { S::load(p) } else { load_first::<S>(p, n) } }
}

/// # Safety
/// As [`load`]; with `WHOLE`, lanes from `n` on overwrite what the same task writes later.
#[inline(always)]
unsafe fn store<S: Simd, const WHOLE: bool>(p: *mut f32, v: S::V, n: usize) {
    // SAFETY: the caller's word.
    unsafe { if WHOLE { S::store(p, v) } else { store_first::<S>(p, v, n) } }
}

/// Image and row of each of the rows `range`, which are counted over all images of `height` rows.
fn split_rows(range: Range<usize>, height: usize) -> impl Iterator<Item = (usize, usize)> {
    range.map(move |row| (row / height, row % height))
}
