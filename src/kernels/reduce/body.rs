//! The two loops of a reduction: over rows whose columns lie side by side, and along lines.

use super::fold::{self, Fold, Sum};
use crate::function::ReduceKind;
use crate::kernels::elementwise::store_first;
use crate::kernels::gcd;
use crate::simd::{Isa, Simd, dispatch::multiversion};

/// Rows of `width` values, `stride` apart, to one row.
#[derive(Clone, Copy)]
pub struct Columns {
    pub src: *const f32,
    pub rows: usize,
    pub stride: usize,
    pub dst: *mut f32,
    pub width: usize,
    pub divisor: Option<f32>,
}

impl Columns {
    /// Floats of scratch.
    pub fn scratch(isa: Isa, width: usize, rows: usize) -> usize {
        width * group(isa.lanes(), width, rows)
    }
}

/// Rows that are taken as one, so that they fill the four vectors that are reduced side by side.
fn group(lanes: usize, width: usize, rows: usize) -> usize {
    let side = 4 * lanes;
    if width == 0 || width >= 2 * side {
        return 1;
    }
    let group = side / gcd(side, width);
    if rows < 2 * group { 1 } else { group }
}

/// Some of the rows of one reduction, in their order. All but the last piece hold whole blocks of groups, so that the
/// result has the bits of one piece.
#[derive(Clone, Copy)]
pub struct Piece {
    /// With the rows of this piece.
    pub of: Columns,
    /// Rows that are taken as one, all over the reduction.
    pub group: usize,
    pub first: bool,
    pub last: bool,
}

impl Piece {
    /// Rows of which a piece holds a multiple, and the group, of a reduction of so many neighbouring rows.
    pub fn rows(isa: Isa, width: usize, rows: usize) -> (usize, usize) {
        let group = group(isa.lanes(), width, rows);
        (group * fold::BLOCK, group)
    }
}

/// # Safety
/// As [`columns_body`]; pieces of one reduction have the same `dst` and `scratch`.
#[inline(always)]
unsafe fn piece_body<S: Simd, F: Fold>(piece: Piece, scratch: *mut f32) {
    let Piece { of: Columns { src, rows, stride, dst, width, .. }, group, first, last } = piece;
    let (whole, wide) = (rows / group, group * width);
    // SAFETY: the rows of a last, incomplete group are taken singly.
    unsafe {
        if first {
            fold::open::<F>(dst, width);
            if group > 1 {
                fold::open::<F>(scratch, wide);
            }
        }
        if group > 1 {
            fold::take_rows::<S, F>(src, whole, wide, scratch, wide);
        } else {
            fold::take_rows::<S, F>(src, whole, stride, dst, width);
        }
        if last && group > 1 {
            fold::take_rows::<S, F::Totals>(scratch, group, width, dst, width);
            let done = whole * group;
            fold::take_rows::<S, F>(src.wrapping_add(done * stride), rows - done, stride, dst, width);
        }
    }
}

/// # Safety
/// The rows at `src`, `width` elements at `dst`, [`Columns::scratch`] at `scratch`.
#[inline(always)]
unsafe fn columns_body<S: Simd, F: Fold>(call: Columns, scratch: *mut f32) {
    let Columns { rows, stride, dst, width, divisor, .. } = call;
    // Only rows without gaps are neighbours.
    let group = if stride == width { group(S::LANES, width, rows) } else { 1 };
    // SAFETY: the caller's word.
    unsafe {
        piece_body::<S, F>(Piece { of: call, group, first: true, last: true }, scratch);
        if let Some(divisor) = divisor {
            for i in (0..width).step_by(S::LANES) {
                let lanes = S::LANES.min(width - i);
                let quotient = S::div(S::load_partial(dst.add(i), lanes), S::splat(divisor));
                S::store_partial(dst.add(i), quotient, lanes);
            }
        }
    }
}

/// Lines of `len` values, `pitch` apart, to one value each.
#[derive(Clone, Copy)]
pub struct Lines {
    pub src: *const f32,
    pub pitch: usize,
    pub len: usize,
    pub dst: *mut f32,
    pub count: usize,
    pub divisor: Option<f32>,
}

/// # Safety
/// The lines at `src`, `count` elements at `dst`.
#[inline(always)]
unsafe fn lines_body<S: Simd, F: Fold>(call: Lines) {
    let Lines { src, pitch, len, dst, count, divisor } = call;
    // SAFETY: every access lies within a line.
    unsafe {
        if len < S::LANES {
            for first in (0..count).step_by(S::LANES) {
                let lines = S::LANES.min(count - first);
                let mut total = fold::take_across::<S, F>(src.add(first * pitch), lines, pitch, len);
                if let Some(divisor) = divisor {
                    total = S::div(total, S::splat(divisor));
                }
                store_first::<S>(dst.add(first), total, lines);
            }
            return;
        }
        for line in 0..count {
            let total = fold::take_lanes::<S, F::Totals>(fold::take_line::<S, F>(src.add(line * pitch), len));
            dst.add(line).write_unaligned(divisor.map_or(total, |divisor| total / divisor));
        }
    }
}

macro_rules! reductions {
    ($($module:ident, $fold:ident;)*) => {$(
        mod $module {
            use super::{Columns, Lines, columns_body, fold::$fold, lines_body, multiversion};

            multiversion! { pub fn columns(call: Columns, scratch: *mut f32) = columns_body, [$fold]; }
            multiversion! { pub fn lines(call: Lines) = lines_body, [$fold]; }
        }
    )*};
}

reductions! {
    sum, Sum;
    sum_squares, SumSquares;
    max, Max;
    min, Min;
}

multiversion! { pub fn sum_piece(piece: Piece, scratch: *mut f32) = piece_body, [Sum]; }

/// Reduces rows.
///
/// # Safety
/// As for [`columns_body`]; the CPU has `isa`.
pub unsafe fn columns(isa: Isa, kind: ReduceKind, call: Columns, scratch: *mut f32) {
    let function = match kind {
        ReduceKind::Sum | ReduceKind::Mean => sum::columns,
        ReduceKind::SumSquares => sum_squares::columns,
        ReduceKind::Max => max::columns,
        ReduceKind::Min => min::columns,
    };
    // SAFETY: the caller's word.
    unsafe { function(isa, call, scratch) };
}

/// Reduces lines.
///
/// # Safety
/// As for [`lines_body`]; the CPU has `isa`.
pub unsafe fn lines(isa: Isa, kind: ReduceKind, call: Lines) {
    let function = match kind {
        ReduceKind::Sum | ReduceKind::Mean => sum::lines,
        ReduceKind::SumSquares => sum_squares::lines,
        ReduceKind::Max => max::lines,
        ReduceKind::Min => min::lines,
    };
    // SAFETY: the caller's word.
    unsafe { function(isa, call) };
}
