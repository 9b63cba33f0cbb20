//! Weight gradient: F(3×3, 4×4), the transpose of the forward transforms with the sum over tiles in the middle.
//!
//! Tiles are taken in *chunks* whose positions stay in the last-level cache. For each chunk the pixels of both operands
//! are transformed, then every position's product over the chunk's tiles is added to the gradient in transformed form,
//! which is transformed back at the end. Chunks depend on the shape only and are added in order.

use super::source::{Positions, transform_gradient, transform_source};
use super::transform::{IN, POSITIONS, WeightsTransposed, square};
use super::{Geometry, RUN, Task, share};
use crate::kernels::Kernel;
use crate::kernels::conv::micro::{GradTile, grad_tile, tile_rows};
use crate::simd::{Isa, Simd, dispatch::multiversion};
use crate::tensor::{Args, Dst};
use std::ops::Range;

/// Bytes of a chunk's positions.
const CACHE: usize = 6 << 20;
/// Tiles of a chunk.
const CHUNK: [usize; 2] = [64, 256];
/// Tiles that one task transforms.
const TILES: usize = 4;
/// Tasks that share the channels of a position.
const SPLITS: usize = 2;
/// Source channels that one task transforms back.
const ROWS: usize = 8;

/// Weight gradient. Operands: source, gradient by the result, positions ([`positions_len`](Self::positions_len)
/// floats), gradient by the weights.
#[derive(Debug)]
pub struct BackwardWeights {
    isa: Isa,
    task: Task,
    chunks: usize,
    source: Positions,
    gradient: Positions,
    /// Floats from one source channel to the next in the gradient by transformed weights.
    pitch: usize,
    flops: u64,
}

/// What happens between two barriers.
enum Phase {
    Transform { chunk: usize },
    Multiply { chunk: usize },
    Finish,
}

impl BackwardWeights {
    /// The weight gradient of the convolution of this geometry.
    pub fn new(isa: Isa, geometry: &Geometry) -> Self {
        let task = Task::forward(geometry);
        let room = CACHE / (POSITIONS * size_of::<f32>() * (task.sc + task.dc));
        let chunks = task.tiles().div_ceil(room.clamp(CHUNK[0], CHUNK[1]));
        let tiles = task.tiles().div_ceil(chunks.max(1));
        let pitch = task.dc.next_multiple_of(16);
        Self {
            isa,
            task,
            chunks,
            source: Positions::new(tiles, task.sc),
            gradient: Positions::new(tiles, task.dc),
            pitch: if pitch.is_multiple_of(256) { pitch + 16 } else { pitch },
            flops: geometry.flops(),
        }
    }

    /// Floats of the operand that holds positions.
    pub fn positions_len(&self) -> usize {
        self.source.floats() + self.gradient.floats() + POSITIONS * self.plane()
    }

    /// Floats from one position to the next in the gradient by transformed weights.
    fn plane(&self) -> usize {
        self.task.sc * self.pitch + 16
    }

    fn what(&self, phase: usize) -> Phase {
        match (phase / 2, phase % 2) {
            (chunk, _) if chunk == self.chunks => Phase::Finish,
            (chunk, 0) => Phase::Transform { chunk },
            (chunk, _) => Phase::Multiply { chunk },
        }
    }

    fn tasks_of(&self, phase: usize) -> usize {
        match self.what(phase) {
            Phase::Transform { chunk } => self.tiles(chunk).len().div_ceil(TILES),
            Phase::Multiply { .. } => POSITIONS * SPLITS,
            Phase::Finish => self.task.sc.div_ceil(ROWS),
        }
    }

    fn tiles(&self, chunk: usize) -> Range<usize> {
        share(chunk, self.chunks, self.task.tiles())
    }
}

impl Kernel for BackwardWeights {
    fn name(&self) -> String {
        format!(
            "conv_winograd_backward_weights_f4_{}x{}_{}",
            tile_rows(self.isa, 2),
            2 * self.isa.lanes(),
            self.isa.name()
        )
    }

    fn tasks(&self) -> usize {
        (0..self.phases()).map(|phase| self.tasks_of(phase)).sum()
    }

    fn phases(&self) -> usize {
        2 * self.chunks + 1
    }

    fn phase(&self, number: usize) -> Range<usize> {
        let start = (0..number).map(|phase| self.tasks_of(phase)).sum();
        start..start + self.tasks_of(number)
    }

    fn scratch(&self) -> usize {
        let zeros = self.task.sc.max(self.task.dc).next_multiple_of(16) * size_of::<f32>();
        let tiles = self.tiles(0).len().max(self.task.tiles().div_ceil(self.chunks.max(1)));
        zeros.max(tiles * size_of::<*const f32>())
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
        let positions = args.dst::<f32>(2);
        // SAFETY: the caller's word; tasks of one phase write different positions or weights.
        unsafe {
            match self.what(phase) {
                Phase::Transform { chunk } => self.transform(chunk, task, args, &positions, scratch),
                Phase::Multiply { chunk } => self.multiply(chunk, task, &positions, scratch),
                Phase::Finish => self.finish(task, &positions, args.dst(3)),
            }
        }
    }
}

impl BackwardWeights {
    /// # Safety
    /// As [`Kernel::run`].
    unsafe fn transform(&self, chunk: usize, task: usize, args: &Args<'_>, positions: &Dst<'_, f32>, scratch: *mut u8) {
        let (isa, of) = (self.isa, &self.task);
        let src = args.src::<f32>(0).at(0, of.n * of.sh * of.sw * of.sc);
        let diff_dst = args.src::<f32>(1).at(0, of.n * of.dh * of.dw * of.dc);
        let source = positions.at(0, self.source.floats());
        let gradient = positions.at(self.source.floats(), self.gradient.floats());
        let tiles = self.tiles(chunk);
        let zeros = scratch.cast::<f32>();
        // SAFETY: the operands are those of this geometry; scratch holds zeros for either side.
        unsafe {
            zeros.write_bytes(0, of.sc.max(of.dc));
            for row in task * TILES..((task + 1) * TILES).min(tiles.len()) {
                let index = tiles.start + row;
                let to = source.wrapping_add(row * self.source.pitch);
                transform_source(isa, of, index, src, zeros, to, self.source.plane);
                let to = gradient.wrapping_add(row * self.gradient.pitch);
                transform_gradient(isa, of, index, diff_dst, zeros, to, self.gradient.plane);
            }
        }
    }

    /// # Safety
    /// As [`Kernel::run`].
    unsafe fn multiply(&self, chunk: usize, task: usize, positions: &Dst<'_, f32>, scratch: *mut u8) {
        let (position, split) = (task / SPLITS, task % SPLITS);
        let (isa, mr, nr) = (self.isa, tile_rows(self.isa, 2), 2 * self.isa.lanes());
        let table = scratch.cast::<*const f32>();
        let tiles = self.tiles(chunk).len();
        let source = positions.at(position * self.source.plane, self.source.plane);
        let start = self.source.floats() + position * self.gradient.plane;
        let gradient = positions.at(start, self.gradient.plane);
        let start = self.source.floats() + self.gradient.floats() + position * self.plane();
        let sums = positions.at(start, self.plane());
        let channels = share(split, SPLITS, self.task.sc);
        // SAFETY: scratch holds a table of a chunk's tiles; the sums of these channels belong to this task.
        unsafe {
            for row in 0..tiles {
                table.add(row).write(source.wrapping_add(row * self.source.pitch));
            }
            let parts = channels.len().div_ceil(mr);
            for first in (0..self.task.dc).step_by(nr) {
                let count = nr.min(self.task.dc - first);
                for run in (0..tiles).step_by(RUN) {
                    for part in 0..parts {
                        let rows = share(part, parts, channels.len());
                        let channel = channels.start + rows.start;
                        let product = GradTile {
                            table: table.wrapping_add(run),
                            offset: channel as isize,
                            pixels: RUN.min(tiles - run),
                            diff: gradient.wrapping_add(run * self.gradient.pitch + first),
                            diff_pitch: self.gradient.pitch,
                            result: sums.wrapping_add(channel * self.pitch + first),
                            pitch: self.pitch,
                            channels: count,
                            add: chunk > 0 || run > 0,
                            ahead: [0; 2],
                        };
                        grad_tile(isa, rows.len(), count.div_ceil(isa.lanes()), &product);
                    }
                }
            }
        }
    }

    /// # Safety
    /// As [`Kernel::run`].
    unsafe fn finish(&self, task: usize, positions: &Dst<'_, f32>, diff_weights: Dst<'_, f32>) {
        let Task { sc, dc, .. } = self.task;
        let start = self.source.floats() + self.gradient.floats();
        let sums = positions.at(start, POSITIONS * self.plane());
        let to = diff_weights.at(0, 9 * sc * dc);
        for channel in task * ROWS..((task + 1) * ROWS).min(sc) {
            let (from, to) = (sums.wrapping_add(channel * self.pitch), to.wrapping_add(channel * dc));
            // SAFETY: the sums and weights of a source channel, which belongs to this task.
            unsafe { weights_of(self.isa, from, self.plane(), to, sc * dc, dc) };
        }
    }
}

/// # Safety
/// `from` is readable for whole vectors of `channels` at every position, `to` writable for `channels` at every tap.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // closures would not inherit the shell's target features
unsafe fn weights_body<S: Simd>(from: *const f32, plane: usize, to: *mut f32, tap: usize, channels: usize) {
    // SAFETY: the caller's word.
    unsafe {
        for c in (0..channels).step_by(S::LANES) {
            let lanes = S::LANES.min(channels - c);
            let mut values = [[S::splat(0.0); IN]; IN];
            for y in 0..IN {
                for x in 0..IN {
                    let at = from.wrapping_add((y * IN + x) * plane + c);
                    values[y][x] = S::load_partial(at, lanes);
                }
            }
            let values = square::<S, WeightsTransposed, IN, 3>(values);
            for y in 0..3 {
                for x in 0..3 {
                    S::store_partial(to.wrapping_add((y * 3 + x) * tap + c), values[y][x], lanes);
                }
            }
        }
    }
}

multiversion! {
    /// Transforms the sums of one source channel into gradients by its weights.
    fn weights_of(from: *const f32, plane: usize, to: *mut f32, tap: usize, channels: usize) = weights_body;
}
