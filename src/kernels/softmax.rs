//! Softmax along any axis, its logarithm, and their gradients.

mod columns;
mod rows;

use super::Kernel;
use super::elementwise::Chunks;
use crate::simd::Isa;
use crate::tensor::Args;
pub(super) use rows::{row_exp, row_max};

/// A tensor as lines along one axis: `outer` times `classes` times `inner` elements.
#[derive(Debug, Clone, Copy)]
pub struct Lines {
    /// Product of the sizes before the axis.
    pub outer: usize,
    /// Size of the axis.
    pub classes: usize,
    /// Product of the sizes behind the axis: the distance between neighbours of a line.
    pub inner: usize,
}

impl Lines {
    /// `rows` lines that are contiguous in memory.
    pub fn rows(rows: usize, classes: usize) -> Self {
        Self { outer: rows, classes, inner: 1 }
    }

    /// Floats of the tensor.
    pub fn volume(self) -> usize {
        self.outer * self.classes * self.inner
    }

    /// Rows, or blocks of neighbouring lines, as tasks.
    fn chunks(self) -> Chunks {
        if self.inner == 1 {
            return row_chunks(self.outer, self.classes);
        }
        let blocks = if self.classes == 0 { 0 } else { self.outer * self.inner.div_ceil(columns::BLOCK) };
        Chunks::new(blocks, 4 * self.classes * self.inner.min(columns::BLOCK))
    }
}

/// Tasks of row-wise work: an exponential counts as a few elements, and so does what there is to do once a row.
pub(super) fn row_chunks(rows: usize, classes: usize) -> Chunks {
    Chunks::new(if classes == 0 { 0 } else { rows }, 4 * classes.next_multiple_of(16) + 64)
}

/// Softmax of every line, or its logarithm, shifted by the line's maximum. Operands: `src`, `dst` (a float per element;
/// may be the same memory).
///
/// A line with NaN, with +∞, or with nothing but −∞ gives NaN.
#[derive(Debug, Clone)]
pub struct Softmax {
    isa: Isa,
    lines: Lines,
    log: bool,
    chunks: Chunks,
}

impl Softmax {
    /// Softmax of those lines, or with `log` its logarithm.
    pub fn new(isa: Isa, lines: Lines, log: bool) -> Self {
        Self { isa, lines, log, chunks: lines.chunks() }
    }
}

impl Kernel for Softmax {
    fn name(&self) -> String {
        format!("{}softmax_{}", if self.log { "log_" } else { "" }, self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.chunks.tasks()
    }

    fn flops(&self) -> u64 {
        20 * self.lines.volume() as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let (items, lines) = (self.chunks.range(task), self.lines);
        let src = args.src::<f32>(0).at(0, lines.volume());
        let dst = args.dst::<f32>(1).at(0, lines.volume());
        let function = match (lines.inner, self.log) {
            (1, false) => rows::softmax,
            (1, true) => rows::log_softmax,
            (_, false) => columns::softmax,
            (_, true) => columns::log_softmax,
        };
        // SAFETY: the operands hold these lines; the chunk's lines belong to this task.
        unsafe { function(self.isa, src, dst, lines, items) };
    }
}

/// Gradient of softmax, `dst · (diff_dst − Σ diff_dst·dst)`, or of its logarithm, `diff_dst − exp(dst) · Σ diff_dst`.
/// Operands: `diff_dst`, `dst` (the result), `diff_src` (a float per element each; `diff_src` may be the memory of
/// either).
#[derive(Debug, Clone)]
pub struct SoftmaxBackward {
    isa: Isa,
    lines: Lines,
    log: bool,
    chunks: Chunks,
}

impl SoftmaxBackward {
    /// Gradient of softmax of those lines, or with `log` of its logarithm.
    pub fn new(isa: Isa, lines: Lines, log: bool) -> Self {
        Self { isa, lines, log, chunks: lines.chunks() }
    }
}

impl Kernel for SoftmaxBackward {
    fn name(&self) -> String {
        format!("{}softmax_backward_{}", if self.log { "log_" } else { "" }, self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.chunks.tasks()
    }

    fn flops(&self) -> u64 {
        let per_element = if self.log { 20 } else { 4 };
        per_element * self.lines.volume() as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let (items, lines) = (self.chunks.range(task), self.lines);
        let diff_dst = args.src::<f32>(0).at(0, lines.volume());
        let dst = args.src::<f32>(1).at(0, lines.volume());
        let diff_src = args.dst::<f32>(2).at(0, lines.volume());
        let function = match (lines.inner, self.log) {
            (1, false) => rows::softmax_backward,
            (1, true) => rows::log_softmax_backward,
            (_, false) => columns::softmax_backward,
            (_, true) => columns::log_softmax_backward,
        };
        // SAFETY: the operands hold these lines; the chunk's lines belong to this task.
        unsafe { function(self.isa, diff_dst, dst, diff_src, lines, items) };
    }
}
