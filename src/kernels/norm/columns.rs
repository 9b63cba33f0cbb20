//! Mean and sum of squared deviations of columns of numbers, row block by row block.

use super::{BLOCK, SIDE};
use crate::kernels::elementwise::load_first;
use crate::simd::{Simd, dispatch::multiversion};

/// Where mean and sum of squared deviations of neighbouring columns stand, a double per column each.
#[derive(Debug, Clone, Copy)]
pub(in crate::kernels) struct Statistics {
    pub mean: *mut f64,
    pub m2: *mut f64,
}

impl Statistics {
    /// Those from column number `column` on.
    #[inline(always)]
    pub fn at(self, column: usize) -> Self {
        Self { mean: self.mean.wrapping_add(column), m2: self.m2.wrapping_add(column) }
    }
}

/// Sums over a block's rows of `x − pivot` (`s1`) and `(x − pivot)²` (`s2`), per column.
#[derive(Debug, Clone)]
pub(in crate::kernels) struct Sums {
    pub pivot: [f32; SIDE],
    pub s1: [f32; SIDE],
    pub s2: [f32; SIDE],
}

impl Sums {
    /// Of no rows.
    pub const NOTHING: Self = Self { pivot: [0.0; SIDE], s1: [0.0; SIDE], s2: [0.0; SIDE] };
}

/// The statistics of `before` rows become those of `before + rows`, given the sums over the new ones.
///
/// # Safety
/// The statistics of `columns` columns are writable, and readable unless `before` is 0.
#[inline(always)]
unsafe fn merge(to: Statistics, columns: usize, before: usize, rows: usize, of: &Sums) {
    let Sums { pivot, s1, s2 } = of;
    let share = 1.0 / rows as f64;
    let (weight, cross) = {
        let total = (before + rows) as f64;
        (rows as f64 / total, before as f64 * rows as f64 / total)
    };
    for j in 0..columns.min(SIDE) {
        let sum = f64::from(s1[j]);
        let shift = sum * share;
        let own = f64::from(s2[j]) - sum * shift;
        // Rounding may take an empty spread below zero; NaN stays.
        let own = if own < 0.0 { 0.0 } else { own };
        // SAFETY: the caller's word.
        unsafe {
            let (mean, m2) = (to.mean.add(j), to.m2.add(j));
            let none = before == 0;
            let mean_before = if none { 0.0 } else { mean.read_unaligned() };
            let m2_before = if none { 0.0 } else { m2.read_unaligned() };
            let delta = f64::from(pivot[j]) + shift - mean_before;
            mean.write_unaligned(mean_before + delta * weight);
            m2.write_unaligned(m2_before + (own + delta * delta * cross));
        }
    }
}

/// Sums of `x − from` over all rows, and of the squares if `SQUARES`: `V` vectors wide, the last with `lanes` lanes, every
/// `U`-th row in a sum of its own, so that additions need not wait for each other.
///
/// # Safety
/// As [`block`].
#[inline(always)]
#[allow(clippy::needless_range_loop)] // closures would not inherit the shell's target features
unsafe fn sums<S: Simd, const V: usize, const U: usize, const SQUARES: bool>(
    src: *const f32,
    rows: usize,
    pitch: usize,
    lanes: usize,
    from: [S::V; V],
) -> ([S::V; V], [S::V; V]) {
    // SAFETY: every load lies within a row.
    unsafe {
        let zero = S::splat(0.0);
        let (mut sums, mut squares) = ([[zero; V]; U], [[zero; V]; U]);
        let mut row = 0;
        while row < rows {
            for u in 0..U {
                if row + u >= rows {
                    break;
                }
                let at = src.wrapping_add((row + u) * pitch);
                for v in 0..V {
                    let width = if v + 1 == V { lanes } else { S::LANES };
                    let d = S::sub(load_first::<S>(at.wrapping_add(v * S::LANES), width), from[v]);
                    sums[u][v] = S::add(sums[u][v], d);
                    if SQUARES {
                        squares[u][v] = S::fma(d, d, squares[u][v]);
                    }
                }
            }
            row += U;
        }
        for u in 1..U {
            for v in 0..V {
                sums[0][v] = S::add(sums[0][v], sums[u][v]);
                squares[0][v] = S::add(squares[0][v], squares[u][v]);
            }
        }
        (sums[0], squares[0])
    }
}

/// [`add_rows`] for `V` vectors. The pivot is the mean of the rows before, or of these rows if there are
/// none before; so what cancels in the sums is never larger than what the merge adds.
///
/// # Safety
/// As there; the last vector has `lanes` lanes.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // as above
unsafe fn block<S: Simd, const V: usize, const U: usize>(
    src: *const f32,
    rows: usize,
    pitch: usize,
    lanes: usize,
    before: usize,
    to: Statistics,
) {
    let columns = (V - 1) * S::LANES + lanes;
    let mut of = Sums::NOTHING;
    // SAFETY: the caller's word; the arrays hold four vectors.
    unsafe {
        let mut pivot = [S::splat(0.0); V];
        if before == 0 {
            // From differences, so that equal numbers have a spread of exactly zero.
            let mut first = [S::splat(0.0); V];
            for v in 0..V {
                let width = if v + 1 == V { lanes } else { S::LANES };
                first[v] = load_first::<S>(src.wrapping_add(v * S::LANES), width);
            }
            let (sums, _) = sums::<S, V, U, false>(src, rows, pitch, lanes, first);
            let share = S::splat(1.0 / rows as f32);
            for v in 0..V {
                pivot[v] = S::fma(sums[v], share, first[v]);
                S::store(of.pivot.as_mut_ptr().add(v * S::LANES), pivot[v]);
            }
        } else {
            for j in 0..columns {
                of.pivot[j] = to.mean.add(j).read_unaligned() as f32;
            }
            for v in 0..V {
                pivot[v] = S::load(of.pivot.as_ptr().add(v * S::LANES));
            }
        }
        let (sums, squares) = sums::<S, V, U, true>(src, rows, pitch, lanes, pivot);
        for v in 0..V {
            S::store(of.s1.as_mut_ptr().add(v * S::LANES), sums[v]);
            S::store(of.s2.as_mut_ptr().add(v * S::LANES), squares[v]);
        }
        merge(to, columns, before, rows, &of);
    }
}

/// The statistics of `before` rows of `width` columns become those of the `rows` at `src` too, which are 1 to [`BLOCK`].
///
/// # Safety
/// Rows of `width` floats, `pitch` apart; as many doubles at both statistics, which are not read if `before` is 0.
#[inline(always)]
pub(super) unsafe fn add_rows_body<S: Simd>(
    src: *const f32,
    rows: usize,
    pitch: usize,
    width: usize,
    before: usize,
    to: Statistics,
) {
    debug_assert!((1..=BLOCK).contains(&rows));
    // SAFETY: the caller's word.
    unsafe {
        let mut i = 0;
        while i + 4 * S::LANES <= width {
            block::<S, 4, 1>(src.wrapping_add(i), rows, pitch, S::LANES, before, to.at(i));
            i += 4 * S::LANES;
        }
        while i + 2 * S::LANES <= width {
            block::<S, 2, 2>(src.wrapping_add(i), rows, pitch, S::LANES, before, to.at(i));
            i += 2 * S::LANES;
        }
        while i < width {
            let lanes = S::LANES.min(width - i);
            block::<S, 1, 4>(src.wrapping_add(i), rows, pitch, lanes, before, to.at(i));
            i += lanes;
        }
    }
}

/// [`merge`], and sums of nothing around the new means.
///
/// # Safety
/// As there; `columns` is at most [`SIDE`].
#[inline(always)]
#[allow(clippy::extra_unused_type_parameters)] // compiled for every level
unsafe fn merge_sums_body<S: Simd>(to: Statistics, columns: usize, before: usize, rows: usize, of: &mut Sums) {
    // SAFETY: the caller's word.
    unsafe {
        merge(to, columns, before, rows, of);
        for j in 0..columns {
            of.pivot[j] = to.mean.add(j).read_unaligned() as f32;
        }
    }
    (of.s1, of.s2) = ([0.0; SIDE], [0.0; SIDE]);
}

multiversion! {
    /// [`add_rows_body`].
    pub(in crate::kernels) fn add_rows(
        src: *const f32, rows: usize, pitch: usize, width: usize, before: usize, to: Statistics,
    ) = add_rows_body;
}
multiversion! {
    /// [`merge_sums_body`].
    pub(in crate::kernels) fn merge_sums(
        to: Statistics, columns: usize, before: usize, rows: usize, of: &mut Sums,
    ) = merge_sums_body;
}
