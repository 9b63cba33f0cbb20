//! Sums over pixels that the gradients of normalization are made of.

use super::{BLOCK, Cut, Lines, SIDE, Segments};
use crate::kernels::Kernel;
use crate::kernels::elementwise::{Chunks, load_first};
use crate::simd::{Isa, Simd, dispatch::multiversion};
use crate::tensor::Args;

/// Per channel, Σ diff_dst and Σ diff_dst·(src − mean) over each part of the rows. Operands: `diff_dst`, `src`, `mean`
/// (a float per statistic), `partials` (doubles: per segment and part `channels` of the one, then `channels` of the
/// other), which [`GradientSumsFinish`] adds up.
#[derive(Debug, Clone)]
pub struct GradientSums {
    isa: Isa,
    cut: Cut,
    lines: Lines,
}

impl GradientSums {
    /// Sums over `shape`.
    pub fn new(isa: Isa, shape: Segments) -> Self {
        let cut = Cut::new(shape);
        let lines = if cut.bands > 1 { Lines { group: 1, wide: cut.band } } else { Lines::new(isa, shape.channels) };
        Self { isa, cut, lines }
    }

    /// Doubles of `partials`: a function of the shape alone.
    pub fn partials(&self) -> usize {
        self.cut.parts * 2 * self.cut.shape.segments * self.cut.shape.channels
    }
}

/// Adds the sums over the rows at `diff` and `src`, `V` vectors wide, to `first` and `second`.
///
/// # Safety
/// `rows` rows of `first.len()` floats, `pitch` apart, which are `V` vectors, the last with `lanes` lanes; as many
/// floats at `mean`.
#[inline(always)]
unsafe fn block<S: Simd, const V: usize>(
    diff: *const f32,
    src: *const f32,
    rows: usize,
    pitch: usize,
    lanes: usize,
    mean: *const f32,
    first: &mut [f64],
    second: &mut [f64],
) {
    let (mut s1, mut s2) = ([0.0f32; SIDE], [0.0f32; SIDE]);
    // SAFETY: every load lies within a row; the arrays hold four vectors.
    unsafe {
        let width = |v: usize| if v + 1 == V { lanes } else { S::LANES };
        let (mut sums, mut products, mut centre) = ([S::splat(0.0); V], [S::splat(0.0); V], [S::splat(0.0); V]);
        for (v, centre) in centre.iter_mut().enumerate() {
            *centre = load_first::<S>(mean.add(v * S::LANES), width(v));
        }
        for row in 0..rows {
            for v in 0..V {
                let at = row * pitch + v * S::LANES;
                let g = load_first::<S>(diff.add(at), width(v));
                let d = S::sub(load_first::<S>(src.add(at), width(v)), centre[v]);
                sums[v] = S::add(sums[v], g);
                products[v] = S::fma(g, d, products[v]);
            }
        }
        for v in 0..V {
            S::store(s1.as_mut_ptr().add(v * S::LANES), sums[v]);
            S::store(s2.as_mut_ptr().add(v * S::LANES), products[v]);
        }
    }
    for j in 0..first.len() {
        first[j] += f64::from(s1[j]);
        second[j] += f64::from(s2[j]);
    }
}

/// # Safety
/// `rows` rows of `width` floats at `diff` and `src`, `stride` apart, equal to `width` if `group > 1`; `width / per`
/// floats at `mean`; `width` doubles at both results; `2 · group · width` doubles and as many floats as a line has at
/// `scratch`.
#[inline(always)]
unsafe fn sums_body<S: Simd>(
    diff: *const f32,
    src: *const f32,
    rows: usize,
    stride: usize,
    width: usize,
    group: usize,
    per: usize,
    mean: *const f32,
    out_first: *mut f64,
    out_second: *mut f64,
    scratch: *mut f64,
) {
    let (wide, lines, tail) = (group * width, rows / group, rows % group * width);
    // SAFETY: the caller's word; the scratch is this task's own. Grouped rows are neighbours in memory, so a line and
    // the incomplete one behind the last are contiguous.
    unsafe {
        let centres = std::slice::from_raw_parts_mut(scratch.add(2 * wide).cast::<f32>(), wide);
        for (j, centre) in centres.iter_mut().enumerate() {
            *centre = mean.add(j % width / per).read_unaligned();
        }
        let sums = std::slice::from_raw_parts_mut(scratch, 2 * wide);
        sums.fill(0.0);
        let (first, second) = sums.split_at_mut(wide);
        for top in (0..lines).step_by(BLOCK) {
            let count = BLOCK.min(lines - top);
            let (diff, src) = (diff.add(top * group * stride), src.add(top * group * stride));
            let mut i = 0;
            while i + 4 * S::LANES <= wide {
                let columns = i..i + 4 * S::LANES;
                let (first, second) = (&mut first[columns.clone()], &mut second[columns]);
                let centre = centres.as_ptr().add(i);
                block::<S, 4>(diff.add(i), src.add(i), count, group * stride, S::LANES, centre, first, second);
                i += 4 * S::LANES;
            }
            while i < wide {
                let lanes = S::LANES.min(wide - i);
                let (first, second) = (&mut first[i..i + lanes], &mut second[i..i + lanes]);
                let centre = centres.as_ptr().add(i);
                block::<S, 1>(diff.add(i), src.add(i), count, group * stride, lanes, centre, first, second);
                i += lanes;
            }
        }
        let rest = lines * group * stride;
        for j in 0..tail {
            let g = f64::from(diff.add(rest + j).read_unaligned());
            first[j] += g;
            second[j] += g * f64::from(src.add(rest + j).read_unaligned() - centres[j]);
        }
        for channel in 0..width {
            let (mut one, mut other) = (0.0, 0.0);
            for row in 0..group {
                one += first[row * width + channel];
                other += second[row * width + channel];
            }
            out_first.add(channel).write_unaligned(one);
            out_second.add(channel).write_unaligned(other);
        }
    }
}

multiversion! {
    fn sums(
        diff: *const f32, src: *const f32, rows: usize, stride: usize, width: usize, group: usize, per: usize,
        mean: *const f32, out_first: *mut f64, out_second: *mut f64, scratch: *mut f64,
    ) = sums_body;
}

impl Kernel for GradientSums {
    fn name(&self) -> String {
        format!("gradient_sums_{}", self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.cut.tasks()
    }

    fn scratch(&self) -> usize {
        self.lines.wide * (2 * size_of::<f64>() + size_of::<f32>())
    }

    fn flops(&self) -> u64 {
        4 * self.cut.shape.len() as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        let Segments { rows, channels, bins, .. } = self.cut.shape;
        let (segment, part, column) = self.cut.place(task);
        let (first, last) = self.cut.rows(part);
        let (width, per) = (self.cut.band.min(channels - column), channels / bins);
        let (start, count) = ((segment * rows + first) * channels, (last - first) * channels);
        let diff = args.src::<f32>(0).at(start, count).wrapping_add(column);
        let src = args.src::<f32>(1).at(start, count).wrapping_add(column);
        let mean = args.src::<f32>(2).at(segment * bins + column / per, width / per);
        let start = (segment * self.cut.parts + part) * 2 * channels + column;
        let one = args.dst::<f64>(3).at(start, width);
        let other = args.dst::<f64>(3).at(start + channels, width);
        let group = self.lines.group;
        // SAFETY: the rows lie in both tensors; these sums belong to this task; the scratch has two doubles and a float
        // per column.
        unsafe {
            let rows = last - first;
            sums(self.isa, diff, src, rows, channels, width, group, per, mean, one, other, scratch.cast());
        }
    }
}

/// What follows from the sums, added up in the order of segments and parts. Operands: `partials` (of
/// [`GradientSums`]), `weight` (a float per channel), `rstd` (a float per statistic), then, if asked for, `slope` and
/// `offset` of [`Apply`](super::Apply) (a float per statistic each), and, if asked for, `diff_weight` and `diff_bias`
/// (a float per channel each).
///
/// ```text
/// offset      = −rstd  · Σ diff_dst·weight / count               over the pixels and channels of a bin
/// slope       = −rstd³ · Σ diff_dst·weight·(src − mean) / count
/// diff_weight = Σ rstd · diff_dst·(src − mean)                   over all pixels
/// diff_bias   = Σ diff_dst
/// ```
#[derive(Debug, Clone)]
pub struct GradientSumsFinish {
    cut: Cut,
    /// Statistics, if slope and offset are asked for.
    slopes: Option<Chunks>,
    /// Channels, if the gradients of weight and bias are asked for.
    weights: Option<Chunks>,
}

impl GradientSumsFinish {
    /// The end of [`GradientSums`] over `shape`, and what to make of them.
    pub fn new(shape: Segments, slopes: bool, weights: bool) -> Self {
        let cut = Cut::new(shape);
        let slopes = slopes.then(|| Chunks::new(shape.statistics(), 4 * cut.parts * shape.per_bin()));
        let weights = weights.then(|| Chunks::new(shape.channels, 4 * cut.parts * shape.segments));
        Self { cut, slopes, weights }
    }

    fn slope_tasks(&self) -> usize {
        self.slopes.map_or(0, |chunks| chunks.tasks())
    }

    unsafe fn slopes(&self, range: std::ops::Range<usize>, args: &Args<'_>) {
        let (Segments { channels, bins, .. }, parts) = (self.cut.shape, self.cut.parts);
        let (partials, weight, rstd) = (args.src::<f64>(0), args.src::<f32>(1), args.src::<f32>(2));
        let (per, count) = (self.cut.shape.per_bin(), self.cut.shape.count().max(1) as f64);
        for statistic in range {
            let (segment, bin) = (statistic / bins, statistic % bins);
            let (mut sum, mut product) = (0.0, 0.0);
            for part in 0..parts {
                let start = (segment * parts + part) * 2 * channels;
                for channel in bin * per..(bin + 1) * per {
                    // SAFETY: `partials` holds two sums per segment, part and channel; `weight` a float per channel.
                    unsafe {
                        let weight = f64::from(weight.get(channel));
                        sum += weight * partials.get(start + channel);
                        product += weight * partials.get(start + channels + channel);
                    }
                }
            }
            // SAFETY: a float per statistic in each; this one belongs to this task.
            unsafe {
                let rstd = f64::from(rstd.get(statistic));
                args.dst::<f32>(3).set(statistic, (-rstd * rstd * rstd * product / count) as f32);
                args.dst::<f32>(4).set(statistic, (-rstd * sum / count) as f32);
            }
        }
    }

    unsafe fn weights(&self, range: std::ops::Range<usize>, args: &Args<'_>) {
        let (Segments { segments, channels, bins, .. }, parts) = (self.cut.shape, self.cut.parts);
        let (partials, rstd) = (args.src::<f64>(0), args.src::<f32>(2));
        let results = if self.slopes.is_some() { 5 } else { 3 };
        for channel in range {
            let (mut sum, mut product) = (0.0, 0.0);
            for segment in 0..segments {
                // SAFETY: as above.
                unsafe {
                    let rstd = f64::from(rstd.get(segment * bins + channel / self.cut.shape.per_bin()));
                    for part in 0..parts {
                        let start = (segment * parts + part) * 2 * channels + channel;
                        sum += partials.get(start);
                        product += rstd * partials.get(start + channels);
                    }
                }
            }
            // SAFETY: a float per channel in each; this one belongs to this task.
            unsafe {
                args.dst::<f32>(results).set(channel, product as f32);
                args.dst::<f32>(results + 1).set(channel, sum as f32);
            }
        }
    }
}

impl Kernel for GradientSumsFinish {
    fn name(&self) -> String {
        "gradient_sums_finish".to_owned()
    }

    fn tasks(&self) -> usize {
        self.slope_tasks() + self.weights.map_or(0, |chunks| chunks.tasks())
    }

    fn flops(&self) -> u64 {
        let kinds = u64::from(self.slopes.is_some()) + u64::from(self.weights.is_some());
        4 * kinds * (self.cut.parts * self.cut.shape.segments * self.cut.shape.channels) as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        // SAFETY: the caller's word; the ranges of different tasks are apart.
        unsafe {
            match (self.slopes, self.weights) {
                (Some(chunks), _) if task < chunks.tasks() => self.slopes(chunks.range(task), args),
                (_, Some(chunks)) => self.weights(chunks.range(task - self.slope_tasks()), args),
                _ => {}
            }
        }
    }
}
