//! Normalization and dropout.

use super::{Results, equal, float, floats};
use crate::error::{Error, Result};
use crate::graph::ValueInfo;
use crate::graph::op::Gate;
use crate::tensor::{DType, shape_text};

/// The last axis, of a tensor with at least one more.
pub(super) fn channels(operand: &ValueInfo, what: &str) -> Result<usize> {
    floats(operand, what)?;
    match operand.shape.as_slice() {
        [_, .., channels] if *channels > 0 => Ok(*channels),
        shape => Err(Error::Shape(format!(
            "{what} expects at least two dimensions (N, ..., C) and a channel, received {}",
            shape_text(shape)
        ))),
    }
}

/// One number per channel.
fn per_channel(operand: &ValueInfo, channels: usize, what: &str) -> Result<()> {
    floats(operand, what)?;
    if operand.shape == [channels] {
        return Ok(());
    }
    Err(Error::Shape(format!(
        "{what} expects shape ({channels},), one number per channel, received {}",
        shape_text(&operand.shape)
    )))
}

/// `x`, then operands with one number per channel; `extra` such results behind y.
pub(super) fn batch_norm(operands: &[&ValueInfo], names: &[&str], extra: usize) -> Results {
    let c = channels(operands[0], "x")?;
    for (operand, name) in operands[1..].iter().zip(names) {
        per_channel(operand, c, name)?;
    }
    let mut results = vec![(operands[0].shape.clone(), DType::F32)];
    results.extend((0..extra).map(|_| (vec![c], DType::F32)));
    Ok(results)
}

/// In training, a single value per channel would be normalized to zero whatever it is.
pub(super) fn batch_norm_train(operands: &[&ValueInfo]) -> Results {
    if let Some(residual) = operands.get(5) {
        floats(residual, "residual")?;
        equal(residual, &operands[0].shape, "residual", "x")?;
    }
    let results = batch_norm(&operands[..5], &["weight", "bias", "running_mean", "running_var"], 4)?;
    let shape = &operands[0].shape;
    if shape[..shape.len() - 1].iter().all(|&size| size == 1) {
        return Err(Error::Value(format!(
            "x expects more values to take statistics of in training, received one value per channel, {}",
            shape_text(shape)
        )));
    }
    Ok(results)
}

pub(super) fn batch_norm_backward(operands: &[&ValueInfo]) -> Results {
    equal(operands[0], &operands[1].shape, "grad_y", "x")?;
    floats(operands[0], "grad_y")?;
    batch_norm(&operands[1..], &["weight", "mean", "rstd"], 2)
}

pub(super) fn batch_norm_gate_backward(operands: &[&ValueInfo], gate: Option<Gate>, sum: bool) -> Results {
    let mut results = batch_norm_backward(&operands[..5])?;
    let x = &operands[1].shape;
    if let Some(gate) = gate {
        let (shape, what) = if gate.recompute { (&operands[2].shape, "bias") } else { (x, "y") };
        floats(operands[5], what)?;
        equal(operands[5], shape, what, if gate.recompute { "weight" } else { "x" })?;
        if gate.kind.gate_limit().is_none() {
            return Err(Error::Internal(format!("{} is no gate", gate.kind.name())));
        }
    }
    if sum {
        let other = operands[operands.len() - 1];
        floats(other, "other")?;
        equal(other, x, "other", "x")?;
    }
    results.push((x.clone(), DType::F32));
    Ok(results)
}

/// Checks the groups and returns the shape (N, G) of their statistics.
fn statistics(x: &ValueInfo, groups: usize) -> Result<Vec<usize>> {
    let c = channels(x, "x")?;
    if groups > 0 && c.is_multiple_of(groups) {
        return Ok(vec![x.shape[0], groups]);
    }
    Err(Error::Shape(format!("groups={groups} does not divide {c} channels (x {})", shape_text(&x.shape))))
}

pub(super) fn group_norm(operands: &[&ValueInfo], groups: usize) -> Results {
    let statistics = statistics(operands[0], groups)?;
    let mut results = batch_norm(operands, &["weight", "bias"], 0)?;
    results.extend([(statistics.clone(), DType::F32), (statistics, DType::F32)]);
    Ok(results)
}

pub(super) fn group_norm_backward(operands: &[&ValueInfo], groups: usize) -> Results {
    floats(operands[0], "grad_y")?;
    equal(operands[0], &operands[1].shape, "grad_y", "x")?;
    let statistics = statistics(operands[1], groups)?;
    equal(operands[3], &statistics, "mean", "the statistics")?;
    equal(operands[4], &statistics, "rstd", "the statistics")?;
    batch_norm(&operands[1..3], &["weight"], 2)
}

pub(super) fn dropout(operands: &[&ValueInfo]) -> Results {
    let [x, key] = [operands[0], operands[1]];
    floats(x, "x")?;
    if x.shape.is_empty() {
        return Err(Error::Shape("x expects at least one dimension, received ()".into()));
    }
    if key.dtype != DType::I64 || key.shape != [2] {
        return Err(Error::Internal("the key is (seed, step), int64".into()));
    }
    float(x.shape.clone())
}
