//! Normalization of NHWC tensors: statistics, their gradients, and the affine maps that use them.
//!
//! Statistics are kept in double precision as mean and sum of squared deviations, taken over blocks of rows relative to
//! the mean of the rows before, and merged block by block, part by part (Chan, Golub, LeVeque, 1979): one read of the
//! tensor, and no digits lost to a mean that is large against the deviation.

mod apply;
mod columns;
mod gate;
mod gradient_rows;
mod gradients;
mod gradients_finish;
mod long_rows;
mod lrn;
mod moments;
mod row;
mod rows;

pub use apply::{Apply, ReciprocalDeviation};
pub(super) use columns::{Statistics, Sums, add_rows, merge_sums};
pub use gate::Gate;
pub(super) use gradient_rows::{PerChannel, Rows, add_lines};
pub use gradients::GradientSums;
pub use gradients_finish::GradientSumsFinish;
pub use long_rows::{LongRowApply, LongRowSlopes, LongRowSums};
pub use lrn::{LocalResponseNorm, LocalResponseNormBackward};
pub use moments::{Moments, MomentsFinish};
pub use rows::{RowNorm, RowNormBackward};

use std::ops::Range;

use super::gcd;
use crate::simd::Isa;

/// `segments` times `rows` × `channels` numbers. Statistics belong to one bin of one segment, a bin being
/// `channels / bins` neighbouring channels of all rows.
///
/// Batch normalization has one segment and a bin per channel, group normalization a segment per image and a bin per
/// group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segments {
    /// Stretches with statistics of their own.
    pub segments: usize,
    /// Pixels of a segment.
    pub rows: usize,
    /// Numbers of a pixel; at least one.
    pub channels: usize,
    /// Divides `channels`.
    pub bins: usize,
}

impl Segments {
    /// Neighbouring channels of one bin.
    fn per_bin(&self) -> usize {
        self.channels / self.bins
    }

    /// Numbers behind one mean.
    pub fn count(&self) -> usize {
        self.rows * self.per_bin()
    }

    /// Number of means.
    pub fn statistics(&self) -> usize {
        self.segments * self.bins
    }

    /// Number of elements.
    fn len(&self) -> usize {
        self.segments * self.rows * self.channels
    }
}

/// How a segment's rows are cut into parts and bands of channels: a pure function of the shape.
#[derive(Debug, Clone, Copy)]
struct Cut {
    shape: Segments,
    parts: usize,
    /// Channels of a band; all of them unless they are many and each is a bin.
    band: usize,
    bands: usize,
}

impl Cut {
    /// Fewest numbers of a part.
    const LEAST: usize = 16 << 10;
    /// Tasks from which on no more parts are made.
    const ENOUGH: usize = 32;

    fn new(shape: Segments) -> Self {
        let band = if shape.bins == shape.channels && shape.channels >= 1024 { 512 } else { shape.channels };
        let bands = shape.channels.div_ceil(band);
        let wanted = Self::ENOUGH.div_ceil((shape.segments * bands).max(1));
        let parts = (shape.rows * band / Self::LEAST).min(shape.rows / BLOCK).min(wanted).max(1);
        Self { shape, parts, band, bands }
    }

    fn tasks(&self) -> usize {
        self.shape.segments * self.parts * self.bands
    }

    /// Segment, part, and first channel of a task.
    fn place(&self, task: usize) -> (usize, usize, usize) {
        let (block, band) = (task / self.bands, task % self.bands);
        (block / self.parts, block % self.parts, band * self.band)
    }

    /// First row of a part and the row behind its last; parts are made of whole blocks.
    fn rows(&self, part: usize) -> (usize, usize) {
        let blocks = self.shape.rows.div_ceil(BLOCK);
        let start = |part: usize| (blocks * part / self.parts * BLOCK).min(self.shape.rows);
        (start(part), start(part + 1))
    }
}

/// Most rows whose numbers are added up in single precision.
pub(super) const BLOCK: usize = 64;

/// Most floats of the vectors that are worked on side by side.
pub(super) const SIDE: usize = 64;

/// Most statistics that are finished side by side.
const RUN: usize = 64;

/// A range of statistics as runs of at most [`RUN`] within one segment: segment, first bin, number of bins.
fn runs(range: Range<usize>, bins: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let mut next = range.start;
    std::iter::from_fn(move || {
        let (segment, bin) = (next / bins, next % bins);
        let count = RUN.min(bins - bin).min(range.end - next);
        next += count;
        (count > 0).then_some((segment, bin, count))
    })
}

/// Rows taken several at a time, as lines that fill whole vectors where rows are short.
#[derive(Debug, Clone, Copy)]
struct Lines {
    /// Rows of a line.
    group: usize,
    /// Numbers of a line.
    wide: usize,
}

impl Lines {
    fn new(isa: Isa, channels: usize) -> Self {
        let (lanes, side) = (isa.lanes(), 4 * isa.lanes());
        let group = if channels >= side {
            1
        } else {
            let base = lanes / gcd(lanes, channels);
            base * side.div_ceil(base * channels)
        };
        Self { group, wide: group * channels }
    }
}
