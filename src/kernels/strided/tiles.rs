//! Transpositions: squares that fit the first-level cache, so that neither side is walked across its lines.

use std::ops::Range;

use super::{Axis, place};
use crate::kernels::elementwise::Chunks;
use crate::simd::{Isa, Simd, dispatch::multiversion};

/// Rows and columns of the square whose lines are all used before the next one: a cache line of floats.
const TILE: usize = 16;
/// Rows and columns that are moved at a time.
const SQUARE: usize = 8;
/// Elements of an item of work, and of a row of the destination that belong to it.
const ITEM: usize = 1 << 10;
/// Distances in floats at which lines of memory compete for the same few places of the first-level cache.
const PAGE: usize = 1 << 10;

/// A copy without filled elements whose destination runs along one axis and whose source along another.
#[derive(Debug, Clone)]
pub(super) struct Tiles {
    outer: Vec<Axis>,
    /// The axis along which the source's elements are neighbours: rows of the destination.
    row: Axis,
    /// The destination's innermost axis.
    column: Axis,
    /// Rows of an item, and how many such make all rows.
    strip: usize,
    strips: usize,
    stretches: usize,
    chunks: Chunks,
}

impl Tiles {
    /// `None` if the copy is none of this kind.
    pub(super) fn new(axes: &[Axis]) -> Option<Self> {
        let mut outer = axes.to_vec();
        let column = outer.pop()?;
        let near = outer.iter().position(|axis| axis.src_stride.unsigned_abs() == 1)?;
        let row = outer.remove(near);
        let dense = row.is_dense() && column.is_dense() && outer.iter().all(Axis::is_dense);
        if !dense || column.src_stride.unsigned_abs() <= 1 {
            return None;
        }
        let width = column.size.min(ITEM);
        let strip = (ITEM / width).next_multiple_of(TILE);
        let (strips, stretches) = (row.size.div_ceil(strip), column.size.div_ceil(ITEM));
        let items = outer.iter().map(|axis| axis.size).product::<usize>() * strips * stretches;
        let chunks = Chunks::new(items, row.size.min(strip) * width);
        Some(Self { outer, row, column, strip, strips, stretches, chunks })
    }

    pub(super) fn tasks(&self) -> usize {
        self.chunks.tasks()
    }

    /// # Safety
    /// `src` and `dst` are the elements that the axes start from; everything the axes reach is readable and writable,
    /// and the task's elements are nobody else's. The CPU has `isa`.
    pub(super) unsafe fn run(&self, isa: Isa, task: usize, src: *const f32, dst: *mut f32) {
        // SAFETY: the caller's word.
        unsafe { tiles(isa, self, self.chunks.range(task), src, dst) };
    }
}

/// # Safety
/// As [`Tiles::run`].
#[inline(always)]
unsafe fn tiles_body<S: Simd>(kernel: &Tiles, items: Range<usize>, src: *const f32, dst: *mut f32) {
    for item in items {
        let (rest, stretch) = (item / kernel.stretches, item % kernel.stretches);
        let (outer, strip) = (rest / kernel.strips, rest % kernel.strips);
        let (src_place, dst_place) = place(&kernel.outer, outer);
        let src = src.wrapping_offset(src_place.unwrap_or(0)); // every element has a source
        let dst = dst.wrapping_add(dst_place);
        let rows = strip * kernel.strip..kernel.row.size.min((strip + 1) * kernel.strip);
        let columns = stretch * ITEM..kernel.column.size.min((stretch + 1) * ITEM);
        for top in rows.clone().step_by(TILE) {
            let rows = top..rows.end.min(top + TILE);
            for left in columns.clone().step_by(TILE) {
                // SAFETY: a part of the box; the caller's word.
                unsafe { tile::<S>(kernel, src, dst, rows.clone(), left..columns.end.min(left + TILE)) };
            }
        }
    }
}

multiversion! {
    fn tiles(kernel: &Tiles, items: Range<usize>, src: *const f32, dst: *mut f32) = tiles_body;
}

/// # Safety
/// As [`Tiles::run`] for the elements named.
#[inline(always)]
unsafe fn tile<S: Simd>(kernel: &Tiles, src: *const f32, dst: *mut f32, rows: Range<usize>, columns: Range<usize>) {
    let (row, column) = (kernel.row, kernel.column);
    let squares = row.src_stride == 1
        && column.dst_stride == 1
        && rows.len().is_multiple_of(SQUARE)
        && columns.len().is_multiple_of(SQUARE);
    // SAFETY: the caller's word.
    unsafe {
        if !squares {
            single(kernel, src, dst, rows, columns);
        } else if (column.src_stride.unsigned_abs()).is_multiple_of(PAGE) {
            // Few lines of the source fit the cache at once: each is used up before the next ones are read.
            for left in columns.step_by(SQUARE) {
                for top in rows.clone().step_by(SQUARE) {
                    square::<S>(kernel, src, dst, top, left);
                }
            }
        } else {
            for top in rows.step_by(SQUARE) {
                for left in columns.clone().step_by(SQUARE) {
                    square::<S>(kernel, src, dst, top, left);
                }
            }
        }
    }
}

/// # Safety
/// As [`Tiles::run`] for the square that starts there.
#[inline(always)]
unsafe fn square<S: Simd>(kernel: &Tiles, src: *const f32, dst: *mut f32, top: usize, left: usize) {
    let (step, pitch) = (kernel.column.src_stride, kernel.row.dst_stride);
    let src = src.wrapping_offset(left as isize * step).wrapping_add(top);
    // SAFETY: the caller's word.
    unsafe { S::transpose8(src, step, dst.wrapping_add(top * pitch + left), pitch) };
}

/// # Safety
/// As [`Tiles::run`] for the elements named.
#[inline(always)]
unsafe fn single(kernel: &Tiles, src: *const f32, dst: *mut f32, rows: Range<usize>, columns: Range<usize>) {
    let (row, column) = (kernel.row, kernel.column);
    for r in rows {
        let src = src.wrapping_offset(r as isize * row.src_stride);
        let dst = dst.wrapping_add(r * row.dst_stride);
        for c in columns.clone() {
            // SAFETY: the caller's word.
            unsafe {
                let value = src.wrapping_offset(c as isize * column.src_stride).cast::<u32>().read_unaligned();
                dst.wrapping_add(c * column.dst_stride).cast::<u32>().write_unaligned(value);
            }
        }
    }
}
