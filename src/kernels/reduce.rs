//! Sums whose order is fixed by shape: over the partial results of split work, and over rows.

use super::Kernel;
use super::elementwise::Chunks;
use crate::simd::{Isa, Simd, dispatch::multiversion};
use crate::tensor::Args;

/// Sum of partial results in the order 0, 1, 2, …  Operands: `partials` (`parts` × `len` floats), `dst` (`len` floats).
#[derive(Debug, Clone)]
pub struct ReduceParts {
    isa: Isa,
    parts: usize,
    len: usize,
    chunks: Chunks,
}

impl ReduceParts {
    /// Sum of `parts` tensors of `len` elements; of none, zeros.
    pub fn new(isa: Isa, parts: usize, len: usize) -> Self {
        Self { isa, parts, len, chunks: Chunks::new(len, 1) }
    }
}

/// # Safety
/// `n` elements at `dst`, `parts` times `n` elements at `partials`, `stride` elements apart.
#[inline(always)]
unsafe fn reduce_body<S: Simd>(partials: *const f32, parts: usize, stride: usize, dst: *mut f32, n: usize) {
    // SAFETY: every access lies within the first `n` elements of a part or of the result.
    unsafe {
        let mut i = 0;
        while i + 4 * S::LANES <= n {
            let mut sums = [S::splat(0.0); 4];
            for part in 0..parts {
                for (v, sum) in sums.iter_mut().enumerate() {
                    let value = S::load(partials.add(part * stride + i + v * S::LANES));
                    *sum = if part == 0 { value } else { S::add(*sum, value) };
                }
            }
            for (v, sum) in sums.into_iter().enumerate() {
                S::store(dst.add(i + v * S::LANES), sum);
            }
            i += 4 * S::LANES;
        }
        while i < n {
            let lanes = S::LANES.min(n - i);
            let mut sum = S::splat(0.0);
            for part in 0..parts {
                let value = S::load_partial(partials.add(part * stride + i), lanes);
                sum = if part == 0 { value } else { S::add(sum, value) };
            }
            S::store_partial(dst.add(i), sum, lanes);
            i += lanes;
        }
    }
}

multiversion! { fn reduce(partials: *const f32, parts: usize, stride: usize, dst: *mut f32, n: usize) = reduce_body; }

impl Kernel for ReduceParts {
    fn name(&self) -> String {
        format!("reduce_parts_{}", self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.chunks.tasks()
    }

    fn flops(&self) -> u64 {
        (self.parts * self.len) as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let range = self.chunks.range(task);
        let partials = args.src::<f32>(0).at(0, self.parts * self.len).wrapping_add(range.start);
        let dst = args.dst::<f32>(1).at(range.start, range.len());
        // SAFETY: the operands hold the chunk in every part; in the result it belongs to this task.
        unsafe { reduce(self.isa, partials, self.parts, self.len, dst, range.len()) };
    }
}

/// Sum over rows. Operands: `src` (`rows` × `channels` floats), `partials` ([`parts`](Self::parts) × `channels` floats),
/// which [`ReduceParts`] then adds up; with one part they are the result.
///
/// Each part adds blocks of at most 64 values first and the blocks' sums after, so that the error of long sums stays
/// small. Rows shorter than a few vectors are taken several at once, as one row of whole vectors.
#[derive(Debug, Clone)]
pub struct SumRows {
    isa: Isa,
    rows: usize,
    channels: usize,
    parts: usize,
    /// Bands of channels, each `band` wide but for the last: tasks of their own when rows are long.
    bands: usize,
    band: usize,
}

/// Most values that are added in one run.
const BLOCK: usize = 64;

impl SumRows {
    /// Sum of `rows` rows of `channels` values; of none, zeros.
    pub fn new(isa: Isa, rows: usize, channels: usize) -> Self {
        let band = if channels >= 1024 { 512 } else { channels };
        let bands = if channels == 0 { 0 } else { channels.div_ceil(band) };
        let parts = (rows * band / (16 << 10)).min(rows / 256).clamp(1, 16);
        Self { isa, rows, channels, parts, bands, band }
    }

    /// Number of partial sums, 1 to 16: a function of the shape alone.
    pub fn parts(&self) -> usize {
        self.parts
    }

    /// Rows taken as one, so that they fill the four vectors that are added side by side.
    fn group(&self) -> usize {
        let side = 4 * self.isa.lanes();
        if self.channels == 0 || self.channels >= 2 * side { 1 } else { side / gcd(side, self.channels) }
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// `total` plus the sum of `rows` rows of `n` values, columns in registers, at most `BLOCK` rows at a time.
///
/// # Safety
/// `rows` times `n` elements at `src`, `stride` apart, and `n` at `total`.
#[inline(always)]
unsafe fn add_rows<S: Simd>(src: *const f32, rows: usize, stride: usize, total: *mut f32, n: usize) {
    // SAFETY: every access lies within the first `n` elements of a row or of the total.
    unsafe {
        for top in (0..rows).step_by(BLOCK) {
            let block = top..(top + BLOCK).min(rows);
            let mut i = 0;
            while i + 4 * S::LANES <= n {
                let mut sums = [S::splat(0.0); 4];
                for row in block.clone() {
                    for (v, sum) in sums.iter_mut().enumerate() {
                        *sum = S::add(*sum, S::load(src.add(row * stride + i + v * S::LANES)));
                    }
                }
                for (v, sum) in sums.into_iter().enumerate() {
                    let at = total.add(i + v * S::LANES);
                    S::store(at, S::add(S::load(at), sum));
                }
                i += 4 * S::LANES;
            }
            while i < n {
                let lanes = S::LANES.min(n - i);
                let mut sum = S::splat(0.0);
                for row in block.clone() {
                    sum = S::add(sum, S::load_partial(src.add(row * stride + i), lanes));
                }
                S::store_partial(total.add(i), S::add(S::load_partial(total.add(i), lanes), sum), lanes);
                i += lanes;
            }
        }
    }
}

/// # Safety
/// `rows` times `width` elements at `src`, `stride` apart (equal to `width` if `group > 1`); `width` at `dst`;
/// `group · width` at `scratch`.
#[inline(always)]
unsafe fn sum_rows_body<S: Simd>(
    src: *const f32,
    rows: usize,
    stride: usize,
    group: usize,
    dst: *mut f32,
    width: usize,
    scratch: *mut f32,
) {
    // SAFETY: grouped rows are neighbours in memory; the rows of a last, incomplete group are added singly.
    unsafe {
        let wide = group * width;
        for i in 0..wide {
            scratch.add(i).write(0.0);
        }
        let whole = rows / group;
        add_rows::<S>(src, whole, group * stride, scratch, wide);
        for i in 0..width {
            dst.add(i).write_unaligned(0.0);
        }
        add_rows::<S>(scratch, group, width, dst, width);
        add_rows::<S>(src.add(whole * group * stride), rows - whole * group, stride, dst, width);
    }
}

multiversion! {
    fn sum_rows(
        src: *const f32, rows: usize, stride: usize, group: usize, dst: *mut f32, width: usize, scratch: *mut f32,
    ) = sum_rows_body;
}

impl Kernel for SumRows {
    fn name(&self) -> String {
        format!("sum_rows_{}", self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.parts * self.bands
    }

    fn scratch(&self) -> usize {
        self.group() * self.band * size_of::<f32>()
    }

    fn flops(&self) -> u64 {
        (self.rows * self.channels) as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        let (part, column) = (task / self.bands, task % self.bands * self.band);
        let (first, last) = (self.rows * part / self.parts, self.rows * (part + 1) / self.parts);
        let width = self.band.min(self.channels - column);
        let src = args.src::<f32>(0).at(first * self.channels, (last - first) * self.channels).wrapping_add(column);
        let dst = args.dst::<f32>(1).at(part * self.channels + column, width);
        // SAFETY: the rows lie in `src`; this band of this part belongs to this task; groups of more than one row
        // occur only where one band spans the row.
        unsafe {
            sum_rows(self.isa, src, last - first, self.channels, self.group(), dst, width, scratch.cast());
        }
    }
}
