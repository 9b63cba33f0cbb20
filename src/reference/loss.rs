//! Softmax, cross-entropy and the scaling of image bytes.

use super::movement::lines;
use super::tensor::Tensor;
use crate::error::{Error, Result};
use crate::function::Scalar;

/// log softmax of one line: x − max − log Σ exp(x − max).
fn log_softmax(x: &[f64]) -> Vec<f64> {
    let max = x.iter().fold(f64::NEG_INFINITY, |max, &x| if x.is_nan() || x > max { x } else { max });
    let sum: f64 = x.iter().map(|x| (x - max).exp()).sum();
    x.iter().map(|x| x - max - sum.ln()).collect()
}

/// Replaces every line along an axis by a function of the lines of some tensors.
fn along(axis: usize, tensors: &[&Tensor], each: impl Fn(&[Vec<f64>]) -> Vec<f64>) -> Tensor {
    let shape = tensors[0].shape();
    let mut y = vec![0.0; tensors[0].f().len()];
    for (start, pitch) in lines(shape, axis) {
        let line = |tensor: &&Tensor| (0..shape[axis]).map(|i| tensor.f()[start + i * pitch]).collect();
        let taken: Vec<Vec<f64>> = tensors.iter().map(line).collect();
        for (i, number) in each(&taken).into_iter().enumerate() {
            y[start + i * pitch] = number;
        }
    }
    tensors[0].with(y)
}

pub fn softmax(x: &Tensor, axis: usize, log: bool) -> Tensor {
    along(axis, &[x], |lines| {
        let logs = log_softmax(&lines[0]);
        if log { logs } else { logs.into_iter().map(f64::exp).collect() }
    })
}

/// y ⊙ (g − Σ g·y) for softmax, g − exp(y) · Σ g for its logarithm.
pub fn softmax_backward(grad: &Tensor, y: &Tensor, axis: usize, log: bool) -> Tensor {
    along(axis, &[grad, y], |lines| {
        let pairs = lines[0].iter().zip(&lines[1]);
        if log {
            let sum: f64 = lines[0].iter().sum();
            return pairs.map(|(g, y)| g - y.exp() * sum).collect();
        }
        let dot: f64 = pairs.clone().map(|(g, y)| g * y).sum();
        pairs.map(|(g, y)| y * (g - dot)).collect()
    })
}

/// With class weights w and smoothing ε, row n with label t counts
/// (1 − ε)·w[t]·(−log p[t]) + ε/K·Σ w[k]·(−log p[k]); the loss is the sum over the rows that are not ignored, divided by
/// the sum of their w[t].
pub fn cross_entropy(operands: &[&Tensor], smoothing: f64, ignore: Option<i64>) -> Result<Vec<Tensor>> {
    let (logits, labels) = (operands[0], operands[1].i());
    let classes = logits.shape()[1];
    let weights = operands.get(2).map_or_else(|| vec![1.0; classes], |weight| weight.f().to_vec());
    let weights_sum: f64 = weights.iter().sum();
    let (mut loss, mut total, mut correct, mut counted) = (0.0, 0.0, 0.0, 0.0);
    let mut diff = vec![0.0; logits.f().len()];
    for (row, (x, &label)) in logits.f().chunks_exact(classes).zip(labels).enumerate() {
        if Some(label) == ignore {
            continue;
        }
        let Some(t) = usize::try_from(label).ok().filter(|&t| t < classes) else {
            return Err(Error::Value(format!(
                "labels expects classes in [0, {classes}), received {label} at row {row}"
            )));
        };
        let logs = log_softmax(x);
        let smooth = smoothing / classes as f64;
        let spread: f64 = logs.iter().zip(&weights).map(|(log, w)| w * -log).sum();
        // Without smoothing an impossible class counts nothing, not zero times infinity.
        loss += (1.0 - smoothing) * weights[t] * -logs[t] + if smooth == 0.0 { 0.0 } else { smooth * spread };
        total += weights[t];
        counted += 1.0;
        let first = x.iter().take(t).all(|other| *other < x[t]) && x.iter().all(|other| *other <= x[t]);
        correct += f64::from(u8::from(first && !logs[t].is_nan()));
        for (k, log) in logs.iter().enumerate() {
            let onehot = f64::from(u8::from(k == t));
            diff[row * classes + k] =
                (1.0 - smoothing) * weights[t] * (log.exp() - onehot) + smooth * (log.exp() * weights_sum - weights[k]);
        }
    }
    for (row, _) in labels.iter().enumerate().filter(|(_, label)| Some(**label) != ignore) {
        diff[row * classes..][..classes].iter_mut().for_each(|diff| *diff /= total);
    }
    let scalar = |x: f64| Tensor::floats(vec![], vec![x]);
    Ok(vec![scalar(loss / total), scalar(correct), logits.with(diff), scalar(counted)])
}

pub fn normalize(bytes: &Tensor, mean: &[Scalar], std: &[Scalar]) -> Tensor {
    let channels = bytes.shape()[3];
    let of = |list: &[Scalar], c: usize| f64::from(list[if list.len() == 1 { 0 } else { c }].get());
    let each = |(at, &x): (usize, &i64)| (x as f64 / 255.0 - of(mean, at % channels)) / of(std, at % channels);
    Tensor::floats(bytes.shape().to_vec(), bytes.i().iter().enumerate().map(each).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < 1e-12, "{found:?} for {expected:?}");
        }
    }

    #[test]
    fn softmax_along_either_axis() {
        let x = Tensor::floats(vec![2, 2], vec![0.0, 3.0f64.ln(), 0.0, 0.0]);
        close(softmax(&x, 1, false).f(), &[0.25, 0.75, 0.5, 0.5]);
        close(softmax(&x, 0, false).f(), &[0.5, 0.75, 0.5, 0.25]);
        close(softmax(&x, 1, true).f(), &[0.25f64.ln(), 0.75f64.ln(), 0.5f64.ln(), 0.5f64.ln()]);
    }

    #[test]
    fn gradients_of_softmax() {
        let grad = Tensor::floats(vec![1, 2], vec![1.0, 5.0]);
        let y = Tensor::floats(vec![1, 2], vec![0.25, 0.75]);
        close(softmax_backward(&grad, &y, 1, false).f(), &[0.25 * -3.0, 0.75 * 1.0]);
        let log = y.with(y.f().iter().map(|y| y.ln()).collect());
        close(softmax_backward(&grad, &log, 1, true).f(), &[1.0 - 1.5, 5.0 - 4.5]);
    }

    /// Rows with p = (¼, ¾) and (½, ½).
    fn logits() -> Tensor {
        Tensor::floats(vec![3, 2], vec![0.0, 3.0f64.ln(), 0.0, 0.0, 9.0, 9.0])
    }

    #[test]
    fn the_mean_of_the_rows_that_count() {
        let labels = Tensor::ints(vec![3], vec![1, 0, -1]);
        let found = cross_entropy(&[&logits(), &labels], 0.0, Some(-1)).unwrap();
        close(found[0].f(), &[(-0.75f64.ln() - 0.5f64.ln()) / 2.0]);
        assert_eq!(found[1].f(), [2.0]); // of equal logits the first counts as the guess
        close(found[2].f(), &[0.125, -0.125, -0.25, 0.25, 0.0, 0.0]);
        assert_eq!(found[3].f(), [2.0]);
        assert!(matches!(cross_entropy(&[&logits(), &labels], 0.0, None), Err(Error::Value(_))));
    }

    #[test]
    fn class_weights_and_smoothing() {
        let labels = Tensor::ints(vec![3], vec![1, 0, 7]);
        let weight = Tensor::floats(vec![2], vec![3.0, 1.0]);
        let found = cross_entropy(&[&logits(), &labels, &weight], 0.2, Some(7)).unwrap();
        let row = |w: f64, t: f64, p: [f64; 2]| -0.8 * w * t.ln() - 0.1 * (3.0 * p[0].ln() + p[1].ln());
        close(found[0].f(), &[(row(1.0, 0.75, [0.25, 0.75]) + row(3.0, 0.5, [0.5, 0.5])) / 4.0]);
        let first = [0.8 * 0.25 + 0.1 * (0.25 * 4.0 - 3.0), 0.8 * -0.25 + 0.1 * (0.75 * 4.0 - 1.0)];
        close(&found[2].f()[..2], &first.map(|x| x / 4.0));
    }

    #[test]
    fn bytes_are_scaled_by_channel() {
        let bytes = Tensor::ints(vec![1, 1, 1, 2], vec![255, 51]);
        let y = normalize(&bytes, &[Scalar::new(0.5)], &[Scalar::new(0.25), Scalar::new(0.5)]);
        close(y.f(), &[2.0, -0.6]);
    }
}
