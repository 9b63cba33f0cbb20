//! Normalization and dropout.

use super::tensor::Tensor;
use crate::graph::op::DropoutUnit;
use crate::random::philox;

/// Numbers in rows of C channels, and C.
fn rows(x: &Tensor) -> (&[f64], usize) {
    (x.f(), x.shape()[x.shape().len() - 1])
}

/// Mean and biased variance of some numbers.
fn moments(numbers: &[f64]) -> [f64; 2] {
    let count = numbers.len() as f64;
    let mean = numbers.iter().sum::<f64>() / count;
    [mean, numbers.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count]
}

fn per_channel(data: Vec<f64>) -> Tensor {
    Tensor::floats(vec![data.len()], data)
}

/// `operands` are x, weight, bias, running mean, running variance.
pub fn batch_norm_train(operands: &[&Tensor], eps: f64, momentum: f64) -> Vec<Tensor> {
    let ((x, c), [weight, bias]) = (rows(operands[0]), [operands[1].f(), operands[2].f()]);
    let column = |k: usize| x.iter().skip(k).step_by(c).copied().collect::<Vec<f64>>();
    let moments: Vec<[f64; 2]> = (0..c).map(|k| moments(&column(k))).collect();
    let rstd = |k: usize| 1.0 / (moments[k][1] + eps).sqrt();
    let y = x.iter().enumerate().map(|(at, x)| {
        let k = at % c;
        (x - moments[k][0]) * rstd(k) * weight[k] + bias[k]
    });
    let count = (x.len() / c) as f64;
    let unbiased = count / (count - 1.0);
    let running = |old: &Tensor, new: &dyn Fn(usize) -> f64| {
        per_channel(old.f().iter().enumerate().map(|(k, old)| (1.0 - momentum) * old + momentum * new(k)).collect())
    };
    vec![
        operands[0].with(y.collect()),
        per_channel(moments.iter().map(|[mean, _]| *mean).collect()),
        per_channel((0..c).map(rstd).collect()),
        running(operands[3], &|k| moments[k][0]),
        running(operands[4], &|k| moments[k][1] * unbiased),
    ]
}

/// (x − mean)·rstd·weight + bias with known statistics, computed as [`batch_norm_train`] does.
pub fn affine(x: &Tensor, weight: &Tensor, bias: &Tensor, statistics: &[&Tensor]) -> Tensor {
    let (numbers, c) = rows(x);
    let [weight, bias, mean, rstd] = [weight.f(), bias.f(), statistics[0].f(), statistics[1].f()];
    let y = numbers.iter().enumerate().map(|(at, x)| {
        let k = at % c;
        (x - mean[k]) * rstd[k] * weight[k] + bias[k]
    });
    x.with(y.collect())
}

/// The gradients of (x − mean)·rstd·weight + bias where mean and rstd are those of the numbers that share a statistic.
///
/// `operands` are grad_y, x, weight, mean, rstd; `statistic` numbers the statistic of an element.
fn normalized_backward(operands: &[&Tensor], statistic: impl Fn(usize) -> usize) -> Vec<Tensor> {
    let [grad, (x, c)] = [(operands[0].f(), 0), rows(operands[1])];
    let (grad, [weight, mean, rstd]) = (grad.0, [operands[2].f(), operands[3].f(), operands[4].f()]);
    let normal = |at: usize| (x[at] - mean[statistic(at)]) * rstd[statistic(at)];
    let (mut grad_weight, mut grad_bias) = (vec![0.0; c], vec![0.0; c]);
    let mut sums = vec![[0.0; 3]; mean.len()];
    for at in 0..x.len() {
        grad_weight[at % c] += grad[at] * normal(at);
        grad_bias[at % c] += grad[at];
        let inner = grad[at] * weight[at % c];
        let [count, sum, dot] = &mut sums[statistic(at)];
        *count += 1.0;
        *sum += inner;
        *dot += inner * normal(at);
    }
    let grad_x = |at: usize| {
        let [count, sum, dot] = sums[statistic(at)];
        rstd[statistic(at)] * (grad[at] * weight[at % c] - sum / count - normal(at) * dot / count)
    };
    vec![operands[1].with((0..x.len()).map(grad_x).collect()), per_channel(grad_weight), per_channel(grad_bias)]
}

pub fn batch_norm_backward(operands: &[&Tensor]) -> Vec<Tensor> {
    let (_, c) = rows(operands[1]);
    normalized_backward(operands, |at| at % c)
}

/// `operands` are x, weight, bias, mean, variance.
pub fn batch_norm_infer(operands: &[&Tensor], eps: f64) -> Tensor {
    let (x, c) = rows(operands[0]);
    let [weight, bias, mean, variance] = [1, 2, 3, 4].map(|index| operands[index].f());
    let y = x.iter().enumerate().map(|(at, x)| {
        let k = at % c;
        (x - mean[k]) / (variance[k] + eps).sqrt() * weight[k] + bias[k]
    });
    operands[0].with(y.collect())
}

/// The number of the statistic that element `at` of a shape (N, …, C) belongs to, in a table (N, G).
fn group_of(shape: &[usize], groups: usize) -> impl Fn(usize) -> usize {
    let (image, c) = (shape[1..].iter().product::<usize>(), shape[shape.len() - 1]);
    move |at| at / image * groups + at % c / (c / groups)
}

pub fn group_norm(operands: &[&Tensor], groups: usize, eps: f64) -> Vec<Tensor> {
    let ((x, c), [weight, bias]) = (rows(operands[0]), [operands[1].f(), operands[2].f()]);
    let shape = operands[0].shape();
    let group = group_of(shape, groups);
    let mut members = vec![Vec::new(); shape[0] * groups];
    for (at, &x) in x.iter().enumerate() {
        members[group(at)].push(x);
    }
    let moments: Vec<[f64; 2]> = members.iter().map(|numbers| moments(numbers)).collect();
    let rstd: Vec<f64> = moments.iter().map(|[_, variance]| 1.0 / (variance + eps).sqrt()).collect();
    let y = x
        .iter()
        .enumerate()
        .map(|(at, x)| (x - moments[group(at)][0]) * rstd[group(at)] * weight[at % c] + bias[at % c]);
    let table = vec![shape[0], groups];
    vec![
        operands[0].with(y.collect()),
        Tensor::floats(table.clone(), moments.iter().map(|[mean, _]| *mean).collect()),
        Tensor::floats(table, rstd),
    ]
}

pub fn group_norm_backward(operands: &[&Tensor], groups: usize) -> Vec<Tensor> {
    normalized_backward(operands, group_of(operands[1].shape(), groups))
}

/// The channels whose squares count for channel `k` of `c`.
fn neighbours(size: usize, k: usize, c: usize) -> std::ops::Range<usize> {
    k.saturating_sub(size / 2)..(k + (size - 1) / 2 + 1).min(c)
}

/// `numbers` are alpha, beta and k; the results are y and s.
pub fn local_response_norm(x: &Tensor, size: usize, [alpha, beta, k]: [f64; 3]) -> Vec<Tensor> {
    let (data, c) = rows(x);
    let mut s = Vec::with_capacity(data.len());
    for row in data.chunks_exact(c) {
        for channel in 0..c {
            let squares: f64 = neighbours(size, channel, c).map(|j| row[j] * row[j]).sum();
            s.push(k + alpha / size as f64 * squares);
        }
    }
    let y = data.iter().zip(&s).map(|(x, s)| x / s.powf(beta)).collect();
    vec![x.with(y), x.with(s)]
}

/// `operands` are grad_y, x, y, s. x[j] counts for its own y and for the s of every channel it is a neighbour of:
/// grad_x[j] = grad_y[j]/s[j]^beta − 2·beta·alpha/size · x[j] · Σ grad_y[k]·y[k]/s[k].
pub fn local_response_norm_backward(operands: &[&Tensor], size: usize, [alpha, beta]: [f64; 2]) -> Tensor {
    let (x, c) = rows(operands[1]);
    let [grad, y, s] = [operands[0].f(), operands[2].f(), operands[3].f()];
    let each = |at: usize| {
        let (row, j) = (at / c * c, at % c);
        let readers = (0..c).filter(|&k| neighbours(size, k, c).contains(&j));
        let sum: f64 = readers.map(|k| grad[row + k] * y[row + k] / s[row + k]).sum();
        grad[at] / s[at].powf(beta) - 2.0 * beta * alpha / size as f64 * x[at] * sum
    };
    operands[1].with((0..x.len()).map(each).collect())
}

/// Each unit's draw is word `unit mod 4` of Philox's block for the counter (unit / 4, step, stream) and the key `seed`,
/// as a number in [0, 1); the unit stays if the draw is at least p.
pub fn dropout(x: &Tensor, key: &[i64], p: f64, unit: DropoutUnit, stream: u64) -> Tensor {
    let shape = x.shape();
    // Of rank 1, an image is one number of one channel.
    let (image, c) = (shape[1..].iter().product::<usize>(), shape[1..].last().copied().unwrap_or(1));
    let [seed, step] = [key[0] as u64, key[1] as u64];
    let each = |(at, &x): (usize, &f64)| {
        let unit = match unit {
            DropoutUnit::Element => at,
            DropoutUnit::Channel => at / image * c + at % c,
            DropoutUnit::Sample => at / image,
        };
        let counter = [(unit / 4) as u32, step as u32, stream as u32, (stream >> 32) as u32];
        let word = philox(counter, [seed as u32, (seed >> 32) as u32])[unit % 4];
        let draw = f64::from(word >> 8) / f64::from(1 << 24);
        if draw >= p { x / (1.0 - p) } else { 0.0 }
    };
    x.with(x.f().iter().enumerate().map(each).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(shape: &[usize], data: &[f64]) -> Tensor {
        Tensor::floats(shape.to_vec(), data.to_vec())
    }

    fn close(found: &Tensor, expected: &[f64]) {
        assert_eq!(found.f().len(), expected.len());
        for (a, b) in found.f().iter().zip(expected) {
            assert!((a - b).abs() < 1e-12, "{:?} for {expected:?}", found.f());
        }
    }

    /// Two rows of two channels: mean 2 and 20, variance 1 and 100.
    fn operands() -> [Tensor; 5] {
        [
            tensor(&[2, 2], &[1.0, 10.0, 3.0, 30.0]),
            tensor(&[2], &[2.0, 1.0]),
            tensor(&[2], &[0.0, 5.0]),
            tensor(&[2], &[0.0, 100.0]),
            tensor(&[2], &[1.0, 1.0]),
        ]
    }

    #[test]
    fn batch_norm_in_training() {
        let own = operands();
        let found = batch_norm_train(&own.each_ref(), 0.0, 0.25);
        close(&found[0], &[-2.0, 4.0, 2.0, 6.0]);
        close(&found[1], &[2.0, 20.0]);
        close(&found[2], &[1.0, 0.1]);
        close(&found[3], &[0.5, 80.0]);
        close(&found[4], &[0.75 + 0.25 * 2.0, 0.75 + 0.25 * 200.0]);
    }

    #[test]
    fn batch_norm_in_inference() {
        let own = operands();
        close(&batch_norm_infer(&own.each_ref(), 3.0), &[1.0, -40.0, 3.0, -30.0]);
    }

    #[test]
    fn gradients_of_batch_norm() {
        let [x, weight, ..] = operands();
        let statistics = [tensor(&[2], &[2.0, 20.0]), tensor(&[2], &[1.0, 0.1])];
        let grad = tensor(&[2, 2], &[1.0, 3.0, 5.0, 3.0]);
        let found = batch_norm_backward(&[&grad, &x, &weight, &statistics[0], &statistics[1]]);
        // Two numbers with two statistics: nothing is left for x.
        close(&found[0], &[0.0, 0.0, 0.0, 0.0]);
        close(&found[1], &[4.0, 0.0]);
        close(&found[2], &[6.0, 6.0]);
    }

    #[test]
    fn group_norm_by_image_and_group() {
        let x = tensor(&[1, 2, 4], &[0.0, 2.0, 5.0, 5.0, 0.0, 2.0, 5.0, 5.0]);
        let (weight, bias) = (tensor(&[4], &[1.0, 1.0, 1.0, 3.0]), tensor(&[4], &[0.0, 10.0, 0.0, 7.0]));
        let found = group_norm(&[&x, &weight, &bias], 2, 1.0);
        let normal = 1.0 / 2.0f64.sqrt();
        close(&found[0], &[-normal, 10.0 + normal, 0.0, 7.0, -normal, 10.0 + normal, 0.0, 7.0]);
        close(&found[1], &[1.0, 5.0]);
        close(&found[2], &[normal, 1.0]);
        let grad = tensor(&[1, 2, 4], &[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0]);
        let back = group_norm_backward(&[&grad, &x, &weight, &found[1], &found[2]], 2);
        close(&back[1], &[-normal, 0.0, 0.0, 0.0]);
        close(&back[2], &[1.0, 0.0, 0.0, 2.0]);
        let dot = -normal / 4.0;
        let expect = |g: f64, x: f64| normal * (g - 0.25 - x * normal * dot);
        close(
            &back[0],
            &[expect(1.0, -1.0), expect(0.0, 1.0), -1.5, -1.5, expect(0.0, -1.0), expect(0.0, 1.0), -1.5, 4.5],
        );
    }

    #[test]
    fn local_response_norm_over_the_channels_that_exist() {
        let x = tensor(&[1, 3], &[1.0, 2.0, 3.0]);
        // Of size 2: the channel before and the channel itself.
        let found = local_response_norm(&x, 2, [2.0, 1.0, 1.0]);
        close(&found[1], &[2.0, 6.0, 14.0]);
        close(&found[0], &[0.5, 2.0 / 6.0, 3.0 / 14.0]);
        let grad = tensor(&[1, 3], &[0.0, 6.0, 0.0]);
        let back = local_response_norm_backward(&[&grad, &x, &found[0], &found[1]], 2, [2.0, 1.0]);
        let shared = 6.0 * (2.0 / 6.0) / 6.0;
        close(&back, &[-2.0 * shared, 1.0 - 4.0 * shared, 0.0]);
    }

    #[test]
    fn dropout_draws_for_its_units() {
        let x = tensor(&[2, 2, 3], &[1.0; 12]);
        let run = |p, unit, step| dropout(&x, &[7, step], p, unit, 5).f().to_vec();
        assert_eq!(run(0.0, DropoutUnit::Element, 0), [1.0; 12]);
        assert_eq!(run(1.0, DropoutUnit::Element, 0), [0.0; 12]);
        let half = run(0.5, DropoutUnit::Element, 0);
        assert!(half.contains(&0.0) && half.contains(&2.0));
        // The first block of (seed 7, step 0, stream 5), worked out from the generator itself.
        let block = philox([0, 0, 5, 0], [7, 0]).map(|word| if word >> 31 == 1 { 2.0 } else { 0.0 });
        assert_eq!(half[..4], block);
        assert_ne!(half, run(0.5, DropoutUnit::Element, 1));
        let channel = run(0.5, DropoutUnit::Channel, 0);
        assert!((0..12).all(|at| channel[at] == channel[at / 6 * 6 + at % 3]));
        let line = dropout(&tensor(&[12], &[1.0; 12]), &[7, 0], 0.5, DropoutUnit::Channel, 5);
        assert_eq!(line.f(), half);
        let sample = run(0.5, DropoutUnit::Sample, 0);
        assert!((0..12).all(|at| sample[at] == half[at / 6]));
    }
}
