//! Calls of tiles: panels of weights by rows of pixels, and the operands of a task.

use std::ops::Range;

use super::epilogue::Finish;
use super::micro::{Ahead, MAX_ROWS, Tile, has_nan, tile};
use super::pack::Problem;
use super::sums::Sums;
use super::tables::Tables;
use crate::function::UnaryKind;
use crate::simd::Isa;
use crate::tensor::{Dst, Src};

/// What a task works on.
#[derive(Clone, Copy)]
pub struct Operands<'a> {
    pub src: Src<'a, f32>,
    /// What is copied beforehand.
    pub copy: Option<Src<'a, f32>>,
    pub packed: Src<'a, f32>,
    pub finish: Finish,
    /// What is left of the activation for finished rows.
    pub activation: Option<UnaryKind>,
    pub results: Results<'a>,
    pub taken: Taken<'a>,
}

/// What is taken of finished results for a normalization, while they are in cache.
#[derive(Clone, Copy)]
pub enum Taken<'a> {
    Nothing,
    /// Their statistics, which go here.
    Moments(Dst<'a, f64>),
    /// Their sums, behind a gate.
    Sums(Sums<'a>),
}

/// A view of the results but for those `before` it.
#[derive(Clone, Copy)]
pub struct Results<'a> {
    pub view: Dst<'a, f32>,
    pub before: usize,
}

impl Results<'_> {
    /// The address of result `index`, of which `count` will be written.
    #[inline(always)]
    pub fn at(&self, index: usize, count: usize) -> *mut f32 {
        self.view.at(index - self.before, count)
    }
}

/// Memory that is read after a unit, which its calls ask for in equal pieces.
pub struct Next {
    from: *const f32,
    piece: usize,
    step: usize,
}

impl Next {
    pub fn new((from, floats): (*const f32, usize), calls: usize, depth: usize) -> Self {
        let piece = floats / calls.max(1);
        Self { from, piece, step: piece.div_ceil(depth.max(1)) }
    }

    /// What tiles from number `first` on ask for, each of them for `count` pieces.
    pub fn pieces(&self, first: usize, count: usize) -> Ahead {
        let piece = self.piece * count;
        Ahead { from: self.from.wrapping_add(first * self.piece), step: self.step * count, piece }
    }
}

/// What the tiles of one task have in common.
pub struct PanelCall<'a> {
    pub problem: &'a Problem,
    /// Weights of the group, and floats of a panel.
    pub weights: *const f32,
    pub length: usize,
    pub finish: Finish,
}

impl PanelCall<'_> {
    /// Runs the tiles of `rows` rows each of these slots, one per slot and panel.
    ///
    /// # Safety
    /// The tables of the slots were filled with so many rows; weights and epilogue are those of the group.
    pub unsafe fn run(
        &self,
        panels: Range<usize>,
        tables: &Tables<'_>,
        slots: Range<usize>,
        rows: usize,
        ahead: Ahead,
    ) {
        let Problem { isa, vectors, channels, fold, .. } = *self.problem;
        let nr = self.problem.nr();
        // The last panel may be a part of one.
        let whole = (channels / nr).clamp(panels.start, panels.end);
        // SAFETY: the caller's word.
        unsafe {
            if whole > panels.start {
                let count = [slots.len(), whole - panels.start];
                let call = self.call(panels.start, tables, slots.start, rows, ahead);
                tile(isa, rows, vectors, &Tile { count, ..call });
            }
            if whole < panels.end {
                let ahead = ahead.behind(slots.len() * (whole - panels.start));
                let call = self.call(whole, tables, slots.start, rows, ahead);
                tile(isa, rows, call.channels.div_ceil(isa.lanes()), &Tile { count: [slots.len(), 1], ..call });
            }
            if fold > 1 {
                slots.for_each(|slot| self.repair(&self.call(panels.start, tables, slot, rows, ahead), rows));
            }
        }
    }

    /// Runs one tile of as many panels as [`ROW_PANELS`](super::micro::ROW_PANELS) has, for the one row of the first slot.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    pub unsafe fn run_row(&self, panels: Range<usize>, tables: &Tables<'_>, ahead: Ahead) {
        let Problem { isa, vectors, channels, fold, .. } = *self.problem;
        let nr = self.problem.nr();
        let call = self.call(panels.start, tables, 0, 1, ahead);
        let channels = (panels.len() * nr).min(channels - panels.start * nr);
        let vectors = if panels.len() == 1 { channels.div_ceil(isa.lanes()) } else { panels.len() * vectors };
        // SAFETY: the caller's word.
        unsafe {
            tile(isa, 1, vectors, &Tile { channels, ..call });
            if fold > 1 {
                self.repair(&call, 1);
            }
        }
    }

    /// The tile of one slot and panel.
    fn call(&self, panel: usize, tables: &Tables<'_>, slot: usize, rows: usize, ahead: Ahead) -> Tile<'_> {
        debug_assert!((1..=MAX_ROWS).contains(&rows));
        let nr = self.problem.nr();
        Tile {
            table: tables.table(slot),
            table_pitch: if tables.per_segment() { rows } else { 0 },
            deltas: tables.deltas(),
            segments: tables.segments(slot),
            len: tables.segment_len(),
            panel: self.weights.wrapping_add(panel * self.length),
            pitch: nr,
            next_panel: self.length,
            results: tables.results(slot),
            channel: panel * nr,
            channels: nr.min(self.problem.channels - panel * nr),
            count: [1, 1],
            tables_pitch: tables.pitch(),
            finish: &self.finish,
            ahead,
        }
    }

    /// Sums again, each over its own window alone, the results of a folded tile that are NaN: a NaN or infinity that
    /// only a pixel's neighbours reach met a zero weight.
    ///
    /// # Safety
    /// As for the tile that ran; what is added has memory of its own.
    unsafe fn repair(&self, call: &Tile<'_>, rows: usize) {
        let Problem { isa, fold, channels, .. } = *self.problem;
        // SAFETY: the tile wrote these results.
        if !unsafe { has_nan(isa, call.results, rows, channels) } {
            return;
        }
        let single = channels / fold;
        let class = &self.problem.classes[0];
        let (depth, taps) = (class.lattice.group_channels, class.lattice.w.taps.len());
        for (row, lane) in (0..rows).flat_map(|row| (0..channels).map(move |lane| (row, lane))) {
            // SAFETY: the addresses the tile itself went through.
            unsafe {
                let result = (*call.results.add(row)).wrapping_add(lane);
                if !result.read().is_nan() {
                    continue;
                }
                let first = lane / single * class.fold_step * depth;
                let mut sum = 0.0f32;
                for segment in (*call.segments).0..(*call.segments).1 {
                    let source = *call.table.wrapping_add(segment * call.table_pitch).add(row);
                    let source = source.wrapping_offset(*call.deltas.add(segment));
                    for k in first..first + taps * depth {
                        let weight = *call.panel.wrapping_add((segment * call.len + k) * call.pitch + lane);
                        let value = *source.wrapping_add(k);
                        sum = if isa == Isa::Portable { sum + value * weight } else { value.mul_add(weight, sum) };
                    }
                }
                result.write(call.finish.one(isa, sum, lane, result));
            }
        }
    }
}
