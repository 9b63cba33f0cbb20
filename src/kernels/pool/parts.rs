//! Maximum pooling of a source that is there line by line: rows of results from parts of their windows, and of two parts
//! together. Ties go to the part above and a NaN in either is the result, so that the bits are those of whole windows.

use std::ops::Range;

use super::max::{MaxPool, row};
use super::{Overrun, PoolGeometry, Span, largest, load, store, vectors};
use crate::simd::{Isa, Simd, dispatch::multiversion};
use crate::tensor::Dst;

/// Maximum pooling without dilation, whose windows all meet the source.
#[derive(Debug, Clone)]
pub(in crate::kernels) struct MaxLines(MaxPool);

impl MaxLines {
    /// Vectors may be read so many floats beyond the last pixel of the source.
    pub const OVERRUN: usize = 16;

    /// That pooling, if it is one.
    pub fn new(isa: Isa, geometry: PoolGeometry) -> Option<Self> {
        let pool = MaxPool::new(isa, geometry, None);
        let meets = |spans: &[Span]| spans.iter().all(|span| span.count > 0);
        (geometry.window.dilation == [1, 1] && meets(&pool.rows) && meets(&pool.columns)).then_some(Self(pool))
    }

    /// Source lines of the windows of every row of results; neither their starts nor their ends descend.
    pub fn windows(&self) -> Vec<Range<usize>> {
        self.0.rows.iter().map(|span| span.start..span.start + span.count).collect()
    }

    /// Floats of a row of results.
    pub fn row_len(&self) -> usize {
        self.0.geometry.ow * self.0.geometry.c
    }

    /// The row of results from element `start` on, of windows with these lines of the `plane`. Vectors may be written up to
    /// element `limit`.
    ///
    /// # Safety
    /// The lines are readable, with [`OVERRUN`](Self::OVERRUN); the elements from `start` to `limit` belong to the task,
    /// which writes what is beyond the row afterwards.
    pub unsafe fn row(&self, lines: &Range<usize>, plane: *const f32, dst: Dst<'_, f32>, start: usize, limit: usize) {
        let span = Span { start: lines.start, count: lines.len(), tap: 0 };
        // SAFETY: the caller's word.
        unsafe { row_of(self.0.isa, &self.0, plane, span, start, limit, dst) }
    }

    /// Takes the row of results of the windows' parts `above` into that of the parts below.
    ///
    /// # Safety
    /// Both are rows of results; that at `below` belongs to the task.
    pub unsafe fn join(&self, above: *const f32, below: *mut f32) {
        // SAFETY: the caller's word.
        unsafe { join(self.0.isa, above, below, self.row_len()) }
    }
}

/// # Safety
/// As [`MaxLines::row`].
#[inline(always)]
unsafe fn row_body<S: Simd>(
    kernel: &MaxPool,
    plane: *const f32,
    rows: Span,
    start: usize,
    limit: usize,
    dst: Dst<'_, f32>,
) {
    let PoolGeometry { ow, c, .. } = kernel.geometry;
    // SAFETY: the caller's word; with whole vectors, none is written beyond the limit.
    unsafe {
        if Overrun::new::<S>(c).fits(start + ow * c, limit) {
            row::<S, i32, false, true>(kernel, plane, rows, start, dst, None);
        } else {
            row::<S, i32, false, false>(kernel, plane, rows, start, dst, None);
        }
    }
}

multiversion! {
    fn row_of(kernel: &MaxPool, plane: *const f32, rows: Span, start: usize, limit: usize, dst: Dst<'_, f32>) = row_body;
}

/// # Safety
/// As [`MaxLines::join`], of `len` floats.
#[inline(always)]
unsafe fn join_body<S: Simd>(above: *const f32, below: *mut f32, len: usize) {
    // SAFETY: the caller's word.
    unsafe {
        for (k, lanes) in vectors::<S>(len) {
            let first = load::<S, false>(above.wrapping_add(k), lanes);
            let second = load::<S, false>(below.wrapping_add(k), lanes);
            store::<S, false>(below.wrapping_add(k), largest::<S, 2>([first, second]), lanes);
        }
    }
}

multiversion! {
    fn join(above: *const f32, below: *mut f32, len: usize) = join_body;
}
