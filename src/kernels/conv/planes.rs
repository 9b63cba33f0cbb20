//! Convolution of one source channel with stride 1 to few channels: vectors run along the pixels of a line.
//!
//! The source lines lie in scratch with their padding. A tile is two vectors of neighbouring result pixels × all channels;
//! weights are read where they are. Results are turned to NHWC by squares of eight, a line at a time: a pixel's
//! surplus lanes are overwritten by the pixel behind it.

use super::line::Ending;
use super::{Epilogue, Geometry};
use crate::kernels::{Kernel, share, tasks_for};
use crate::multiversion;
use crate::simd::{Isa, Simd};
use crate::tensor::Args;

/// Most result channels.
const CHANNELS: usize = 8;
/// Vectors of a tile.
const VECTORS: usize = 2;
/// Most bytes of a padded image.
const IMAGE: usize = 64 << 10;

/// Convolution. Operands: input, weights as they are, those of the epilogue ([`Epilogue::operands`]), output.
#[derive(Debug)]
pub struct Planes {
    isa: Isa,
    geometry: Geometry,
    epilogue: Epilogue,
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
        Self { isa, geometry, epilogue, tasks }
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

/// # Safety
/// Padded lines are readable for whole tiles, weights for `C` channels; the tile has room for eight channels, the
/// line for its pixels in whole tiles and one more.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // closures and iterators would not inherit the shell's target features
unsafe fn line_body<S: Simd, const C: usize>(call: &Line) {
    // SAFETY: the caller's word.
    unsafe {
        let width = VECTORS * S::LANES;
        for x in (0..call.pixels).step_by(width) {
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

/// Runs a line of results: one shell per number of channels and level.
///
/// # Safety
/// As [`line_body`]; `channels` is 1 to 8; the CPU has `isa`.
unsafe fn line(isa: Isa, channels: usize, call: &Line) {
    macro_rules! by_channels {
        ($($channels:literal)*) => {
            match channels {
                $($channels => {
                    multiversion! { fn run(call: &Line) = line_body, [$channels]; }
                    // SAFETY: the caller's word.
                    unsafe { run(isa, call) }
                })*
                _ => unreachable!("1 to 8 channels"),
            }
        };
    }
    by_channels!(1 2 3 4 5 6 7 8);
}

impl Kernel for Planes {
    fn name(&self) -> String {
        format!(
            "conv{}_planes_{}x{}_{}",
            self.epilogue.name(),
            Self::width(self.isa),
            self.geometry.oc,
            self.isa.name()
        )
    }

    fn tasks(&self) -> usize {
        self.tasks
    }

    fn scratch(&self) -> usize {
        let tile = CHANNELS * Self::width(self.isa);
        (Self::image_len(self.isa, &self.geometry)
            + tile
            + self.line_len()
            + Ending::scratch(self.geometry.ow * self.geometry.oc, self.isa))
            * size_of::<f32>()
    }

    fn flops(&self) -> u64 {
        self.geometry.flops()
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        let Geometry { n, ih, iw, oc, oh, ow, window, .. } = self.geometry;
        let ([kh, kw], [top, left]) = (window.kernel, [window.pad[0][0], window.pad[1][0]]);
        let (src, dst) = (args.src::<f32>(0), args.dst::<f32>(2 + self.epilogue.operands()));
        let weights = args.src::<f32>(1).at(0, self.geometry.weights_len());
        let finish = self.epilogue.finish(args, oc, self.geometry.dst_len());
        let pitch = Self::pitch(self.isa, &self.geometry);
        let by_channels = scratch.cast::<f32>();
        let image = by_channels.wrapping_add(CHANNELS * Self::width(self.isa));
        let result = image.wrapping_add(Self::image_len(self.isa, &self.geometry));
        let rows = share(task, self.tasks, n * oh);
        // SAFETY: scratch is as large as `scratch()` says; the result lines belong to this task.
        unsafe {
            std::ptr::write_bytes(scratch, 0, self.scratch());
            let numbers = result.wrapping_add(self.line_len());
            let mut ending = Ending::new(self.isa, (self.epilogue, finish), (dst, rows.clone()), oc, ow * oc, numbers);
            for row in rows.clone() {
                let (number, y) = (row / oh, row % oh);
                if row == rows.start || y == 0 {
                    // What the rest of the task reads of this image.
                    let last = (y + rows.end - row).min(oh) - 1;
                    for iy in y.saturating_sub(top)..(last + kh).saturating_sub(top).min(ih) {
                        let from = src.at((number * ih + iy) * iw, iw);
                        image.add(iy * pitch + left).copy_from_nonoverlapping(from, iw);
                    }
                }
                let low = top.saturating_sub(y).min(kh);
                let high = (ih + top).saturating_sub(y).clamp(low, kh);
                let call = Line {
                    src: image.wrapping_add((y + low).saturating_sub(top) * pitch),
                    pitch,
                    kernel: [high - low, kw],
                    weights: weights.wrapping_add(low * kw * oc),
                    by_channels,
                    result,
                    pixels: ow,
                };
                line(self.isa, oc, &call);
                ending.write(result);
            }
        }
    }
}
