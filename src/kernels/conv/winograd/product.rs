//! Forward and data gradient: transform, multiply, transform back.

use super::pack::Panels;
use super::source::{Positions, transform_source};
use super::transform::{IN, OUT, POSITIONS, Result, square};
use super::{Geometry, RUN, Task, share};
use crate::kernels::Kernel;
use crate::kernels::conv::Epilogue;
use crate::kernels::conv::epilogue::{Finish, mode};
use crate::kernels::conv::micro::{Tile, tile, tile_rows};
use crate::kernels::elementwise;
use crate::simd::{Isa, Simd, dispatch::multiversion};
use crate::tensor::Args;

/// Bytes of positions that a block may take of the second-level cache.
const CACHE: usize = 640 << 10;
/// Tiles of a block: fewer leave the products too few rows, more gain nothing.
const BLOCK: [usize; 2] = [12, 60];

/// A convolution, or a data gradient, by [`Task`]. Operands: source, packed weights, those of the epilogue
/// ([`Epilogue::operands`]), result; what is added may be the memory of the result.
#[derive(Debug)]
pub struct Product {
    isa: Isa,
    task: Task,
    epilogue: Epilogue,
    panels: Panels,
    blocks: usize,
    /// Tasks that share a block of tiles, each with panels of its own.
    splits: usize,
    flops: u64,
}

impl Product {
    /// The convolution of this geometry.
    pub fn forward(isa: Isa, geometry: &Geometry, epilogue: Epilogue) -> Self {
        Self::new(isa, Task::forward(geometry), epilogue, geometry.flops())
    }

    /// Its data gradient.
    pub fn backward_data(isa: Isa, geometry: &Geometry) -> Self {
        Self::new(isa, Task::backward_data(geometry), Epilogue::default(), geometry.flops())
    }

    fn new(isa: Isa, task: Task, epilogue: Epilogue, flops: u64) -> Self {
        let panels = Panels::new(isa, &task);
        let tiles = task.tiles();
        let room = CACHE / (POSITIONS * size_of::<f32>() * (task.sc + panels.nr));
        let block = room.clamp(BLOCK[0], BLOCK[1]);
        let blocks = tiles.div_ceil(block);
        let blocks = if blocks > 1 { blocks.next_multiple_of(2) } else { blocks };
        let splits = if blocks < 4 { panels.count.min(4usize.div_ceil(blocks.max(1))) } else { 1 };
        Self { isa, task, epilogue, panels, blocks, splits, flops }
    }

    fn layout(&self) -> Layout {
        let tiles = self.task.tiles().div_ceil(self.blocks.max(1));
        let (source, sums) = (Positions::new(tiles, self.task.sc), Positions::new(tiles, self.panels.nr));
        let zeros = self.task.sc.next_multiple_of(16);
        Layout { tiles, source, sums, zeros }
    }
}

/// Scratch of a task: positions of the source, of the sums, zeros, and the tables of the products' rows.
struct Layout {
    tiles: usize,
    source: Positions,
    sums: Positions,
    zeros: usize,
}

impl Layout {
    fn floats(&self) -> usize {
        (self.source.floats() + self.sums.floats() + self.zeros).next_multiple_of(16)
    }

    fn bytes(&self) -> usize {
        self.floats() * size_of::<f32>() + 2 * self.tiles * size_of::<*const f32>()
    }
}

impl Kernel for Product {
    fn name(&self) -> String {
        let what = if self.task.turned { "conv_winograd_backward_data" } else { "conv_winograd" };
        let epilogue = self.epilogue.name();
        format!("{what}{epilogue}_f4_{}x{}_{}", tile_rows(self.isa, 2), self.panels.nr, self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.blocks * self.splits
    }

    fn scratch(&self) -> usize {
        self.layout().bytes()
    }

    fn flops(&self) -> u64 {
        self.flops
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        let (isa, of) = (self.isa, &self.task);
        let layout = self.layout();
        let tiles = share(task / self.splits, self.blocks, of.tiles());
        let panels = share(task % self.splits, self.splits, self.panels.count);
        let src = args.src::<f32>(0).at(0, of.n * of.sh * of.sw * of.sc);
        let packed = args.src::<f32>(1);
        let len = of.n * of.dh * of.dw * of.dc;
        let finish = self.epilogue.finish(args, of.dc, len);
        let dst = args.dst::<f32>(2 + self.epilogue.operands()).at(0, len);
        let source = scratch.cast::<f32>();
        let sums = source.wrapping_add(layout.source.floats());
        let zeros = sums.wrapping_add(layout.sums.floats());
        let table = source.wrapping_add(layout.floats()).cast::<*const f32>();
        let results = table.wrapping_add(layout.tiles).cast::<*mut f32>();
        let count = tiles.len();
        // SAFETY: scratch is as large as `scratch()` says; sources and results lie inside their operands.
        unsafe {
            zeros.write_bytes(0, layout.zeros);
            for (row, index) in tiles.clone().enumerate() {
                let to = source.wrapping_add(row * layout.source.pitch);
                table.add(row).write(to);
                results.add(row).write(sums.wrapping_add(row * layout.sums.pitch));
                transform_source(isa, of, index, src, zeros, to, layout.source.plane);
            }
            let parts = count.div_ceil(tile_rows(isa, 2));
            for panel in panels {
                for position in 0..POSITIONS {
                    let delta = (position * layout.source.plane) as isize;
                    let weights = packed.at(self.panels.start(panel, position), self.panels.len());
                    for part in 0..parts {
                        let rows = share(part, parts, count);
                        let product = Tile {
                            table: table.add(rows.start),
                            table_pitch: 0,
                            deltas: &raw const delta,
                            segments: (0, 1),
                            len: of.sc,
                            panel: weights,
                            pitch: self.panels.nr,
                            results: results.add(rows.start),
                            channel: position * layout.sums.plane,
                            channels: self.panels.nr,
                            finish: &Finish::NONE,
                            run: RUN,
                        };
                        tile(isa, rows.len(), 2, &product);
                    }
                }
                let first = panel * self.panels.nr;
                let write = Write {
                    plane: layout.sums.plane,
                    finish: finish.at(first),
                    pitch: [of.dw * of.dc, of.dc],
                    channels: self.panels.nr.min(of.dc - first),
                };
                for (row, index) in tiles.clone().enumerate() {
                    let (image, y, x) = of.tile(index);
                    let at = dst.wrapping_add(((image * of.dh + y) * of.dw + x) * of.dc + first);
                    let size = [OUT.min(of.dh - y), OUT.min(of.dw - x)];
                    results_of(isa, sums.wrapping_add(row * layout.sums.pitch), at, size, &write);
                    self.activate(at, size, &write);
                }
            }
        }
    }
}

impl Product {
    /// Applies any activation but relu to the results of a tile.
    ///
    /// # Safety
    /// `at` is the first of `size` result pixels that this task has written.
    unsafe fn activate(&self, at: *mut f32, size: [usize; 2], write: &Write) {
        let Some(kind) = self.epilogue.later() else { return };
        for pixel in 0..size[0] * size[1] {
            let (y, x) = (pixel / size[1], pixel % size[1]);
            let at = at.wrapping_add(y * write.pitch[0] + x * write.pitch[1]);
            // SAFETY: the caller's word.
            unsafe { elementwise::activate(self.isa, kind, at, at, write.channels) };
        }
    }
}

/// What the results of a block and a panel have in common.
struct Write {
    /// Floats from one position of the sums to the next.
    plane: usize,
    /// What follows the sums, from the panel's first channel on.
    finish: Finish,
    /// Floats from one result row and pixel to the next.
    pitch: [usize; 2],
    channels: usize,
}

/// # Safety
/// `sums` is a tile's place in positions of whole vectors; `size` pixels from `dst` on are writable for the channels.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // closures would not inherit the shell's target features
unsafe fn results_body<S: Simd, const MODE: u8>(sums: *const f32, dst: *mut f32, size: [usize; 2], write: &Write) {
    // SAFETY: the caller's word.
    unsafe {
        for c in (0..write.channels).step_by(S::LANES) {
            let lanes = S::LANES.min(write.channels - c);
            let zero = S::splat(0.0);
            let channel = write.finish.per_channel::<S, false, MODE>(c, lanes);
            let mut values = [[zero; IN]; IN];
            for y in 0..IN {
                for x in 0..IN {
                    values[y][x] = S::load(sums.wrapping_add((y * IN + x) * write.plane + c));
                }
            }
            let values = square::<S, Result, IN, OUT>(values);
            for y in 0..OUT {
                for x in 0..OUT {
                    if y >= size[0] || x >= size[1] {
                        continue;
                    }
                    let value = S::add(values[y][x], channel.bias);
                    let at = dst.wrapping_add(y * write.pitch[0] + x * write.pitch[1] + c);
                    if lanes == S::LANES {
                        S::store(at, write.finish.finish::<S, true, MODE>(value, &channel, at, lanes));
                    } else {
                        S::store_partial(at, write.finish.finish::<S, false, MODE>(value, &channel, at, lanes), lanes);
                    }
                }
            }
        }
    }
}

multiversion! {
    fn results_plain(sums: *const f32, dst: *mut f32, size: [usize; 2], write: &Write) = results_body, [{ mode::PLAIN }];
}
multiversion! {
    fn results_norm(sums: *const f32, dst: *mut f32, size: [usize; 2], write: &Write) = results_body, [{ mode::NORM }];
}
multiversion! {
    fn results_add(sums: *const f32, dst: *mut f32, size: [usize; 2], write: &Write) = results_body, [{ mode::ADD }];
}

/// Transforms the sums of a tile into results.
///
/// # Safety
/// As for [`results_body`]; the CPU has `isa`.
unsafe fn results_of(isa: Isa, sums: *const f32, dst: *mut f32, size: [usize; 2], write: &Write) {
    // SAFETY: the caller's word.
    unsafe {
        match write.finish.mode() {
            mode::PLAIN => results_plain(isa, sums, dst, size, write),
            mode::NORM => results_norm(isa, sums, dst, size, write),
            _ => results_add(isa, sums, dst, size, write),
        }
    }
}
