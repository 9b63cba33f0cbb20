//! Weight gradient: for every tap and channel, a sum over output pixels.
//!
//! Pixels are cut into a number of parts fixed by the shape, each with a gradient of its own that a later step sums in
//! order; channels into bands, which are tasks of their own.

use std::ops::Range;

use super::positions::{Positions, Units, pieces, split};
use super::tile::{GradTile, grad_tile, tile_taps};
use crate::kernels::Kernel;
use crate::kernels::conv::Geometry;
use crate::kernels::conv::gather::Axis;
use crate::simd::Isa;
use crate::tensor::{Args, Dst, Src};

/// Most parts.
const PARTS: usize = 16;
/// Pixels and multiply-adds that are worth a part.
const PART_PIXELS: usize = 128;
const PART_WORK: usize = 1 << 16;
/// Channels of a band.
const BAND: usize = 128;
/// Pixels summed in registers before they are added to memory; also what keeps long sums accurate.
const PIXELS: usize = 256;

/// Weight gradient. Operands: input, gradient by the output (of as many channels), result of [`parts`](Self::parts) ×
/// the weight's length.
#[derive(Debug)]
pub struct BackwardWeights {
    isa: Isa,
    geometry: Geometry,
    channels: usize,
    h: Positions,
    w: Positions,
    units: Units,
    parts: usize,
}

impl BackwardWeights {
    /// The weight gradient of this convolution on a source of its output channels.
    pub fn new(isa: Isa, geometry: Geometry) -> Self {
        let Geometry { n, iw, oc: channels, oh, ow, window, .. } = geometry;
        let [h, w] = [0, 1].map(|axis| Axis::forward(&geometry, axis));
        let work = channels * geometry.taps();
        let units = Units::new(n * oh, ow, work);
        let pixels = n * oh * ow;
        let parts = (pixels / PART_PIXELS).min(pixels.saturating_mul(work) / PART_WORK).min(units.count());
        Self {
            isa,
            geometry,
            channels,
            h: Positions::new(h, iw * channels, window.kernel[1] * channels),
            w: Positions::new(w, channels, channels),
            units,
            parts: parts.clamp(1, PARTS),
        }
    }

    /// Gradients in the result operand, to be summed in order.
    pub fn parts(&self) -> usize {
        self.parts
    }

    fn bands(&self) -> usize {
        self.channels.div_ceil(BAND)
    }

    /// The rectangles of pixels that one part sums: image, lines and columns.
    fn rectangles(&self, part: usize, mut each: impl FnMut(usize, Range<usize>, Range<usize>)) {
        let Geometry { oh, ow, .. } = self.geometry;
        let count = self.units.count();
        let (mut unit, end) = (part * count / self.parts, (part + 1) * count / self.parts);
        let most = if self.units.per_line() == 1 { (PIXELS / ow.max(1)).max(1) } else { 1 };
        while unit < end {
            let (line, columns) = self.units.get(unit);
            let (image, y) = (line / oh, line % oh);
            let lines = most.min(end - unit).min(oh - y);
            each(image, y..y + lines, columns);
            unit += lines;
        }
    }
}

/// Views of one task: a band of channels, from `first` on.
struct Band<'a> {
    src: Src<'a, f32>,
    diff: Src<'a, f32>,
    sums: *mut f32,
    first: usize,
    channels: usize,
}

impl BackwardWeights {
    /// Adds the sums over a rectangle of pixels.
    ///
    /// # Safety
    /// Operands of this geometry; the sums of the band belong to this task.
    unsafe fn add(&self, image: usize, lines: Range<usize>, columns: Range<usize>, band: &Band<'_>) {
        let Geometry { ih, iw, oh, ow, .. } = self.geometry;
        let (h, w, channels) = (&self.h, &self.w, self.channels);
        let src_pitch = [w.source_step() * channels, h.source_step() * iw * channels];
        let src_step = self.geometry.window.dilation[1] * channels;
        for (r, row) in h.taps().iter().enumerate() {
            let lines = h.served(r, lines.clone());
            if lines.is_empty() {
                continue;
            }
            let place = (image * ih + lines.start * h.source_step()) * iw * channels + band.first;
            let run = |columns: Range<usize>, taps: Range<usize>| {
                for piece in pieces(taps.len(), tile_taps(self.isa)) {
                    let tap = &w.taps()[taps.start + piece.start];
                    let first = (place + columns.start * src_pitch[0]) as isize + row.source + tap.source;
                    let count = (lines.len() - 1) * src_pitch[1]
                        + (columns.len() - 1) * src_pitch[0]
                        + (piece.len() - 1) * src_step
                        + band.channels;
                    let pixel = (image * oh + lines.start) * ow + columns.start;
                    let call = GradTile {
                        src: band.src.at(first as usize, count),
                        src_pitch,
                        src_step,
                        diff: band.diff.at(pixel * channels + band.first, band.channels),
                        diff_pitch: [channels, ow * channels],
                        pixels: [columns.len(), lines.len()],
                        sums: band.sums.wrapping_add(row.weight + tap.weight),
                        sums_pitch: channels,
                        channels: band.channels,
                    };
                    // SAFETY: these taps lie on the source for all of these pixels.
                    unsafe { grad_tile(self.isa, piece.len(), &call) };
                }
            };
            let [before, inside, after] = split(&columns, &w.inside());
            before.for_each(|x| run(x..x + 1, w.reached(x)));
            if !inside.is_empty() {
                run(inside, 0..w.taps().len());
            }
            after.for_each(|x| run(x..x + 1, w.reached(x)));
        }
    }

    /// Sets the band's sums to zero.
    ///
    /// # Safety
    /// As for [`Self::add`].
    unsafe fn clear(&self, band: &Band<'_>) {
        for tap in 0..self.geometry.taps() {
            for k in 0..band.channels {
                // SAFETY: the caller's word.
                unsafe { band.sums.wrapping_add(tap * self.channels + k).write_unaligned(0.0) };
            }
        }
    }
}

impl Kernel for BackwardWeights {
    fn name(&self) -> String {
        let (taps, lanes) = (tile_taps(self.isa), self.isa.lanes());
        format!("conv_depthwise_backward_weights_{taps}x{lanes}_{}", self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.parts * self.bands()
    }

    fn flops(&self) -> u64 {
        self.geometry.flops()
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let (part, first) = (task / self.bands(), task % self.bands() * BAND);
        let channels = BAND.min(self.channels - first);
        let out: Dst<'_, f32> = args.dst(2);
        let len = self.geometry.taps() * self.channels;
        let sums = out.at(part * len, len).wrapping_add(first);
        let band = Band { src: args.src(0), diff: args.src(1), sums, first, channels };
        // SAFETY: the operands are as documented; this band of this part belongs to this task.
        unsafe {
            self.clear(&band);
            self.rectangles(part, |image, lines, columns| self.add(image, lines, columns, &band));
        }
    }
}
