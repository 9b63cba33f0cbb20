//! The affine maps of normalization, forward and backward, with one coefficient per channel and segment.

use super::gate::{Gate, OPEN, RECOMPUTE, RESULT, pass};
use super::{Lines, Segments};
use crate::function::UnaryKind;
use crate::kernels::Kernel;
use crate::kernels::elementwise::{Chunks, activate, cost, load_first, store_first};
use crate::simd::{Isa, Simd, dispatch::multiversion};
use crate::tensor::Args;

/// Normalization with known statistics, or its gradient with respect to the source.
///
/// ```text
/// dst      = activation((src − mean) · rstd·weight + bias [+ residual])
/// diff_src = gate(diff_dst) · rstd·weight + (src − mean) · slope + offset
/// ```
/// Operands forward: `src`, `weight`, `bias` (a float per channel each), `mean`, `rstd` (a float per statistic each),
/// `dst` (may be the memory of `src`, or of `residual`), and `residual` (as `src`) if there is one. Backward: `diff_dst`,
/// `src`, `weight`, `mean`, `rstd`, `slope`, `offset` (a float per statistic each), `diff_src` (may be the memory of
/// `diff_dst` or `src`), and what a gate reads: `bias`, or the activation's result (as `src`).
#[derive(Debug, Clone)]
pub struct Apply {
    isa: Isa,
    shape: Segments,
    backward: bool,
    residual: bool,
    activation: Option<UnaryKind>,
    gate: Option<Gate>,
    lines: Lines,
    /// Lines of one segment.
    chunks: Chunks,
}

impl Apply {
    /// Over `shape`, forward or backward.
    pub fn new(isa: Isa, shape: Segments, backward: bool) -> Self {
        let lines = Lines::new(isa, shape.channels);
        let chunks = Chunks::new(shape.rows.div_ceil(lines.group), lines.wide);
        Self { isa, shape, backward, residual: false, activation: None, gate: None, lines, chunks }
    }

    /// Forward, perhaps with a residual and an activation.
    #[must_use]
    pub fn then(self, residual: bool, activation: Option<UnaryKind>) -> Self {
        Self { residual, activation, ..self }
    }

    /// Backward, behind a gate if there is one.
    #[must_use]
    pub fn behind(self, gate: Option<Gate>) -> Self {
        Self { gate, ..self }
    }
}

/// Where a task's elements are: `diff` only backward, `other` only for a residual or a gate that reads the result.
#[derive(Clone, Copy)]
struct Elements {
    diff: *const f32,
    src: *const f32,
    other: *const f32,
    dst: *mut f32,
    count: usize,
}

/// A line of each coefficient: `scale` only backward, `bias` only for a gate that computes anew.
#[derive(Clone, Copy)]
struct Coefficients {
    mean: *const f32,
    scale: *const f32,
    slope: *const f32,
    offset: *const f32,
    bias: *const f32,
}

/// Calls `$body` with place, column and number of lanes of every vector of `$count` elements in lines of `$wide`.
macro_rules! lines {
    ($s:ident, $count:expr, $wide:expr, |$at:ident, $i:ident, $lanes:ident| $body:expr) => {
        for start in (0..$count).step_by($wide) {
            let line = $wide.min($count - start);
            let mut $i = 0;
            while $i + $s::LANES <= line {
                let ($at, $lanes) = (start + $i, $s::LANES);
                $body;
                $i += $s::LANES;
            }
            if $i < line {
                let ($at, $lanes) = (start + $i, line - $i);
                $body;
            }
        }
    };
}

/// The result is kept between zero and `limit` if `CLAMP`.
///
/// # Safety
/// `count` floats at the elements' addresses, in lines of `wide`; `wide` floats at every coefficient.
#[inline(always)]
unsafe fn forward_body<S: Simd, const RESIDUAL: bool, const CLAMP: bool>(
    elements: Elements,
    wide: usize,
    coefficients: Coefficients,
    limit: f32,
) {
    let Elements { src, other, dst, count, .. } = elements;
    let Coefficients { mean, slope, offset, .. } = coefficients;
    // SAFETY: every access lies within a line of the tensors or of the coefficients.
    unsafe {
        let (zero, limit) = (S::splat(0.0), S::splat(limit));
        lines!(S, count, wide, |at, i, lanes| {
            let load = |p: *const f32| load_first::<S>(p, lanes);
            let centred = S::sub(load(src.add(at)), load(mean.add(i)));
            let mut value = S::fma(centred, load(slope.add(i)), load(offset.add(i)));
            if RESIDUAL {
                value = S::add(value, load(other.add(at)));
            }
            if CLAMP {
                // Both return their second operand if it is NaN.
                value = S::min(limit, S::max(zero, value));
            }
            store_first::<S>(dst.add(at), value, lanes);
        });
    }
}

/// # Safety
/// `count` floats at the elements' addresses, in lines of `wide`; `wide` floats at every coefficient.
#[inline(always)]
unsafe fn backward_body<S: Simd, const GATE: u8>(
    elements: Elements,
    wide: usize,
    coefficients: Coefficients,
    limit: f32,
) {
    let Elements { diff, src, other, dst, count } = elements;
    let Coefficients { mean, scale, slope, offset, bias } = coefficients;
    // SAFETY: every access lies within a line of the tensors or of the coefficients.
    unsafe {
        let limit = S::splat(limit);
        lines!(S, count, wide, |at, i, lanes| {
            let load = |p: *const f32| load_first::<S>(p, lanes);
            let (centred, scale) = (S::sub(load(src.add(at)), load(mean.add(i))), load(scale.add(i)));
            let mut g = load(diff.add(at));
            if GATE == RECOMPUTE {
                g = pass::<S>(S::fma(centred, scale, load(bias.add(i))), limit, g);
            } else if GATE == RESULT {
                g = pass::<S>(load(other.add(at)), limit, g);
            }
            let base = S::fma(centred, load(slope.add(i)), load(offset.add(i)));
            store_first::<S>(dst.add(at), S::fma(g, scale, base), lanes);
        });
    }
}

/// A loop for every level and choice of constants.
macro_rules! loops {
    ($($name:ident = $body:ident [$($param:tt),*];)*) => {$(
        multiversion! {
            fn $name(elements: Elements, wide: usize, coefficients: Coefficients, limit: f32) = $body, [$($param),*];
        }
    )*};
}
loops! {
    affine = forward_body [false, false];
    clamped = forward_body [false, true];
    residual = forward_body [true, false];
    residual_clamped = forward_body [true, true];
    backward = backward_body [OPEN];
    backward_recompute = backward_body [RECOMPUTE];
    backward_result = backward_body [RESULT];
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
        let gate = if self.gate.is_some() { "gate_" } else { "" };
        let backward = if self.backward { "backward_" } else { "" };
        let residual = if self.residual { "add_" } else { "" };
        let activation = self.activation.map_or(String::new(), |kind| format!("{}_", kind.name()));
        format!("normalize_{residual}{activation}{gate}{backward}{}", self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.shape.segments * self.chunks.tasks()
    }

    fn scratch(&self) -> usize {
        5 * self.lines.wide.next_multiple_of(16) * size_of::<f32>()
    }

    fn flops(&self) -> u64 {
        let each = if self.backward { 5 } else { 3 } + u64::from(self.residual) + u64::from(self.gate.is_some());
        (each + self.activation.map_or(0, cost)) * self.shape.len() as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        let Segments { rows, channels, .. } = self.shape;
        let (segment, chunk) = (task / self.chunks.tasks(), self.chunks.range(task % self.chunks.tasks()));
        let first = chunk.start * self.lines.wide;
        let count = (chunk.end * self.lines.wide).min(rows * channels) - first;
        let start = segment * rows * channels + first;
        let wide = self.lines.wide;
        let [mean, scale, slope, offset, bias]: [*mut f32; 5] =
            std::array::from_fn(|i| scratch.cast::<f32>().wrapping_add(i * wide.next_multiple_of(16)));
        let coefficients = Coefficients { mean, scale, slope, offset, bias };
        let at = |index: usize| args.src::<f32>(index).at(start, count);
        let weight = args.src::<f32>(if self.backward { 2 } else { 1 });
        let [mean_of, rstd] = [3, 4].map(|index| args.src::<f32>(index));
        // SAFETY: the weights hold a float per channel, the statistics one per segment and bin; the scratch holds five
        // lines; the elements belong to this task.
        unsafe {
            let scale_of = |channel: usize, statistic: usize| weight.get(channel) * rstd.get(statistic);
            self.fill(segment, mean, |_, statistic| mean_of.get(statistic));
            if self.backward {
                let [slope_of, offset_of] = [5, 6].map(|index| args.src::<f32>(index));
                self.fill(segment, scale, scale_of);
                self.fill(segment, slope, |_, statistic| slope_of.get(statistic));
                self.fill(segment, offset, |_, statistic| offset_of.get(statistic));
                let mut elements =
                    Elements { diff: at(0), src: at(1), other: at(0), dst: args.dst::<f32>(7).at(start, count), count };
                let run = match Gate::mode(self.gate) {
                    RECOMPUTE => {
                        let bias_of = args.src::<f32>(8);
                        self.fill(segment, bias, |channel, _| bias_of.get(channel));
                        backward_recompute
                    }
                    RESULT => {
                        elements.other = at(8);
                        backward_result
                    }
                    _ => backward,
                };
                run(self.isa, elements, wide, coefficients, Gate::limit_of(self.gate));
                return;
            }
            let bias_of = args.src::<f32>(2);
            self.fill(segment, slope, scale_of);
            self.fill(segment, offset, |channel, _| bias_of.get(channel));
            let dst = args.dst::<f32>(5).at(start, count);
            let other = if self.residual { at(6) } else { at(0) };
            let elements = Elements { diff: at(0), src: at(0), other, dst, count };
            let limit = match self.activation {
                Some(UnaryKind::Relu) => Some(f32::INFINITY),
                Some(UnaryKind::Relu6) => Some(6.0),
                _ => None,
            };
            let run = match (self.residual, limit) {
                (false, None) => affine,
                (false, Some(_)) => clamped,
                (true, None) => residual,
                (true, Some(_)) => residual_clamped,
            };
            run(self.isa, elements, wide, coefficients, limit.unwrap_or(0.0));
            if let (Some(kind), None) = (self.activation, limit) {
                activate(self.isa, kind, dst, dst, count);
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
