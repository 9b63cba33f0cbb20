//! Forward and data gradient: transform, multiply, transform back.

use super::pack::{Panels, transform_weights};
use super::source::{Positions, transform_source};
use super::transform::{IN, OUT, POSITIONS, Result, square};
use super::{Geometry, RUN, Task, share};
use crate::kernels::Kernel;
use crate::kernels::conv::Epilogue;
use crate::kernels::conv::epilogue::{Finish, mode};
use crate::kernels::conv::micro::{Ahead, Tile, tile, tile_rows};
use crate::kernels::elementwise;
use crate::simd::{Isa, Simd, dispatch::multiversion};
use crate::tensor::Args;
use std::ops::Range;

/// Bytes of positions that a block may take of the second-level cache.
const CACHE: usize = 640 << 10;
/// Tiles of a block: fewer leave the products too few rows, more gain nothing.
const BLOCK: [usize; 2] = [12, 60];
/// Up to so many tiles the work is shared out by panels.
const FEW: usize = 128;
/// Tiles that one task transforms where it is.
const TILES: usize = 4;

/// How the work is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// A task takes a block of tiles through all panels.
    Blocks { blocks: usize },
    /// The tiles are transformed first, into an operand; then a task takes a panel through all tiles. The weights are
    /// those of the layer if `raw`: each panel is transformed where it is used.
    Panels { raw: bool },
}

/// A convolution, or a data gradient, by [`Task`]. Operands: source, weights, those of the epilogue
/// ([`Epilogue::operands`]), result, positions (if [`positions_len`](Self::positions_len) is not 0). The weights are
/// packed unless [`takes_raw`](Self::takes_raw); what is added may be the memory of the result.
#[derive(Debug)]
pub struct Product {
    isa: Isa,
    task: Task,
    epilogue: Epilogue,
    panels: Panels,
    cut: Cut,
    flops: u64,
}

impl Product {
    /// The convolution of this geometry; `packed` says that packed weights can be kept from call to call.
    pub fn forward(isa: Isa, geometry: &Geometry, epilogue: Epilogue, packed: bool) -> Self {
        Self::new(isa, Task::forward(geometry), epilogue, geometry.flops(), packed)
    }

    /// Its data gradient.
    pub fn backward_data(isa: Isa, geometry: &Geometry, packed: bool) -> Self {
        Self::new(isa, Task::backward_data(geometry), Epilogue::default(), geometry.flops(), packed)
    }

    fn new(isa: Isa, task: Task, epilogue: Epilogue, flops: u64, packed: bool) -> Self {
        let panels = Panels::new(isa, &task);
        let tiles = task.tiles();
        let cut = if tiles <= FEW {
            Cut::Panels { raw: !packed }
        } else {
            let room = CACHE / (POSITIONS * size_of::<f32>() * (task.sc + panels.nr));
            Cut::Blocks { blocks: tiles.div_ceil(room.clamp(BLOCK[0], BLOCK[1])).next_multiple_of(2) }
        };
        Self { isa, task, epilogue, panels, cut, flops }
    }

    /// Whether the weights are wanted as the layer has them.
    pub fn takes_raw(&self) -> bool {
        self.cut == Cut::Panels { raw: true }
    }

    /// Floats of the operand that holds positions.
    pub fn positions_len(&self) -> usize {
        match self.cut {
            Cut::Blocks { .. } => 0,
            Cut::Panels { .. } => self.all().floats(),
        }
    }

    /// Positions of all tiles.
    fn all(&self) -> Positions {
        Positions::new(self.task.tiles(), self.task.sc)
    }

    fn layout(&self) -> Layout {
        let (tiles, source, weights) = match self.cut {
            Cut::Blocks { blocks } => {
                let tiles = self.task.tiles().div_ceil(blocks);
                (tiles, Positions::new(tiles, self.task.sc).floats(), 0)
            }
            Cut::Panels { raw } => (self.task.tiles(), 0, if raw { self.panels.panel_len() } else { 0 }),
        };
        let zeros = self.task.sc.next_multiple_of(16);
        Layout { tiles, source, weights, sums: Positions::new(tiles, self.panels.nr), zeros }
    }
}

/// Scratch of a task: positions of the source, a panel of weights, positions of the sums, zeros, and the tables of the
/// products' rows.
struct Layout {
    tiles: usize,
    source: usize,
    weights: usize,
    sums: Positions,
    zeros: usize,
}

impl Layout {
    fn floats(&self) -> usize {
        (self.source + self.weights + self.sums.floats() + self.zeros).next_multiple_of(16)
    }

    fn bytes(&self) -> usize {
        self.floats() * size_of::<f32>() + 2 * self.tiles * size_of::<*const f32>()
    }
}

impl Kernel for Product {
    fn name(&self) -> String {
        let what = if self.task.turned { "conv_winograd_backward_data" } else { "conv_winograd" };
        let cut = if matches!(self.cut, Cut::Panels { .. }) { "_panels" } else { "" };
        let epilogue = self.epilogue.name();
        format!("{what}{epilogue}_f4{cut}_{}x{}_{}", tile_rows(self.isa, 2), self.panels.nr, self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.phase(self.phases() - 1).end
    }

    fn phases(&self) -> usize {
        if matches!(self.cut, Cut::Panels { .. }) { 2 } else { 1 }
    }

    fn phase(&self, number: usize) -> Range<usize> {
        match (self.cut, number) {
            (Cut::Blocks { blocks }, _) => 0..blocks,
            (Cut::Panels { .. }, 0) => 0..self.task.tiles().div_ceil(TILES),
            (Cut::Panels { .. }, _) => {
                let start = self.task.tiles().div_ceil(TILES);
                start..start + self.panels.count
            }
        }
    }

    fn scratch(&self) -> usize {
        self.layout().bytes()
    }

    fn flops(&self) -> u64 {
        self.flops
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        let of = &self.task;
        let layout = self.layout();
        let source = scratch.cast::<f32>();
        let weights = source.wrapping_add(layout.source);
        let sums = weights.wrapping_add(layout.weights);
        let zeros = sums.wrapping_add(layout.sums.floats());
        let table = source.wrapping_add(layout.floats()).cast::<*const f32>();
        let results = table.wrapping_add(layout.tiles).cast::<*mut f32>();
        let src = args.src::<f32>(0).at(0, of.n * of.sh * of.sw * of.sc);
        let (len, result) = (of.n * of.dh * of.dw * of.dc, 2 + self.epilogue.operands());
        let run = Run {
            sums,
            positions: layout.sums,
            table,
            results,
            finish: self.epilogue.finish(args, of.dc, len),
            dst: args.dst::<f32>(result).at(0, len),
        };
        // SAFETY: scratch is as large as `scratch()` says; sources and results lie inside their operands; positions are
        // written in the first phase and read in the second.
        unsafe {
            match self.cut {
                Cut::Blocks { blocks } => {
                    let tiles = share(task, blocks, of.tiles());
                    let places = Positions::new(layout.tiles, of.sc);
                    zeros.write_bytes(0, layout.zeros);
                    self.transform(tiles.clone(), src, zeros, source, places);
                    let packed = args.src::<f32>(1).at(0, self.panels.floats());
                    for panel in 0..self.panels.count {
                        let weights = packed.wrapping_add(self.panels.start(panel, 0));
                        self.multiply(&run, tiles.clone(), source, places, panel, weights);
                    }
                }
                Cut::Panels { .. } if task < self.phase(0).end => {
                    let tiles = task * TILES..((task + 1) * TILES).min(of.tiles());
                    let places = self.all();
                    let positions = args.dst::<f32>(result + 1).at(0, places.floats());
                    zeros.write_bytes(0, layout.zeros);
                    self.transform(
                        tiles.clone(),
                        src,
                        zeros,
                        positions.wrapping_add(tiles.start * places.pitch),
                        places,
                    );
                }
                Cut::Panels { raw } => {
                    let panel = task - self.phase(1).start;
                    let places = self.all();
                    let positions = args.src::<f32>(result + 1).at(0, places.floats());
                    let given = args.src::<f32>(1);
                    let weights = if raw {
                        let given = given.at(0, 9 * of.sc * of.dc);
                        transform_weights(self.isa, of, &self.panels, panel, 0..of.sc, given, weights);
                        weights.cast_const()
                    } else {
                        given.at(self.panels.start(panel, 0), self.panels.panel_len())
                    };
                    self.multiply(&run, 0..of.tiles(), positions, places, panel, weights);
                }
            }
        }
    }
}

/// What the products of a task have in common: memory and operands.
struct Run {
    sums: *mut f32,
    positions: Positions,
    table: *mut *const f32,
    results: *mut *mut f32,
    finish: Finish,
    dst: *mut f32,
}

impl Product {
    /// Transforms the source pixels of tiles to `to`, the place of the first tile's first position.
    ///
    /// # Safety
    /// As [`transform_source`].
    unsafe fn transform(
        &self,
        tiles: Range<usize>,
        src: *const f32,
        zeros: *const f32,
        to: *mut f32,
        places: Positions,
    ) {
        for (row, index) in tiles.enumerate() {
            let to = to.wrapping_add(row * places.pitch);
            // SAFETY: the caller's word.
            unsafe { transform_source(self.isa, &self.task, index, src, zeros, to, places.plane) };
        }
    }

    /// Multiplies all positions of tiles by those of a panel and transforms the sums into results.
    ///
    /// # Safety
    /// `source` is the place of the first tile's first position, `weights` that of the panel's; memory and operands are
    /// those of this geometry, and the results of the tiles and the panel belong to this task.
    unsafe fn multiply(
        &self,
        run: &Run,
        tiles: Range<usize>,
        source: *const f32,
        places: Positions,
        panel: usize,
        weights: *const f32,
    ) {
        let (isa, of, sums) = (self.isa, &self.task, run.positions);
        let count = tiles.len();
        let parts = count.div_ceil(tile_rows(isa, 2));
        // SAFETY: the caller's word.
        unsafe {
            for row in 0..count {
                run.table.add(row).write(source.wrapping_add(row * places.pitch));
                run.results.add(row).write(run.sums.wrapping_add(row * sums.pitch));
            }
            for position in 0..POSITIONS {
                let delta = (position * places.plane) as isize;
                for part in 0..parts {
                    let rows = share(part, parts, count);
                    let product = Tile {
                        table: run.table.add(rows.start),
                        table_pitch: 0,
                        deltas: &raw const delta,
                        segments: (0, 1),
                        len: of.sc,
                        panel: weights.wrapping_add(self.panels.start(0, position)),
                        pitch: self.panels.nr,
                        results: run.results.add(rows.start),
                        channel: position * sums.plane,
                        channels: self.panels.nr,
                        finish: &Finish::NONE,
                        run: RUN,
                        ahead: Ahead { from: weights, step: 0 },
                    };
                    tile(isa, rows.len(), 2, &product);
                }
            }
            let first = panel * self.panels.nr;
            let write = Write {
                plane: sums.plane,
                finish: run.finish.at(first),
                pitch: [of.dw * of.dc, of.dc],
                channels: self.panels.nr.min(of.dc - first),
            };
            for (row, index) in tiles.enumerate() {
                let (image, y, x) = of.tile(index);
                let at = run.dst.wrapping_add(((image * of.dh + y) * of.dw + x) * of.dc + first);
                let size = [OUT.min(of.dh - y), OUT.min(of.dw - x)];
                results_of(isa, run.sums.wrapping_add(row * sums.pitch), at, size, &write);
                self.activate(at, size, &write);
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
