//! Positions along one axis, the taps each of them reaches, and the shares of tasks.

use std::ops::Range;

use crate::kernels::conv::gather::Axis;

/// One tap of an axis: floats from a position's own place to its source, and from the first weight to its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tap {
    pub source: isize,
    pub weight: usize,
}

/// Result positions of one class along an axis, with their taps.
#[derive(Debug)]
pub struct Positions {
    axis: Axis,
    taps: Vec<Tap>,
    inside: Range<usize>,
    dense: bool,
}

impl Positions {
    /// The positions of `axis` where source positions are `source_pitch` floats apart and weights `weight_pitch`.
    pub fn new(axis: Axis, source_pitch: usize, weight_pitch: usize) -> Self {
        let taps = axis
            .offsets
            .iter()
            .zip(&axis.taps)
            .map(|(&offset, &tap)| Tap { source: offset * source_pitch as isize, weight: tap * weight_pitch });
        let (step, size) = (axis.src_step as isize, axis.src_size as isize);
        let inside = match (axis.offsets.first(), axis.offsets.last()) {
            (Some(&first), Some(&last)) => {
                let start = ((-first).max(0) as usize).div_ceil(step as usize).min(axis.count);
                let end = ((size - last).max(0) as usize).div_ceil(step as usize).min(axis.count);
                start..end.max(start)
            }
            _ => 0..axis.count,
        };
        let dense = axis.offsets.windows(2).all(|pair| pair[1] - pair[0] == step);
        Self { taps: taps.collect(), inside, dense, axis }
    }

    /// All taps.
    pub fn taps(&self) -> &[Tap] {
        &self.taps
    }

    /// Positions all of whose taps lie on the source.
    pub fn inside(&self) -> Range<usize> {
        self.inside.clone()
    }

    /// The taps that position `i` reaches, as a range of [`taps`](Self::taps).
    pub fn reached(&self, i: usize) -> Range<usize> {
        let (at, size) = ((i * self.axis.src_step) as isize, self.axis.src_size as isize);
        let low = self.axis.offsets.partition_point(|&offset| at + offset < 0);
        let high = self.axis.offsets.partition_point(|&offset| at + offset < size);
        low..high.max(low)
    }

    /// The positions of `lines` that tap number `tap` serves.
    pub fn served(&self, tap: usize, lines: Range<usize>) -> Range<usize> {
        let (offset, step, size) = (self.axis.offsets[tap], self.axis.src_step, self.axis.src_size as isize);
        let start = ((-offset).max(0) as usize).div_ceil(step).clamp(lines.start, lines.end);
        let end = ((size - offset).max(0) as usize).div_ceil(step).clamp(start, lines.end);
        start..end
    }

    /// Which of its positions lie in `results`, positions of the whole axis.
    pub fn among(&self, results: &Range<usize>) -> Range<usize> {
        let index = |at: usize| at.saturating_sub(self.axis.dst_start).div_ceil(self.axis.dst_step);
        index(results.start)..index(results.end).min(self.axis.count)
    }

    /// Whether neighbouring positions and neighbouring taps are as far from each other.
    pub fn is_dense(&self) -> bool {
        self.dense
    }

    /// Position `i` along the whole axis.
    pub fn result(&self, i: usize) -> usize {
        self.axis.dst_start + i * self.axis.dst_step
    }

    /// Positions of the whole axis from one to the next.
    pub fn result_step(&self) -> usize {
        self.axis.dst_step
    }

    /// Source positions from one to the next.
    pub fn source_step(&self) -> usize {
        self.axis.src_step
    }
}

/// `range` split by `inside`: before, within, after.
pub fn split(range: &Range<usize>, inside: &Range<usize>) -> [Range<usize>; 3] {
    let first = inside.start.clamp(range.start, range.end);
    let last = inside.end.clamp(first, range.end);
    [range.start..first, first..last, last..range.end]
}

/// `0..total` in nearly equal pieces of at most `most`.
pub fn pieces(total: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let count = total.div_ceil(most);
    (0..count).map(move |i| i * total / count..(i + 1) * total / count)
}

/// Lines of pixels of all images, in units of a line or of a piece of one.
#[derive(Debug)]
pub struct Units {
    lines: usize,
    width: usize,
    /// Units per line.
    pieces: usize,
}

/// Multiply-adds that are worth a task, and that are enough for one.
const TASK_WORK: [usize; 2] = [1 << 14, 1 << 18];
/// Tasks up to which work is shared out in small ones.
const TASKS: usize = 32;
/// Fewer pixels are not worth a piece of their own.
const PIECE: usize = 16;

impl Units {
    /// Units of `lines` lines of `width` pixels with `work` multiply-adds per pixel.
    pub fn new(lines: usize, width: usize, work: usize) -> Self {
        let lines = if width == 0 { 0 } else { lines };
        let line_work = width.saturating_mul(work);
        let few = TASKS.div_ceil(lines.max(1)).min(line_work / TASK_WORK[0]);
        Self { lines, width, pieces: few.max(line_work / TASK_WORK[1]).clamp(1, width.div_ceil(PIECE).max(1)) }
    }

    /// Units of all lines.
    pub fn count(&self) -> usize {
        self.lines * self.pieces
    }

    /// Units per line.
    pub fn per_line(&self) -> usize {
        self.pieces
    }

    /// Tasks that share them, `work` multiply-adds per pixel.
    pub fn tasks(&self, work: usize) -> usize {
        let work = (self.lines * self.width).saturating_mul(work);
        (work / TASK_WORK[0]).clamp(1, TASKS.max(work / TASK_WORK[1])).min(self.count())
    }

    /// Line and pixels of a unit.
    pub fn get(&self, unit: usize) -> (usize, Range<usize>) {
        let piece = unit % self.pieces;
        (unit / self.pieces, piece * self.width / self.pieces..(piece + 1) * self.width / self.pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(count: usize, src_step: usize, src_size: usize, offsets: &[isize]) -> Positions {
        let taps = (0..offsets.len()).collect();
        let axis = Axis { count, dst_start: 0, dst_step: 1, src_step, src_size, offsets: offsets.to_vec(), taps };
        Positions::new(axis, 1, 1)
    }

    /// What the ranges say, by trying every position and tap.
    fn check(positions: &Positions) {
        let Axis { count, src_step, src_size, offsets, .. } = &positions.axis;
        let on = |i: usize, tap: usize| {
            let at = (i * src_step) as isize + offsets[tap];
            at >= 0 && at < *src_size as isize
        };
        for i in 0..*count {
            let reached: Vec<usize> = (0..offsets.len()).filter(|&tap| on(i, tap)).collect();
            assert_eq!(positions.reached(i).collect::<Vec<_>>(), reached);
            assert_eq!(positions.inside().contains(&i), reached.len() == offsets.len());
        }
        for tap in 0..offsets.len() {
            let served: Vec<usize> = (1..*count).filter(|&i| on(i, tap)).collect();
            assert_eq!(positions.served(tap, 1..(*count).max(1)).collect::<Vec<_>>(), served);
        }
    }

    #[test]
    fn ranges_agree_with_every_single_position() {
        for size in 0..9 {
            for step in 1..4 {
                for pad in 0..5 {
                    for dilation in 1..4 {
                        let offsets: Vec<isize> = (0..3).map(|m| m * dilation - pad).collect();
                        check(&axis(7, step, size, &offsets));
                    }
                }
            }
        }
        check(&axis(4, 1, 4, &[]));
    }

    #[test]
    fn units_cover_every_pixel_once() {
        for (lines, width, work) in [(3, 5, 1), (1, 3000, 300), (448, 56, 1152), (0, 7, 9), (7, 0, 9), (2, 40, 100_000)]
        {
            let units = Units::new(lines, width, work);
            let mut pixels = Vec::new();
            for unit in 0..units.count() {
                let (line, columns) = units.get(unit);
                pixels.extend(columns.map(|x| line * width + x));
            }
            assert_eq!(pixels, (0..lines * width).collect::<Vec<_>>());
            assert!(units.tasks(work) <= units.count());
        }
    }
}
