//! Convolution, products of matrices, pooling.

use super::{Results, equal, float, floats, rank};
use crate::error::{Error, Result};
use crate::graph::{Fused, ValueInfo};
use crate::tensor::shape_text;
use crate::window::Window2d;

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

fn bias(operand: Option<&&ValueInfo>, channels: usize) -> Result<()> {
    let Some(bias) = operand else { return Ok(()) };
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

pub(super) fn conv2d(operands: &[&ValueInfo], window: &Window2d, groups: usize, fused: Fused) -> Results {
    let x = rank(operands[0], 4, "input")?;
    let weight = rank(operands[1], 4, "weight")?;
    let shapes = format!("input {}, weight {}, groups={groups}", shape_text(x), shape_text(weight));
    check_weight(weight, window, groups, x[3], &shapes)?;
    let behind = fused.split(operands);
    bias(behind.bias, weight[3])?;
    for (operand, name) in behind.norm.iter().zip(["norm weight", "norm bias", "mean", "variance"]) {
        floats(operand, name)?;
        equal(operand, &[weight[3]], name, "the channels")?;
    }
    let [oh, ow] = window.output([x[1], x[2]], false)?;
    let result = vec![x[0], oh, ow, weight[3]];
    if let Some(added) = behind.added {
        floats(added, "added")?;
        equal(added, &result, "added", "the result")?;
    }
    float(result)
}

pub(super) fn conv2d_backward_data(
    operands: &[&ValueInfo],
    window: &Window2d,
    groups: usize,
    input: [usize; 2],
) -> Results {
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
    float(vec![grad[0], input[0], input[1], channels])
}

pub(super) fn conv2d_backward_weights(operands: &[&ValueInfo], window: &Window2d, groups: usize) -> Results {
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
    float(vec![window.kernel[0], window.kernel[1], x[3] / groups, grad[3]])
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

/// Operands of a product: both of rank 2, or with equal axes in front.
fn matrices<'a>(operands: &[&'a ValueInfo], names: [&str; 2]) -> Result<[&'a [usize]; 2]> {
    let [a, b] = [operands[0], operands[1]];
    if a.shape.len() <= 2 || b.shape.len() != a.shape.len() {
        return Ok([rank(a, 2, names[0])?, rank(b, 2, names[1])?]);
    }
    floats(a, names[0])?;
    floats(b, names[1])?;
    let front = a.shape.len() - 2;
    if a.shape[..front] != b.shape[..front] {
        return Err(Error::Shape(format!(
            "{} expects the leading axes of {} {}, received {}",
            names[1],
            names[0],
            shape_text(&a.shape),
            shape_text(&b.shape)
        )));
    }
    Ok([&a.shape, &b.shape])
}

/// The leading axes, then rows and columns.
fn product(front: &[usize], rows: usize, columns: usize) -> Vec<usize> {
    [&front[..front.len() - 2], &[rows, columns]].concat()
}

pub(super) fn linear(operands: &[&ValueInfo]) -> Results {
    let [x, weight] = matrices(operands, ["input", "weight"])?;
    let (inputs, outputs) = (weight[weight.len() - 2], weight[weight.len() - 1]);
    if inputs != x[x.len() - 1] {
        return Err(Error::Shape(format!(
            "weight expects {inputs} input features, input has {} (input {}, weight {})",
            x[x.len() - 1],
            shape_text(x),
            shape_text(weight)
        )));
    }
    if inputs == 0 || outputs == 0 {
        return Err(Error::Shape(format!("weight expects sizes of at least 1, received {}", shape_text(weight))));
    }
    if operands.len() == 3 && x.len() != 2 {
        return Err(Error::Internal("a bias goes with a single product".into()));
    }
    bias(operands.get(2), outputs)?;
    float(product(x, x[x.len() - 2], outputs))
}

pub(super) fn linear_backward_data(operands: &[&ValueInfo]) -> Results {
    let [grad, weight] = matrices(operands, ["grad_y", "weight"])?;
    let r = grad.len();
    same(weight[r - 1], grad[r - 1], "weight", "output features", "grad_y", operands)?;
    float(product(grad, grad[r - 2], weight[r - 2]))
}

pub(super) fn linear_backward_weights(operands: &[&ValueInfo]) -> Results {
    let [x, grad] = matrices(operands, ["x", "grad_y"])?;
    let r = x.len();
    same(x[r - 2], grad[r - 2], "x", "rows", "grad_y", operands)?;
    float(product(x, x[r - 1], grad[r - 1]))
}

pub(super) fn pooled(operand: &ValueInfo, window: &Window2d, ceil_mode: bool) -> Result<Vec<usize>> {
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

pub(super) fn pool_backward(operand: &ValueInfo, window: &Window2d, ceil_mode: bool, input: [usize; 2]) -> Results {
    let grad = rank(operand, 4, "grad_y")?;
    check_grad(grad, window, input, ceil_mode)?;
    float(vec![grad[0], input[0], input[1], grad[3]])
}
