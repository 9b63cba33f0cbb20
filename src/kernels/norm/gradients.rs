//! Sums over pixels that the gradients of normalization are made of.

use super::gate::{Gate, OPEN, RECOMPUTE, RESULT};
use super::gradient_rows::{Columns, Rows, block, terms};
use super::{BLOCK, Cut, Lines, SIDE, Segments};
use crate::kernels::Kernel;
use crate::kernels::elementwise::load_first;
use crate::simd::{Isa, Simd, dispatch::multiversion};
use crate::tensor::Args;

/// Per channel, Σ grad and Σ grad·(src − mean) over each part of the rows, where `grad` is `diff_dst`, or
/// gate(diff_dst [+ other]). Operands: `diff_dst`, `src`, `mean` (a float per statistic), `partials` (doubles: per segment
/// and part `channels` of the one, then `channels` of the other), which [`GradientSumsFinish`] adds up. Then, in this
/// order, what the options ask for:
///
/// - a gate: `weight`, `rstd`, `bias` if it computes anew, or the activation's result;
/// - `grad` to be written (may be the memory of `diff_dst`, `other` or the activation's result), then `other` if there is
///   one.
#[derive(Debug, Clone)]
pub struct GradientSums {
    isa: Isa,
    cut: Cut,
    lines: Lines,
    gate: Option<Gate>,
    write: bool,
    sum: bool,
}

impl GradientSums {
    /// Sums over `shape`.
    pub fn new(isa: Isa, shape: Segments) -> Self {
        let cut = Cut::new(shape);
        let lines = if cut.bands > 1 { Lines { group: 1, wide: cut.band } } else { Lines::new(isa, shape.channels) };
        Self { isa, cut, lines, gate: None, write: false, sum: false }
    }

    /// Behind a gate, if there is one; whether `grad` is written; and whether there is `other`, in which case it is.
    #[must_use]
    pub fn behind(self, gate: Option<Gate>, write: bool, sum: bool) -> Self {
        debug_assert!(gate.is_some() || sum || !write, "nothing to write but what is read");
        Self { gate, write: write || sum, sum, ..self }
    }

    /// Parts of the rows of every segment.
    pub fn parts(&self) -> usize {
        self.cut.parts
    }

    /// Doubles of `partials`: a function of the shape alone.
    pub fn partials(&self) -> usize {
        self.cut.parts * 2 * self.cut.shape.segments * self.cut.shape.channels
    }
}

/// How a task's rows lie: `count` rows of `width` floats, `stride` apart, equal to `width` if `group > 1`.
#[derive(Clone, Copy)]
struct Layout {
    count: usize,
    stride: usize,
    width: usize,
    group: usize,
}

/// # Safety
/// Rows as `layout` says; a line of coefficients; `width` doubles at both results; `2 · group · width` doubles at
/// `scratch`.
#[inline(always)]
unsafe fn sums_body<S: Simd, const GATE: u8, const WRITE: bool, const SUM: bool>(
    rows: Rows,
    layout: Layout,
    columns: Columns,
    limit: f32,
    out_first: *mut f64,
    out_second: *mut f64,
    scratch: *mut f64,
) {
    let Layout { count, stride, width, group } = layout;
    let (wide, lines, tail) = (group * width, count / group, count % group * width);
    // SAFETY: the caller's word; the scratch is this task's own. Grouped rows are neighbours in memory, so a line and
    // the incomplete one behind the last are contiguous.
    unsafe {
        let sums = std::slice::from_raw_parts_mut(scratch, 2 * wide);
        sums.fill(0.0);
        let (first, second) = sums.split_at_mut(wide);
        let from = |i: usize| Columns {
            centre: columns.centre.add(i),
            scale: columns.scale.add(i),
            bias: columns.bias.add(i),
        };
        for top in (0..lines).step_by(BLOCK) {
            let count = BLOCK.min(lines - top);
            let (rows, pitch) = (rows.from(top * group * stride), group * stride);
            let mut i = 0;
            while i + 4 * S::LANES <= wide {
                let range = i..i + 4 * S::LANES;
                let (first, second) = (&mut first[range.clone()], &mut second[range]);
                let rows = rows.from(i);
                block::<S, 4, GATE, WRITE, SUM>(rows, [1, count], [0, pitch], S::LANES, from(i), limit, first, second);
                i += 4 * S::LANES;
            }
            while i < wide {
                let lanes = S::LANES.min(wide - i);
                let (first, second) = (&mut first[i..i + lanes], &mut second[i..i + lanes]);
                let rows = rows.from(i);
                block::<S, 1, GATE, WRITE, SUM>(rows, [1, count], [0, pitch], lanes, from(i), limit, first, second);
                i += lanes;
            }
        }
        let rest = rows.from(lines * group * stride);
        for j in (0..tail).step_by(S::LANES) {
            let (lanes, columns) = (S::LANES.min(tail - j), from(j));
            let (mut scale, mut bias) = (S::splat(0.0), S::splat(0.0));
            if GATE == RECOMPUTE {
                (scale, bias) = (load_first::<S>(columns.scale, lanes), load_first::<S>(columns.bias, lanes));
            }
            let coefficients = [load_first::<S>(columns.centre, lanes), scale, bias, S::splat(limit)];
            let (g, d) = terms::<S, GATE, WRITE, SUM>(rest, j, lanes, coefficients);
            let (mut gs, mut ds) = ([0.0f32; SIDE], [0.0f32; SIDE]);
            S::store(gs.as_mut_ptr(), g);
            S::store(ds.as_mut_ptr(), d);
            for lane in 0..lanes {
                let g = f64::from(gs[lane]);
                first[j + lane] += g;
                second[j + lane] += g * f64::from(ds[lane]);
            }
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

/// A loop for every level and choice of constants.
macro_rules! loops {
    ($($name:ident [$($param:tt),*];)*) => {$(
        multiversion! {
            fn $name(
                rows: Rows, layout: Layout, columns: Columns, limit: f32,
                out_first: *mut f64, out_second: *mut f64, scratch: *mut f64,
            ) = sums_body, [$($param),*];
        }
    )*};
}
loops! {
    plain [OPEN, false, false];
    plain_sum [OPEN, true, true];
    recompute [RECOMPUTE, false, false];
    recompute_write [RECOMPUTE, true, false];
    recompute_sum [RECOMPUTE, true, true];
    result [RESULT, false, false];
    result_write [RESULT, true, false];
    result_sum [RESULT, true, true];
}

impl Kernel for GradientSums {
    fn name(&self) -> String {
        let gate = if self.gate.is_some() { "gate_" } else { "" };
        format!("{}{gate}gradient_sums_{}", if self.sum { "add_" } else { "" }, self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.cut.tasks()
    }

    fn scratch(&self) -> usize {
        self.lines.wide * (2 * size_of::<f64>() + 3 * size_of::<f32>())
    }

    fn flops(&self) -> u64 {
        (4 + u64::from(self.gate.is_some()) + u64::from(self.sum)) * self.cut.shape.len() as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        let Segments { rows, channels, bins, .. } = self.cut.shape;
        let (segment, part, column) = self.cut.place(task);
        let (first, last) = self.cut.rows(part);
        let (width, per) = (self.cut.band.min(channels - column), channels / bins);
        let (start, count) = ((segment * rows + first) * channels, (last - first) * channels);
        let at = |index: usize| args.src::<f32>(index).at(start, count).wrapping_add(column);
        let (diff, src) = (at(0), at(1));
        let mut elements = Rows { diff, other: diff, src, result: diff, dst: std::ptr::null_mut() };
        let wide = self.lines.group * width;
        let sums = scratch.cast::<f64>();
        let [centre, scale, bias]: [*mut f32; 3] =
            std::array::from_fn(|i| sums.wrapping_add(2 * wide).cast::<f32>().wrapping_add(i * wide));
        let first_statistic = segment * bins + column / per;
        let mut next = 4;
        // SAFETY: the rows lie in all tensors; these sums belong to this task; the scratch has two doubles and three
        // floats per column of a line; there is a mean and an rstd for each statistic, a weight and a bias per channel.
        unsafe {
            let fill = |line: *mut f32, of: &dyn Fn(usize) -> f32| {
                (0..width).for_each(|channel| line.add(channel).write(of(channel)));
                for row in 1..self.lines.group {
                    line.add(row * width).copy_from_nonoverlapping(line, width);
                }
            };
            let mean = args.src::<f32>(2);
            fill(centre, &|channel| mean.get(first_statistic + channel / per));
            let gate = Gate::mode(self.gate);
            if gate == RECOMPUTE {
                let [weight, rstd, bias_of] = [0, 1, 2].map(|i| args.src::<f32>(next + i));
                fill(scale, &|channel| weight.get(column + channel) * rstd.get(first_statistic + channel / per));
                fill(bias, &|channel| bias_of.get(column + channel));
                next += 3;
            } else if gate == RESULT {
                elements.result = at(next);
                next += 1;
            }
            if self.write {
                elements.dst = args.dst::<f32>(next).at(start, count).wrapping_add(column);
            }
            if self.sum {
                elements.other = at(next + 1);
            }
            let run = match (gate, self.write, self.sum) {
                (RECOMPUTE, _, true) => recompute_sum,
                (RECOMPUTE, true, _) => recompute_write,
                (RECOMPUTE, ..) => recompute,
                (RESULT, _, true) => result_sum,
                (RESULT, true, _) => result_write,
                (RESULT, ..) => result,
                (_, _, true) => plain_sum,
                _ => plain,
            };
            let layout = Layout { count: last - first, stride: channels, width, group: self.lines.group };
            let start = (segment * self.cut.parts + part) * 2 * channels + column;
            let one = args.dst::<f64>(3).at(start, width);
            let other = args.dst::<f64>(3).at(start + channels, width);
            let columns = Columns { centre, scale, bias };
            run(self.isa, elements, layout, columns, Gate::limit_of(self.gate), one, other, sums);
        }
    }
}
