//! The stages of some tiles: into positions, through the products with a panel, back into results.

use std::ops::Range;

use super::Tile;
use super::pack::Panels;
use super::product::Product;
use super::results::{Write, results_of};
use super::source::Positions;
use super::tile::{Rows, sum_over_channels};
use crate::kernels::ahead::{LINE, ask};
use crate::kernels::conv::epilogue::Finish;
use crate::kernels::conv::micro::tile_rows;
use crate::kernels::conv::{moments, sums};
use crate::kernels::elementwise;

/// What the products of a task have in common: tiles, memory and operands.
pub(super) struct Run {
    /// How many tiles, and the first of them.
    pub(super) count: usize,
    pub(super) first: Tile,
    pub(super) sums: *mut f32,
    pub(super) positions: Positions,
    pub(super) finish: Finish,
    pub(super) dst: *mut f32,
    /// Whether results are written past the caches.
    pub(super) streams: bool,
    pub(super) src: *const f32,
    /// What is asked for of the source, if anything is.
    pub(super) behind: Option<Behind>,
    /// Where the statistics of the results go.
    pub(super) part: Option<moments::Part>,
    /// Where their sums go, and what they pass before.
    pub(super) sums_part: Option<sums::Part>,
}

impl Run {
    /// Tiles, the first of them and how many, without anything that the fields behind `dst` are for.
    pub(super) fn new(
        (first, count): (Tile, usize),
        (sums, positions): (*mut f32, Positions),
        finish: Finish,
        src: *const f32,
        dst: *mut f32,
    ) -> Self {
        let streams = false;
        Self { count, first, sums, positions, finish, dst, streams, src, behind: None, part: None, sums_part: None }
    }
}

/// Tiles side by side that go into sums at once, as lines of pixels.
struct Stretch {
    part: sums::Part,
    /// Number of the first result, and lines and pixels of a line.
    index: usize,
    size: [usize; 2],
}

impl Stretch {
    /// Adds the tile on the right, or the first one: its first result and its size.
    fn extend(&mut self, index: usize, [height, width]: [usize; 2]) {
        if self.size[1] == 0 {
            self.index = index;
        }
        self.size = [height, self.size[1] + width];
    }

    /// Takes the tiles into the sums, if there are any.
    ///
    /// # Safety
    /// As [`sums::Part::add`]; `dst` is the first result.
    unsafe fn close(&mut self, dst: *mut f32, pitch: [usize; 2], channels: Range<usize>) {
        if self.size[1] > 0 {
            // SAFETY: the caller's word.
            unsafe { self.part.add((dst.wrapping_add(self.index), self.index), self.size, pitch, channels) };
            self.size = [0; 2];
        }
    }
}

/// Things dealt out over steps, nearly evenly.
struct Deal {
    whole: usize,
    rest: usize,
    steps: usize,
    owed: usize,
}

impl Deal {
    fn new(count: usize, steps: usize) -> Self {
        Self { whole: count / steps, rest: count % steps, steps, owed: 0 }
    }

    /// The next step's.
    fn next(&mut self) -> usize {
        self.owed += self.rest;
        if self.owed < self.steps {
            return self.whole;
        }
        self.owed -= self.steps;
        self.whole + 1
    }
}

/// The lines of source pixels that the tiles behind a task's read and its own do not.
pub(super) struct Behind {
    tile: Tile,
    line: usize,
    lines: Deal,
}

impl Behind {
    /// For as many tiles from `tile` on, dealt out over all products of positions.
    pub(super) fn new(tile: Tile, lines: usize, products: usize) -> Self {
        Self { tile, line: 0, lines: Deal::new(lines, products) }
    }
}

impl Product {
    /// Multiplies all positions of the tiles by those of a panel and transforms the sums into results.
    ///
    /// # Safety
    /// `source` is the place of the first tile's first position, `weights` that of the panel's; memory and operands are
    /// those of this geometry, and the results of the tiles and the panel belong to this task.
    pub(super) unsafe fn multiply(
        &self,
        run: &mut Run,
        source: *const f32,
        places: Positions,
        panel: usize,
        weights: *const f32,
    ) {
        // SAFETY: the caller's word.
        unsafe {
            self.products(run, source, places, panel, (weights, self.panels), 0..self.task.sc);
            self.results(run, panel);
        }
    }

    /// The products of some source channels, whose weights are given, added to those of the channels before.
    ///
    /// # Safety
    /// As [`multiply`](Self::multiply).
    pub(super) unsafe fn products(
        &self,
        run: &mut Run,
        source: *const f32,
        places: Positions,
        panel: usize,
        (weights, panels): (*const f32, Panels),
        channels: Range<usize>,
    ) {
        let (sums, scheme, positions) = (run.positions, &self.task.scheme, self.task.positions());
        let parts = run.count.div_ceil(tile_rows(self.isa, 2));
        let (least, more) = (run.count / parts, run.count % parts);
        let panel_at = |weight: usize| weights.wrapping_add(panels.start(0, weight));
        let mut results = (run.first, Deal::new(run.count, positions));
        // SAFETY: the caller's word.
        unsafe {
            for position in 0..positions {
                if channels.end == self.task.sc {
                    self.ask(run, &mut results, panel);
                }
                let weight = scheme.weight_of(position);
                let next = if position + 1 < positions { scheme.weight_of(position + 1) } else { weight + 1 };
                let mut row = 0;
                for part in 0..parts {
                    let rows = least + usize::from(part < more);
                    let product = Rows {
                        source: source.wrapping_add(position * places.plane + row * places.pitch + channels.start),
                        pitch: places.pitch,
                        depth: channels.len(),
                        panel: panel_at(weight),
                        sums: run.sums.wrapping_add(position * sums.plane + row * sums.pitch),
                        sums_pitch: sums.pitch,
                        add: channels.start > 0,
                        run: scheme.run,
                        // The next position's weights, or the next panel's first.
                        ahead: panel_at(next).wrapping_add(part * channels.len() * LINE),
                    };
                    sum_over_channels(self.isa, rows, &product);
                    row += rows;
                }
            }
        }
    }

    /// Transforms the sums of the tiles and a panel into results.
    ///
    /// # Safety
    /// As [`multiply`](Self::multiply).
    pub(super) unsafe fn results(&self, run: &Run, panel: usize) {
        let (isa, of, sums) = (self.isa, &self.task, run.positions);
        let first = panel * self.panels.nr;
        let write = Write {
            plane: sums.plane,
            finish: run.finish.at(first),
            pitch: [self.line(), of.dc],
            channels: self.channels(panel),
            kind: of.scheme.kind,
            pool: self.pool,
            streams: run.streams,
        };
        let channels = first..first + write.channels;
        let mut moments = run.part.map(|part| part.tiles(channels.clone()));
        let mut passing = run.sums_part.map(|part| Stretch { part, index: 0, size: [0; 2] });
        let mut tile = run.first;
        for row in 0..run.count {
            let (index, size) = self.place(tile);
            let at = run.dst.wrapping_add(index + first);
            // SAFETY: the caller's word.
            unsafe {
                results_of(isa, run.sums.wrapping_add(row * sums.pitch), at, size, &write, moments.as_mut());
                self.activate(at, size, &write);
                if let Some(passing) = &mut passing {
                    if tile.x == 0 {
                        passing.close(run.dst, write.pitch, channels.clone());
                    }
                    passing.extend(index + first, size);
                }
            }
            tile = of.behind(tile);
        }
        // SAFETY: the caller's word.
        unsafe {
            if let Some(moments) = &mut moments {
                moments.close();
            }
            if let Some(passing) = &mut passing {
                passing.close(run.dst, write.pitch, channels);
            }
        }
    }

    /// Result channels of a panel.
    fn channels(&self, panel: usize) -> usize {
        self.panels.nr.min(self.task.dc - panel * self.panels.nr)
    }

    /// While the products keep the arithmetic busy, asks for what comes next: the `results` of this panel, and the source
    /// pixels behind the tiles.
    fn ask(&self, run: &mut Run, (tile, results): &mut (Tile, Deal), panel: usize) {
        let (isa, of) = (self.isa, &self.task);
        let wanted = if run.streams { 0 } else { results.next() };
        for _ in 0..wanted {
            let (index, size) = self.place(*tile);
            let index = index + panel * self.panels.nr;
            let size = size.map(|results| self.written(results));
            let (pitch, channels) = ([self.line(), of.dc], self.channels(panel));
            // SAFETY: hints.
            unsafe { ask(isa, run.dst.wrapping_add(index), size, pitch, channels) };
            if let Some(part) = &run.sums_part {
                part.ask(index, size, pitch, channels);
            }
            *tile = of.behind(*tile);
        }
        let Some(behind) = &mut run.behind else { return };
        for _ in 0..behind.lines.next() {
            let (image, [y, x]) = (behind.tile.image, of.source_of(behind.tile));
            if image == of.n {
                return;
            }
            let (step, shared) = (of.scheme.step, of.scheme.side - of.scheme.step);
            let y = (y + shared + behind.line).saturating_sub(of.pad[0]).min(of.sh - 1);
            let x = (x + shared - of.pad[1]).min(of.sw - 1);
            let at = run.src.wrapping_add(((image * of.sh + y) * of.sw + x) * of.sc);
            // SAFETY: hints.
            unsafe { ask(isa, at, [1, step.min(of.sw - x)], [0, of.sc], of.sc) };
            behind.line += 1;
            if behind.line == step {
                (behind.line, behind.tile) = (0, of.behind(behind.tile));
            }
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
