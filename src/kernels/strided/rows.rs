//! Row by row of the destination: stretches of memory where both sides are contiguous, element by element elsewhere.

use std::ops::Range;

use super::{Axis, place};
use crate::kernels::elementwise::Chunks;

/// Longest part of a row that is handled in one go.
const SEGMENT: usize = 8 << 10;
/// Shorter stretches are copied in a loop: a call would take longer.
const SHORT: usize = 16;

/// A copy whose rows are written one after the other.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    /// The axes outside of the last two.
    outer: Vec<Axis>,
    row: Axis,
    element: Axis,
    fill: f32,
    /// Parts into which each row is cut.
    segments: usize,
    chunks: Chunks,
}

impl Rows {
    pub(super) fn new(axes: &[Axis], fill: f32) -> Self {
        let mut outer = axes.to_vec();
        let single = Axis::dense(1, 1, 1);
        let element = outer.pop().unwrap_or(single);
        let row = outer.pop().unwrap_or(single);
        let rows = outer.iter().map(|axis| axis.size).product::<usize>() * row.size;
        let segments = element.size.div_ceil(SEGMENT);
        let chunks = Chunks::new(rows * segments, element.size.min(SEGMENT));
        Self { outer, row, element, fill, segments, chunks }
    }

    pub(super) fn tasks(&self) -> usize {
        self.chunks.tasks()
    }

    /// # Safety
    /// `src` and `dst` are the elements that the axes start from; everything the axes reach is readable and writable,
    /// and the task's elements are nobody else's. Without a copied element `src` is not used.
    pub(super) unsafe fn run(&self, task: usize, src: *const f32, dst: *mut f32) {
        let Range { start: mut item, end } = self.chunks.range(task);
        while item < end {
            let (row, segment) = (item / self.segments, item % self.segments);
            let (outer, first) = (row / self.row.size, row % self.row.size);
            let rows = if self.segments == 1 { (self.row.size - first).min(end - item) } else { 1 };
            let (src_place, dst_place) = place(&self.outer, outer);
            let part = segment * SEGMENT..self.element.size.min((segment + 1) * SEGMENT);
            for index in first..first + rows {
                let dst = dst.wrapping_add(dst_place + index * self.row.dst_stride);
                let from = src_place.zip(self.row.source(index));
                let src = from.map(|(place, at)| src.wrapping_offset(place + at as isize * self.row.src_stride));
                // SAFETY: both are starts of a row; the caller's word.
                unsafe { self.row(src, dst, part.clone()) };
            }
            item += rows;
        }
    }

    /// Elements `part` of one row; a row without a source is filled.
    ///
    /// # Safety
    /// As [`Rows::run`] for the elements of the row.
    #[inline]
    unsafe fn row(&self, src: Option<*const f32>, dst: *mut f32, part: Range<usize>) {
        let Axis { dst_stride, first, step, count, src_stride, .. } = self.element;
        let at = |index: usize| dst.wrapping_add(index * dst_stride);
        let Some(src) = src else {
            // SAFETY: elements of the row.
            unsafe { fill(at(part.start), dst_stride, part.len(), self.fill) };
            return;
        };
        // Copied elements `low..high` are those inside the part.
        let before = |index: usize| {
            let beyond = index.saturating_sub(first);
            if step == 1 { beyond } else { beyond.div_ceil(step) }.min(count)
        };
        let (low, high) = (before(part.start), before(part.end));
        let from = src.wrapping_offset(low as isize * src_stride);
        // SAFETY: elements of the row, and of the source by the axis' geometry.
        unsafe {
            if step == 1 {
                let (begin, end) = if low < high { (first + low, first + high) } else { (part.start, part.start) };
                fill(at(part.start), dst_stride, begin - part.start, self.fill);
                copy(from, src_stride, at(begin), dst_stride, high - low);
                fill(at(end), dst_stride, part.end - end, self.fill);
            } else {
                fill(at(part.start), dst_stride, part.len(), self.fill);
                copy(from, src_stride, at(first + low * step), dst_stride * step, high - low);
            }
        }
    }
}

/// # Safety
/// `count` floats, `stride` apart, can be written from `dst` on.
#[inline]
unsafe fn fill(dst: *mut f32, stride: usize, count: usize, value: f32) {
    for index in 0..count {
        // SAFETY: the caller's word.
        unsafe { dst.wrapping_add(index * stride).write_unaligned(value) };
    }
}

/// # Safety
/// `count` floats can be read from `src` on and written from `dst` on, at their distances; the two do not overlap.
#[inline]
pub(crate) unsafe fn copy(src: *const f32, src_stride: isize, dst: *mut f32, dst_stride: usize, count: usize) {
    if src_stride == 1 && dst_stride == 1 && count > SHORT {
        // SAFETY: the caller's word.
        unsafe { std::ptr::copy_nonoverlapping(src.cast::<u8>(), dst.cast::<u8>(), count * size_of::<f32>()) };
        return;
    }
    for index in 0..count {
        // SAFETY: the caller's word.
        unsafe {
            let value = src.wrapping_offset(index as isize * src_stride).cast::<u32>().read_unaligned();
            dst.wrapping_add(index * dst_stride).cast::<u32>().write_unaligned(value);
        }
    }
}
