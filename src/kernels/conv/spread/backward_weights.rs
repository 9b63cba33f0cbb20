//! Weight gradient of a convolution whose pixels are spread: every source pixel times the stretch of result gradients that
//! it meets.

use std::ops::Range;

use super::tile::{GradTile, grad_tile, most_rows};
use super::{Geometry, Spread};
use crate::kernels::{Kernel, share};
use crate::simd::Isa;
use crate::tensor::Args;

/// Most parts, and result pixels below which there are fewer of them.
const PARTS: usize = 16;
const PART_PIXELS: usize = 256;
/// Fewest and most source channels × kernel rows: sums that do not wait for each other, and fit one tile.
const POSITIONS: [usize; 2] = [4, 12];
/// Most products of vectors, by those of the product through pointers.
const RATIO: f64 = 0.8;

/// Weight gradient. Operands: input, gradient by the output, result of `parts()` × the weight's length.
#[derive(Debug)]
pub struct BackwardWeights {
    spread: Spread,
    parts: usize,
}

impl BackwardWeights {
    /// The weight gradient of a convolution that is not refused.
    pub fn new(isa: Isa, geometry: Geometry) -> Self {
        let spread = Spread::new(isa, geometry, false);
        let pixels = geometry.n * geometry.oh * geometry.ow;
        let parts = (pixels / PART_PIXELS).clamp(1, PARTS).min((geometry.n * geometry.oh).max(1));
        Self { spread, parts }
    }

    /// Why a weight gradient is not computed this way; `None` if it is. A rule in shape and level only.
    pub fn refusal(isa: Isa, geometry: &Geometry) -> Option<String> {
        let (positions, [least, most]) = (geometry.window.kernel[0] * geometry.ic, POSITIONS);
        if let Some(reason) = super::unfit(isa, geometry, false) {
            return Some(reason);
        }
        if !(least..=most).contains(&positions) {
            return Some(format!("{positions} kernel rows of channels, expected {least} to {most}"));
        }
        let (spread, (_, direct)) = (super::vectors(isa, geometry, false), super::folded(isa, geometry, false));
        (spread as f64 > RATIO * direct).then(|| super::products(spread, direct))
    }

    /// Gradients in the result operand, to be summed in order.
    pub fn parts(&self) -> usize {
        self.parts
    }

    /// Floats of a position's gradient in scratch.
    fn stretch(&self) -> usize {
        self.spread.vectors() * self.spread.isa.lanes()
    }

    /// Floats of a line of gradients with `kw − 1` pixels on either side that are not there.
    fn line_len(&self) -> usize {
        let [_, kw] = self.spread.kernel();
        ((self.spread.source[1] + kw) * self.spread.dc + 2 * self.spread.isa.lanes()).next_multiple_of(16)
    }

    fn positions(&self) -> usize {
        self.spread.kernel()[0] * self.spread.sc
    }

    /// Adds the products of one line of results to the gradient.
    ///
    /// # Safety
    /// `source` is the line of the source that the first of the `reached` kernel rows meets; `line` and `inside` are
    /// padded lines, `sums` the gradient by positions.
    unsafe fn add_line(&self, reached: Range<usize>, source: *const f32, line: Line, sums: *mut f32) {
        let Spread { isa, sc, dc, source: [_, sw], before, result: [_, dw], .. } = self.spread;
        let ([_, kw], vectors) = (self.spread.kernel(), self.spread.vectors());
        let positions = reached.len() * sc;
        let tiles = positions.div_ceil(most_rows(isa, vectors));
        // Source pixels all of whose results are there.
        let first = before.min(sw);
        let whole = first..(before + dw + 1).saturating_sub(kw).clamp(first, sw);
        for tile in 0..tiles {
            let part = share(tile, tiles, positions);
            let call = GradTile {
                src: source,
                line: sw * sc,
                channels: sc,
                position: part.start,
                pixels: sw,
                whole: (whole.start, whole.end),
                diff: line.diff,
                inside: line.inside,
                step: dc,
                sums: sums.wrapping_add((reached.start * sc + part.start) * self.stretch()),
            };
            // SAFETY: the caller's word.
            unsafe { grad_tile(isa, part.len(), vectors, &call) };
        }
    }
}

/// A padded line of gradients, and ones where it has any.
#[derive(Clone, Copy)]
struct Line {
    diff: *const f32,
    inside: *const f32,
}

impl Kernel for BackwardWeights {
    fn name(&self) -> String {
        let (isa, vectors) = (self.spread.isa, self.spread.vectors());
        format!("conv_backward_weights_spread_{}x{}_{}", most_rows(isa, vectors), self.stretch(), isa.name())
    }

    fn tasks(&self) -> usize {
        self.parts
    }

    fn scratch(&self) -> usize {
        (2 * self.line_len() + self.positions() * self.stretch()) * size_of::<f32>()
    }

    fn flops(&self) -> u64 {
        self.spread.geometry.flops()
    }

    unsafe fn run(&self, part: usize, args: &Args<'_>, scratch: *mut u8) {
        let Spread { ref geometry, sc, dc, top, before, source: [sh, sw], result: [dh, dw], .. } = self.spread;
        let [_, kw] = self.spread.kernel();
        let (src, diff_dst, out) = (args.src::<f32>(0), args.src::<f32>(1), args.dst::<f32>(2));
        let rows = geometry.n * dh;
        let diff = scratch.cast::<f32>();
        let inside = diff.wrapping_add(self.line_len());
        let sums = inside.wrapping_add(self.line_len());
        // SAFETY: scratch is as large as `scratch()` says; lines lie inside their operands; this part of the result
        // belongs to this task.
        unsafe {
            std::ptr::write_bytes(scratch, 0, self.scratch());
            // Results that no source pixel meets lie before the line; those that padding hides, behind it.
            let line = Line { diff, inside };
            for i in 0..dw * dc {
                *inside.add(before * dc + i) = 1.0;
            }
            for row in share(part, self.parts, rows) {
                let (image, y) = (row / dh, row % dh);
                let reached = self.spread.reached(y);
                let first = image as isize * sh as isize + y as isize + top + reached.start as isize;
                let source = src.at(0, 0).wrapping_offset(first * (sw * sc) as isize);
                diff.add(before * dc).copy_from_nonoverlapping(diff_dst.at(row * dw * dc, dw * dc), dw * dc);
                self.add_line(reached, source, line, sums);
            }
            let out = out.at(part * geometry.weights_len(), geometry.weights_len());
            for position in 0..self.positions() {
                let (m, k) = (position / sc, position % sc);
                for (t, channel) in (0..kw).flat_map(|t| (0..dc).map(move |channel| (t, channel))) {
                    let sum = *sums.add(position * self.stretch() + t * dc + channel);
                    *out.add(((m * kw + kw - 1 - t) * sc + k) * dc + channel) = sum;
                }
            }
        }
    }
}
