//! The product itself, forward and for the gradient of the source.

use std::ops::Range;

use super::panels::{Weights, fill};
use super::tile::{Tile, tile};
use super::{CHUNK, SRC_PITCH, share};
use crate::function::UnaryKind;
use crate::kernels::Kernel;
use crate::kernels::conv::tile_rows;
use crate::kernels::elementwise;
use crate::simd::Isa;
use crate::tensor::Args;

/// Result channels of a block: a kibibyte of each row of weights.
const WIDTH: usize = 256;
/// Blocks of result channels that narrower ones are cut for.
const BLOCKS: usize = 16;
/// Most rows of a task; their chunk of the source shares the second-level cache with the weights.
const ROWS: usize = 96;
/// Rows below which weights are not copied once more for the sake of another task.
const FEW_ROWS: usize = 24;
/// Most tasks that rows are cut for.
const TASKS: usize = 32;
/// Multiply-adds below which a task is not worth being cut further.
const TASK_WORK: usize = 1 << 17;

/// Which product of a matrix of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// By the weights.
    Forward,
    /// By the transposed weights.
    BackwardData,
}

/// `src · weights` plus a bias, then an activation; or `diff_dst · weightsᵀ`. Operands: source, weights `[in][out]`, the
/// bias if there is one, result.
#[derive(Debug)]
pub struct Product {
    isa: Isa,
    direction: Direction,
    rows: usize,
    /// Terms of the reduction.
    depth: usize,
    /// Result channels.
    channels: usize,
    bias: bool,
    activation: Option<UnaryKind>,
    /// Result channels of a block, but for the last.
    width: usize,
    row_tasks: usize,
}

impl Product {
    /// Rows of `inputs` to rows of `outputs` numbers.
    pub fn forward(
        isa: Isa,
        rows: usize,
        [inputs, outputs]: [usize; 2],
        bias: bool,
        activation: Option<UnaryKind>,
    ) -> Self {
        Self { bias, activation, ..Self::new(isa, Direction::Forward, rows, inputs, outputs) }
    }

    /// Gradients by rows of `outputs` to gradients by rows of `inputs` numbers.
    pub fn backward_data(isa: Isa, rows: usize, [inputs, outputs]: [usize; 2]) -> Self {
        Self::new(isa, Direction::BackwardData, rows, outputs, inputs)
    }

    fn new(isa: Isa, direction: Direction, rows: usize, depth: usize, channels: usize) -> Self {
        let nr = Self::panel(isa, channels);
        let panels = channels.div_ceil(nr);
        let width = (panels / BLOCKS).clamp(1, WIDTH / nr) * nr;
        let work = rows.saturating_mul(depth).saturating_mul(channels);
        let wanted = (work / TASK_WORK).clamp(1, TASKS).div_ceil(channels.div_ceil(width).max(1));
        let row_tasks = rows.div_ceil(ROWS).max(wanted.min(rows / FEW_ROWS)).max(usize::from(rows > 0));
        Self { isa, direction, rows, depth, channels, bias: false, activation: None, width, row_tasks }
    }

    /// Channels of a panel: one vector if they fit.
    fn panel(isa: Isa, channels: usize) -> usize {
        if channels <= isa.lanes() { isa.lanes() } else { 2 * isa.lanes() }
    }

    fn nr(&self) -> usize {
        Self::panel(self.isa, self.channels)
    }

    /// Rows of a tile.
    fn mr(&self) -> usize {
        tile_rows(self.isa, self.nr() / self.isa.lanes())
    }

    fn blocks(&self) -> usize {
        self.channels.div_ceil(self.width)
    }

    fn panels_len(&self) -> usize {
        self.width * CHUNK.min(self.depth)
    }

    fn source_len(&self) -> usize {
        self.rows.div_ceil(self.row_tasks.max(1)) * SRC_PITCH
    }
}

impl Kernel for Product {
    fn name(&self) -> String {
        let direction = match self.direction {
            Direction::Forward => "",
            Direction::BackwardData => "_backward_data",
        };
        let activation = self.activation.map_or(String::new(), |kind| format!("_{}", kind.name()));
        format!("linear{direction}{activation}_{}x{}_{}", self.mr(), self.nr(), self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.row_tasks * self.blocks()
    }

    fn scratch(&self) -> usize {
        (self.panels_len() + self.source_len()) * size_of::<f32>()
    }

    fn flops(&self) -> u64 {
        2 * (self.rows as u64) * (self.depth as u64) * (self.channels as u64)
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        let (block, part) = (task / self.row_tasks, task % self.row_tasks);
        let rows = share(part, self.row_tasks, self.rows);
        let channels = block * self.width..((block + 1) * self.width).min(self.channels);
        let panels = scratch.cast::<f32>();
        let source = panels.wrapping_add(self.panels_len());
        // SAFETY: scratch is as large as `scratch()` says; the block of results belongs to this task.
        unsafe {
            // Without terms there is one empty chunk, which writes zeros.
            for chunk in 0..self.depth.div_ceil(CHUNK).max(1) {
                let terms = chunk * CHUNK..((chunk + 1) * CHUNK).min(self.depth);
                self.fill(args, &terms, &channels, panels);
                let from = args.src::<f32>(0);
                for (index, row) in rows.clone().enumerate() {
                    let from = from.at(row * self.depth + terms.start, terms.len());
                    source.wrapping_add(index * SRC_PITCH).copy_from_nonoverlapping(from, terms.len());
                }
                self.multiply(args, &terms, rows.clone(), &channels, panels, source);
            }
            self.activate(args, rows, &channels);
        }
    }
}

impl Product {
    /// # Safety
    /// As [`Kernel::run`].
    unsafe fn fill(&self, args: &Args<'_>, terms: &Range<usize>, channels: &Range<usize>, panels: *mut f32) {
        if terms.is_empty() {
            return;
        }
        let weights = args.src::<f32>(1);
        let turned = self.direction == Direction::BackwardData;
        let (first, pitch, last) = if turned {
            (channels.start * self.depth + terms.start, self.depth, (channels.end - 1) * self.depth + terms.end)
        } else {
            (
                terms.start * self.channels + channels.start,
                self.channels,
                (terms.end - 1) * self.channels + channels.end,
            )
        };
        let (depth, channels, nr) = (terms.len(), channels.len(), self.nr());
        let of = Weights { from: weights.at(first, last - first), pitch, depth, channels, nr, to: panels };
        // SAFETY: inside the weights; the panels are scratch of a block's width.
        unsafe { fill(self.isa, &of, turned) };
    }

    /// # Safety
    /// As [`Kernel::run`]; panels and source hold the chunk.
    unsafe fn multiply(
        &self,
        args: &Args<'_>,
        terms: &Range<usize>,
        rows: Range<usize>,
        channels: &Range<usize>,
        panels: *const f32,
        source: *const f32,
    ) {
        let (nr, lanes) = (self.nr(), self.isa.lanes());
        let dst = args.dst::<f32>(2 + usize::from(self.bias));
        let last = terms.end == self.depth;
        let tiles = rows.len().div_ceil(self.mr());
        for index in 0..tiles {
            let part = share(index, tiles, rows.len());
            for first in (0..channels.len()).step_by(nr) {
                let (channel, count) = (channels.start + first, nr.min(channels.len() - first));
                let results = (rows.start + part.start) * self.channels + channel;
                let bias = if last && self.bias { args.src(2).at(channel, count) } else { std::ptr::null() };
                let call = Tile {
                    src: source.wrapping_add(part.start * SRC_PITCH),
                    len: terms.len(),
                    panel: panels.wrapping_add(first * terms.len()),
                    nr,
                    dst: dst.at(results, (part.len() - 1) * self.channels + count),
                    pitch: self.channels,
                    channels: count,
                    add: terms.start > 0,
                    bias,
                };
                // SAFETY: the caller's word.
                unsafe { tile(self.isa, part.len(), count.div_ceil(lanes), &call) };
            }
        }
    }

    /// # Safety
    /// As [`Kernel::run`]; the sums are whole.
    unsafe fn activate(&self, args: &Args<'_>, rows: Range<usize>, channels: &Range<usize>) {
        let Some(kind) = self.activation else { return };
        let dst = args.dst::<f32>(2 + usize::from(self.bias));
        for row in rows {
            let at = dst.at(row * self.channels + channels.start, channels.len());
            // SAFETY: results of this task.
            unsafe { elementwise::activate(self.isa, kind, at, at, channels.len()) };
        }
    }
}
