//! Convolution of one source channel with stride 1 to few channels: vectors run along the pixels of a line.
//!
//! The source lines lie in scratch with their padding. A tile is two vectors of neighbouring result pixels × all channels;
//! weights are read where they are. Results are turned to NHWC by squares of eight, a line at a time: a pixel's
//! surplus lanes are overwritten by the pixel behind it. Pooling over 2×2 takes them before, along the planes.

mod pooled;

use std::ops::Range;

use super::line::Ending;
use super::{Epilogue, Geometry};
use crate::kernels::pool::PoolKind;
use crate::kernels::{Kernel, share, tasks_for};
use crate::multiversion;
use crate::simd::{Isa, Simd};
use crate::tensor::{Args, Src};
use pooled::Pooled;

/// Most result channels.
const CHANNELS: usize = 8;
/// Vectors of a tile.
const VECTORS: usize = 2;
/// Most bytes of a padded image.
const IMAGE: usize = 64 << 10;

/// Convolution. Operands: input, weights as they are, those of the epilogue ([`Epilogue::operands`]), output, pooled if
/// [`pooled`](Self::pooled).
#[derive(Debug)]
pub struct Planes {
    isa: Isa,
    geometry: Geometry,
    epilogue: Epilogue,
    pool: Option<PoolKind>,
    tasks: usize,
}

/// Why a convolution is not computed this way; `None` if it is. A rule in shape and level only.
pub fn refusal(isa: Isa, geometry: &Geometry) -> Option<String> {
    let Geometry { ic, oc, groups, window, .. } = *geometry;
    if window.stride != [1, 1] || window.dilation != [1, 1] || groups != 1 {
        return Some("not stride 1, dilation 1 and one group".to_owned());
    }
    if ic != 1 || oc > CHANNELS {
        return Some(format!("from {ic} channels to {oc}, expected from one to at most {CHANNELS}"));
    }
    let bytes = Planes::image_len(isa, geometry) * size_of::<f32>();
    (bytes > IMAGE).then(|| format!("{bytes} bytes of a padded image, more than {IMAGE}"))
}

impl Planes {
    /// A convolution that is not refused.
    pub fn new(isa: Isa, geometry: Geometry, epilogue: Epilogue) -> Self {
        let tasks = tasks_for(geometry.flops() as usize / 2).min(geometry.n * geometry.oh);
        Self { isa, geometry, epilogue, pool: None, tasks }
    }

    /// Whether [`pooled`](Self::pooled) is possible: of whole windows, with nothing added.
    pub fn pools(geometry: &Geometry, epilogue: Epilogue) -> bool {
        geometry.oh.is_multiple_of(2) && geometry.ow.is_multiple_of(2) && !epilogue.add
    }

    /// The same with its results pooled over 2×2 as its result.
    #[must_use]
    pub fn pooled(self, pool: PoolKind) -> Self {
        debug_assert!(Self::pools(&self.geometry, self.epilogue));
        Self { pool: Some(pool), tasks: self.tasks.min(self.geometry.n * self.geometry.oh / 2), ..self }
    }

    /// Floats of a tile's pixels.
    fn width(isa: Isa) -> usize {
        VECTORS * isa.lanes()
    }

    /// Floats from one padded line to the next: whole tiles find their taps.
    fn pitch(isa: Isa, geometry: &Geometry) -> usize {
        let kw = geometry.window.kernel[1];
        (geometry.ow.next_multiple_of(Self::width(isa)) + kw).max(geometry.iw + geometry.window.pad[1][0])
    }

    fn image_len(isa: Isa, geometry: &Geometry) -> usize {
        geometry.ih.saturating_mul(Self::pitch(isa, geometry))
    }

    /// Floats of a tile's results by channels: of one line, or of two and what they are pooled to.
    fn tile_len(&self) -> usize {
        let line = CHANNELS * Self::width(self.isa);
        if self.pool.is_some() { 2 * line + line / VECTORS } else { line }
    }

    /// Floats of a line of results with those of its last tile that are none.
    fn line_len(&self) -> usize {
        (self.geometry.ow.next_multiple_of(Self::width(self.isa)) + 1) * CHANNELS
    }
}

/// One line of results.
#[derive(Debug, Clone, Copy)]
struct Line {
    /// The first padded source line that a kernel row meets.
    src: *const f32,
    /// Floats from one padded line to the next.
    pitch: usize,
    /// Kernel rows, and taps of each.
    kernel: [usize; 2],
    /// The first of these rows' weights.
    weights: *const f32,
    /// Room for a tile by channels.
    by_channels: *mut f32,
    /// Room for the line.
    result: *mut f32,
    /// Result pixels.
    pixels: usize,
}

/// The sums of a tile that begins at pixel `x`.
///
/// # Safety
/// Padded lines are readable for the tile, weights for `C` channels.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // closures and iterators would not inherit the shell's target features
unsafe fn sums_of<S: Simd, const C: usize>(call: &Line, x: usize) -> [[S::V; VECTORS]; C] {
    // SAFETY: the caller's word.
    unsafe {
        let mut sums = [[S::splat(0.0); VECTORS]; C];
        let mut weights = call.weights;
        for row in 0..call.kernel[0] {
            let src = call.src.wrapping_add(row * call.pitch + x);
            for tap in 0..call.kernel[1] {
                let first = S::load(src.wrapping_add(tap));
                let second = S::load(src.wrapping_add(tap + S::LANES));
                for c in 0..C {
                    let weight = S::splat(weights.wrapping_add(c).read_unaligned());
                    sums[c][0] = S::fma(first, weight, sums[c][0]);
                    sums[c][1] = S::fma(second, weight, sums[c][1]);
                }
                weights = weights.wrapping_add(C);
            }
        }
        sums
    }
}

/// # Safety
/// Padded lines are readable for whole tiles, weights for `C` channels; the tile has room for eight channels, the
/// line for its pixels in whole tiles and one more.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // as above
unsafe fn line_body<S: Simd, const C: usize>(call: &Line) {
    // SAFETY: the caller's word.
    unsafe {
        let width = VECTORS * S::LANES;
        for x in (0..call.pixels).step_by(width) {
            let sums = sums_of::<S, C>(call, x);
            for c in 0..C {
                for v in 0..VECTORS {
                    S::store(call.by_channels.wrapping_add(c * width + v * S::LANES), sums[c][v]);
                }
            }
            for pixel in (0..width.min(call.pixels - x)).step_by(8) {
                let to = call.result.wrapping_add((x + pixel) * C);
                S::transpose8(call.by_channels.wrapping_add(pixel), width as isize, to, C);
            }
        }
    }
}

/// Defines a function that runs a body for a number of channels: one shell per number and level.
macro_rules! by_channels {
    ($(#[$meta:meta])* $vis:vis $pick:ident($call:ty), $body:ident) => {
        by_channels!(@ [$(#[$meta])* $vis] $pick, $call, $body; 1 2 3 4 5 6 7 8);
    };
    (@ [$(#[$meta:meta])* $vis:vis] $pick:ident, $call:ty, $body:ident; $($channels:literal)*) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// As the body; `channels` is 1 to 8; the CPU has `isa`.
        $vis unsafe fn $pick(isa: Isa, channels: usize, call: &$call) {
            match channels {
                $($channels => {
                    multiversion! { fn run(call: &$call) = $body, [$channels]; }
                    // SAFETY: the caller's word.
                    unsafe { run(isa, call) }
                })*
                _ => unreachable!("1 to 8 channels"),
            }
        }
    };
}

use by_channels;

by_channels!(
    /// Runs a line of results.
    line(Line), line_body
);

impl Kernel for Planes {
    fn name(&self) -> String {
        format!(
            "conv{}{}_planes_{}x{}_{}",
            self.epilogue.name(),
            self.pool.map_or("", PoolKind::name),
            Self::width(self.isa),
            self.geometry.oc,
            self.isa.name()
        )
    }

    fn tasks(&self) -> usize {
        self.tasks
    }

    fn scratch(&self) -> usize {
        (Self::image_len(self.isa, &self.geometry)
            + self.tile_len()
            + self.line_len()
            + Ending::scratch(self.geometry.ow * self.geometry.oc, self.isa))
            * size_of::<f32>()
    }

    fn flops(&self) -> u64 {
        self.geometry.flops()
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        let Geometry { n, oc, oh, ow, .. } = self.geometry;
        let dst = args.dst::<f32>(2 + self.epilogue.operands());
        // Result lines of a line that is written.
        let step = if self.pool.is_some() { 2 } else { 1 };
        let written = ow / step * oc;
        let finish = self.epilogue.finish(args, oc, n * oh / step * written);
        let by_channels = scratch.cast::<f32>();
        let image = by_channels.wrapping_add(self.tile_len());
        let result = image.wrapping_add(Self::image_len(self.isa, &self.geometry));
        let numbers = result.wrapping_add(self.line_len());
        let weights = args.src::<f32>(1).at(0, self.geometry.weights_len());
        let source = Source { planes: self, src: args.src(0), weights, image, by_channels, result };
        let rows = share(task, self.tasks, n * oh / step);
        let end = rows.end * step;
        // SAFETY: scratch is as large as `scratch()` says; the result lines belong to this task.
        unsafe {
            std::ptr::write_bytes(image, 0, Self::image_len(self.isa, &self.geometry));
            if let Some(pool) = self.pool {
                for row in rows.clone() {
                    let first = row * step;
                    if row == rows.start || first.is_multiple_of(oh) {
                        source.open(first..end);
                    }
                    // What squares write behind the line is written once more, if enough follows.
                    let over = (rows.end - row - 1) * written >= self.line_len();
                    let to = dst.at(row * written, written);
                    let call = Pooled {
                        isa: self.isa,
                        lines: [source.line(first), source.line(first + 1)],
                        finish,
                        later: self.epilogue.later(),
                        pool,
                        result: if over { to } else { result },
                    };
                    pooled::line(self.isa, oc, &call);
                    if !over {
                        to.copy_from_nonoverlapping(result, written);
                    }
                }
                return;
            }
            let mut ending = Ending::new(self.isa, (self.epilogue, finish), (dst, rows.clone()), oc, written, numbers);
            for row in rows.clone() {
                if row == rows.start || row.is_multiple_of(oh) {
                    source.open(row..end);
                }
                line(self.isa, oc, &source.line(row));
                ending.write(result);
            }
        }
    }
}

/// A task's operands and scratch.
struct Source<'a> {
    planes: &'a Planes,
    src: Src<'a, f32>,
    weights: *const f32,
    image: *mut f32,
    by_channels: *mut f32,
    result: *mut f32,
}

impl Source<'_> {
    /// Copies what a stretch of result lines reads of the first one's image.
    ///
    /// # Safety
    /// The padded image has its room, and zeros where nothing is copied.
    unsafe fn open(&self, rows: Range<usize>) {
        let Geometry { ih, iw, oh, window, .. } = self.planes.geometry;
        let [top, left] = [window.pad[0][0], window.pad[1][0]];
        let pitch = Planes::pitch(self.planes.isa, &self.planes.geometry);
        let (number, y) = (rows.start / oh, rows.start % oh);
        let last = (y + rows.len()).min(oh) - 1;
        for iy in y.saturating_sub(top)..(last + window.kernel[0]).saturating_sub(top).min(ih) {
            let from = self.src.at((number * ih + iy) * iw, iw);
            // SAFETY: the caller's word.
            unsafe { self.image.add(iy * pitch + left).copy_from_nonoverlapping(from, iw) };
        }
    }

    /// A result line of the image that was opened.
    fn line(&self, row: usize) -> Line {
        let Geometry { ih, oc, oh, ow, window, .. } = self.planes.geometry;
        let ([kh, kw], top) = (window.kernel, window.pad[0][0]);
        let y = row % oh;
        let low = top.saturating_sub(y).min(kh);
        let high = (ih + top).saturating_sub(y).clamp(low, kh);
        let pitch = Planes::pitch(self.planes.isa, &self.planes.geometry);
        Line {
            src: self.image.wrapping_add((y + low).saturating_sub(top) * pitch),
            pitch,
            kernel: [high - low, kw],
            weights: self.weights.wrapping_add(low * kw * oc),
            by_channels: self.by_channels,
            result: self.result,
            pixels: ow,
        }
    }
}
