//! Kernels that treat every element by itself, and the rule that cuts such work into tasks.

mod backward;
mod binary;
mod broadcast;
mod expand;
mod normalize;
mod unary;

pub use backward::UnaryBackward;
pub(super) use backward::{backward_flops, gradient};
pub use binary::Binary;
pub use expand::Expand;
pub use normalize::Normalize;
pub(super) use unary::cost;
pub use unary::{Unary, activate};

use std::ops::Range;

use crate::simd::Simd;

/// `count` items in consecutive chunks of one size, the last possibly shorter: a pure function of the shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunks {
    count: usize,
    size: usize,
}

impl Chunks {
    /// Fewest and most elements of a chunk: below, a task costs more to hand out than to run; above, cores wait.
    const LEAST: usize = 4 << 10;
    const MOST: usize = 16 << 10;

    /// Sixteen chunks if they then hold between 4 Ki and 16 Ki elements, `weight` per item; at least one item each.
    pub fn new(count: usize, weight: usize) -> Self {
        let weight = weight.max(1);
        let (least, most) = ((Self::LEAST / weight).max(1), (Self::MOST / weight).max(1));
        let size = count.div_ceil(16).clamp(least, most);
        // Single elements: chunks start on cache lines if the tensor does.
        Self { count, size: if weight == 1 { size.next_multiple_of(64) } else { size } }
    }

    /// Number of chunks; zero for no items.
    pub fn tasks(&self) -> usize {
        self.count.div_ceil(self.size)
    }

    /// The items of chunk `task`.
    pub fn range(&self, task: usize) -> Range<usize> {
        let start = task * self.size;
        start..(start + self.size).min(self.count)
    }

    /// Number of items.
    pub fn count(&self) -> usize {
        self.count
    }
}

/// The first `n ≤ LANES` lanes from memory, the others zero; a plain load if those are all.
///
/// # Safety
/// `n` readable floats at `p`; the CPU has the level's features.
#[inline(always)]
pub(crate) unsafe fn load_first<S: Simd>(p: *const f32, n: usize) -> S::V {
    // SAFETY: the caller's word.
    unsafe { if n == S::LANES { S::load(p) } else { S::load_partial(p, n) } }
}

/// The first `n ≤ LANES` lanes to memory; a plain store if those are all.
///
/// # Safety
/// `n` writable floats at `p`; the CPU has the level's features.
#[inline(always)]
pub(crate) unsafe fn store_first<S: Simd>(p: *mut f32, v: S::V, n: usize) {
    // SAFETY: the caller's word.
    unsafe { if n == S::LANES { S::store(p, v) } else { S::store_partial(p, v, n) } }
}

/// A function of one element.
trait Map: Copy {
    /// # Safety
    /// The CPU has the level's features.
    unsafe fn map<S: Simd>(self, x: S::V) -> S::V;
}

/// A function of two elements.
trait Zip: Copy {
    /// # Safety
    /// The CPU has the level's features.
    unsafe fn zip<S: Simd>(self, a: S::V, b: S::V) -> S::V;
}

/// # Safety
/// `n` elements at both addresses, which are equal or do not overlap.
#[inline(always)]
unsafe fn map_body<S: Simd, F: Map>(function: F, src: *const f32, dst: *mut f32, n: usize) {
    // SAFETY: every access lies within `n` elements.
    unsafe {
        let mut i = 0;
        while i + S::LANES <= n {
            S::store(dst.add(i), function.map::<S>(S::load(src.add(i))));
            i += S::LANES;
        }
        if i < n {
            S::store_partial(dst.add(i), function.map::<S>(S::load_partial(src.add(i), n - i)), n - i);
        }
    }
}

/// Rows of two operands, `pitch` elements apart; along a row an operand steps by `A` or `B`, which is one or zero.
#[derive(Clone, Copy)]
struct Rows {
    a: *const f32,
    b: *const f32,
    dst: *mut f32,
    count: usize,
    n: usize,
    pitch: [usize; 2],
}

impl Rows {
    /// Where rows are short and one operand goes on where its last row ended: the other one, which has one element for
    /// each row or the same row for all. It is gathered for several rows, so that vectors are full.
    fn gathered(&self, lanes: usize, steps: [usize; 2]) -> Option<usize> {
        let short = self.n < lanes && self.count >= lanes && !lanes.is_multiple_of(self.n);
        (0..2).find(|&side| {
            let other = 1 - side;
            let runs = steps[other] == 1 && self.pitch[other] == self.n;
            short && runs && (steps[side] == 0) != (self.pitch[side] == 0)
        })
    }
}

/// Most elements of the rows that are taken together where they are shorter than a vector.
const NARROW: usize = 256;

/// [`zip_body`] for rows shorter than a vector, of which operand number `SIDE` is gathered: one element for each row, or
/// the same row again and again.
///
/// # Safety
/// As for [`zip_body`]; the other operand is contiguous over all rows.
#[inline(always)]
unsafe fn narrow_body<S: Simd, F: Zip, const SIDE: usize>(function: F, call: Rows) {
    let Rows { a, b, dst, count, n, pitch } = call;
    let (runs, gathered) = if SIDE == 0 { (b, a) } else { (a, b) };
    // The last row may write a vector beyond its end.
    let mut table = [0.0f32; NARROW + 16];
    let whole = NARROW / (n * S::LANES) * S::LANES;
    for first in (0..count).step_by(whole) {
        let rows = whole.min(count - first);
        // SAFETY: every access lies within the `count · n` elements of an operand or within the table.
        unsafe {
            for row in 0..rows {
                let at = table.as_mut_ptr().add(row * n);
                if pitch[SIDE] != 0 {
                    S::store(at, S::splat(gathered.add((first + row) * pitch[SIDE]).read_unaligned()));
                } else if first == 0 {
                    at.copy_from_nonoverlapping(gathered, n);
                }
            }
            for i in (0..rows * n).step_by(S::LANES) {
                let (at, lanes) = (first * n + i, S::LANES.min(rows * n - i));
                let (x, y) = (load_first::<S>(runs.add(at), lanes), S::load(table.as_ptr().add(i)));
                let value = if SIDE == 0 { function.zip::<S>(y, x) } else { function.zip::<S>(x, y) };
                store_first::<S>(dst.add(at), value, lanes);
            }
        }
    }
}

/// # Safety
/// `count` rows of `n` elements, contiguous in `dst`, which equals an operand element by element or overlaps none.
#[inline(always)]
unsafe fn zip_body<S: Simd, F: Zip, const A: usize, const B: usize>(function: F, call: Rows) {
    let Rows { a, b, dst, count, n, pitch } = call;
    for row in 0..count {
        // SAFETY: every access lies within the `n` elements of a row, or is the one element that stands for a row.
        unsafe {
            let (a, b, dst) = (a.add(row * pitch[0]), b.add(row * pitch[1]), dst.add(row * n));
            let (one_a, one_b) = (S::splat(a.read_unaligned()), S::splat(b.read_unaligned()));
            let mut i = 0;
            while i + S::LANES <= n {
                let x = if A == 0 { one_a } else { S::load(a.add(i)) };
                let y = if B == 0 { one_b } else { S::load(b.add(i)) };
                S::store(dst.add(i), function.zip::<S>(x, y));
                i += S::LANES;
            }
            if i < n {
                let x = if A == 0 { one_a } else { S::load_partial(a.add(i), n - i) };
                let y = if B == 0 { one_b } else { S::load_partial(b.add(i), n - i) };
                S::store_partial(dst.add(i), function.zip::<S>(x, y), n - i);
            }
        }
    }
}
