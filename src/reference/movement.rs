//! Ops that only move elements.

use super::tensor::{Tensor, around, flat, indices};
use crate::graph::FlattenOrder;
use crate::graph::op::Span;

/// The elements that `place` finds for each index of the result.
fn gather(x: &Tensor, shape: &[usize], place: impl Fn(&[usize]) -> usize) -> Tensor {
    Tensor::floats(shape.to_vec(), indices(shape).map(|index| x.f()[place(&index)]).collect())
}

/// Zeros, with each element of x put where `place` says.
fn scatter(x: &Tensor, shape: &[usize], fill: f64, place: impl Fn(&[usize]) -> usize) -> Tensor {
    let mut y = vec![fill; shape.iter().product()];
    for (index, &x) in indices(x.shape()).zip(x.f()) {
        y[place(&index)] = x;
    }
    Tensor::floats(shape.to_vec(), y)
}

pub fn transpose(x: &Tensor, axes: &[usize], shape: &[usize]) -> Tensor {
    gather(x, shape, |index| {
        let mut source = vec![0; axes.len()];
        for (&axis, &i) in axes.iter().zip(index) {
            source[axis] = i;
        }
        flat(x.shape(), &source)
    })
}

/// The elements of an axis that a span chooses: Python's `range(*slice(start, stop, step).indices(size))`.
fn chosen(span: Span, size: usize) -> Vec<usize> {
    let n = size as i64;
    let wrap = |bound: i64| if bound < 0 { bound.saturating_add(n) } else { bound };
    let within = |at: &i64, stop: i64| if span.step > 0 { *at < stop } else { *at > stop };
    let (low, high) = if span.step > 0 { (0, n) } else { (-1, n - 1) };
    let start = span.start.map_or(if span.step > 0 { 0 } else { n - 1 }, |bound| wrap(bound).clamp(low, high));
    let stop = span.stop.map_or(if span.step > 0 { n } else { -1 }, |bound| wrap(bound).clamp(low, high));
    std::iter::successors(Some(start), |at| at.checked_add(span.step))
        .take_while(|at| within(at, stop))
        .map(|at| at as usize)
        .collect()
}

/// Where element `index` of a slice stands in the whole.
fn sliced(lists: &[Vec<usize>], whole: &[usize], index: &[usize]) -> usize {
    let source: Vec<usize> = lists.iter().zip(index).map(|(list, &i)| list[i]).collect();
    flat(whole, &source)
}

fn lists(spans: &[Span], whole: &[usize]) -> Vec<Vec<usize>> {
    spans.iter().zip(whole).map(|(&span, &size)| chosen(span, size)).collect()
}

pub fn slice(x: &Tensor, spans: &[Span], shape: &[usize]) -> Tensor {
    let lists = lists(spans, x.shape());
    gather(x, shape, |index| sliced(&lists, x.shape(), index))
}

pub fn slice_backward(grad: &Tensor, spans: &[Span], shape: &[usize]) -> Tensor {
    let lists = lists(spans, shape);
    scatter(grad, shape, 0.0, |index| sliced(&lists, shape, index))
}

pub fn pad(x: &Tensor, pads: &[[usize; 2]], value: f64, shape: &[usize]) -> Tensor {
    scatter(x, shape, value, |index| {
        let moved: Vec<usize> = index.iter().zip(pads).map(|(i, [before, _])| i + before).collect();
        flat(shape, &moved)
    })
}

/// How far into the whole each part begins.
fn starts(parts: &[&Tensor], axis: usize) -> Vec<usize> {
    let mut next = 0;
    parts
        .iter()
        .map(|part| {
            let start = next;
            next += part.shape()[axis];
            start
        })
        .collect()
}

pub fn concat(parts: &[&Tensor], axis: usize, shape: &[usize]) -> Tensor {
    let mut y = vec![0.0; shape.iter().product()];
    for (part, start) in parts.iter().zip(starts(parts, axis)) {
        for (mut index, &x) in indices(part.shape()).zip(part.f()) {
            index[axis] += start;
            y[flat(shape, &index)] = x;
        }
    }
    Tensor::floats(shape.to_vec(), y)
}

/// `operands` are the whole and its parts.
pub fn concat_part(operands: &[&Tensor], axis: usize, number: usize, shape: &[usize]) -> Tensor {
    let (whole, start) = (operands[0], starts(&operands[1..], axis)[number]);
    gather(whole, shape, |index| {
        let mut source = index.to_vec();
        source[axis] += start;
        flat(whole.shape(), &source)
    })
}

/// Where pixel (y, x), channel c of a map (N, H, W, C) stands in its row of features.
fn feature(order: FlattenOrder, map: &[usize], index: &[usize]) -> usize {
    let [h, w, c] = [map[1], map[2], map[3]];
    let [image, y, x, channel] = [index[0], index[1], index[2], index[3]];
    image * h * w * c
        + match order {
            FlattenOrder::Hwc => (y * w + x) * c + channel,
            FlattenOrder::Chw => (channel * h + y) * w + x,
        }
}

pub fn flatten(x: &Tensor, order: FlattenOrder, shape: &[usize]) -> Tensor {
    scatter(x, shape, 0.0, |index| feature(order, x.shape(), index))
}

pub fn unflatten(x: &Tensor, order: FlattenOrder, shape: &[usize]) -> Tensor {
    gather(x, shape, |index| feature(order, shape, index))
}

/// Every line along an axis: the position of its first element and the distance to the next.
pub fn lines(shape: &[usize], axis: usize) -> impl Iterator<Item = (usize, usize)> {
    let [outer, size, inner] = around(shape, axis);
    (0..outer * inner).map(move |line| (line / inner * size * inner + line % inner, inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(shape: &[usize], data: &[f64]) -> Tensor {
        Tensor::floats(shape.to_vec(), data.to_vec())
    }

    fn span(start: Option<i64>, stop: Option<i64>, step: i64) -> Span {
        Span { start, stop, step }
    }

    #[test]
    fn transposing_moves_axes() {
        let x = tensor(&[1, 2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let y = transpose(&x, &[2, 0, 1], &[3, 1, 2]);
        assert_eq!(y, tensor(&[3, 1, 2], &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]));
    }

    #[test]
    fn spans_follow_python() {
        assert_eq!(chosen(Span::ALL, 3), [0, 1, 2]);
        assert_eq!(chosen(span(Some(-2), None, 1), 5), [3, 4]);
        assert_eq!(chosen(span(Some(1), Some(100), 2), 6), [1, 3, 5]);
        assert_eq!(chosen(span(None, None, -2), 5), [4, 2, 0]);
        assert_eq!(chosen(span(Some(3), Some(0), -1), 5), [3, 2, 1]);
        assert_eq!(chosen(span(Some(-100), None, 1), 2), [0, 1]);
        assert!(chosen(span(Some(3), Some(1), 1), 5).is_empty());
        assert!(chosen(Span::ALL, 0).is_empty());
    }

    #[test]
    fn a_slice_and_its_gradient() {
        let x = tensor(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let spans = [span(None, None, -1), span(Some(1), None, 1)];
        let y = slice(&x, &spans, &[2, 2]);
        assert_eq!(y.f(), [5.0, 6.0, 2.0, 3.0]);
        assert_eq!(slice_backward(&y, &spans, &[2, 3]).f(), [0.0, 2.0, 3.0, 0.0, 5.0, 6.0]);
    }

    #[test]
    fn padding_surrounds() {
        let y = pad(&tensor(&[1, 2], &[1.0, 2.0]), &[[1, 0], [0, 1]], 9.0, &[2, 3]);
        assert_eq!(y.f(), [9.0, 9.0, 9.0, 1.0, 2.0, 9.0]);
    }

    #[test]
    fn parts_of_a_whole() {
        let (a, b) = (tensor(&[2, 1], &[1.0, 2.0]), tensor(&[2, 2], &[3.0, 4.0, 5.0, 6.0]));
        let whole = concat(&[&a, &b], 1, &[2, 3]);
        assert_eq!(whole.f(), [1.0, 3.0, 4.0, 2.0, 5.0, 6.0]);
        assert_eq!(concat_part(&[&whole, &a, &b], 1, 0, &[2, 1]), a);
        assert_eq!(concat_part(&[&whole, &a, &b], 1, 1, &[2, 2]), b);
    }

    #[test]
    fn both_orders_of_features() {
        let x = tensor(&[1, 1, 2, 2], &[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(flatten(&x, FlattenOrder::Hwc, &[1, 4]).f(), [1.0, 2.0, 3.0, 4.0]);
        let rows = flatten(&x, FlattenOrder::Chw, &[1, 4]);
        assert_eq!(rows.f(), [1.0, 3.0, 2.0, 4.0]);
        assert_eq!(unflatten(&rows, FlattenOrder::Chw, &[1, 1, 2, 2]), x);
    }
}
