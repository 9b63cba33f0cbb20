//! Optimizers, torch's formulas: the new contents of every parameter and its states.

use super::tensor::Tensor;
use crate::graph::op::Optimizer;

/// `operands` are the table of hyperparameters, then parameter, gradient and states of each parameter.
pub fn update(operands: &[&Tensor], optimizer: Optimizer) -> Vec<Tensor> {
    let rows = operands[0].f().chunks_exact(optimizer.hyper());
    let parameters = operands[1..].chunks_exact(2 + optimizer.states());
    parameters.zip(rows).flat_map(|(one, hyper)| parameter(one, hyper, optimizer)).collect()
}

/// The new parameter and states, element by element.
fn parameter(one: &[&Tensor], hyper: &[f64], optimizer: Optimizer) -> Vec<Tensor> {
    let mut contents: Vec<Vec<f64>> = vec![Vec::new(); 1 + optimizer.states()];
    for at in 0..one[0].f().len() {
        let states: Vec<f64> = one[2..].iter().map(|state| state.f()[at]).collect();
        let element = element(one[0].f()[at], one[1].f()[at], &states, hyper, optimizer);
        for (contents, number) in contents.iter_mut().zip(element) {
            contents.push(number);
        }
    }
    contents.into_iter().map(|data| one[0].with(data)).collect()
}

/// Parameter `w` with gradient `grad`: the new parameter, then its new states.
fn element(w: f64, grad: f64, states: &[f64], hyper: &[f64], optimizer: Optimizer) -> Vec<f64> {
    let lr = hyper[0];
    match optimizer {
        Optimizer::Sgd { nesterov } => {
            let [momentum, decay, decoupled] = [hyper[1], hyper[2], hyper[3]];
            let g = grad + decay * w;
            let m = momentum * states[0] + g;
            vec![w * (1.0 - lr * decoupled) - lr * if nesterov { g + momentum * m } else { m }, m]
        }
        Optimizer::RmsProp { centered } => {
            let [new, eps, momentum, decay, decoupled] = [hyper[1], hyper[2], hyper[3], hyper[4], hyper[5]];
            let g = grad + decay * w;
            let square = (1.0 - new) * states[0] + new * g * g;
            let mean = if centered { (1.0 - new) * states[2] + new * g } else { 0.0 };
            let m = momentum * states[1] + g / ((square - mean * mean).sqrt() + eps);
            let mut new = vec![w * (1.0 - lr * decoupled) - lr * m, square, m];
            new.extend(centered.then_some(mean));
            new
        }
        Optimizer::Adam { amsgrad } => {
            let [new1, new2, eps, decay] = [hyper[1], hyper[2], hyper[3], hyper[4]];
            let [decoupled, correction1, correction2] = [hyper[5], hyper[6], hyper[7]];
            let g = grad + decay * w;
            let first = (1.0 - new1) * states[0] + new1 * g;
            let second = (1.0 - new2) * states[1] + new2 * g * g;
            let largest = if amsgrad { states[2].max(second) } else { second };
            let deviation = largest.sqrt() / correction2.sqrt() + eps;
            let mut new = vec![w * (1.0 - lr * decoupled) - lr / correction1 * first / deviation, first, second];
            new.extend(amsgrad.then_some(largest));
            new
        }
        Optimizer::Adagrad => {
            let [eps, decay, decoupled] = [hyper[1], hyper[2], hyper[3]];
            let g = grad + decay * w;
            let sum = states[0] + g * g;
            vec![w * (1.0 - lr * decoupled) - lr * g / (sum.sqrt() + eps), sum]
        }
    }
}

/// t + weight·(value − t).
pub fn blend(t: &Tensor, value: &Tensor, weight: &Tensor) -> Tensor {
    t.with(t.f().iter().zip(value.f()).map(|(t, value)| t + weight.f()[0] * (value - t)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?} for {expected:?}");
    }

    #[test]
    fn one_step_of_each_by_hand() {
        let sgd = |nesterov| element(2.0, 1.0, &[4.0], &[0.5, 0.25, 0.5, 0.1], Optimizer::Sgd { nesterov });
        close(&sgd(false), &[2.0 * 0.95 - 0.5 * 3.0, 3.0]);
        close(&sgd(true), &[2.0 * 0.95 - 0.5 * 2.75, 3.0]);
        let rms = [0.5, 0.25, 1.0, 0.5, 0.0, 0.0];
        close(
            &element(2.0, 2.0, &[4.0, 8.0], &rms, Optimizer::RmsProp { centered: false }),
            &[2.0 - 0.5 * (4.0 + 2.0 / 3.0), 4.0, 4.0 + 2.0 / 3.0],
        );
        let m = 4.0 + 2.0 / (1.0 + 3.0f64.sqrt());
        close(
            &element(2.0, 2.0, &[4.0, 8.0, 2.0 / 3.0], &rms, Optimizer::RmsProp { centered: true }),
            &[2.0 - 0.5 * m, 4.0, m, 1.0],
        );
        let adam = [0.5, 0.5, 0.25, 1.0, 0.0, 0.0, 0.25, 4.0];
        close(
            &element(2.0, 2.0, &[4.0, 4.0], &adam, Optimizer::Adam { amsgrad: false }),
            &[2.0 - 2.0 * 3.0 / 2.0, 3.0, 4.0],
        );
        close(
            &element(2.0, 2.0, &[4.0, 4.0, 36.0], &adam, Optimizer::Adam { amsgrad: true }),
            &[2.0 - 2.0 * 3.0 / 4.0, 3.0, 4.0, 36.0],
        );
        close(&element(2.0, 1.0, &[5.0], &[0.5, 1.0, 0.5, 0.1], Optimizer::Adagrad), &[1.9 - 0.5 * 2.0 / 4.0, 9.0]);
    }

    #[test]
    fn every_parameter_has_its_row() {
        let tensor = |data: &[f64]| Tensor::floats(vec![data.len()], data.to_vec());
        let hyper = Tensor::floats(vec![2, 4], vec![1.0, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0]);
        let (a, b, one, zero) = (tensor(&[1.0, 2.0]), tensor(&[3.0]), tensor(&[1.0, 1.0]), tensor(&[0.0]));
        let new = update(&[&hyper, &a, &one, &one, &b, &b, &zero], Optimizer::Sgd { nesterov: false });
        let found: Vec<&[f64]> = new.iter().map(Tensor::f).collect();
        assert_eq!(found, [&[0.0, 1.0][..], &[1.0, 1.0], &[1.5], &[3.0]]);
    }

    #[test]
    fn blending_moves_part_of_the_way() {
        let tensor = |x: f64| Tensor::floats(vec![1], vec![x]);
        assert_eq!(blend(&tensor(8.0), &tensor(4.0), &Tensor::floats(vec![], vec![0.25])).f(), [7.0]);
    }
}
