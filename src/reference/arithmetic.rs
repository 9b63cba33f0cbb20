//! Functions of two numbers, reductions and their opposite.

use super::tensor::{Tensor, broadcast, flat, indices};
use crate::function::{BinaryKind, ReduceKind};

/// The larger number; NaN if either is.
fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

/// The smaller number; NaN if either is.
fn smaller(a: f64, b: f64) -> f64 {
    if a.is_nan() || a < b { a } else { b }
}

fn function(kind: BinaryKind, a: f64, b: f64) -> f64 {
    match kind {
        BinaryKind::Add => a + b,
        BinaryKind::Sub => a - b,
        BinaryKind::Mul => a * b,
        BinaryKind::Div => a / b,
        BinaryKind::Maximum => larger(a, b),
        BinaryKind::Minimum => smaller(a, b),
        BinaryKind::Share if a > b => 1.0,
        BinaryKind::Share => {
            if a == b {
                0.5
            } else {
                0.0
            }
        }
        BinaryKind::Equal => {
            if a == b {
                1.0
            } else {
                0.0
            }
        }
    }
}

pub fn binary(kind: BinaryKind, a: &Tensor, b: &Tensor, shape: &[usize]) -> Tensor {
    let each =
        |index: Vec<usize>| function(kind, a.f()[broadcast(a.shape(), &index)], b.f()[broadcast(b.shape(), &index)]);
    Tensor::floats(shape.to_vec(), indices(shape).map(each).collect())
}

pub fn reduce(kind: ReduceKind, x: &Tensor, axes: &[usize], shape: &[usize]) -> Tensor {
    let kept: Vec<usize> =
        x.shape().iter().enumerate().map(|(axis, &size)| if axes.contains(&axis) { 1 } else { size }).collect();
    let start = match kind {
        ReduceKind::Sum | ReduceKind::Mean | ReduceKind::SumSquares => 0.0,
        ReduceKind::Max => f64::NEG_INFINITY,
        ReduceKind::Min => f64::INFINITY,
    };
    let mut y = vec![start; kept.iter().product()];
    for (index, &x) in indices(x.shape()).zip(x.f()) {
        let at: Vec<usize> =
            index.iter().enumerate().map(|(axis, &i)| if axes.contains(&axis) { 0 } else { i }).collect();
        let y = &mut y[flat(&kept, &at)];
        *y = match kind {
            ReduceKind::Sum | ReduceKind::Mean => *y + x,
            ReduceKind::SumSquares => *y + x * x,
            ReduceKind::Max => larger(*y, x),
            ReduceKind::Min => smaller(*y, x),
        };
    }
    if kind == ReduceKind::Mean {
        let count: usize = axes.iter().map(|&axis| x.shape()[axis]).product();
        for y in &mut y {
            *y /= count as f64;
        }
    }
    Tensor::floats(shape.to_vec(), y)
}

pub fn expand(x: &Tensor, mean: bool, shape: &[usize]) -> Tensor {
    let copies = if mean { shape.iter().product::<usize>() as f64 / x.f().len() as f64 } else { 1.0 };
    let each = |index: Vec<usize>| x.f()[broadcast(x.shape(), &index)] / copies;
    Tensor::floats(shape.to_vec(), indices(shape).map(each).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(shape: &[usize], data: &[f64]) -> Tensor {
        Tensor::floats(shape.to_vec(), data.to_vec())
    }

    #[test]
    fn a_column_meets_a_row() {
        let (a, b) = (tensor(&[2, 1], &[10.0, 20.0]), tensor(&[3], &[1.0, 2.0, 4.0]));
        assert_eq!(binary(BinaryKind::Sub, &a, &b, &[2, 3]).f(), [9.0, 8.0, 6.0, 19.0, 18.0, 16.0]);
        assert_eq!(binary(BinaryKind::Div, &a, &b, &[2, 3]).f(), [10.0, 5.0, 2.5, 20.0, 10.0, 5.0]);
    }

    #[test]
    fn comparisons_share_among_equals_and_keep_nan() {
        let pairs = [(1.0, 2.0), (2.0, 2.0), (3.0, 2.0)];
        let each = |kind| pairs.map(|(a, b)| function(kind, a, b));
        assert_eq!(each(BinaryKind::Share), [0.0, 0.5, 1.0]);
        assert_eq!(each(BinaryKind::Equal), [0.0, 1.0, 0.0]);
        assert_eq!(each(BinaryKind::Maximum), [2.0, 2.0, 3.0]);
        assert_eq!(each(BinaryKind::Minimum), [1.0, 2.0, 2.0]);
        for kind in [BinaryKind::Maximum, BinaryKind::Minimum] {
            assert!(function(kind, f64::NAN, 1.0).is_nan() && function(kind, 1.0, f64::NAN).is_nan());
        }
    }

    #[test]
    fn reductions_over_outer_inner_and_all_axes() {
        let x = tensor(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 9.0]);
        assert_eq!(reduce(ReduceKind::Sum, &x, &[0], &[3]).f(), [5.0, 7.0, 12.0]);
        assert_eq!(reduce(ReduceKind::Mean, &x, &[1], &[2, 1]).f(), [2.0, 6.0]);
        assert_eq!(reduce(ReduceKind::Max, &x, &[0, 1], &[]).f(), [9.0]);
        assert_eq!(reduce(ReduceKind::Min, &x, &[1], &[2]).f(), [1.0, 4.0]);
        assert_eq!(reduce(ReduceKind::SumSquares, &x, &[1], &[2]).f(), [14.0, 122.0]);
        assert_eq!(reduce(ReduceKind::Sum, &x, &[], &[2, 3]), x);
    }

    #[test]
    fn reductions_of_nothing_and_of_nan() {
        let none = tensor(&[0, 2], &[]);
        let of = |kind| reduce(kind, &none, &[0], &[2]).f()[1];
        assert_eq!(of(ReduceKind::Sum), 0.0);
        assert!(of(ReduceKind::Mean).is_nan());
        assert_eq!((of(ReduceKind::Max), of(ReduceKind::Min)), (f64::NEG_INFINITY, f64::INFINITY));
        for data in [[1.0, f64::NAN, 2.0], [f64::NAN, 1.0, 2.0]] {
            assert!(reduce(ReduceKind::Max, &tensor(&[3], &data), &[0], &[]).f()[0].is_nan());
        }
    }

    #[test]
    fn expansion_repeats_or_shares() {
        let x = tensor(&[2, 1], &[6.0, 12.0]);
        assert_eq!(expand(&x, false, &[2, 3]).f(), [6.0, 6.0, 6.0, 12.0, 12.0, 12.0]);
        assert_eq!(expand(&x, true, &[2, 3]).f(), [2.0, 2.0, 2.0, 4.0, 4.0, 4.0]);
    }
}
