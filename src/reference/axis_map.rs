//! Linear maps along one axis: the weight of every pair of a result and an element, one by one.

use super::movement::lines;
use super::tensor::Tensor;
use crate::function::AxisMap;

/// The share of element `j` of a line of `from` elements in result `i`.
fn weight(map: AxisMap, i: usize, j: usize, from: usize) -> f64 {
    let (at, from) = (i as f64, from as f64);
    let here = |place: f64| if place == j as f64 { 1.0 } else { 0.0 };
    match map {
        AxisMap::Nearest { to } => here((at * from / to as f64).floor()),
        AxisMap::Linear { to, align_corners } => {
            let to = to as f64;
            let place = match (align_corners, to > 1.0) {
                (true, true) => at * (from - 1.0) / (to - 1.0),
                (true, false) => 0.0,
                (false, _) => (at + 0.5) * from / to - 0.5,
            };
            // A hat of width 2 around the place.
            (1.0 - (place.clamp(0.0, from - 1.0) - j as f64).abs()).max(0.0)
        }
        AxisMap::AdaptiveAvg { to } => {
            let (first, last) = ((at * from / to as f64).floor(), ((at + 1.0) * from / to as f64).ceil() - 1.0);
            if first <= j as f64 && j as f64 <= last { 1.0 / (last - first + 1.0) } else { 0.0 }
        }
        AxisMap::PadEdge { before, .. } => here((at - before as f64).clamp(0.0, from - 1.0)),
        AxisMap::PadReflect { before, .. } => {
            let end = from - 1.0;
            here(end - (end - (at - before as f64).abs()).abs())
        }
    }
}

pub fn forward(x: &Tensor, axis: usize, map: AxisMap, shape: &[usize]) -> Tensor {
    let (from, to) = (x.shape()[axis], shape[axis]);
    let mut y = vec![0.0; shape.iter().product()];
    for ((source, pitch), (result, _)) in lines(x.shape(), axis).zip(lines(shape, axis)) {
        for i in 0..to {
            for j in 0..from {
                let weight = weight(map, i, j, from);
                if weight != 0.0 {
                    y[result + i * pitch] += weight * x.f()[source + j * pitch];
                }
            }
        }
    }
    Tensor::floats(shape.to_vec(), y)
}

pub fn backward(grad: &Tensor, axis: usize, map: AxisMap, shape: &[usize]) -> Tensor {
    let (from, to) = (shape[axis], grad.shape()[axis]);
    let mut x = vec![0.0; shape.iter().product()];
    for ((source, pitch), (result, _)) in lines(shape, axis).zip(lines(grad.shape(), axis)) {
        for i in 0..to {
            for j in 0..from {
                let weight = weight(map, i, j, from);
                if weight != 0.0 {
                    x[source + j * pitch] += weight * grad.f()[result + i * pitch];
                }
            }
        }
    }
    Tensor::floats(shape.to_vec(), x)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(map: AxisMap, x: &[f64]) -> Vec<f64> {
        let size = map.size(x.len());
        forward(&Tensor::floats(vec![x.len()], x.to_vec()), 0, map, &[size]).f().to_vec()
    }

    #[test]
    fn every_map_on_a_line() {
        assert_eq!(mapped(AxisMap::Nearest { to: 5 }, &[1.0, 2.0]), [1.0, 1.0, 1.0, 2.0, 2.0]);
        assert_eq!(mapped(AxisMap::Nearest { to: 2 }, &[1.0, 2.0, 3.0]), [1.0, 2.0]);
        let linear = |to, align_corners| AxisMap::Linear { to, align_corners };
        assert_eq!(mapped(linear(4, false), &[0.0, 8.0]), [0.0, 2.0, 6.0, 8.0]);
        assert_eq!(mapped(linear(5, true), &[0.0, 8.0]), [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!(mapped(linear(1, true), &[3.0, 8.0]), [3.0]);
        assert_eq!(mapped(AxisMap::AdaptiveAvg { to: 2 }, &[1.0, 2.0, 6.0]), [1.5, 4.0]);
        assert_eq!(mapped(AxisMap::AdaptiveAvg { to: 3 }, &[1.0, 2.0]), [1.0, 1.5, 2.0]);
        assert_eq!(mapped(AxisMap::PadEdge { before: 2, after: 1 }, &[1.0, 2.0]), [1.0, 1.0, 1.0, 2.0, 2.0]);
        let reflect = AxisMap::PadReflect { before: 2, after: 1 };
        assert_eq!(mapped(reflect, &[1.0, 2.0, 3.0]), [3.0, 2.0, 1.0, 2.0, 3.0, 2.0]);
    }

    #[test]
    fn the_gradient_is_the_transposed_map() {
        let map = AxisMap::PadEdge { before: 1, after: 0 };
        let grad = Tensor::floats(vec![1, 3, 2], vec![1.0, 10.0, 2.0, 20.0, 3.0, 30.0]);
        assert_eq!(backward(&grad, 1, map, &[1, 2, 2]).f(), [3.0, 30.0, 3.0, 30.0]);
    }

    /// The rows that kernels use are these weights, found another way.
    #[test]
    fn rows_hold_the_same_weights() {
        for from in 1..8 {
            let mut maps = vec![AxisMap::PadEdge { before: 3, after: 2 }];
            if from > 1 {
                maps.push(AxisMap::PadReflect { before: from - 1, after: 1 });
            }
            for to in 1..9 {
                maps.extend([AxisMap::Nearest { to }, AxisMap::AdaptiveAvg { to }]);
                maps.extend([true, false].map(|align_corners| AxisMap::Linear { to, align_corners }));
            }
            for map in maps {
                for i in 0..map.size(from) {
                    let mut dense = vec![0.0; from];
                    for (j, share) in map.row(i, from) {
                        dense[j] += share;
                    }
                    for (j, share) in dense.into_iter().enumerate() {
                        assert!((share - weight(map, i, j, from)).abs() < 1e-12, "{map:?} {from} {i} {j}");
                    }
                }
            }
        }
    }
}
