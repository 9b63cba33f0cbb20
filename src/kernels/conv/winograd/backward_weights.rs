//! Weight gradient: F(3×3, 4×4), F(4×4, 3×3), F(5×5, 2×2) or that of 3×3 with stride 2, the transpose of the forward transforms with the
//! sum over tiles in the middle.
//!
//! The pixels of both operands are transformed, every position's product is summed over tiles to a gradient in transformed
//! form, and that is transformed back. How the work is [`Cut`] depends on the shape only, sums are added in order.

use super::sides::{Sides, Sums, WIDTH};
use super::{Geometry, Task};
use crate::kernels::conv::micro::tile_rows;
use crate::kernels::{Kernel, share};
use crate::simd::Isa;
use crate::tensor::Args;
use std::ops::Range;

/// Bytes of all positions up to which there is one chunk and the sums never leave a task.
const WHOLE: usize = 24 << 20;
/// Panels of source channels and of gradients of such a task.
const BLOCK: usize = 2;
/// Bytes of a chunk's positions.
const CACHE: usize = 6 << 20;
/// Tiles of a chunk.
const CHUNK: [usize; 2] = [64, 256];
/// Tiles that one task transforms.
const TILES: usize = 4;
/// Tasks that share the channels of a transformed weight.
const SPLITS: usize = 2;
/// Source channels that one task transforms back.
const ROWS: usize = 8;
/// Bytes of a task's own sums and of the positions of a few tiles: they stay in the second-level cache.
const ROOM: usize = 1040 << 10;
/// These tiles: fewer would read and write sums too often for what they add.
const FEW: [usize; 2] = [12, 32];
/// Most parts, and tiles of one that are worth sums of its own.
const PARTS: [usize; 2] = [16, 64];

/// How the work is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// All tiles are transformed, then a task takes a block of channels through all positions and back.
    Whole,
    /// Tiles are taken in chunks whose positions stay in the last-level cache; products over a chunk's tiles are added to sums
    /// in memory, which are transformed back at the end.
    Chunks(usize),
    /// Every part of the tiles has sums of its own, and makes a gradient: a task takes its tiles through all stages in its
    /// core's cache, so many at a time.
    Parts { parts: usize, tiles: usize },
}

/// Weight gradient. Operands: source, gradient by the result, positions (if
/// [`positions_len`](Self::positions_len) is not 0), gradient by the weights ([`parts`](Self::parts) of them, which are
/// to be added).
#[derive(Debug)]
pub struct BackwardWeights {
    sides: Sides,
    cut: Cut,
    /// Floats from one source channel to the next in the gradient by transformed weights.
    pitch: usize,
    flops: u64,
}

/// What happens between two barriers.
enum Phase {
    Transform { chunk: usize },
    Multiply { chunk: usize },
    Finish,
    Block,
    Part,
}

impl Cut {
    /// For a task whose sums have rows of `pitch` floats.
    fn new(task: &Task, pitch: usize) -> Self {
        let tiles = task.tiles();
        let tile = task.positions() * (task.sc + task.dc) * size_of::<f32>();
        let few = ROOM.saturating_sub(task.weights() * task.sc * pitch * size_of::<f32>()) / tile;
        let parts = (tiles / PARTS[1]).checked_ilog2().map_or(0, |log| PARTS[0].min(1 << log));
        if parts > 1 && few >= FEW[0] {
            Self::Parts { parts, tiles: few.min(FEW[1]) }
        } else if tiles * tile <= WHOLE {
            Self::Whole
        } else {
            Self::Chunks(tiles.div_ceil((CACHE / tile).clamp(CHUNK[0], CHUNK[1])))
        }
    }
}

impl BackwardWeights {
    /// The weight gradient of the convolution of this geometry.
    pub fn new(isa: Isa, geometry: &Geometry) -> Self {
        let task = Task::backward_weights(geometry);
        // Whole panels: what lies beyond the last channel is never looked at.
        let pitch = task.dc.next_multiple_of(2 * isa.lanes());
        let pitch = if pitch.is_multiple_of(256) { pitch + 16 } else { pitch };
        let cut = Cut::new(&task, pitch);
        let tiles = match cut {
            Cut::Whole => task.tiles(),
            Cut::Chunks(chunks) => task.tiles().div_ceil(chunks),
            Cut::Parts { tiles, .. } => tiles,
        };
        Self { sides: Sides::new(isa, task, tiles), cut, pitch, flops: geometry.flops() }
    }

    /// Gradients that are to be added: a function of shape and level alone.
    pub fn parts(&self) -> usize {
        if let Cut::Parts { parts, .. } = self.cut { parts } else { 1 }
    }

    /// Floats of the operand that holds positions.
    pub fn positions_len(&self) -> usize {
        match self.cut {
            Cut::Whole => self.sides.floats(),
            Cut::Chunks(_) => self.sides.floats() + self.sides.task.weights() * self.plane(),
            Cut::Parts { .. } => 0,
        }
    }

    /// Channels of a block on either side.
    fn block(&self) -> [usize; 2] {
        [BLOCK * WIDTH, BLOCK * self.sides.width()]
    }

    /// Floats from one transformed weight to the next in the gradient by them.
    fn plane(&self) -> usize {
        self.sides.task.sc * self.pitch + 16
    }

    fn what(&self, phase: usize) -> Phase {
        match (self.cut, phase / 2, phase % 2) {
            (Cut::Parts { .. }, ..) => Phase::Part,
            (Cut::Whole, _, 1) => Phase::Block,
            (Cut::Chunks(chunks), chunk, _) if chunk == chunks => Phase::Finish,
            (_, chunk, 0) => Phase::Transform { chunk },
            (_, chunk, _) => Phase::Multiply { chunk },
        }
    }

    fn tasks_of(&self, phase: usize) -> usize {
        let Task { sc, dc, .. } = self.sides.task;
        match self.what(phase) {
            Phase::Transform { chunk } => self.tiles(chunk).len().div_ceil(TILES),
            Phase::Multiply { .. } => self.sides.task.weights() * SPLITS,
            Phase::Finish => sc.div_ceil(ROWS),
            Phase::Block => sc.div_ceil(self.block()[0]) * dc.div_ceil(self.block()[1]),
            Phase::Part => self.parts(),
        }
    }

    /// The tiles of a chunk.
    fn tiles(&self, chunk: usize) -> Range<usize> {
        share(chunk, if let Cut::Chunks(chunks) = self.cut { chunks } else { 1 }, self.sides.task.tiles())
    }
}

impl Kernel for BackwardWeights {
    fn name(&self) -> String {
        let Sides { isa, task, .. } = &self.sides;
        let parts = if self.parts() > 1 { "_parts" } else { "" };
        format!(
            "conv_winograd_backward_weights_{}{parts}_{}x{}_{}",
            task.name(),
            tile_rows(*isa, 2),
            2 * isa.lanes(),
            isa.name()
        )
    }

    fn tasks(&self) -> usize {
        (0..self.phases()).map(|phase| self.tasks_of(phase)).sum()
    }

    fn phases(&self) -> usize {
        match self.cut {
            Cut::Whole => 2,
            Cut::Chunks(chunks) => 2 * chunks + 1,
            Cut::Parts { .. } => 1,
        }
    }

    fn phase(&self, number: usize) -> Range<usize> {
        let start = (0..number).map(|phase| self.tasks_of(phase)).sum();
        start..start + self.tasks_of(number)
    }

    fn scratch(&self) -> usize {
        let spare = self.sides.spare_len();
        let ([rows, pitch], weights) = (self.block(), self.sides.task.weights());
        let floats = match self.cut {
            Cut::Whole => spare.max(weights * (rows * pitch + 16)),
            Cut::Chunks(_) => spare,
            Cut::Parts { .. } => spare + self.sides.floats() + weights * self.plane(),
        };
        floats * size_of::<f32>()
    }

    fn flops(&self) -> u64 {
        self.flops
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        let mut phase = 0;
        let mut task = task;
        while task >= self.tasks_of(phase) {
            task -= self.tasks_of(phase);
            phase += 1;
        }
        let of = &self.sides.task;
        let src = args.src::<f32>(0).at(0, of.n * of.image_len());
        let diff_dst = args.src::<f32>(1).at(0, of.n * of.dh * of.dw * of.dc);
        let (scratch, operands, len) = (scratch.cast::<f32>(), [src, diff_dst], of.weights_len());
        let positions = || args.dst::<f32>(2).at(0, self.positions_len());
        let to = || args.dst::<f32>(3).at(0, len);
        // SAFETY: the caller's word; tasks of one phase write different positions or weights.
        unsafe {
            match self.what(phase) {
                Phase::Transform { chunk } => self.transform(chunk, task, operands, positions(), scratch),
                Phase::Multiply { chunk } => self.multiply(chunk, task, positions()),
                Phase::Finish => self.finish(task, positions(), to()),
                Phase::Block => self.block_of(task, positions(), to(), scratch),
                Phase::Part => {
                    let to = args.dst::<f32>(2).at(task * len, len);
                    self.part(task, operands, to, scratch);
                }
            }
        }
    }
}

impl BackwardWeights {
    /// # Safety
    /// As [`Kernel::run`].
    unsafe fn transform(
        &self,
        chunk: usize,
        task: usize,
        operands: [*const f32; 2],
        positions: *mut f32,
        spare: *mut f32,
    ) {
        let tiles = self.tiles(chunk);
        let rows = task * TILES..((task + 1) * TILES).min(tiles.len());
        // SAFETY: the caller's word; scratch has what either side wants.
        unsafe {
            spare.write_bytes(0, self.sides.spare_len());
            self.sides.transform((tiles.start + rows.start, rows), operands, spare, positions);
        }
    }

    /// # Safety
    /// As [`Kernel::run`].
    unsafe fn multiply(&self, chunk: usize, task: usize, positions: *mut f32) {
        let (weight, split) = (task / SPLITS, task % SPLITS);
        let Task { sc, dc, .. } = self.sides.task;
        let panels = share(split, SPLITS, sc.div_ceil(WIDTH));
        let channels = [panels.start * WIDTH..sc.min(panels.end * WIDTH), 0..dc];
        let start = self.sides.floats() + weight * self.plane() + channels[0].start * self.pitch;
        let sums = Sums { to: positions.wrapping_add(start), pitch: self.pitch, add: chunk > 0 };
        // SAFETY: positions hold a chunk's tiles; the sums of these channels belong to this task.
        unsafe { self.sides.products(weight, self.tiles(chunk).len(), &channels, positions, sums) };
    }

    /// # Safety
    /// As [`Kernel::run`].
    unsafe fn block_of(&self, task: usize, positions: *const f32, to: *mut f32, scratch: *mut f32) {
        let (Task { sc, dc, .. }, [rows, pitch]) = (self.sides.task, self.block());
        let plane = rows * pitch + 16;
        let across = dc.div_ceil(pitch);
        let (row, column) = (task / across * rows, task % across * pitch);
        let channels = [row..sc.min(row + rows), column..dc.min(column + pitch)];
        // SAFETY: scratch holds the sums of a block; its weights belong to this task.
        unsafe {
            for weight in 0..self.sides.task.weights() {
                let sums = Sums { to: scratch.wrapping_add(weight * plane), pitch, add: false };
                self.sides.products(weight, self.sides.task.tiles(), &channels, positions, sums);
            }
            self.back(channels, (scratch, [plane, pitch]), to);
        }
    }

    /// # Safety
    /// As [`Kernel::run`].
    unsafe fn part(&self, part: usize, operands: [*const f32; 2], to: *mut f32, scratch: *mut f32) {
        let sides = &self.sides;
        let Cut::Parts { parts, tiles: few, .. } = self.cut else { return };
        let tiles = share(part, parts, sides.task.tiles());
        let channels = [0..sides.task.sc, 0..sides.task.dc];
        let spare = scratch;
        let positions = spare.wrapping_add(sides.spare_len());
        let sums = positions.wrapping_add(sides.floats());
        // SAFETY: scratch holds what a side wants, the positions of a few tiles and the sums of all.
        unsafe {
            spare.write_bytes(0, sides.spare_len());
            for first in tiles.clone().step_by(few) {
                let count = few.min(tiles.end - first);
                sides.transform((first, 0..count), operands, spare, positions);
                for weight in 0..sides.task.weights() {
                    let to = sums.wrapping_add(weight * self.plane());
                    let sums = Sums { to, pitch: self.pitch, add: first > tiles.start };
                    sides.products(weight, count, &channels, positions, sums);
                }
            }
            self.back(channels, (sums, [self.plane(), self.pitch]), to);
        }
    }

    /// # Safety
    /// As [`Kernel::run`].
    unsafe fn finish(&self, task: usize, positions: *const f32, to: *mut f32) {
        let Task { sc, dc, .. } = self.sides.task;
        let rows = task * ROWS..((task + 1) * ROWS).min(sc);
        let sums = positions.wrapping_add(self.sides.floats() + rows.start * self.pitch);
        // SAFETY: the sums and weights of these source channels belong to this task.
        unsafe { self.back([rows, 0..dc], (sums, [self.plane(), self.pitch]), to) };
    }

    /// Transforms sums of some channels back.
    ///
    /// # Safety
    /// `sums` are those of these channels, from one position to the next and from one source channel to the next so many
    /// floats apart; their weights are writable.
    unsafe fn back(
        &self,
        [of_source, of_gradient]: [Range<usize>; 2],
        (sums, [plane, pitch]): (*const f32, [usize; 2]),
        to: *mut f32,
    ) {
        for (row, channel) in of_source.enumerate() {
            let taps = self.sides.task.taps_of(channel);
            let to = to.wrapping_add(taps.first + of_gradient.start);
            // SAFETY: the caller's word.
            unsafe { self.sides.weights_of(sums.wrapping_add(row * pitch), plane, to, &taps, of_gradient.len()) };
        }
    }
}
