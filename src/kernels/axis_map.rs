//! Linear maps along one axis: every result is a weighted sum of a few elements of its line. Interpolation, adaptive
//! pooling, borders made of the tensor's own elements, and the gradients of all of them.

use std::ops::Range;

use super::Kernel;
use super::elementwise::{Chunks, load_first, store_first};
use super::strided::copy;
use crate::error::{Error, Result};
use crate::function;
use crate::simd::{Isa, Simd, dispatch::multiversion};
use crate::tensor::Args;

/// Most terms that are added in one run; longer sums are sums of such.
const BLOCK: usize = 64;
/// Most inner elements of one item of work.
const STRETCH: usize = 1 << 10;

/// Element of the source's line and its weight.
type Entry = (u32, f32);

/// The rows of a matrix with few entries: what each element of the result sums.
#[derive(Debug, Clone, Default)]
struct Table {
    /// Row `i` has the entries `starts[i]..starts[i + 1]`.
    starts: Vec<usize>,
    /// In ascending order of the elements within a row.
    entries: Vec<Entry>,
    /// What the sums are divided by; empty if by nothing.
    divisors: Vec<f32>,
}

impl Table {
    /// Room for the rows and entries of a map between axes of so many elements.
    fn with_capacity(map: function::AxisMap, rows: usize, columns: usize, entries: usize) -> Result<Self> {
        if u32::try_from(rows.max(columns)).is_err() {
            return Err(Error::Unsupported(format!("{map:?} along an axis of more than {} elements", u32::MAX)));
        }
        let mut table = Self::default();
        let bytes = rows as u128 * (size_of::<usize>() + size_of::<f32>()) as u128
            + entries as u128 * size_of::<Entry>() as u128;
        let room = table
            .starts
            .try_reserve_exact(rows + 1)
            .and_then(|()| table.entries.try_reserve_exact(entries))
            .and_then(|()| table.divisors.try_reserve_exact(rows));
        room.map_err(|_| Error::Memory(bytes))?;
        Ok(table)
    }

    /// The map itself. Means are sums that are divided, so that the mean of equal numbers is that number.
    fn forward(map: function::AxisMap, from: usize) -> Result<Self> {
        let to = map.size(from);
        let mut table = Self::with_capacity(map, to, from, map.most_entries(from))?;
        let mean = matches!(map, function::AxisMap::AdaptiveAvg { .. });
        for i in 0..to {
            let row = map.row(i, from);
            table.starts.push(table.entries.len());
            if mean {
                table.divisors.push(row.len() as f32);
            }
            table.entries.extend(row.map(|(j, weight)| (j as u32, if mean { 1.0 } else { weight as f32 })));
        }
        table.starts.push(table.entries.len());
        Ok(table)
    }

    /// The transposed map, from results back to the `from` elements they were summed from.
    fn backward(map: function::AxisMap, from: usize) -> Result<Self> {
        let to = map.size(from);
        let mut table = Self::with_capacity(map, from, to, map.most_entries(from))?;
        // Entries per row, then where each row begins, then, as entries come in, where the next one of each row goes.
        table.starts.resize(from + 1, 0);
        for i in 0..to {
            for (j, _) in map.row(i, from) {
                table.starts[j] += 1;
            }
        }
        let mut total = 0;
        for start in &mut table.starts {
            total += std::mem::replace(start, total);
        }
        table.entries.resize(total, (0, 0.0));
        for i in 0..to {
            for (j, weight) in map.row(i, from) {
                table.entries[table.starts[j]] = (i as u32, weight as f32);
                table.starts[j] += 1;
            }
        }
        // Every start has moved to its row's end, which is the next row's start.
        table.starts.rotate_right(1);
        table.starts[0] = 0;
        Ok(table)
    }

    fn rows(&self) -> usize {
        self.starts.len() - 1
    }

    fn row(&self, index: usize) -> &[Entry] {
        &self.entries[self.starts[index]..self.starts[index + 1]]
    }

    /// Whether every element is mapped to itself.
    fn is_identity(&self, from: usize) -> bool {
        self.rows() == from && (0..from).all(|i| self.row(i) == [(i as u32, 1.0)])
    }
}

/// A linear map of every line along one axis, or its transpose. Operands: `src` (`outer`·`from`·`inner` floats), `dst`
/// (`outer`·`to`·`inner` floats).
///
/// Terms are added in the order of the source; an element that is one source element is copied bit by bit.
#[derive(Debug, Clone)]
pub struct AxisMap {
    isa: Isa,
    name: &'static str,
    table: Table,
    outer: usize,
    from: usize,
    inner: usize,
    stretches: usize,
    chunks: Chunks,
}

impl AxisMap {
    /// `map` from lines of `from ≥ 1` elements.
    pub fn forward(isa: Isa, map: function::AxisMap, outer: usize, from: usize, inner: usize) -> Result<Self> {
        Ok(Self::new(isa, "axis_map", Table::forward(map, from)?, outer, from, inner))
    }

    /// The gradient of `map` from lines of `from ≥ 1` elements.
    pub fn backward(isa: Isa, map: function::AxisMap, outer: usize, from: usize, inner: usize) -> Result<Self> {
        Ok(Self::new(isa, "axis_map_backward", Table::backward(map, from)?, outer, map.size(from), inner))
    }

    fn new(isa: Isa, name: &'static str, table: Table, outer: usize, from: usize, inner: usize) -> Self {
        let stretches = inner.div_ceil(STRETCH);
        let terms = table.entries.len().div_ceil(table.rows().max(1)).max(1);
        let chunks = Chunks::new(outer * table.rows() * stretches, inner.min(STRETCH) * terms);
        Self { isa, name, table, outer, from, inner, stretches, chunks }
    }

    /// Whether the result is the source.
    pub fn is_identity(&self) -> bool {
        self.table.is_identity(self.from)
    }
}

/// # Safety
/// `src` holds `outer`·`from`·`inner` floats and `dst` `outer`·`to`·`inner`; the items belong to this task.
#[inline(always)]
unsafe fn axis_map_body<S: Simd>(kernel: &AxisMap, src: *const f32, dst: *mut f32, items: Range<usize>) {
    if kernel.inner == 1 {
        // SAFETY: the caller's word.
        unsafe { single_elements(kernel, src, dst, items) };
        return;
    }
    let (table, inner, stretches) = (&kernel.table, kernel.inner, kernel.stretches);
    let (line, mut stretch) = (items.start / stretches, items.start % stretches);
    let (outer, mut row) = (line / table.rows(), line % table.rows());
    let mut src = src.wrapping_add(outer * kernel.from * inner);
    let mut dst = dst.wrapping_add(line * inner);
    for _ in items {
        let first = stretch * STRETCH;
        let n = STRETCH.min(inner - first);
        let (terms, divisor) = (table.row(row), table.divisors.get(row).copied());
        // SAFETY: `n` elements of the result's row, and of each source row that the table names.
        unsafe {
            let (src, dst) = (src.wrapping_add(first), dst.wrapping_add(first));
            match *terms {
                [(j, 1.0)] => copy(src.wrapping_add(j as usize * inner), 1, dst, 1, n),
                _ => sum_rows::<S>(src, inner, terms, divisor, dst, n),
            }
        }
        stretch += 1;
        if stretch == stretches {
            (stretch, row, dst) = (0, row + 1, dst.wrapping_add(inner));
            if row == table.rows() {
                (row, src) = (0, src.wrapping_add(kernel.from * inner));
            }
        }
    }
}

/// Where lines are contiguous: one number at a time.
///
/// # Safety
/// As [`axis_map_body`].
#[inline(always)]
unsafe fn single_elements(kernel: &AxisMap, src: *const f32, dst: *mut f32, items: Range<usize>) {
    let table = &kernel.table;
    let (mut outer, mut row) = (items.start / table.rows(), items.start % table.rows());
    let mut item = items.start;
    while item < items.end {
        let rows = row..table.rows().min(row + items.end - item);
        let src = src.wrapping_add(outer * kernel.from);
        for (row, at) in rows.clone().zip(item..) {
            let terms = table.row(row);
            // SAFETY: the table's elements lie in the line; the item belongs to this task.
            unsafe {
                let value = if let [(j, 1.0)] = *terms {
                    src.wrapping_add(j as usize).read_unaligned()
                } else {
                    let sum = sum_terms(src, terms);
                    table.divisors.get(row).map_or(sum, |divisor| sum / divisor)
                };
                dst.wrapping_add(at).write_unaligned(value);
            }
        }
        (item, outer, row) = (item + rows.len(), outer + 1, 0);
    }
}

/// # Safety
/// Every term's element of `src` is readable.
#[inline(always)]
unsafe fn sum_terms(src: *const f32, terms: &[Entry]) -> f32 {
    let mut total = 0.0;
    for (index, block) in terms.chunks(BLOCK).enumerate() {
        let mut sum = 0.0;
        for &(j, weight) in block {
            // SAFETY: the caller's word.
            sum += weight * unsafe { src.wrapping_add(j as usize).read_unaligned() };
        }
        total = if index == 0 { sum } else { total + sum };
    }
    total
}

/// # Safety
/// `n` elements of every term's row of `src`, `stride` apart, are readable, and as many at `dst` writable.
#[inline(always)]
unsafe fn sum_rows<S: Simd>(
    src: *const f32,
    stride: usize,
    terms: &[Entry],
    divisor: Option<f32>,
    dst: *mut f32,
    n: usize,
) {
    // SAFETY: every access lies within `n` elements of a row.
    unsafe {
        let mut k = 0;
        while k + 4 * S::LANES <= n {
            let sums = sum_vectors::<S, 4>(src.wrapping_add(k), stride, terms, S::LANES);
            for (v, sum) in sums.into_iter().enumerate() {
                S::store(dst.wrapping_add(k + v * S::LANES), divided::<S>(sum, divisor));
            }
            k += 4 * S::LANES;
        }
        while k < n {
            let lanes = S::LANES.min(n - k);
            let [sum] = sum_vectors::<S, 1>(src.wrapping_add(k), stride, terms, lanes);
            store_first::<S>(dst.wrapping_add(k), divided::<S>(sum, divisor), lanes);
            k += lanes;
        }
    }
}

/// # Safety
/// The CPU has the level's features.
#[inline(always)]
unsafe fn divided<S: Simd>(sum: S::V, divisor: Option<f32>) -> S::V {
    match divisor {
        // SAFETY: the caller's word.
        Some(divisor) => unsafe { S::div(sum, S::splat(divisor)) },
        None => sum,
    }
}

/// Sums of `N` neighbouring vectors, of which only a single one may have less than all lanes.
///
/// # Safety
/// `N` vectors, or `lanes` floats, of every term's row of `src`, `stride` apart, are readable.
#[inline(always)]
unsafe fn sum_vectors<S: Simd, const N: usize>(
    src: *const f32,
    stride: usize,
    terms: &[Entry],
    lanes: usize,
) -> [S::V; N] {
    // SAFETY: the caller's word.
    unsafe {
        let mut totals = [S::splat(0.0); N];
        for (index, block) in terms.chunks(BLOCK).enumerate() {
            let mut sums = [S::splat(0.0); N];
            for &(j, weight) in block {
                let (at, weight) = (src.wrapping_add(j as usize * stride), S::splat(weight));
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = S::fma(weight, load_first::<S>(at.wrapping_add(v * S::LANES), lanes), *sum);
                }
            }
            for (total, sum) in totals.iter_mut().zip(sums) {
                *total = if index == 0 { sum } else { S::add(*total, sum) };
            }
        }
        totals
    }
}

multiversion! {
    fn axis_map(kernel: &AxisMap, src: *const f32, dst: *mut f32, items: Range<usize>) = axis_map_body;
}

impl Kernel for AxisMap {
    fn name(&self) -> String {
        format!("{}_{}", self.name, self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.chunks.tasks()
    }

    fn flops(&self) -> u64 {
        2 * (self.outer * self.inner * self.table.entries.len()) as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let src = args.src::<f32>(0).at(0, self.outer * self.from * self.inner);
        let dst = args.dst::<f32>(1).at(0, self.outer * self.table.rows() * self.inner);
        // SAFETY: the operands are that long; the chunk's elements belong to this task.
        unsafe { axis_map(self.isa, self, src, dst, self.chunks.range(task)) };
    }
}
