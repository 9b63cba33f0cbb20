//! Which formula computes which op: one exhaustive match.

use super::tensor::Tensor;
use super::{arithmetic, axis_map, layers, loss, movement, norm, pool, unary, update};
use crate::error::{Error, Result};
use crate::function::BinaryKind;
use crate::graph::Op;
use crate::graph::op::Gate;

/// The results of `op`, of the given shapes; for an op with effects the new contents of the stored tensors it writes.
#[allow(clippy::too_many_lines)] // one arm per op
pub fn apply(op: &Op, operands: &[&Tensor], shapes: &[&[usize]]) -> Result<Vec<Tensor>> {
    let [x, ..] = operands else { return Err(Error::Internal("an op has operands".into())) };
    let one = |tensor: Tensor| Ok(vec![tensor]);
    match op {
        Op::Conv2d { window, groups, fused, .. } => {
            let behind = fused.split(operands);
            let mut y = layers::conv2d(x, operands[1], behind.bias.copied(), window, *groups, shapes[0]);
            if let (Some(eps), &[weight, bias, mean, variance]) = (fused.norm, behind.norm) {
                y = norm::batch_norm_infer(&[&y, weight, bias, mean, variance], f64::from(eps.get()));
            }
            if let Some(added) = behind.added {
                y = arithmetic::binary(BinaryKind::Add, &y, added, shapes[0]);
            }
            one(fused.activation.map_or_else(|| y.clone(), |kind| unary::forward(kind, &y)))
        }
        Op::Conv2dBackwardData { window, groups, .. } => {
            one(layers::conv2d_backward_data(x, operands[1], window, *groups, shapes[0]))
        }
        Op::Conv2dBackwardWeights { window, groups, .. } => {
            one(layers::conv2d_backward_weights(x, operands[1], window, *groups, shapes[0]))
        }
        Op::Linear { activation } => {
            let y = layers::linear(x, operands[1], operands.get(2).copied(), shapes[0]);
            one(activation.map_or_else(|| y.clone(), |kind| unary::forward(kind, &y)))
        }
        Op::LinearBackwardData => one(layers::linear_backward_data(x, operands[1], shapes[0])),
        Op::LinearBackwardWeights => one(layers::linear_backward_weights(x, operands[1], shapes[0])),
        Op::MaxPool2d { window, .. } => Ok(pool::max(x, window, shapes[0])),
        Op::MaxPool2dBackward { .. } => one(pool::max_backward(x, operands[1], shapes[0])),
        Op::AvgPool2d { window, count_include_pad, .. } => one(pool::avg(x, window, *count_include_pad, shapes[0])),
        Op::AvgPool2dBackward { window, count_include_pad, .. } => {
            one(pool::avg_backward(x, window, *count_include_pad, shapes[0]))
        }
        Op::Unary(kind) => one(unary::forward(*kind, x)),
        Op::UnaryBackward(kind) => one(unary::backward(*kind, x, operands[1])),
        Op::Binary(kind) => one(arithmetic::binary(*kind, x, operands[1], shapes[0])),
        Op::Reduce { kind, axes, .. } => one(arithmetic::reduce(*kind, x, axes, shapes[0])),
        Op::Expand { mean } => one(arithmetic::expand(x, *mean, shapes[0])),
        Op::Reshape { .. } | Op::ReshapeLike => one(x.reshaped(shapes[0])),
        Op::Transpose { axes } => one(movement::transpose(x, axes, shapes[0])),
        Op::Slice { spans } => one(movement::slice(x, spans, shapes[0])),
        Op::SliceBackward { spans } => one(movement::slice_backward(x, spans, shapes[0])),
        Op::Pad { pads, value } => one(movement::pad(x, pads, f64::from(value.get()), shapes[0])),
        Op::Concat { axis } => one(movement::concat(operands, *axis, shapes[0])),
        Op::ConcatPart { axis, index } => one(movement::concat_part(operands, *axis, *index, shapes[0])),
        Op::AxisMap { axis, map } => one(axis_map::forward(x, *axis, *map, shapes[0])),
        Op::AxisMapBackward { axis, map, .. } => one(axis_map::backward(x, *axis, *map, shapes[0])),
        Op::Flatten { order } => one(movement::flatten(x, *order, shapes[0])),
        Op::Unflatten { order, .. } => one(movement::unflatten(x, *order, shapes[0])),
        Op::Softmax { axis, log } => one(loss::softmax(x, *axis, *log)),
        Op::SoftmaxBackward { axis, log } => one(loss::softmax_backward(x, operands[1], *axis, *log)),
        Op::BatchNormTrain { eps, momentum, activation } => {
            let mut results = norm::batch_norm_train(operands, f64::from(eps.get()), f64::from(momentum.get()));
            if let Some(residual) = operands.get(5) {
                results[0] = arithmetic::binary(BinaryKind::Add, &results[0], residual, shapes[0]);
            }
            if let Some(kind) = activation {
                results[0] = unary::forward(*kind, &results[0]);
            }
            Ok(results)
        }
        Op::BatchNormBackward => Ok(norm::batch_norm_backward(operands)),
        Op::BatchNormGateBackward { gate, sum } => {
            let other = operands[operands.len() - 1];
            let mut grad = if *sum { arithmetic::binary(BinaryKind::Add, x, other, shapes[3]) } else { (*x).clone() };
            if let Some(Gate { kind, recompute }) = *gate {
                let anew = recompute.then(|| norm::affine(operands[1], operands[2], operands[5], &operands[3..5]));
                let y = anew.map(|x| unary::forward(kind, &x));
                grad = unary::backward(kind, &grad, y.as_ref().unwrap_or(operands[5]));
            }
            let mut results = norm::batch_norm_backward(&[&[&grad], &operands[1..5]].concat());
            results.push(grad);
            Ok(results)
        }
        Op::BatchNormInfer { eps } => one(norm::batch_norm_infer(operands, f64::from(eps.get()))),
        Op::GroupNorm { groups, eps } => Ok(norm::group_norm(operands, *groups, f64::from(eps.get()))),
        Op::GroupNormBackward { groups } => Ok(norm::group_norm_backward(operands, *groups)),
        Op::LocalResponseNorm { size, alpha, beta, k } => {
            Ok(norm::local_response_norm(x, *size, [alpha.get(), beta.get(), k.get()].map(f64::from)))
        }
        Op::LocalResponseNormBackward { size, alpha, beta } => {
            one(norm::local_response_norm_backward(operands, *size, [alpha.get(), beta.get()].map(f64::from)))
        }
        Op::Dropout { p, unit, stream } => one(norm::dropout(x, operands[1].i(), f64::from(p.get()), *unit, *stream)),
        Op::CrossEntropy { smoothing, ignore } => loss::cross_entropy(operands, f64::from(smoothing.get()), *ignore),
        Op::Normalize { mean, std } => one(loss::normalize(x, mean, std)),
        Op::Update(optimizer) => Ok(update::update(operands, *optimizer)),
        Op::Assign => one(operands[1].clone()),
        Op::Blend => one(update::blend(x, operands[1], operands[2])),
        Op::Increment => one(Tensor::ints(x.shape().to_vec(), x.i().iter().map(|count| count + 1).collect())),
    }
}
