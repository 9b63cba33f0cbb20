//! What the gradients of normalization make of their sums.

use super::{RUN, Segments, runs};
use crate::kernels::Kernel;
use crate::kernels::elementwise::Chunks;
use crate::tensor::Args;

/// What follows from the sums, added up in the order of segments and parts. Operands: `partials` (of
/// [`GradientSums`](super::GradientSums) or a convolution's data gradient), `weight` (a float per channel), `rstd` (a float
/// per statistic), then, if asked for, `slope` and `offset` of [`Apply`](super::Apply) (a float per statistic each), and, if
/// asked for, `diff_weight` and `diff_bias` (a float per channel each).
///
/// ```text
/// offset      = −rstd  · Σ diff_dst·weight / count               over the pixels and channels of a bin
/// slope       = −rstd³ · Σ diff_dst·weight·(src − mean) / count
/// diff_weight = Σ rstd · diff_dst·(src − mean)                   over all pixels
/// diff_bias   = Σ diff_dst
/// ```
#[derive(Debug, Clone)]
pub struct GradientSumsFinish {
    shape: Segments,
    parts: usize,
    /// Statistics, if slope and offset are asked for.
    slopes: Option<Chunks>,
    /// Channels, if the gradients of weight and bias are asked for.
    weights: Option<Chunks>,
}

impl GradientSumsFinish {
    /// The end of sums over `shape` that were taken by so many parts of every segment, and what to make of them.
    pub fn new(shape: Segments, parts: usize, slopes: bool, weights: bool) -> Self {
        let slopes = slopes.then(|| Chunks::new(shape.statistics(), 4 * parts * shape.per_bin()));
        let weights = weights.then(|| Chunks::new(shape.channels, 4 * parts * shape.segments));
        Self { shape, parts, slopes, weights }
    }

    fn slope_tasks(&self) -> usize {
        self.slopes.map_or(0, |chunks| chunks.tasks())
    }

    unsafe fn slopes(&self, range: std::ops::Range<usize>, args: &Args<'_>) {
        let (Segments { channels, bins, .. }, parts) = (self.shape, self.parts);
        let (partials, weight, rstd) = (args.src::<f64>(0), args.src::<f32>(1), args.src::<f32>(2));
        let (per, count) = (self.shape.per_bin(), self.shape.count().max(1) as f64);
        for (segment, first, bins_here) in runs(range, bins) {
            let (mut sums, mut products) = ([0.0; RUN], [0.0; RUN]);
            let (sums, products) = (&mut sums[..bins_here], &mut products[..bins_here]);
            for part in 0..parts {
                let start = (segment * parts + part) * 2 * channels;
                for (bin, (sum, product)) in sums.iter_mut().zip(products.iter_mut()).enumerate() {
                    for channel in (first + bin) * per..(first + bin + 1) * per {
                        // SAFETY: `partials` holds two sums per segment, part and channel; `weight` a float per channel.
                        unsafe {
                            let weight = f64::from(weight.get(channel));
                            *sum += weight * partials.get(start + channel);
                            *product += weight * partials.get(start + channels + channel);
                        }
                    }
                }
            }
            for (bin, (sum, product)) in sums.iter().zip(products.iter()).enumerate() {
                let statistic = segment * bins + first + bin;
                // SAFETY: a float per statistic in each; this one belongs to this task.
                unsafe {
                    let rstd = f64::from(rstd.get(statistic));
                    args.dst::<f32>(3).set(statistic, (-rstd * rstd * rstd * product / count) as f32);
                    args.dst::<f32>(4).set(statistic, (-rstd * sum / count) as f32);
                }
            }
        }
    }

    unsafe fn weights(&self, range: std::ops::Range<usize>, args: &Args<'_>) {
        let (Segments { segments, channels, bins, .. }, parts) = (self.shape, self.parts);
        let (partials, rstd) = (args.src::<f64>(0), args.src::<f32>(2));
        let results = if self.slopes.is_some() { 5 } else { 3 };
        for (_, first, count) in runs(range, channels) {
            let (mut sums, mut products) = ([0.0; RUN], [0.0; RUN]);
            let (sums, products) = (&mut sums[..count], &mut products[..count]);
            for segment in 0..segments {
                for part in 0..parts {
                    let start = (segment * parts + part) * 2 * channels + first;
                    for (i, (sum, product)) in sums.iter_mut().zip(products.iter_mut()).enumerate() {
                        // SAFETY: as above.
                        unsafe {
                            let rstd = rstd.get(segment * bins + (first + i) / self.shape.per_bin());
                            *sum += partials.get(start + i);
                            *product += f64::from(rstd) * partials.get(start + channels + i);
                        }
                    }
                }
            }
            for (i, (sum, product)) in sums.iter().zip(products.iter()).enumerate() {
                // SAFETY: a float per channel in each; this one belongs to this task.
                unsafe {
                    args.dst::<f32>(results).set(first + i, *product as f32);
                    args.dst::<f32>(results + 1).set(first + i, *sum as f32);
                }
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
        4 * kinds * (self.parts * self.shape.segments * self.shape.channels) as u64
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
