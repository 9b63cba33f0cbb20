//! The affine maps of normalization, forward and backward, with one coefficient per channel and segment.

use super::{Lines, Segments};
use crate::kernels::Kernel;
use crate::kernels::elementwise::{Chunks, load_first, store_first};
use crate::simd::{Isa, Simd, dispatch::multiversion};
use crate::tensor::Args;

/// Normalization with known statistics, or its gradient with respect to the source.
///
/// ```text
/// dst      = (src − mean) · rstd·weight + bias
/// diff_src = diff_dst · rstd·weight + (src − mean) · slope + offset
/// ```
/// Operands forward: `src`, `weight`, `bias` (a float per channel each), `mean`, `rstd` (a float per statistic each),
/// `dst` (may be the memory of `src`). Backward: `diff_dst`, `src`, `weight`, `mean`, `rstd`, `slope`, `offset` (a float
/// per statistic each), `diff_src` (may be the memory of `diff_dst` or `src`).
#[derive(Debug, Clone)]
pub struct Apply {
    isa: Isa,
    shape: Segments,
    backward: bool,
    lines: Lines,
    /// Lines of one segment.
    chunks: Chunks,
}

impl Apply {
    /// Over `shape`, forward or backward.
    pub fn new(isa: Isa, shape: Segments, backward: bool) -> Self {
        let lines = Lines::new(isa, shape.channels);
        let chunks = Chunks::new(shape.rows.div_ceil(lines.group), lines.wide);
        Self { isa, shape, backward, lines, chunks }
    }
}

/// # Safety
/// `count` floats at `diff` (if backward), `src` and `dst`, in lines of `wide`; `wide` floats at every coefficient.
#[inline(always)]
unsafe fn apply_body<S: Simd, const BACKWARD: bool>(
    diff: *const f32,
    src: *const f32,
    dst: *mut f32,
    count: usize,
    wide: usize,
    mean: *const f32,
    scale: *const f32,
    slope: *const f32,
    offset: *const f32,
) {
    // SAFETY: every access lies within a line of the tensors or of the coefficients.
    unsafe {
        for start in (0..count).step_by(wide) {
            let line = wide.min(count - start);
            let mut i = 0;
            while i + S::LANES <= line {
                let at = start + i;
                let centred = S::sub(S::load(src.add(at)), S::load(mean.add(i)));
                let base = S::fma(centred, S::load(slope.add(i)), S::load(offset.add(i)));
                let value = if BACKWARD { S::fma(S::load(diff.add(at)), S::load(scale.add(i)), base) } else { base };
                S::store(dst.add(at), value);
                i += S::LANES;
            }
            if i < line {
                let (at, lanes) = (start + i, line - i);
                let load = |p: *const f32| load_first::<S>(p, lanes);
                let centred = S::sub(load(src.add(at)), load(mean.add(i)));
                let base = S::fma(centred, load(slope.add(i)), load(offset.add(i)));
                let value = if BACKWARD { S::fma(load(diff.add(at)), load(scale.add(i)), base) } else { base };
                store_first::<S>(dst.add(at), value, lanes);
            }
        }
    }
}

multiversion! {
    fn forward(
        diff: *const f32, src: *const f32, dst: *mut f32, count: usize, wide: usize,
        mean: *const f32, scale: *const f32, slope: *const f32, offset: *const f32,
    ) = apply_body, [false];
}
multiversion! {
    fn backward(
        diff: *const f32, src: *const f32, dst: *mut f32, count: usize, wide: usize,
        mean: *const f32, scale: *const f32, slope: *const f32, offset: *const f32,
    ) = apply_body, [true];
}

impl Apply {
    /// Writes one coefficient per number of a line: `of(channel, statistic)`.
    ///
    /// # Safety
    /// `wide` floats at `line`.
    unsafe fn fill(&self, segment: usize, line: *mut f32, of: impl Fn(usize, usize) -> f32) {
        let (bins, per) = (self.shape.bins, self.shape.per_bin());
        let start = segment * bins;
        // SAFETY: the first of the line's rows.
        let set = |channel: usize, value: f32| unsafe { line.add(channel).write(value) };
        if per == 1 {
            (0..bins).for_each(|channel| set(channel, of(channel, start + channel)));
        } else {
            for bin in 0..bins {
                (bin * per..(bin + 1) * per).for_each(|channel| set(channel, of(channel, start + bin)));
            }
        }
        for row in 1..self.lines.group {
            // SAFETY: the other rows of the line are copies of the first.
            unsafe { line.add(row * self.shape.channels).copy_from_nonoverlapping(line, self.shape.channels) };
        }
    }
}

impl Kernel for Apply {
    fn name(&self) -> String {
        format!("normalize_{}{}", if self.backward { "backward_" } else { "" }, self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.shape.segments * self.chunks.tasks()
    }

    fn scratch(&self) -> usize {
        4 * self.lines.wide.next_multiple_of(16) * size_of::<f32>()
    }

    fn flops(&self) -> u64 {
        (if self.backward { 5 } else { 3 }) * self.shape.len() as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        let Segments { rows, channels, .. } = self.shape;
        let (segment, chunk) = (task / self.chunks.tasks(), self.chunks.range(task % self.chunks.tasks()));
        let first = chunk.start * self.lines.wide;
        let count = (chunk.end * self.lines.wide).min(rows * channels) - first;
        let start = segment * rows * channels + first;
        let coefficients: [*mut f32; 4] =
            std::array::from_fn(|i| scratch.cast::<f32>().wrapping_add(i * self.lines.wide.next_multiple_of(16)));
        let [mean, scale, slope, offset] = coefficients;
        let wide = self.lines.wide;
        // SAFETY: the weights hold a float per channel, the statistics one per segment and bin; the scratch holds four
        // lines; the elements belong to this task.
        unsafe {
            let at = |index: usize| args.src::<f32>(index).at(start, count);
            let weight = args.src::<f32>(if self.backward { 2 } else { 1 });
            let [mean_of, rstd] = [3, 4].map(|index| args.src::<f32>(index));
            self.fill(segment, mean, |_, statistic| mean_of.get(statistic));
            if self.backward {
                let [slope_of, offset_of] = [5, 6].map(|index| args.src::<f32>(index));
                self.fill(segment, scale, |channel, statistic| weight.get(channel) * rstd.get(statistic));
                self.fill(segment, slope, |_, statistic| slope_of.get(statistic));
                self.fill(segment, offset, |_, statistic| offset_of.get(statistic));
                let dst = args.dst::<f32>(7).at(start, count);
                backward(self.isa, at(0), at(1), dst, count, wide, mean, scale, slope, offset);
            } else {
                let bias = args.src::<f32>(2);
                self.fill(segment, slope, |channel, statistic| weight.get(channel) * rstd.get(statistic));
                self.fill(segment, offset, |channel, _| bias.get(channel));
                let dst = args.dst::<f32>(5).at(start, count);
                forward(self.isa, at(0), at(0), dst, count, wide, mean, scale, slope, offset);
            }
        }
    }
}

/// 1/√(variance + eps), in double precision inside. Operands: `variance`, `rstd` (`len` floats each).
#[derive(Debug, Clone)]
pub struct ReciprocalDeviation {
    eps: f32,
    chunks: Chunks,
}

impl ReciprocalDeviation {
    /// Of `len` variances.
    pub fn new(len: usize, eps: f32) -> Self {
        Self { eps, chunks: Chunks::new(len, 16) }
    }
}

impl Kernel for ReciprocalDeviation {
    fn name(&self) -> String {
        "reciprocal_deviation".to_owned()
    }

    fn tasks(&self) -> usize {
        self.chunks.tasks()
    }

    fn flops(&self) -> u64 {
        3 * self.chunks.range(0).len() as u64 * self.chunks.tasks() as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        for i in self.chunks.range(task) {
            // SAFETY: both operands hold `len` floats; this one belongs to this task.
            unsafe {
                let variance = f64::from(args.src::<f32>(0).get(i));
                args.dst::<f32>(1).set(i, (1.0 / (variance + f64::from(self.eps)).sqrt()) as f32);
            }
        }
    }
}
