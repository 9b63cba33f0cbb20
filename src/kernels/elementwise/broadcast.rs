//! Which elements of two operands meet in a result to whose shape they are broadcast.

use std::ops::Range;

use crate::error::{Error, Result};

/// Most axes that remain after merging.
const MAX_AXES: usize = 64;

/// One axis of the result and how far each operand moves along it; along a repeated axis it stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Axis {
    size: usize,
    strides: [usize; 2],
}

/// Neighbouring rows of the result: the place of the first element in the result and in both operands, the number of
/// rows, their length, and how far the operands move from row to row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    pub at: usize,
    pub from: [usize; 2],
    pub rows: usize,
    pub n: usize,
    pub pitch: [usize; 2],
}

/// Two operands broadcast to one result as in NumPy, with neighbouring axes merged wherever both operands allow it: two
/// tensors of one shape have a single axis, as have a tensor and a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broadcast {
    /// Outermost first, at least two; along the last the strides are one or zero.
    axes: Vec<Axis>,
    len: usize,
}

impl Broadcast {
    /// Operands of these shapes, each of which broadcasts to the result's.
    pub fn new(shape: &[usize], operands: [&[usize]; 2]) -> Result<Self> {
        let mut axes: Vec<Axis> = Vec::new();
        let mut dense = [1, 1];
        for axis in (0..shape.len()).rev() {
            let size = shape[axis];
            let strides = [0, 1].map(|which| {
                let operand = operands[which];
                let own = (axis + operand.len()).checked_sub(shape.len()).map_or(1, |at| operand[at]);
                let stride = if own == 1 { 0 } else { dense[which] };
                dense[which] *= own;
                stride
            });
            if size == 1 {
                continue;
            }
            match axes.last_mut() {
                // The outer axis goes on where the inner one ends, or both are repeated.
                Some(inner) if [0, 1].into_iter().all(|i| strides[i] == inner.strides[i] * inner.size) => {
                    inner.size *= size;
                }
                _ => axes.push(Axis { size, strides }),
            }
        }
        while axes.len() < 2 {
            axes.push(Axis { size: 1, strides: if axes.is_empty() { [1, 1] } else { [0, 0] } });
        }
        axes.reverse();
        if axes.len() > MAX_AXES {
            return Err(Error::Unsupported(format!("{} axes that cannot be merged, at most {MAX_AXES}", axes.len())));
        }
        Ok(Self { axes, len: shape.iter().product() })
    }

    /// Elements of the result.
    pub fn len(&self) -> usize {
        self.len
    }

    /// How far the operands move from element to element of a row: one or zero.
    pub fn steps(&self) -> [usize; 2] {
        self.inner().strides
    }

    fn inner(&self) -> Axis {
        self.axes[self.axes.len() - 1]
    }

    /// Calls `visit` for blocks that cover the elements `range` of the result, in order.
    pub fn walk(&self, range: Range<usize>, mut visit: impl FnMut(Block)) {
        let inner = self.inner();
        let (outer, middle) = (&self.axes[..self.axes.len() - 2], self.axes[self.axes.len() - 2]);
        let mut index = [0usize; MAX_AXES];
        let (mut row, mut column) = (range.start / inner.size.max(1), range.start % inner.size.max(1));
        let mut y = row % middle.size.max(1);
        row /= middle.size.max(1);
        let mut base = [0, 0];
        for (slot, axis) in index.iter_mut().zip(outer).rev() {
            *slot = row % axis.size.max(1);
            row /= axis.size.max(1);
            base = [0, 1].map(|i| base[i] + *slot * axis.strides[i]);
        }
        let mut at = range.start;
        while at < range.end {
            let left = range.end - at;
            // A row that begins or ends outside the range stands alone.
            let (rows, n) = if column > 0 || left < inner.size {
                (1, (inner.size - column).min(left))
            } else {
                ((left / inner.size).min(middle.size - y), inner.size)
            };
            let from = [0, 1].map(|i| base[i] + y * middle.strides[i] + column * inner.strides[i]);
            visit(Block { at, from, rows, n, pitch: middle.strides });
            at += rows * n;
            column = 0;
            y += rows;
            if y < middle.size {
                continue;
            }
            y = 0;
            for (slot, axis) in index.iter_mut().zip(outer).rev() {
                *slot += 1;
                base = [0, 1].map(|i| base[i] + axis.strides[i]);
                if *slot < axis.size {
                    break;
                }
                *slot = 0;
                base = [0, 1].map(|i| base[i] - axis.size * axis.strides[i]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sizes(broadcast: &Broadcast) -> Vec<(usize, [usize; 2])> {
        broadcast.axes.iter().map(|axis| (axis.size, axis.strides)).collect()
    }

    #[test]
    fn axes_are_merged() {
        let same = Broadcast::new(&[2, 3, 4], [&[2, 3, 4], &[2, 3, 4]]).unwrap();
        assert_eq!(sizes(&same), [(1, [0, 0]), (24, [1, 1])]);
        let number = Broadcast::new(&[2, 3, 4], [&[2, 3, 4], &[]]).unwrap();
        assert_eq!(sizes(&number), [(1, [0, 0]), (24, [1, 0])]);
        let channels = Broadcast::new(&[2, 3, 4], [&[2, 3, 4], &[4]]).unwrap();
        assert_eq!(sizes(&channels), [(6, [4, 0]), (4, [1, 1])]);
        let images = Broadcast::new(&[2, 3, 5, 4], [&[2, 3, 5, 4], &[2, 1, 1, 4]]).unwrap();
        assert_eq!(sizes(&images), [(2, [60, 4]), (15, [4, 0]), (4, [1, 1])]);
        let outer = Broadcast::new(&[3, 4], [&[3, 1], &[4]]).unwrap();
        assert_eq!(sizes(&outer), [(3, [1, 0]), (4, [0, 1])]);
    }

    proptest! {
        #[test]
        fn every_element_meets_its_operands(
            axes in prop::collection::vec((0usize..5, any::<bool>(), any::<bool>()), 0..6),
            drop in 0usize..6,
            ends in (0usize..200, 0usize..200),
        ) {
            let shape: Vec<usize> = axes.iter().map(|&(size, a, b)| if a && b { 1 } else { size }).collect();
            let operand = |repeat: fn(&(usize, bool, bool)) -> bool| -> Vec<usize> {
                axes.iter().zip(&shape).map(|(axis, &size)| if repeat(axis) { 1 } else { size }).collect()
            };
            let (a, b) = (operand(|axis| axis.1), operand(|axis| axis.2));
            // Leading axes of one element may be left out.
            let lead = b.iter().take_while(|&&size| size == 1).count().min(drop);
            let broadcast = Broadcast::new(&shape, [&a, &b[lead..]]).unwrap();
            let len: usize = shape.iter().product();
            prop_assert_eq!(broadcast.len(), len);
            let range = ends.0.min(len)..ends.1.min(len).max(ends.0.min(len));
            let place = |operand: &[usize], mut at: usize| {
                let (mut offset, mut dense) = (0, 1);
                for (axis, &own) in operand.iter().enumerate().rev() {
                    offset += if own == 1 { 0 } else { at % shape[axis] * dense };
                    at /= shape[axis];
                    dense *= own;
                }
                offset
            };
            let mut next = range.start;
            broadcast.walk(range.clone(), |block| {
                for row in 0..block.rows {
                    for i in 0..block.n {
                        let want = [place(&a, next), place(&b, next)];
                        let got = [0, 1].map(|k| block.from[k] + row * block.pitch[k] + i * broadcast.steps()[k]);
                        assert_eq!((block.at + row * block.n + i, got), (next, want));
                        next += 1;
                    }
                }
            });
            prop_assert_eq!(next, range.end);
        }
    }
}
