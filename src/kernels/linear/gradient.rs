//! The gradient by the weights, block by block: written, or taken by an optimizer while it is in cache.

use std::ops::Range;

use crate::kernels::ahead::ask;
use crate::kernels::conv::{GradTile, grad_tile, tile_rows};
use crate::kernels::update::{Rule, step};
use crate::kernels::{Kernel, share};
use crate::simd::Isa;
use crate::tensor::{Args, Dst};

/// Rows of the operands summed in registers before they are added to memory.
const RUN: usize = 256;
/// Most rows of the operands: a task copies its columns of all of them.
const ROWS: usize = 1024;
/// Floats of a block's copies of either operand.
const COPIES: [usize; 2] = [8 << 10, 128 << 10];
/// Most positions and channels of a block.
const BLOCK: [usize; 2] = [48, 4096];
/// Channels whose sums are taken at a time.
const STRIP: usize = 256;
/// Bytes of weights from which they are worth blocks of their own.
const LARGE: usize = 512 << 10;

/// `srcᵀ · diff_dst`, by blocks of the result.
#[derive(Debug)]
struct Gradient {
    isa: Isa,
    rows: usize,
    inputs: usize,
    outputs: usize,
    /// Positions and channels of a block, but for the last.
    block: [usize; 2],
}

/// Where the gradient goes.
trait Sink {
    /// The result of a position and channel, which is number `index` of its strip, and the distance of positions.
    fn place(&self, position: usize, index: usize, channel: usize) -> (*mut f32, usize);

    /// Asks for what [`take`](Self::take) will need of a position.
    ///
    /// # Safety
    /// The position and channels are of the block.
    unsafe fn ask(&self, _position: usize, _channels: &Range<usize>) {}

    /// Takes whole sums.
    ///
    /// # Safety
    /// The positions and channels are of the block, and their sums were written to their places.
    unsafe fn take(&self, _positions: Range<usize>, _channels: &Range<usize>) {}
}

impl Gradient {
    fn new(isa: Isa, rows: usize, [inputs, outputs]: [usize; 2]) -> Self {
        let (nr, mr) = (2 * isa.lanes(), tile_rows(isa, 2));
        let fit =
            |floats: usize, unit: usize, most: usize| (floats / rows.max(1)).clamp(unit, most.max(unit)) / unit * unit;
        Self { isa, rows, inputs, outputs, block: [fit(COPIES[0], mr, BLOCK[0]), fit(COPIES[1], nr, BLOCK[1])] }
    }

    fn blocks(&self) -> [usize; 2] {
        [self.inputs.div_ceil(self.block[0]), self.outputs.div_ceil(self.block[1])]
    }

    fn tasks(&self) -> usize {
        self.blocks()[0] * self.blocks()[1]
    }

    /// Positions and channels of a task.
    fn ranges(&self, task: usize) -> [Range<usize>; 2] {
        let blocks = self.blocks();
        [share(task / blocks[1], blocks[0], self.inputs), self.channels(task % blocks[1])]
    }

    fn channels(&self, block: usize) -> Range<usize> {
        block * self.block[1]..((block + 1) * self.block[1]).min(self.outputs)
    }

    /// Floats from one row to the next in the copies: no multiple of 4 KiB, whose rows would share a few lines of the
    /// cache.
    fn pitches(&self) -> [usize; 2] {
        self.block.map(|floats| floats.next_multiple_of(16) + 16)
    }

    fn scratch(&self) -> usize {
        let [src, diff] = self.pitches();
        (self.rows * (src + diff) * size_of::<f32>() + self.rows * size_of::<*const f32>()).next_multiple_of(64)
    }

    fn flops(&self) -> u64 {
        2 * (self.rows as u64) * (self.inputs as u64) * (self.outputs as u64)
    }

    /// # Safety
    /// Operands 0 and 1 are the source and the gradient by the result; scratch is as large as stated; the sink's places
    /// belong to this task.
    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8, sink: &impl Sink) {
        let (src, diff_dst) = (args.src::<f32>(0), args.src::<f32>(1));
        let [positions, channels] = self.ranges(task);
        let [src_pitch, diff_pitch] = self.pitches();
        let diffs = scratch.cast::<f32>();
        let sources = diffs.wrapping_add(self.rows * diff_pitch);
        let table = sources.wrapping_add(self.rows * src_pitch).cast::<*const f32>();
        let (nr, mr, lanes) = (2 * self.isa.lanes(), tile_rows(self.isa, 2), self.isa.lanes());
        let runs = self.rows.div_ceil(RUN).max(1);
        // SAFETY: the caller's word; copies and table lie in scratch.
        unsafe {
            for row in 0..self.rows {
                let source = sources.wrapping_add(row * src_pitch);
                let from = src.at(row * self.inputs + positions.start, positions.len());
                source.copy_from_nonoverlapping(from, positions.len());
                let from = diff_dst.at(row * self.outputs + channels.start, channels.len());
                diffs.wrapping_add(row * diff_pitch).copy_from_nonoverlapping(from, channels.len());
                table.wrapping_add(row).write(source);
            }
            let tiles = positions.len().div_ceil(mr);
            let tile = |index: usize| {
                let part = share(index, tiles, positions.len());
                positions.start + part.start..positions.start + part.end
            };
            let strips = channels.len().div_ceil(STRIP);
            let strip =
                |index: usize| channels.start + index * STRIP..(channels.start + (index + 1) * STRIP).min(channels.end);
            for index in 0..tiles * strips {
                let (part, columns) = (tile(index / strips), strip(index % strips));
                let last = index + 1 == tiles * strips;
                let next = if last { (0..0, 0..0) } else { (tile((index + 1) / strips), strip((index + 1) % strips)) };
                let panels = columns.len().div_ceil(nr);
                for panel in 0..panels {
                    for index in share(panel, panels, next.0.len()) {
                        sink.ask(next.0.start + index, &next.1);
                    }
                    let first = columns.start + panel * nr;
                    let count = nr.min(columns.end - first);
                    let (result, pitch) = sink.place(part.start, first - columns.start, first);
                    for run in 0..runs {
                        let rows = share(run, runs, self.rows);
                        let call = GradTile {
                            table: table.wrapping_add(rows.start),
                            offset: (part.start - positions.start) as isize,
                            pixels: rows.len(),
                            diff: diffs.wrapping_add(rows.start * diff_pitch + first - channels.start),
                            diff_pitch,
                            result,
                            pitch,
                            channels: count,
                            add: run > 0,
                            ahead: [0; 2],
                        };
                        grad_tile(self.isa, part.len(), count.div_ceil(lanes), &call);
                    }
                }
                sink.take(part, &columns);
            }
        }
    }

    fn name(&self, what: &str) -> String {
        format!("linear_backward_weights{what}_{}x{}_{}", tile_rows(self.isa, 2), 2 * self.isa.lanes(), self.isa.name())
    }
}

/// Gradient by large weights `[in][out]`. Operands: source, gradient by the result, gradient by the weights.
#[derive(Debug)]
pub struct BackwardWeights(Gradient);

impl BackwardWeights {
    /// Whether this kernel is the one for the gradient: weights are large and rows few, so that a part of the result and
    /// not of the rows makes a task.
    pub fn serves(rows: usize, [inputs, outputs]: [usize; 2]) -> bool {
        rows <= ROWS && inputs.saturating_mul(outputs).saturating_mul(size_of::<f32>()) > LARGE
    }

    /// The gradient by a matrix that took rows of `inputs` to rows of `outputs` numbers.
    pub fn new(isa: Isa, rows: usize, sizes: [usize; 2]) -> Self {
        Self(Gradient::new(isa, rows, sizes))
    }
}

/// The gradient is written.
struct Written<'a> {
    to: Dst<'a, f32>,
    outputs: usize,
}

impl Sink for Written<'_> {
    fn place(&self, position: usize, _index: usize, channel: usize) -> (*mut f32, usize) {
        (self.to.at(position * self.outputs + channel, 1), self.outputs)
    }
}

impl Kernel for BackwardWeights {
    fn name(&self) -> String {
        self.0.name("")
    }

    fn tasks(&self) -> usize {
        self.0.tasks()
    }

    fn scratch(&self) -> usize {
        self.0.scratch()
    }

    fn flops(&self) -> u64 {
        self.0.flops()
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        // SAFETY: the caller's word; blocks of the result belong to their tasks.
        unsafe { self.0.run(task, args, scratch, &Written { to: args.dst(2), outputs: self.0.outputs }) };
    }
}

/// An optimizer's update by the gradient of [`BackwardWeights`], which only exists in scratch: the same bits as both one
/// after the other. Operands: source, gradient by the result, `hyper`, the parameter and its states.
#[derive(Debug)]
pub struct BackwardUpdate<R> {
    gradient: Gradient,
    rule: R,
    /// The parameter's row of `hyper`.
    row: usize,
}

impl<R: Rule> BackwardUpdate<R> {
    /// The update of a matrix by row number `row` of the hyperparameters.
    pub fn new(isa: Isa, rule: R, row: usize, rows: usize, sizes: [usize; 2]) -> Self {
        Self { gradient: Gradient::new(isa, rows, sizes), rule, row }
    }
}

/// An optimizer takes the gradient.
struct Taken<'a, R> {
    of: &'a BackwardUpdate<R>,
    args: Args<'a>,
    /// Sums of a tile of positions and a strip of channels.
    sums: *mut f32,
}

impl<R: Rule> Sink for Taken<'_, R> {
    fn place(&self, _position: usize, index: usize, _channel: usize) -> (*mut f32, usize) {
        (self.sums.wrapping_add(index), STRIP)
    }

    unsafe fn ask(&self, position: usize, channels: &Range<usize>) {
        let first = position * self.of.gradient.outputs + channels.start;
        for operand in 3..4 + self.of.rule.states() {
            let from = self.args.src::<f32>(operand).at(first, channels.len());
            // SAFETY: nothing is read.
            unsafe { ask(self.of.gradient.isa, from, [1, 1], [0, 0], channels.len()) };
        }
    }

    unsafe fn take(&self, positions: Range<usize>, channels: &Range<usize>) {
        let BackwardUpdate { gradient, rule, row } = self.of;
        for (index, position) in positions.enumerate() {
            let grad = self.sums.wrapping_add(index * STRIP);
            let first = position * gradient.outputs + channels.start;
            // SAFETY: the caller's word.
            unsafe {
                let (hyper, args) = (self.args.src(2), self.args.from(3));
                step(gradient.isa, rule, (hyper, *row), grad, &args, first..first + channels.len());
            }
        }
    }
}

impl<R: Rule> Kernel for BackwardUpdate<R> {
    fn name(&self) -> String {
        self.gradient.name(&format!("_{}", self.rule.name()))
    }

    fn tasks(&self) -> usize {
        self.gradient.tasks()
    }

    fn scratch(&self) -> usize {
        self.gradient.scratch() + tile_rows(self.gradient.isa, 2) * STRIP * size_of::<f32>()
    }

    fn flops(&self) -> u64 {
        let weights = (self.gradient.inputs * self.gradient.outputs) as u64;
        self.gradient.flops() + weights * self.rule.flops()
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        let sums = scratch.wrapping_add(self.gradient.scratch()).cast();
        let sink = Taken { of: self, args: *args, sums };
        // SAFETY: the caller's word; blocks of the parameter belong to their tasks.
        unsafe { self.gradient.run(task, args, scratch, &sink) };
    }
}
