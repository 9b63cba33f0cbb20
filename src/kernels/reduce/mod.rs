//! Reductions whose order is fixed by shape.

mod body;
mod fold;

use std::ops::Range;

use self::body::{Columns, Lines, Piece};
use super::elementwise::Chunks;
use super::{Kernel, share};
use crate::function::ReduceKind;
use crate::simd::Isa;
use crate::tensor::{Args, Dst, Src};

/// Tasks that keep every core busy.
const TASKS: usize = 16;
/// Elements below which a part is not worth a task of its own.
const PART: usize = 16 << 10;
/// Elements above which a part is cut further all the same, so that no part sums too long a row.
const LONG_PART: usize = 1 << 20;
/// Most parts.
const MOST_PARTS: usize = 256;
/// Inner elements that one task takes side by side where there are many.
const BAND: usize = 512;

/// Reduction of the middle axis of three, `outer` × `reduced` × `inner` → `outer` × `inner`; any set of axes is a
/// sequence of such. Operands: `src`, `dst` ([`parts`](Self::parts) times the result; several parts are then reduced
/// by the [`of_totals`] kind).
///
/// Sums are taken in blocks of 64 values, and the blocks' sums after, so that the error of long sums stays small.
#[derive(Debug, Clone)]
pub struct Reduce {
    isa: Isa,
    kind: ReduceKind,
    outer: usize,
    reduced: usize,
    inner: usize,
    parts: usize,
    /// Elements that no border of parts divides.
    line: usize,
    /// Bands of inner elements, each `band` wide but for the last.
    bands: usize,
    band: usize,
    /// Bands of all outer elements, shared out over the tasks of a part.
    units: Chunks,
    /// What the totals are divided by in the end.
    divisor: Option<f32>,
}

/// What reduces results of `kind`.
pub fn of_totals(kind: ReduceKind) -> ReduceKind {
    match kind {
        ReduceKind::Sum | ReduceKind::Mean | ReduceKind::SumSquares => ReduceKind::Sum,
        ReduceKind::Max | ReduceKind::Min => kind,
    }
}

impl Reduce {
    /// Reduction of `reduced` elements each. Results, not those of parts, are divided by `divisor`, which turns a sum
    /// into the mean.
    pub fn new(isa: Isa, kind: ReduceKind, [outer, reduced, inner]: [usize; 3], divisor: Option<f32>) -> Self {
        let band = if inner >= 2 * BAND { BAND } else { inner.max(1) };
        let bands = inner.div_ceil(band);
        let each = reduced.saturating_mul(band);
        let enough = TASKS.div_ceil((outer * bands).max(1));
        let most = enough.max(each / LONG_PART).min(MOST_PARTS);
        let parts = (outer.saturating_mul(each) / PART).min(reduced / 256).clamp(1, most);
        let units = Chunks::new(outer * bands, each / parts);
        Self { isa, kind, outer, reduced, inner, parts, line: 1, bands, band, units, divisor }
    }

    /// Sum of `parts` tensors of `len` elements in the order 0, 1, 2, …
    pub fn sum_of_parts(isa: Isa, parts: usize, len: usize) -> Self {
        Self::new(isa, ReduceKind::Sum, [1, parts, len], None)
    }

    /// The same whose parts hold whole lines of so many of the elements that are reduced.
    #[must_use]
    pub fn by_lines(self, line: usize) -> Self {
        debug_assert!(line > 0 && self.reduced.is_multiple_of(line));
        Self { parts: self.parts.min((self.reduced / line).max(1)), line, ..self }
    }

    /// How it reduces.
    pub fn kind(&self) -> ReduceKind {
        self.kind
    }

    /// Elements of the result, and of that of every part.
    pub fn result_len(&self) -> usize {
        self.outer * self.inner
    }

    /// Number of partial results, 1 to 256: a function of the shape alone.
    pub fn parts(&self) -> usize {
        self.parts
    }

    /// The elements of part `part`.
    pub(super) fn part(&self, part: usize) -> Range<usize> {
        let lines = share(part, self.parts, self.reduced / self.line);
        lines.start * self.line..lines.end * self.line
    }

    /// Whether it sums rows, each part in one task, so that a part can be taken [piece by piece](Self::take).
    pub(super) fn sums_rows(&self) -> bool {
        self.kind == ReduceKind::Sum && self.outer == 1 && self.bands == 1 && self.inner > 1 && self.reduced > 0
    }

    /// Takes what is new of a part, of whose rows the first `known` are there and `taken` of them are taken already; tells how
    /// many are taken then. `src` is the first of all rows. The bits are those of the whole part at once.
    ///
    /// # Safety
    /// As [`run`](Kernel::run); it [sums rows](Self::sums_rows), and the part is taken to its end before the scratch serves
    /// for anything else.
    pub(super) unsafe fn take(
        &self,
        part: usize,
        [taken, known]: [usize; 2],
        src: *const f32,
        dst: *mut f32,
        scratch: *mut f32,
    ) -> usize {
        let rows = self.part(part);
        let (step, group) = Piece::rows(self.isa, self.inner, rows.len());
        let last = known == rows.len();
        let until = if last { known } else { known / step * step };
        if until > taken {
            let of = Columns {
                src: src.wrapping_add((rows.start + taken) * self.inner),
                rows: until - taken,
                stride: self.inner,
                dst: dst.wrapping_add(part * self.inner),
                width: self.inner,
                divisor: None,
            };
            // SAFETY: the caller's word.
            unsafe { body::sum_piece(self.isa, Piece { of, group, first: taken == 0, last }, scratch) };
        }
        until
    }

    /// Whether the bits of a column do not depend on which others are reduced with it: narrow rows are taken several at a
    /// time, and long columns in parts.
    pub(super) fn keeps_columns_apart(&self) -> bool {
        let single = self.bands > 1 || Columns::scratch(self.isa, self.band, self.reduced) == self.band;
        self.columns() && self.parts == 1 && single
    }

    /// Reduces some columns of every outer element; it [keeps them apart](Self::keeps_columns_apart).
    ///
    /// # Safety
    /// The operands are those of the whole reduction, `src` and these columns of `dst` the running task's; the CPU has the
    /// kernel's ISA.
    pub(super) unsafe fn run_columns(&self, columns: Range<usize>, src: Src<'_, f32>, dst: Dst<'_, f32>) {
        let (width, len) = (columns.len(), self.reduced.saturating_sub(1) * self.inner + columns.len());
        for outer in 0..self.outer {
            let call = Columns {
                src: src.at(outer * self.reduced * self.inner + columns.start, len),
                rows: self.reduced,
                stride: self.inner,
                dst: dst.at(outer * self.inner + columns.start, width),
                width,
                divisor: self.divisor,
            };
            // SAFETY: the caller's word; columns that are reduced singly take no scratch.
            unsafe { body::columns(self.isa, self.kind, call, std::ptr::null_mut()) };
        }
    }

    fn columns(&self) -> bool {
        self.inner > 1 || self.reduced == 1
    }
}

impl Kernel for Reduce {
    fn name(&self) -> String {
        format!("{}_{}", self.kind.name(), self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.parts * self.units.tasks()
    }

    fn scratch(&self) -> usize {
        let floats = if self.columns() { Columns::scratch(self.isa, self.band, self.reduced) } else { 0 };
        floats * size_of::<f32>()
    }

    fn flops(&self) -> u64 {
        (self.outer as u64).saturating_mul(self.reduced as u64).saturating_mul(self.inner as u64)
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        let (part, chunk) = (task / self.units.tasks(), task % self.units.tasks());
        let rows = self.part(part);
        let divisor = self.divisor.filter(|_| self.parts == 1);
        let (src, dst) = (args.src::<f32>(0), args.dst::<f32>(1));
        let start = part * self.outer * self.inner;
        let units = self.units.range(chunk);
        if !self.columns() {
            let extent = (units.len() - 1) * self.reduced + rows.len();
            let call = Lines {
                src: src.at(units.start * self.reduced + rows.start, extent),
                pitch: self.reduced,
                len: rows.len(),
                dst: dst.at(start + units.start, units.len()),
                count: units.len(),
                divisor,
            };
            // SAFETY: the operands hold these lines; their results belong to this task.
            unsafe { body::lines(self.isa, self.kind, call) };
            return;
        }
        for unit in units {
            let (outer, column) = (unit / self.bands, unit % self.bands * self.band);
            let width = self.band.min(self.inner - column);
            let first = (outer * self.reduced + rows.start) * self.inner + column;
            let call = Columns {
                src: if rows.is_empty() { src.at(0, 0) } else { src.at(first, (rows.len() - 1) * self.inner + width) },
                rows: rows.len(),
                stride: self.inner,
                dst: dst.at(start + outer * self.inner + column, width),
                width,
                divisor,
            };
            // SAFETY: the operands hold these rows; the band of results belongs to this task; scratch is as long as
            // stated.
            unsafe { body::columns(self.isa, self.kind, call, scratch.cast()) };
        }
    }
}
