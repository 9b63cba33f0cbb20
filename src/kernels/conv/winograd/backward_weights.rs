//! Weight gradient: F(3×3, 4×4) or F(5×5, 2×2), the transpose of the forward transforms with the sum over tiles in the middle.
//!
//! Tiles are taken in *chunks* whose positions stay in the last-level cache. For each chunk the pixels of both operands
//! are transformed, then every position's product over the chunk's tiles is added to the gradient in transformed form,
//! which is transformed back at the end. Chunks depend on the shape only and are added in order. With few tiles there is
//! one chunk, and a task takes a block of channels through all positions and back.

use super::source::{Positions, transform_gradient, transform_source, zeros_len};
use super::tile::{Rows, sum_over_tiles};
use super::transform::{IN, POSITIONS, Transform, WeightsTransposed, square};
use super::{Geometry, Task};
use crate::kernels::conv::micro::tile_rows;
use crate::kernels::{Kernel, share};
use crate::simd::{Isa, Simd, dispatch::multiversion};
use crate::tensor::{Args, Dst};
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
/// Source channels of a panel.
const WIDTH: usize = 16;
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
    /// Whether a task takes a block of channels through all positions and back.
    whole: bool,
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
    Block,
}

impl BackwardWeights {
    /// The weight gradient of the convolution of this geometry.
    pub fn new(isa: Isa, geometry: &Geometry) -> Self {
        let task = Task::backward_weights(geometry);
        let tile = POSITIONS * size_of::<f32>() * (task.sc + task.dc);
        let whole = task.tiles() * tile <= WHOLE;
        let chunks = if whole { 1 } else { task.tiles().div_ceil((CACHE / tile).clamp(CHUNK[0], CHUNK[1])) };
        let tiles = task.tiles().div_ceil(chunks.max(1));
        // Whole panels: what lies beyond the last channel is never looked at.
        let pitch = task.dc.next_multiple_of(2 * isa.lanes());
        Self {
            isa,
            task,
            chunks,
            whole,
            source: Positions::in_panels(tiles, task.sc, WIDTH),
            gradient: Positions::in_panels(tiles, task.dc, 2 * isa.lanes()),
            pitch: if pitch.is_multiple_of(256) { pitch + 16 } else { pitch },
            flops: geometry.flops(),
        }
    }

    /// Floats of the operand that holds positions.
    pub fn positions_len(&self) -> usize {
        let sums = if self.whole { 0 } else { POSITIONS * self.plane() };
        self.source.floats() + self.gradient.floats() + sums
    }

    /// Channels of a block on either side.
    fn block(&self) -> [usize; 2] {
        [BLOCK * WIDTH, BLOCK * 2 * self.isa.lanes()]
    }

    /// Floats from one position to the next in the gradient by transformed weights.
    fn plane(&self) -> usize {
        self.task.sc * self.pitch + 16
    }

    fn what(&self, phase: usize) -> Phase {
        match (phase / 2, phase % 2) {
            (0, 1) if self.whole => Phase::Block,
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
            Phase::Block => self.task.sc.div_ceil(self.block()[0]) * self.task.dc.div_ceil(self.block()[1]),
        }
    }

    fn tiles(&self, chunk: usize) -> Range<usize> {
        share(chunk, self.chunks, self.task.tiles())
    }
}

impl Kernel for BackwardWeights {
    fn name(&self) -> String {
        format!(
            "conv_winograd_backward_weights_{}_{}x{}_{}",
            self.task.scheme(),
            tile_rows(self.isa, 2),
            2 * self.isa.lanes(),
            self.isa.name()
        )
    }

    fn tasks(&self) -> usize {
        (0..self.phases()).map(|phase| self.tasks_of(phase)).sum()
    }

    fn phases(&self) -> usize {
        if self.whole { 2 } else { 2 * self.chunks + 1 }
    }

    fn phase(&self, number: usize) -> Range<usize> {
        let start = (0..number).map(|phase| self.tasks_of(phase)).sum();
        start..start + self.tasks_of(number)
    }

    fn scratch(&self) -> usize {
        let zeros = zeros_len(&self.task);
        let [rows, pitch] = self.block();
        zeros.max(if self.whole { POSITIONS * (rows * pitch + 16) } else { 0 }) * size_of::<f32>()
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
                Phase::Multiply { chunk } => self.multiply(chunk, task, &positions),
                Phase::Block => self.block_of(task, &positions, args.dst(3), scratch.cast()),
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
            zeros.write_bytes(0, zeros_len(of));
            let mut tile = of.tile(tiles.start + task * TILES);
            for row in task * TILES..((task + 1) * TILES).min(tiles.len()) {
                let next = of.next(tile);
                let to = source.wrapping_add(row * self.source.pitch);
                transform_source(isa, of, [tile, next], src, zeros, to, &self.source);
                let to = gradient.wrapping_add(row * self.gradient.pitch);
                transform_gradient(isa, of, [tile, next], diff_dst, zeros, to, &self.gradient);
                tile = next;
            }
        }
    }

    /// # Safety
    /// As [`Kernel::run`].
    unsafe fn multiply(&self, chunk: usize, task: usize, positions: &Dst<'_, f32>) {
        let (position, split) = (task / SPLITS, task % SPLITS);
        let start = self.source.floats() + self.gradient.floats() + position * self.plane();
        let sums = positions.at(start, self.plane());
        let panels =
            [share(split, SPLITS, self.task.sc.div_ceil(WIDTH)), 0..self.task.dc.div_ceil(2 * self.isa.lanes())];
        let sums = sums.wrapping_add(panels[0].start * WIDTH * self.pitch);
        // SAFETY: positions hold a chunk's tiles; the sums of these channels belong to this task.
        unsafe { self.products(position, self.tiles(chunk).len(), panels, positions, sums, self.pitch, chunk > 0) };
    }

    /// Sums over `tiles` tiles for panels of source channels and of gradients, to rows of `pitch` floats.
    ///
    /// # Safety
    /// Positions hold the tiles; the sums are writable.
    unsafe fn products(
        &self,
        position: usize,
        tiles: usize,
        [of_source, of_gradient]: [Range<usize>; 2],
        positions: &Dst<'_, f32>,
        sums: *mut f32,
        pitch: usize,
        add: bool,
    ) {
        let (mr, nr) = (tile_rows(self.isa, 2), 2 * self.isa.lanes());
        let source = positions.at(position * self.source.plane, self.source.plane);
        let start = self.source.floats() + position * self.gradient.plane;
        let gradient = positions.at(start, self.gradient.plane);
        for g in of_gradient.clone() {
            for s in of_source.clone() {
                let channels = WIDTH.min(self.task.sc - s * WIDTH);
                let parts = channels.div_ceil(mr);
                for part in 0..parts {
                    let rows = share(part, parts, channels);
                    let row = (s - of_source.start) * WIDTH + rows.start;
                    let rows_of = Rows {
                        source: source.wrapping_add(self.source.channel(s * WIDTH + rows.start)),
                        pitch: self.source.pitch,
                        depth: tiles,
                        panel: gradient.wrapping_add(self.gradient.channel(g * nr)),
                        sums: sums.wrapping_add(row * pitch + (g - of_gradient.start) * nr),
                        sums_pitch: pitch,
                        add,
                        run: self.task.run(),
                        ahead: std::ptr::null(),
                    };
                    // SAFETY: the caller's word.
                    unsafe { sum_over_tiles(self.isa, rows.len(), &rows_of) };
                }
            }
        }
    }

    /// # Safety
    /// As [`Kernel::run`].
    unsafe fn block_of(&self, task: usize, positions: &Dst<'_, f32>, diff_weights: Dst<'_, f32>, sums: *mut f32) {
        let Task { sc, dc, .. } = self.task;
        let [rows, pitch] = self.block();
        let across = dc.div_ceil(pitch);
        let (row, column) = (task / across, task % across);
        let panels = [sc.div_ceil(WIDTH), dc.div_ceil(pitch / BLOCK)];
        let panels =
            [row * BLOCK..((row + 1) * BLOCK).min(panels[0]), column * BLOCK..((column + 1) * BLOCK).min(panels[1])];
        let plane = rows * pitch + 16;
        let to = diff_weights.at(0, self.task.weights_len());
        // SAFETY: scratch holds the sums of a block; its weights belong to this task.
        unsafe {
            for position in 0..POSITIONS {
                let sums = sums.wrapping_add(position * plane);
                self.products(position, self.task.tiles(), panels.clone(), positions, sums, pitch, false);
            }
            let count = pitch.min(dc - column * pitch);
            for i in 0..rows.min(sc - row * rows) {
                let to = to.wrapping_add((row * rows + i) * dc + column * pitch);
                self.weights_of(sums.wrapping_add(i * pitch), plane, to, count);
            }
        }
    }

    /// # Safety
    /// As [`Kernel::run`].
    unsafe fn finish(&self, task: usize, positions: &Dst<'_, f32>, diff_weights: Dst<'_, f32>) {
        let Task { sc, dc, .. } = self.task;
        let start = self.source.floats() + self.gradient.floats();
        let sums = positions.at(start, POSITIONS * self.plane());
        let to = diff_weights.at(0, self.task.weights_len());
        for channel in task * ROWS..((task + 1) * ROWS).min(sc) {
            let (from, to) = (sums.wrapping_add(channel * self.pitch), to.wrapping_add(channel * dc));
            // SAFETY: the sums and weights of a source channel, which belongs to this task.
            unsafe { self.weights_of(from, self.plane(), to, dc) };
        }
    }

    /// Transforms sums of one source channel into gradients by its weights.
    ///
    /// # Safety
    /// As [`weights_body`].
    unsafe fn weights_of(&self, from: *const f32, plane: usize, to: *mut f32, channels: usize) {
        let of = &self.task;
        let weights_of = if of.kernel == 3 { weights_3 } else { weights_5 };
        // SAFETY: the caller's word.
        unsafe { weights_of(self.isa, from, plane, to, of.sc * of.dc, channels) };
    }
}

/// # Safety
/// `from` is readable for whole vectors of `channels` at every position, `to` writable for `channels` at every tap.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // closures would not inherit the shell's target features
unsafe fn weights_body<S: Simd, const TAPS: usize>(
    from: *const f32,
    plane: usize,
    to: *mut f32,
    tap: usize,
    channels: usize,
) where
    WeightsTransposed: Transform<IN, TAPS>,
{
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
            let values = square::<S, WeightsTransposed, IN, TAPS>(values);
            for y in 0..TAPS {
                for x in 0..TAPS {
                    S::store_partial(to.wrapping_add((y * TAPS + x) * tap + c), values[y][x], lanes);
                }
            }
        }
    }
}

multiversion! {
    /// Transforms sums of one source channel into gradients by its 3×3 weights.
    fn weights_3(from: *const f32, plane: usize, to: *mut f32, tap: usize, channels: usize) = weights_body, [3];
}
multiversion! {
    /// The same by 5×5 weights.
    fn weights_5(from: *const f32, plane: usize, to: *mut f32, tap: usize, channels: usize) = weights_body, [5];
}
