//! Calls of tiles: panels of weights by rows of pixels, and the operands of a task.

use std::ops::Range;

use super::epilogue::Finish;
use super::micro::{Ahead, MAX_ROWS, Tile, tile};
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

    /// What `count` calls from number `call` on, which are made as one, ask for.
    pub fn pieces(&self, call: usize, count: usize) -> Ahead {
        Ahead { from: self.from.wrapping_add(call * self.piece), step: self.step * count }
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
    /// # Safety
    /// The tables of `slot` stand for `rows` rows, one row if there are several panels; weights and
    /// epilogue are those of the group.
    pub unsafe fn run(&self, panels: Range<usize>, tables: &Tables<'_>, slot: usize, rows: usize, ahead: Ahead) {
        debug_assert!(rows <= MAX_ROWS && (panels.len() == 1 || rows == 1));
        let nr = self.problem.nr();
        let (panel, channel) = (panels.start, panels.start * nr);
        let channels = (panels.len() * nr).min(self.problem.channels - channel);
        let vectors = match panels.len() {
            1 => channels.div_ceil(self.problem.isa.lanes()),
            count => count * self.problem.vectors,
        };
        let call = Tile {
            table: tables.table(slot),
            table_pitch: if tables.per_segment() { rows } else { 0 },
            deltas: tables.deltas(),
            // SAFETY: the caller filled the tables.
            segments: unsafe { tables.segments(slot) },
            len: tables.segment_len(),
            panel: self.weights.wrapping_add(panel * self.length),
            pitch: nr,
            next_panel: self.length,
            results: tables.results(slot),
            channel,
            channels,
            finish: &self.finish,
            ahead,
        };
        // SAFETY: the caller's word.
        unsafe {
            let nan = tile(self.problem.isa, rows, vectors, &call);
            if nan && self.problem.fold > 1 {
                self.repair(&call, rows);
            }
        }
    }

    /// Sums again, each over its own window alone, the results of a folded tile that are NaN: a NaN or infinity that
    /// only a pixel's neighbours reach met a zero weight.
    ///
    /// # Safety
    /// As for the tile that ran; what is added has memory of its own.
    unsafe fn repair(&self, call: &Tile<'_>, rows: usize) {
        let Problem { isa, fold, channels, .. } = *self.problem;
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
                for segment in call.segments.0..call.segments.1 {
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
