//! Result shapes: one exhaustive match. A node whose operands do not fit never enters a graph.

mod layers;
mod loss;
mod movement;
mod norm;
mod update;

use super::{Op, ValueInfo};
use crate::error::{Error, Result};
use crate::tensor::{DType, shape_text, volume};

type Results = Result<Vec<(Vec<usize>, DType)>>;

/// Shapes and types of the results of `op` on `operands`, or why they do not fit.
pub fn infer(op: &Op, operands: &[&ValueInfo]) -> Results {
    let results = infer_unchecked(op, operands)?;
    for (shape, _) in &results {
        volume(shape)?;
    }
    Ok(results)
}

#[allow(clippy::too_many_lines)] // one arm per op
fn infer_unchecked(op: &Op, operands: &[&ValueInfo]) -> Results {
    match op {
        Op::Conv2d { window, groups, fused, .. } => {
            arity(operands, 2 + fused.count()..=3 + fused.count())?;
            layers::conv2d(operands, window, *groups, *fused)
        }
        Op::Conv2dBackwardData { window, groups, input, .. } => {
            arity(operands, 2..=2)?;
            layers::conv2d_backward_data(operands, window, *groups, *input)
        }
        Op::Conv2dBackwardWeights { window, groups, .. } => {
            arity(operands, 2..=2)?;
            layers::conv2d_backward_weights(operands, window, *groups)
        }
        Op::Linear { .. } => {
            arity(operands, 2..=3)?;
            layers::linear(operands)
        }
        Op::LinearBackwardData => {
            arity(operands, 2..=2)?;
            layers::linear_backward_data(operands)
        }
        Op::LinearBackwardWeights => {
            arity(operands, 2..=2)?;
            layers::linear_backward_weights(operands)
        }
        Op::MaxPool2d { window, ceil_mode } => {
            arity(operands, 1..=1)?;
            let y = layers::pooled(operands[0], window, *ceil_mode)?;
            Ok(vec![(y.clone(), DType::F32), (y, DType::I32)])
        }
        Op::AvgPool2d { window, ceil_mode, .. } => {
            arity(operands, 1..=1)?;
            float(layers::pooled(operands[0], window, *ceil_mode)?)
        }
        Op::MaxPool2dBackward { window, ceil_mode, input } => {
            arity(operands, 2..=2)?;
            if operands[1].dtype != DType::I32 {
                return Err(Error::Type(format!("index expects int32, received {}", operands[1].dtype.name())));
            }
            equal(operands[1], &operands[0].shape, "index", "grad_y")?;
            layers::pool_backward(operands[0], window, *ceil_mode, *input)
        }
        Op::AvgPool2dBackward { window, ceil_mode, input, .. } => {
            arity(operands, 1..=1)?;
            layers::pool_backward(operands[0], window, *ceil_mode, *input)
        }
        Op::Unary(_) => {
            arity(operands, 1..=1)?;
            floats(operands[0], "x")?;
            float(operands[0].shape.clone())
        }
        Op::UnaryBackward(_) | Op::SoftmaxBackward { .. } => {
            arity(operands, 2..=2)?;
            floats(operands[0], "grad_y")?;
            floats(operands[1], "y")?;
            equal(operands[1], &operands[0].shape, "y", "grad_y")?;
            float(operands[0].shape.clone())
        }
        Op::Binary(_) => {
            arity(operands, 2..=2)?;
            movement::binary(operands)
        }
        Op::Reduce { axes, keepdims, .. } => {
            arity(operands, 1..=1)?;
            movement::reduce(operands[0], axes, *keepdims)
        }
        Op::Expand { .. } => {
            arity(operands, 2..=2)?;
            movement::expand(operands)
        }
        Op::Reshape { dims } => {
            arity(operands, 1..=1)?;
            movement::reshape(operands[0], dims)
        }
        Op::ReshapeLike => {
            arity(operands, 2..=2)?;
            movement::reshape_like(operands)
        }
        Op::Transpose { axes } => {
            arity(operands, 1..=1)?;
            movement::transpose(operands[0], axes)
        }
        Op::Slice { spans } => {
            arity(operands, 1..=1)?;
            movement::slice(operands[0], spans)
        }
        Op::SliceBackward { spans } => {
            arity(operands, 2..=2)?;
            let chosen = movement::slice(operands[1], spans)?;
            equal(operands[0], &chosen[0].0, "grad_y", "the slice")?;
            float(operands[1].shape.clone())
        }
        Op::Pad { pads, .. } => {
            arity(operands, 1..=1)?;
            movement::pad(operands[0], pads)
        }
        Op::Concat { axis } => movement::concat(operands, *axis),
        Op::ConcatPart { axis, index } => movement::concat_part(operands, *axis, *index),
        Op::AxisMap { axis, map } => {
            arity(operands, 1..=1)?;
            movement::axis_map(operands[0], *axis, *map)
        }
        Op::AxisMapBackward { axis, map, from } => {
            arity(operands, 1..=1)?;
            movement::axis_map_backward(operands[0], *axis, *map, *from)
        }
        Op::Flatten { .. } => {
            arity(operands, 1..=1)?;
            let x = rank(operands[0], 4, "x")?;
            float(vec![x[0], volume(&x[1..])?])
        }
        Op::Unflatten { shape, .. } => {
            arity(operands, 1..=1)?;
            let x = rank(operands[0], 2, "x")?;
            if x[1] != volume(shape)? {
                return Err(Error::Shape(format!("x expects rows of {}, received {}", shape_text(shape), x[1])));
            }
            float(vec![x[0], shape[0], shape[1], shape[2]])
        }
        Op::Softmax { axis, .. } => {
            arity(operands, 1..=1)?;
            floats(operands[0], "x")?;
            axis_of(operands[0], *axis)?;
            float(operands[0].shape.clone())
        }
        Op::BatchNormTrain { .. } => {
            arity(operands, 5..=6)?;
            norm::batch_norm_train(operands)
        }
        Op::BatchNormInfer { .. } => {
            arity(operands, 5..=5)?;
            norm::batch_norm(operands, &["weight", "bias", "running_mean", "running_var"], 0)
        }
        Op::BatchNormBackward => {
            arity(operands, 5..=5)?;
            norm::batch_norm_backward(operands)
        }
        Op::BatchNormGateBackward { gate, sum } => {
            let count = 5 + usize::from(gate.is_some()) + usize::from(*sum);
            arity(operands, count..=count)?;
            norm::batch_norm_gate_backward(operands, *gate, *sum)
        }
        Op::GroupNorm { groups, .. } => {
            arity(operands, 3..=3)?;
            norm::group_norm(operands, *groups)
        }
        Op::GroupNormBackward { groups } => {
            arity(operands, 5..=5)?;
            norm::group_norm_backward(operands, *groups)
        }
        Op::LocalResponseNorm { .. } => {
            arity(operands, 1..=1)?;
            norm::channels(operands[0], "x")?;
            let shape = operands[0].shape.clone();
            Ok(vec![(shape.clone(), DType::F32), (shape, DType::F32)])
        }
        Op::LocalResponseNormBackward { .. } => {
            arity(operands, 4..=4)?;
            for (operand, name) in operands.iter().zip(["grad_y", "x", "y", "s"]) {
                floats(operand, name)?;
                equal(operand, &operands[1].shape, name, "x")?;
            }
            float(operands[1].shape.clone())
        }
        Op::Dropout { .. } => {
            arity(operands, 2..=2)?;
            norm::dropout(operands)
        }
        Op::CrossEntropy { .. } => {
            arity(operands, 2..=3)?;
            loss::cross_entropy(operands)
        }
        Op::Normalize { mean, std } => {
            arity(operands, 1..=1)?;
            loss::normalize(operands[0], mean.len(), std.len())
        }
        Op::Update(optimizer) => update::update(operands, *optimizer),
        Op::Assign => {
            arity(operands, 2..=2)?;
            update::assign(operands)
        }
        Op::Blend => {
            arity(operands, 3..=3)?;
            rank(operands[2], 0, "weight")?;
            update::assign(operands)
        }
        Op::Increment => {
            arity(operands, 1..=1)?;
            update::increment(operands[0])
        }
    }
}

/// One float result of that shape.
#[allow(clippy::unnecessary_wraps)] // the arms' type
fn float(shape: Vec<usize>) -> Results {
    Ok(vec![(shape, DType::F32)])
}

/// The operand has exactly this shape, that of `whose`.
fn equal(operand: &ValueInfo, shape: &[usize], what: &str, whose: &str) -> Result<()> {
    if operand.shape == shape {
        return Ok(());
    }
    Err(Error::Shape(format!(
        "{what} expects the shape of {whose} {}, received {}",
        shape_text(shape),
        shape_text(&operand.shape)
    )))
}

/// The axis exists.
fn axis_of(operand: &ValueInfo, axis: usize) -> Result<()> {
    if axis < operand.shape.len() {
        return Ok(());
    }
    Err(Error::Shape(format!("axis {axis} is beyond the dimensions of {}", shape_text(&operand.shape))))
}

fn arity(operands: &[&ValueInfo], expected: std::ops::RangeInclusive<usize>) -> Result<()> {
    if expected.contains(&operands.len()) {
        return Ok(());
    }
    Err(Error::Internal(format!("expects {expected:?} operands, received {}", operands.len())))
}

fn floats(operand: &ValueInfo, argument: &str) -> Result<()> {
    if operand.dtype == DType::F32 {
        return Ok(());
    }
    Err(Error::Type(format!(
        "{argument} expects float32, received {}: convert with .astype(np.float32)",
        operand.dtype.name()
    )))
}

/// The operand's shape, if it is a float tensor of that rank.
fn rank<'a>(operand: &'a ValueInfo, rank: usize, argument: &str) -> Result<&'a [usize]> {
    floats(operand, argument)?;
    if operand.shape.len() == rank {
        return Ok(&operand.shape);
    }
    let layout = ["()", "(size,)", "(rows, columns)", "(a, b, c)"].get(rank).copied().unwrap_or("(N, H, W, C)");
    Err(Error::Shape(format!(
        "{argument} expects {rank} dimensions {layout}, received {} {}",
        operand.shape.len(),
        shape_text(&operand.shape)
    )))
}
