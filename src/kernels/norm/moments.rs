//! Means and variances.

use super::columns::{Statistics, add_rows_body};
use super::{BLOCK, Cut, Lines, RUN, Segments, runs};
use crate::kernels::Kernel;
use crate::kernels::elementwise::Chunks;
use crate::simd::{Isa, Simd, dispatch::multiversion};
use crate::tensor::Args;

/// Mean and sum of squared deviations of every bin over each part of the rows. Operands: `src` (floats), `partials`
/// (doubles: per segment and part `bins` means, then `bins` sums), which [`MomentsFinish`] merges.
#[derive(Debug, Clone)]
pub struct Moments {
    isa: Isa,
    cut: Cut,
    lines: Lines,
}

impl Moments {
    /// Statistics of `shape`.
    pub fn new(isa: Isa, shape: Segments) -> Self {
        let cut = Cut::new(shape);
        let lines = if cut.bands > 1 { Lines { group: 1, wide: cut.band } } else { Lines::new(isa, shape.channels) };
        Self { isa, cut, lines }
    }

    /// Doubles of `partials`: a function of the shape alone.
    pub fn partials(&self) -> usize {
        self.cut.parts * 2 * self.cut.shape.statistics()
    }

    /// Rows of every part.
    pub fn parts(&self) -> Vec<usize> {
        let rows = |part| self.cut.rows(part);
        (0..self.cut.parts).map(|part| rows(part).1 - rows(part).0).collect()
    }
}

/// # Safety
/// `rows` rows of `width` floats at `src`, `stride` apart, equal to `width` if `group > 1`; `width / per` doubles at
/// both results; `2 · group · width` doubles at `scratch`.
#[inline(always)]
unsafe fn moments_body<S: Simd>(
    src: *const f32,
    rows: usize,
    stride: usize,
    width: usize,
    group: usize,
    per: usize,
    out_mean: *mut f64,
    out_m2: *mut f64,
    scratch: *mut f64,
) {
    let (wide, lines, tail) = (group * width, rows / group, rows % group * width);
    // SAFETY: the caller's word; the scratch is this task's own. Grouped rows are neighbours in memory, so a line and
    // the incomplete one behind the last are contiguous.
    unsafe {
        let scratch = std::slice::from_raw_parts_mut(scratch, 2 * wide);
        scratch.fill(0.0);
        let to = Statistics { mean: scratch.as_mut_ptr(), m2: scratch.as_mut_ptr().add(wide) };
        for top in (0..lines).step_by(BLOCK) {
            let count = BLOCK.min(lines - top);
            add_rows_body::<S>(src.add(top * group * stride), count, group * stride, wide, top, to);
        }
        let (mean, m2) = scratch.split_at_mut(wide);
        let rest = src.add(lines * group * stride);
        let before = lines as f64;
        for j in 0..tail {
            let delta = f64::from(rest.add(j).read_unaligned()) - mean[j];
            mean[j] += delta / (before + 1.0);
            m2[j] += delta * delta * before / (before + 1.0);
        }

        // The columns of a bin have `lines` rows, one more in the first `tail` columns.
        let count = |j: usize| before + if j < tail { 1.0 } else { 0.0 };
        let total = (rows * per) as f64;
        for bin in 0..width / per {
            if wide == width && per == 1 {
                out_mean.add(bin).write_unaligned(mean[bin]);
                out_m2.add(bin).write_unaligned(m2[bin]);
                continue;
            }
            let (mut sum, mut spread) = (0.0, 0.0);
            for j in (0..group).flat_map(|row| row * width + bin * per..row * width + (bin + 1) * per) {
                sum += count(j) * mean[j];
            }
            let centre = if rows == 0 { 0.0 } else { sum / total };
            for j in (0..group).flat_map(|row| row * width + bin * per..row * width + (bin + 1) * per) {
                let delta = mean[j] - centre;
                spread += m2[j] + count(j) * delta * delta;
            }
            out_mean.add(bin).write_unaligned(centre);
            out_m2.add(bin).write_unaligned(spread);
        }
    }
}

multiversion! {
    fn moments(
        src: *const f32, rows: usize, stride: usize, width: usize, group: usize, per: usize,
        out_mean: *mut f64, out_m2: *mut f64, scratch: *mut f64,
    ) = moments_body;
}

impl Kernel for Moments {
    fn name(&self) -> String {
        format!("moments_{}", self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.cut.tasks()
    }

    fn scratch(&self) -> usize {
        2 * self.lines.wide * size_of::<f64>()
    }

    fn flops(&self) -> u64 {
        4 * self.cut.shape.len() as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        let Segments { rows, channels, bins, .. } = self.cut.shape;
        let (segment, part, column) = self.cut.place(task);
        let (first, last) = self.cut.rows(part);
        let (width, per) = (self.cut.band.min(channels - column), channels / bins);
        let src = args.src::<f32>(0).at((segment * rows + first) * channels, (last - first) * channels);
        let src = src.wrapping_add(column);
        let start = (segment * self.cut.parts + part) * 2 * bins + column / per;
        let mean = args.dst::<f64>(1).at(start, width / per);
        let m2 = args.dst::<f64>(1).at(start + bins, width / per);
        let group = self.lines.group;
        // SAFETY: the rows lie in `src`; these statistics belong to this task; the scratch has two doubles per column.
        unsafe { moments(self.isa, src, last - first, channels, width, group, per, mean, m2, scratch.cast()) };
    }
}

/// Merges the parts in order. Operands: `partials` (of [`Moments`], or of a convolution that takes those of its results),
/// `mean`, `rstd` = 1/√(variance + eps) with the biased variance (a float per statistic each), and with a momentum
/// `running_mean`, `running_var` (read), and their successors (written, a float per statistic each), to which the
/// unbiased variance is added with that weight.
///
/// Of no numbers: mean and variance are zero and the running values stay.
#[derive(Debug, Clone)]
pub struct MomentsFinish {
    shape: Segments,
    parts: Vec<usize>,
    eps: f32,
    momentum: Option<f32>,
    chunks: Chunks,
}

impl MomentsFinish {
    /// The end of the statistics of `shape`, whose `parts` have so many rows; a momentum also makes new running values.
    pub fn new(shape: Segments, parts: Vec<usize>, eps: f32, momentum: Option<f32>) -> Self {
        debug_assert_eq!(parts.iter().sum::<usize>(), shape.rows);
        let chunks = Chunks::new(shape.statistics(), 8 * parts.len());
        Self { shape, parts, eps, momentum, chunks }
    }
}

impl Kernel for MomentsFinish {
    fn name(&self) -> String {
        "moments_finish".to_owned()
    }

    fn tasks(&self) -> usize {
        self.chunks.tasks()
    }

    fn flops(&self) -> u64 {
        (10 * self.parts.len() * self.chunks.tasks()) as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let (bins, parts) = (self.shape.bins, self.parts.len());
        let partials = args.src::<f64>(0);
        let total = self.shape.count() as f64;
        let share = |part: usize| (self.parts[part] * self.shape.per_bin()) as f64;
        for (segment, first, count) in runs(self.chunks.range(task), bins) {
            let at = |part: usize| (segment * parts + part) * 2 * bins + first;
            let (mut means, mut spreads) = ([0.0; RUN], [0.0; RUN]);
            let (means, spreads) = (&mut means[..count], &mut spreads[..count]);
            // SAFETY: `partials` holds every part's statistics; each result has an element for these statistics, which
            // belong to this task.
            unsafe {
                for part in 0..parts {
                    for (i, sum) in means.iter_mut().enumerate() {
                        *sum += share(part) * partials.get(at(part) + i);
                    }
                }
                for mean in means.iter_mut() {
                    *mean = if total > 0.0 { *mean / total } else { 0.0 };
                }
                for part in 0..parts {
                    for (i, (m2, mean)) in spreads.iter_mut().zip(means.iter()).enumerate() {
                        let delta = partials.get(at(part) + i) - mean;
                        *m2 += partials.get(at(part) + bins + i) + share(part) * delta * delta;
                    }
                }
                for (i, (&mean, &m2)) in means.iter().zip(spreads.iter()).enumerate() {
                    let statistic = segment * bins + first + i;
                    let variance = if total > 0.0 { m2 / total } else { 0.0 };
                    args.dst::<f32>(1).set(statistic, mean as f32);
                    args.dst::<f32>(2).set(statistic, (1.0 / (variance + f64::from(self.eps)).sqrt()) as f32);
                    let Some(momentum) = self.momentum else { continue };
                    let old = [3, 4].map(|index| f64::from(args.src::<f32>(index).get(statistic)));
                    let step = if total > 0.0 { f64::from(momentum) } else { 0.0 };
                    let seen = [mean, if total > 0.0 { m2 / (total - 1.0) } else { 0.0 }];
                    for i in 0..2 {
                        let new = if step > 0.0 { (1.0 - step) * old[i] + step * seen[i] } else { old[i] };
                        args.dst::<f32>(5 + i).set(statistic, new as f32);
                    }
                }
            }
        }
    }
}
