//! Statistics of a convolution's results for the normalization behind it, taken while the results are in cache.
//!
//! Every task adds the results it has finished to the statistics of its *part*, a range of pixels that shape and level
//! alone determine, for its own channels; [`MomentsFinish`](crate::kernels::norm::MomentsFinish) merges the parts.

use std::ops::Range;

use crate::kernels::norm::{BLOCK, SIDE, Statistics, Sums, add_rows, merge_sums};
use crate::kernels::share;
use crate::simd::Isa;
use crate::tensor::Dst;

/// Fewest pixels of a part, on average.
const LEAST: usize = BLOCK / 2;

/// Why the statistics of results whose parts have so many pixels are left to a pass of their own, if they are: a part has
/// two doubles per channel, which are written and merged for every few pixels otherwise.
pub fn refusal(parts: &[usize]) -> Option<String> {
    let pixels: usize = parts.iter().sum();
    (pixels < LEAST * parts.len().max(1)).then(|| format!("{pixels} pixels in {} parts", parts.len()))
}

/// The statistics of one part.
#[derive(Clone, Copy)]
pub struct Part {
    isa: Isa,
    to: Statistics,
}

impl Part {
    /// Number `index` of the partial statistics of so many channels, which lie as those of
    /// [`Moments`](crate::kernels::norm::Moments).
    pub fn new(isa: Isa, partials: &Dst<'_, f64>, index: usize, channels: usize) -> Self {
        let mean = partials.at(2 * index * channels, 2 * channels);
        Self { isa, to: Statistics { mean, m2: mean.wrapping_add(channels) } }
    }

    /// Adds `rows` pixels that lie one behind the other, `before` of the part having come before; `at` is the first one's
    /// first of these channels.
    ///
    /// # Safety
    /// The pixels are finished; they and the statistics of these channels belong to the running task.
    pub unsafe fn add(self, at: *const f32, pitch: usize, rows: usize, channels: Range<usize>, before: usize) {
        let blocks = rows.div_ceil(BLOCK);
        for block in 0..blocks {
            let rows = share(block, blocks, rows);
            let (at, before) = (at.wrapping_add(rows.start * pitch), before + rows.start);
            // SAFETY: the caller's word.
            unsafe { add_rows(self.isa, at, rows.len(), pitch, channels.len(), before, self.to.at(channels.start)) };
        }
    }

    /// To add tiles of pixels of these channels, which are at most [`SIDE`].
    pub fn tiles(self, channels: Range<usize>) -> Tiles {
        debug_assert!(channels.len() <= SIDE);
        Tiles { part: self, channels, sums: Sums::NOTHING, rows: 0, before: 0 }
    }
}

/// Sums over tiles, up to a block of pixels, on the way into the statistics of a part.
pub struct Tiles {
    part: Part,
    channels: Range<usize>,
    /// Those of the block so far; around nothing yet if [`is_first`](Self::is_first).
    pub sums: Sums,
    rows: usize,
    before: usize,
}

impl Tiles {
    /// Whether no tile came before: the pivot is to be made from this one.
    pub fn is_first(&self) -> bool {
        self.rows + self.before == 0
    }

    /// Makes room in the block for a tile of so many pixels, at most [`BLOCK`].
    ///
    /// # Safety
    /// The statistics of these channels belong to the running task.
    pub unsafe fn open(&mut self, pixels: usize) {
        if self.rows + pixels > BLOCK {
            // SAFETY: the caller's word.
            unsafe { self.close() };
        }
    }

    /// Counts a tile that was added to the sums.
    pub fn count(&mut self, pixels: usize) {
        self.rows += pixels;
    }

    /// Adds what there is to the statistics.
    ///
    /// # Safety
    /// As for [`open`](Self::open).
    pub unsafe fn close(&mut self) {
        if self.rows == 0 {
            return;
        }
        let (part, channels) = (self.part, &self.channels);
        // SAFETY: the caller's word.
        unsafe {
            merge_sums(part.isa, part.to.at(channels.start), channels.len(), self.before, self.rows, &mut self.sums);
        }
        self.before += self.rows;
        self.rows = 0;
    }
}
