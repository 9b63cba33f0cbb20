//! The product itself, forward and for the gradient of the source.

use std::ops::Range;

use super::tile::{Feed, Tile, tile};
use super::{CHUNK, SRC_PITCH};
use crate::function::UnaryKind;
use crate::kernels::conv::tile_rows;
use crate::kernels::panels::{AHEAD, Weights, fill};
use crate::kernels::{Kernel, elementwise, share, tasks_for};
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
        let wanted = tasks_for(work).div_ceil(channels.div_ceil(width).max(1));
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

    /// Floats of the panels of a chunk: of all channels of the block, or of one after the other.
    fn panels_len(&self) -> usize {
        let channels = if self.direction == Direction::Forward { self.width } else { self.nr() };
        channels * CHUNK.min(self.depth)
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
        let sets = if self.feeds() { 2 } else { 1 };
        (sets * self.panels_len() + self.source_len()) * size_of::<f32>()
    }

    fn flops(&self) -> u64 {
        2 * (self.rows as u64) * (self.depth as u64) * (self.channels as u64)
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        let (block, part) = (task / self.row_tasks, task % self.row_tasks);
        let rows = share(part, self.row_tasks, self.rows);
        let channels = block * self.width..((block + 1) * self.width).min(self.channels);
        let mut panels = scratch.cast::<f32>();
        let mut others = panels.wrapping_add(self.panels_len());
        let source = others.wrapping_add(if self.feeds() { self.panels_len() } else { 0 });
        let mut filled = false;
        // SAFETY: scratch is as large as `scratch()` says; the block of results belongs to this task.
        unsafe {
            // Without terms there is one empty chunk, which writes zeros.
            for chunk in 0..self.depth.div_ceil(CHUNK).max(1) {
                let terms = self.terms(chunk);
                let from = args.src::<f32>(0);
                for (index, row) in rows.clone().enumerate() {
                    let from = from.at(row * self.depth + terms.start, terms.len());
                    source.wrapping_add(index * SRC_PITCH).copy_from_nonoverlapping(from, terms.len());
                }
                let part = Part { terms: terms.clone(), rows: rows.clone(), channels: channels.clone(), source };
                match self.direction {
                    Direction::Forward => {
                        if !filled {
                            self.fill(args, &terms, &channels, panels);
                        }
                        let next = self.terms(chunk + 1);
                        // Panels with gaps are filled when they are needed.
                        filled = self.feeds() && channels.len().is_multiple_of(self.nr()) && !next.is_empty();
                        let feed = self.feed(args, &next, &channels, others);
                        let steps = if filled { next.len() * feed.columns } else { 0 };
                        self.multiply(args, &part, panels, &feed, steps);
                        if filled {
                            std::mem::swap(&mut panels, &mut others);
                        }
                    }
                    Direction::BackwardData => self.multiply_turned(args, &part, panels),
                }
            }
            self.activate(args, rows, &channels);
        }
    }
}

/// What is multiplied at a time.
struct Part {
    terms: Range<usize>,
    rows: Range<usize>,
    channels: Range<usize>,
    /// The terms of the rows' source.
    source: *const f32,
}

impl Product {
    /// The terms of a chunk.
    fn terms(&self, chunk: usize) -> Range<usize> {
        (chunk * CHUNK).min(self.depth)..((chunk + 1) * CHUNK).min(self.depth)
    }

    /// Whether tiles copy the weights of the next chunk.
    fn feeds(&self) -> bool {
        self.direction == Direction::Forward && self.depth > CHUNK && self.nr() > self.isa.lanes()
    }

    /// The first weight of some terms and channels, and the distance of rows in memory.
    fn weights(&self, args: &Args<'_>, terms: &Range<usize>, channels: &Range<usize>) -> (*const f32, usize) {
        let (rows, columns, pitch) = match self.direction {
            Direction::Forward => (terms, channels, self.channels),
            Direction::BackwardData => (channels, terms, self.depth),
        };
        let first = rows.start * pitch + columns.start;
        (args.src::<f32>(1).at(first, (rows.end - 1) * pitch + columns.end - first), pitch)
    }

    /// # Safety
    /// As [`Kernel::run`]; the panels have room for the channels.
    unsafe fn fill(&self, args: &Args<'_>, terms: &Range<usize>, channels: &Range<usize>, panels: *mut f32) {
        if terms.is_empty() {
            return;
        }
        let (from, pitch) = self.weights(args, terms, channels);
        let (depth, channels, nr) = (terms.len(), channels.len(), self.nr());
        let of = Weights { from, pitch, depth, channels, nr, to: panels };
        // SAFETY: inside the weights; the panels are scratch of a block's width.
        unsafe { fill(self.isa, &of, self.direction == Direction::BackwardData) };
    }

    /// The panels of the next chunk, to be filled while this one's are multiplied.
    fn feed(&self, args: &Args<'_>, next: &Range<usize>, channels: &Range<usize>, to: *mut f32) -> Feed {
        if next.is_empty() {
            return Feed::NONE;
        }
        let (from, pitch) = self.weights(args, next, channels);
        let columns = channels.len() / self.nr();
        Feed { from, pitch, columns, ahead: AHEAD * pitch, to, panel: next.len() * self.nr() }
    }

    /// Multiplies all panels with all rows, and takes so many steps of the feed.
    ///
    /// # Safety
    /// As [`Kernel::run`]; panels and source hold the part.
    unsafe fn multiply(&self, args: &Args<'_>, part: &Part, panels: *const f32, feed: &Feed, steps: usize) {
        let nr = self.nr();
        let count = part.channels.len().div_ceil(nr);
        let tiles = part.rows.len().div_ceil(self.mr());
        for (index, tile) in (0..tiles).flat_map(|tile| (0..count).map(move |index| (index, tile))) {
            let panel = panels.wrapping_add(index * nr * part.terms.len());
            let first = part.channels.start + index * nr;
            let channels = first..(first + nr).min(part.channels.end);
            let steps = share(tile * count + index, tiles * count, steps);
            // SAFETY: the caller's word.
            unsafe { self.tile(args, part, share(tile, tiles, part.rows.len()), &channels, panel, feed, steps) };
        }
    }

    /// Turns panel by panel, each while the weights of the next are on their way.
    ///
    /// # Safety
    /// As [`Kernel::run`]; the source holds the part.
    unsafe fn multiply_turned(&self, args: &Args<'_>, part: &Part, panel: *mut f32) {
        let nr = self.nr();
        let tiles = part.rows.len().div_ceil(self.mr());
        for first in part.channels.clone().step_by(nr) {
            let channels = first..(first + nr).min(part.channels.end);
            // Behind the last panel the next terms of the first one follow.
            let next = if channels.end < part.channels.end { channels.end } else { part.channels.start };
            let terms = if next > first { part.terms.clone() } else { self.terms(part.terms.end.div_ceil(CHUNK)) };
            let next = next..(next + nr).min(part.channels.end);
            let (mut feed, mut steps) = (Feed::NONE, 0);
            if !terms.is_empty() {
                let (from, pitch) = self.weights(args, &terms, &next);
                feed = Feed { from, pitch, columns: terms.len().div_ceil(nr), ..Feed::NONE };
                steps = next.len() * feed.columns;
            }
            // SAFETY: the caller's word.
            unsafe {
                self.fill(args, &part.terms, &channels, panel);
                for tile in 0..tiles {
                    let steps = share(tile, tiles, steps.min(part.terms.len() * tiles));
                    self.tile(args, part, share(tile, tiles, part.rows.len()), &channels, panel, &feed, steps);
                }
            }
        }
    }

    /// Multiplies one panel with some of the rows.
    ///
    /// # Safety
    /// As [`Kernel::run`]; panel and source hold the part.
    unsafe fn tile(
        &self,
        args: &Args<'_>,
        part: &Part,
        rows: Range<usize>,
        channels: &Range<usize>,
        panel: *const f32,
        feed: &Feed,
        steps: Range<usize>,
    ) {
        let count = channels.len();
        let last = part.terms.end == self.depth;
        let results = (part.rows.start + rows.start) * self.channels + channels.start;
        let call = Tile {
            src: part.source.wrapping_add(rows.start * SRC_PITCH),
            len: part.terms.len(),
            panel,
            nr: self.nr(),
            dst: args.dst(2 + usize::from(self.bias)).at(results, (rows.len() - 1) * self.channels + count),
            pitch: self.channels,
            channels: count,
            add: part.terms.start > 0,
            bias: if last && self.bias { args.src(2).at(channels.start, count) } else { std::ptr::null() },
            feed,
            steps: (steps.start, steps.end),
        };
        // SAFETY: the caller's word.
        unsafe { tile(self.isa, rows.len(), count.div_ceil(self.isa.lanes()), &call) };
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
