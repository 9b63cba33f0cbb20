//! Forward and data gradient: transform, multiply, transform back.

use super::pack::{Panels, transform_weights};
use super::results::{Write, results_of};
use super::source::{Positions, transform_source};
use super::tile::{Rows, sum_over_channels};
use super::{Geometry, Task};
use crate::kernels::ahead::{LINE, ask};
use crate::kernels::conv::Epilogue;
use crate::kernels::conv::epilogue::Finish;
use crate::kernels::conv::micro::tile_rows;
use crate::kernels::{Kernel, elementwise, share};
use crate::simd::Isa;
use crate::tensor::Args;
use std::ops::Range;

/// Bytes of positions that a block may take of the second-level cache.
const CACHE: usize = 640 << 10;
/// Tiles of a block: fewer leave the products too few rows, more gain nothing.
const BLOCK: [usize; 2] = [12, 60];
/// Up to so many tiles, or half as many as there are result channels, the work is shared out by panels: then reading all
/// positions for every panel takes less than reading all weights for every block.
const FEW: usize = 128;
/// Source channels whose weights are transformed at a time where they are used: a multiple of what is summed at a time.
const DEPTH: usize = 64;
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
    pool: bool,
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
        let cut = if tiles <= FEW.max(task.dc / 2) {
            Cut::Panels { raw: !packed }
        } else {
            let room = CACHE / (task.positions() * size_of::<f32>() * (task.sc + panels.nr));
            Cut::Blocks { blocks: tiles.div_ceil(room.clamp(BLOCK[0], BLOCK[1])).next_multiple_of(2) }
        };
        Self { isa, task, epilogue, panels, cut, flops, pool: false }
    }

    /// Whether [`pooled`](Self::pooled) is possible: of large tiles that hold whole windows, with nothing added, and no
    /// activation but relu.
    pub fn pools(geometry: &Geometry, epilogue: Epilogue) -> bool {
        let task = Task::forward(geometry);
        let whole = task.out == 4 && task.dh.is_multiple_of(2) && task.dw.is_multiple_of(2);
        whole && !epilogue.add && epilogue.later().is_none()
    }

    /// The same with the largest of every 2×2 results as its result: maximum pooling.
    #[must_use]
    pub fn pooled(self) -> Self {
        debug_assert!(self.task.out == 4 && !self.epilogue.add && self.epilogue.later().is_none());
        Self { pool: true, ..self }
    }

    /// Results along each axis for one that is written.
    fn step(&self) -> usize {
        if self.pool { 2 } else { 1 }
    }

    /// Floats of a line of what is written.
    fn line(&self) -> usize {
        self.task.dw / self.step() * self.task.dc
    }

    /// Floats to the first thing that is written of a tile, and its rows and columns of results.
    fn place(&self, tile: usize) -> (usize, [usize; 2]) {
        let of = &self.task;
        let (image, y, x) = of.tile(tile);
        let at = (image * of.dh + y) / self.step() * self.line() + x / self.step() * of.dc;
        (at, [of.out.min(of.dh - y), of.out.min(of.dw - x)])
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
        self.task.places(self.task.tiles(), self.task.sc)
    }

    fn layout(&self) -> Layout {
        let (tiles, source, weights) = match self.cut {
            Cut::Blocks { blocks } => {
                let tiles = self.task.tiles().div_ceil(blocks);
                (tiles, self.task.places(tiles, self.task.sc).floats(), 0)
            }
            Cut::Panels { raw } => (
                self.task.tiles(),
                0,
                if raw { self.panels.with_depth(DEPTH.min(self.task.sc)).panel_len() } else { 0 },
            ),
        };
        let zeros = self.task.sc.next_multiple_of(16);
        Layout { tiles, source, weights, sums: self.task.places(tiles, self.panels.nr), zeros }
    }
}

/// Scratch of a task: positions of the source, a panel of weights, positions of the sums, zeros.
struct Layout {
    tiles: usize,
    source: usize,
    weights: usize,
    sums: Positions,
    zeros: usize,
}

impl Layout {
    fn bytes(&self) -> usize {
        (self.source + self.weights + self.sums.floats() + self.zeros) * size_of::<f32>()
    }
}

impl Kernel for Product {
    fn name(&self) -> String {
        let what = if self.task.turned { "conv_winograd_backward_data" } else { "conv_winograd" };
        let cut = if matches!(self.cut, Cut::Panels { .. }) { "_panels" } else { "" };
        let epilogue = self.epilogue.name();
        let pool = if self.pool { "_max_pool" } else { "" };
        format!(
            "{what}{epilogue}{pool}_{}{cut}_{}x{}_{}",
            self.task.scheme(),
            tile_rows(self.isa, 2),
            self.panels.nr,
            self.isa.name()
        )
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
        let src = args.src::<f32>(0).at(0, of.n * of.sh * of.sw * of.sc);
        let (len, result) = (of.n * of.dh / self.step() * self.line(), 2 + self.epilogue.operands());
        let run = Run {
            sums,
            positions: layout.sums,
            finish: self.epilogue.finish(args, of.dc, len),
            dst: args.dst::<f32>(result).at(0, len),
            src,
            blocks: matches!(self.cut, Cut::Blocks { .. }),
        };
        // SAFETY: scratch is as large as `scratch()` says; sources and results lie inside their operands; positions are
        // written in the first phase and read in the second.
        unsafe {
            match self.cut {
                Cut::Blocks { blocks } => {
                    let tiles = share(task, blocks, of.tiles());
                    let places = of.places(layout.tiles, of.sc);
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
                    if raw {
                        let given = given.at(0, of.weights_len());
                        let part = self.panels.with_depth(DEPTH.min(of.sc));
                        for first in (0..of.sc).step_by(DEPTH) {
                            let channels = first..of.sc.min(first + DEPTH);
                            transform_weights(self.isa, of, &part, panel, channels.clone(), given, weights);
                            let weights = (weights.cast_const(), part);
                            self.products(&run, 0..of.tiles(), positions, places, panel, weights, channels);
                        }
                        self.results(&run, 0..of.tiles(), panel);
                    } else {
                        let weights = given.at(self.panels.start(panel, 0), self.panels.panel_len());
                        self.multiply(&run, 0..of.tiles(), positions, places, panel, weights);
                    }
                }
            }
        }
    }
}

/// What the products of a task have in common: memory and operands.
struct Run {
    sums: *mut f32,
    positions: Positions,
    finish: Finish,
    dst: *mut f32,
    src: *const f32,
    blocks: bool,
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
            unsafe { transform_source(self.isa, &self.task, index, src, zeros, to, &places) };
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
        // SAFETY: the caller's word.
        unsafe {
            self.products(run, tiles.clone(), source, places, panel, (weights, self.panels), 0..self.task.sc);
            self.results(run, tiles, panel);
        }
    }

    /// The products of some source channels, whose weights are given, added to those of the channels before.
    ///
    /// # Safety
    /// As [`multiply`](Self::multiply).
    unsafe fn products(
        &self,
        run: &Run,
        tiles: Range<usize>,
        source: *const f32,
        places: Positions,
        panel: usize,
        (weights, panels): (*const f32, Panels),
        channels: Range<usize>,
    ) {
        let sums = run.positions;
        let count = tiles.len();
        let parts = count.div_ceil(tile_rows(self.isa, 2));
        let panel_at = |position| weights.wrapping_add(panels.start(0, position));
        // SAFETY: the caller's word.
        unsafe {
            for position in 0..self.task.positions() {
                if channels.end == self.task.sc {
                    self.ask(run, &tiles, panel, position);
                }
                for part in 0..parts {
                    let rows = share(part, parts, count);
                    let source = source.wrapping_add(position * places.plane + rows.start * places.pitch);
                    let product = Rows {
                        source: source.wrapping_add(channels.start),
                        pitch: places.pitch,
                        depth: channels.len(),
                        panel: panel_at(position),
                        sums: run.sums.wrapping_add(position * sums.plane + rows.start * sums.pitch),
                        sums_pitch: sums.pitch,
                        add: channels.start > 0,
                        run: self.task.run(),
                        // The next position's weights, or the next panel's first.
                        ahead: panel_at(position + 1).wrapping_add(part * channels.len() * LINE),
                    };
                    sum_over_channels(self.isa, rows.len(), &product);
                }
            }
        }
    }

    /// Transforms the sums of tiles and a panel into results.
    ///
    /// # Safety
    /// As [`multiply`](Self::multiply).
    unsafe fn results(&self, run: &Run, tiles: Range<usize>, panel: usize) {
        let (isa, of, sums) = (self.isa, &self.task, run.positions);
        let first = panel * self.panels.nr;
        let write = Write {
            plane: sums.plane,
            finish: run.finish.at(first),
            pitch: [self.line(), of.dc],
            channels: self.panels.nr.min(of.dc - first),
            side: of.side(),
            out: of.out,
            pool: self.pool,
        };
        for (row, index) in tiles.enumerate() {
            let (at, size) = self.place(index);
            let at = run.dst.wrapping_add(at + first);
            // SAFETY: the caller's word.
            unsafe {
                results_of(isa, run.sums.wrapping_add(row * sums.pitch), at, size, &write);
                self.activate(at, size, &write);
            }
        }
    }
}

impl Product {
    /// While the products keep the arithmetic busy, asks for what comes next: the results of this panel, and the
    /// source pixels of the next block.
    fn ask(&self, run: &Run, tiles: &Range<usize>, panel: usize, position: usize) {
        let (isa, of) = (self.isa, &self.task);
        let first = panel * self.panels.nr;
        for index in share(position, of.positions(), tiles.len()) {
            let (at, size) = self.place(tiles.start + index);
            let (at, size) = (run.dst.wrapping_add(at + first), size.map(|results| results / self.step()));
            // SAFETY: hints.
            unsafe { ask(isa, at, size, [self.line(), of.dc], self.panels.nr.min(of.dc - first)) };
        }
        if !run.blocks {
            return;
        }
        let (step, steps) = (panel * of.positions() + position, self.panels.count * of.positions());
        for unit in share(step, steps, tiles.len() * of.out) {
            let index = tiles.end + unit / of.out;
            if index >= of.tiles() {
                return;
            }
            let (image, y, x) = of.tile(index);
            let y = (y + of.kernel - 1 + unit % of.out - of.pad[0]).min(of.sh - 1);
            let x = (x + of.kernel - 1 - of.pad[1]).min(of.sw - 1);
            let at = run.src.wrapping_add(((image * of.sh + y) * of.sw + x) * of.sc);
            // SAFETY: hints.
            unsafe { ask(isa, at, [1, of.out.min(of.sw - x)], [0, of.sc], of.sc) };
        }
    }

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
