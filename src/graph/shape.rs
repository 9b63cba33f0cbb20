//! Result shapes: one exhaustive match. A node whose operands do not fit never enters a graph.

use super::{Op, ValueInfo};
use crate::error::{Error, Result};
use crate::tensor::{DType, shape_text, volume};
use crate::window::Window2d;

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
        Op::Conv2d { window, groups, .. } => {
            arity(operands, 2..=3)?;
            conv2d(operands, window, *groups)
        }
        Op::Conv2dBackwardData { window, groups, input } => {
            arity(operands, 2..=2)?;
            conv2d_backward_data(operands, window, *groups, *input)
        }
        Op::Conv2dBackwardWeights { window, groups } => {
            arity(operands, 2..=2)?;
            conv2d_backward_weights(operands, window, *groups)
        }
        Op::BiasGrad => {
            arity(operands, 1..=1)?;
            floats(operands[0], "grad_y")?;
            match operands[0].shape.last() {
                Some(&channels) => Ok(vec![(vec![channels], DType::F32)]),
                None => Err(Error::Shape("grad_y expects at least one dimension, received ()".into())),
            }
        }
        Op::Linear { .. } => {
            arity(operands, 2..=3)?;
            linear(operands)
        }
        Op::LinearBackwardData => {
            arity(operands, 2..=2)?;
            let grad = rank(operands[0], 2, "grad_y")?;
            let weight = rank(operands[1], 2, "weight")?;
            same(weight[1], grad[1], "weight", "output features", "grad_y", operands)?;
            Ok(vec![(vec![grad[0], weight[0]], DType::F32)])
        }
        Op::LinearBackwardWeights => {
            arity(operands, 2..=2)?;
            let x = rank(operands[0], 2, "x")?;
            let grad = rank(operands[1], 2, "grad_y")?;
            same(x[0], grad[0], "x", "rows", "grad_y", operands)?;
            Ok(vec![(vec![x[1], grad[1]], DType::F32)])
        }
        Op::MaxPool2d { window, ceil_mode } => {
            arity(operands, 1..=1)?;
            let y = pooled(operands[0], window, *ceil_mode)?;
            Ok(vec![(y.clone(), DType::F32), (y, DType::I32)])
        }
        Op::AvgPool2d { window, ceil_mode, .. } => {
            arity(operands, 1..=1)?;
            Ok(vec![(pooled(operands[0], window, *ceil_mode)?, DType::F32)])
        }
        Op::MaxPool2dBackward { window, ceil_mode, input } => {
            arity(operands, 2..=2)?;
            if operands[1].dtype != DType::I32 {
                return Err(Error::Type(format!("index expects int32, received {}", operands[1].dtype.name())));
            }
            if operands[0].shape != operands[1].shape {
                return Err(Error::Shape(format!(
                    "index expects the shape of grad_y {}, received {}",
                    shape_text(&operands[0].shape),
                    shape_text(&operands[1].shape)
                )));
            }
            pool_backward(operands[0], window, *ceil_mode, *input)
        }
        Op::AvgPool2dBackward { window, ceil_mode, input, .. } => {
            arity(operands, 1..=1)?;
            pool_backward(operands[0], window, *ceil_mode, *input)
        }
        Op::Unary(_) => {
            arity(operands, 1..=1)?;
            floats(operands[0], "x")?;
            Ok(vec![(operands[0].shape.clone(), DType::F32)])
        }
        Op::UnaryBackward(_) | Op::Add | Op::SoftmaxBackward => {
            arity(operands, 2..=2)?;
            floats(operands[0], "a")?;
            floats(operands[1], "b")?;
            if operands[0].shape != operands[1].shape {
                return Err(Error::Shape(format!(
                    "b expects the shape of a {}, received {}",
                    shape_text(&operands[0].shape),
                    shape_text(&operands[1].shape)
                )));
            }
            Ok(vec![(operands[0].shape.clone(), DType::F32)])
        }
        Op::Scale => {
            arity(operands, 2..=2)?;
            floats(operands[0], "x")?;
            rank(operands[1], 0, "scale")?;
            Ok(vec![(operands[0].shape.clone(), DType::F32)])
        }
        Op::Flatten { .. } => {
            arity(operands, 1..=1)?;
            let x = rank(operands[0], 4, "x")?;
            Ok(vec![(vec![x[0], volume(&x[1..])?], DType::F32)])
        }
        Op::Unflatten { shape, .. } => {
            arity(operands, 1..=1)?;
            let x = rank(operands[0], 2, "x")?;
            if x[1] != volume(shape)? {
                return Err(Error::Shape(format!("x expects rows of {}, received {}", shape_text(shape), x[1])));
            }
            Ok(vec![(vec![x[0], shape[0], shape[1], shape[2]], DType::F32)])
        }
        Op::Softmax => {
            arity(operands, 1..=1)?;
            Ok(vec![(rank(operands[0], 2, "x")?.to_vec(), DType::F32)])
        }
        Op::CrossEntropy => {
            arity(operands, 2..=2)?;
            cross_entropy(operands)
        }
        Op::Normalize { mean, std } => {
            arity(operands, 1..=1)?;
            normalize(operands[0], mean.len(), std.len())
        }
        Op::Sgd { .. } => sgd(operands),
    }
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

fn same(expected: usize, found: usize, what: &str, unit: &str, whose: &str, operands: &[&ValueInfo]) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(Error::Shape(format!(
        "{what} expects {expected} {unit}, {whose} has {found} ({} and {})",
        shape_text(&operands[0].shape),
        shape_text(&operands[1].shape)
    )))
}

fn bias(operands: &[&ValueInfo], channels: usize) -> Result<()> {
    let Some(bias) = operands.get(2) else { return Ok(()) };
    floats(bias, "bias")?;
    if bias.shape == [channels] {
        return Ok(());
    }
    Err(Error::Shape(format!(
        "bias expects shape ({channels},), one value per output channel, received {}",
        shape_text(&bias.shape)
    )))
}

/// Checks weight (kh, kw, ic / groups, oc) against the channels of an activation.
fn check_weight(weight: &[usize], window: &Window2d, groups: usize, channels: usize, shapes: &str) -> Result<()> {
    if weight[..2] != window.kernel {
        return Err(Error::Internal(format!("window {:?} does not fit weight {}", window.kernel, shape_text(weight))));
    }
    if weight[2].checked_mul(groups) != Some(channels) {
        let expected = weight[2].saturating_mul(groups);
        return Err(Error::Shape(format!("weight expects {expected} input channels, input has {channels} ({shapes})")));
    }
    if !weight[3].is_multiple_of(groups) {
        return Err(Error::Shape(format!("groups={groups} does not divide {} output channels ({shapes})", weight[3])));
    }
    if weight.contains(&0) {
        return Err(Error::Shape(format!("weight expects sizes of at least 1, received {}", shape_text(weight))));
    }
    Ok(())
}

fn conv2d(operands: &[&ValueInfo], window: &Window2d, groups: usize) -> Results {
    let x = rank(operands[0], 4, "input")?;
    let weight = rank(operands[1], 4, "weight")?;
    let shapes = format!("input {}, weight {}, groups={groups}", shape_text(x), shape_text(weight));
    check_weight(weight, window, groups, x[3], &shapes)?;
    bias(operands, weight[3])?;
    let [oh, ow] = window.output([x[1], x[2]], false)?;
    Ok(vec![(vec![x[0], oh, ow, weight[3]], DType::F32)])
}

fn conv2d_backward_data(operands: &[&ValueInfo], window: &Window2d, groups: usize, input: [usize; 2]) -> Results {
    let grad = rank(operands[0], 4, "grad_y")?;
    let weight = rank(operands[1], 4, "weight")?;
    let shapes = format!("grad_y {}, weight {}, groups={groups}", shape_text(grad), shape_text(weight));
    let channels = weight[2].checked_mul(groups).ok_or(Error::Memory(u128::MAX))?;
    check_weight(weight, window, groups, channels, &shapes)?;
    if weight[3] != grad[3] {
        return Err(Error::Shape(format!(
            "weight expects {} output channels, grad_y has {} ({shapes})",
            weight[3], grad[3]
        )));
    }
    check_grad(grad, window, input, false)?;
    Ok(vec![(vec![grad[0], input[0], input[1], channels], DType::F32)])
}

fn conv2d_backward_weights(operands: &[&ValueInfo], window: &Window2d, groups: usize) -> Results {
    let x = rank(operands[0], 4, "input")?;
    let grad = rank(operands[1], 4, "grad_y")?;
    let shapes = format!("input {}, grad_y {}, groups={groups}", shape_text(x), shape_text(grad));
    if x[0] != grad[0] {
        return Err(Error::Shape(format!("grad_y expects {} images, received {} ({shapes})", x[0], grad[0])));
    }
    for (channels, what) in [(x[3], "input"), (grad[3], "output")] {
        if channels == 0 || !channels.is_multiple_of(groups) {
            return Err(Error::Shape(format!("groups={groups} does not divide {channels} {what} channels ({shapes})")));
        }
    }
    check_grad(grad, window, [x[1], x[2]], false)?;
    Ok(vec![(vec![window.kernel[0], window.kernel[1], x[3] / groups, grad[3]], DType::F32)])
}

/// A gradient has the height and width that the window makes of the input.
fn check_grad(grad: &[usize], window: &Window2d, input: [usize; 2], ceil_mode: bool) -> Result<()> {
    let [oh, ow] = window.output(input, ceil_mode)?;
    if grad[1..3] == [oh, ow] {
        return Ok(());
    }
    Err(Error::Shape(format!(
        "grad_y expects height and width ({oh}, {ow}) for input {} with {}, received {}",
        shape_text(&input),
        window.describe(),
        shape_text(grad)
    )))
}

fn linear(operands: &[&ValueInfo]) -> Results {
    let x = rank(operands[0], 2, "input")?;
    let weight = rank(operands[1], 2, "weight")?;
    if weight[0] != x[1] {
        return Err(Error::Shape(format!(
            "weight expects {} input features, input has {} (input {}, weight {})",
            weight[0],
            x[1],
            shape_text(x),
            shape_text(weight)
        )));
    }
    if weight.contains(&0) {
        return Err(Error::Shape(format!("weight expects sizes of at least 1, received {}", shape_text(weight))));
    }
    bias(operands, weight[1])?;
    Ok(vec![(vec![x[0], weight[1]], DType::F32)])
}

fn pooled(operand: &ValueInfo, window: &Window2d, ceil_mode: bool) -> Result<Vec<usize>> {
    let x = rank(operand, 4, "input")?;
    let [oh, ow] = window.output([x[1], x[2]], ceil_mode)?;
    if x[1].saturating_mul(x[2]) > i32::MAX as usize {
        return Err(Error::Shape(format!(
            "input expects at most 2147483647 pixels per image, received {}",
            shape_text(x)
        )));
    }
    Ok(vec![x[0], oh, ow, x[3]])
}

fn pool_backward(operand: &ValueInfo, window: &Window2d, ceil_mode: bool, input: [usize; 2]) -> Results {
    let grad = rank(operand, 4, "grad_y")?;
    check_grad(grad, window, input, ceil_mode)?;
    Ok(vec![(vec![grad[0], input[0], input[1], grad[3]], DType::F32)])
}

fn cross_entropy(operands: &[&ValueInfo]) -> Results {
    let logits = rank(operands[0], 2, "logits")?;
    let labels = operands[1];
    if labels.dtype != DType::I64 {
        return Err(Error::Type(format!("labels expects integers, received {}", labels.dtype.name())));
    }
    if labels.shape != [logits[0]] {
        return Err(Error::Shape(format!(
            "labels expects shape ({},), one class index per row of logits {}, received {}",
            logits[0],
            shape_text(logits),
            shape_text(&labels.shape)
        )));
    }
    if logits[1] == 0 {
        return Err(Error::Shape(format!("logits expects at least one class, received {}", shape_text(logits))));
    }
    Ok(vec![(vec![], DType::F32), (vec![], DType::F32), (logits.to_vec(), DType::F32)])
}

fn normalize(operand: &ValueInfo, means: usize, stds: usize) -> Results {
    if operand.dtype != DType::U8 {
        return Err(Error::Type(format!("x expects uint8, received {}", operand.dtype.name())));
    }
    let &[n, h, w, c] = operand.shape.as_slice() else {
        return Err(Error::Shape(format!(
            "x expects 4 dimensions (N, H, W, C), received {} {}",
            operand.shape.len(),
            shape_text(&operand.shape)
        )));
    };
    for (count, what) in [(means, "mean"), (stds, "std")] {
        if count != 1 && count != c {
            return Err(Error::Shape(format!("{what} expects 1 or {c} values, one per channel, received {count}")));
        }
    }
    Ok(vec![(vec![n, h, w, c], DType::F32)])
}

fn sgd(operands: &[&ValueInfo]) -> Results {
    let count = operands.len().saturating_sub(1) / 3;
    if operands.len() != 1 + 3 * count || operands[0].shape != [count, 4] {
        return Err(Error::Internal("sgd expects hyper (P, 4) and three operands per parameter".into()));
    }
    for triple in operands[1..].chunks_exact(3) {
        if triple[0].shape != triple[1].shape || triple[0].shape != triple[2].shape {
            return Err(Error::Shape(format!(
                "gradient of {} expects shape {}, received {}",
                triple[0].name,
                shape_text(&triple[0].shape),
                shape_text(&triple[1].shape)
            )));
        }
    }
    Ok(vec![])
}
