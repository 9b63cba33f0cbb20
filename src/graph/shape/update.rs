//! Nodes that write stored tensors; they have no results.

use super::{Results, equal, floats};
use crate::error::{Error, Result};
use crate::graph::op::Optimizer;
use crate::graph::{Role, ValueInfo};
use crate::tensor::{DType, shape_text};

fn stored(operand: &ValueInfo) -> Result<()> {
    match operand.role {
        Role::Parameter { .. } => Ok(()),
        _ => Err(Error::Internal("only stored tensors can be written".into())),
    }
}

pub(super) fn update(operands: &[&ValueInfo], optimizer: Optimizer) -> Results {
    let per = 2 + optimizer.states();
    let count = operands.len().saturating_sub(1) / per;
    if operands.len() != 1 + per * count || operands[0].shape != [count, optimizer.hyper()] {
        return Err(Error::Internal(format!(
            "expects hyper (P, {}) and {per} operands per parameter",
            optimizer.hyper()
        )));
    }
    for one in operands[1..].chunks_exact(per) {
        stored(one[0])?;
        if one[1].shape != one[0].shape {
            return Err(Error::Shape(format!(
                "gradient of {} expects shape {}, received {}",
                one[0].name,
                shape_text(&one[0].shape),
                shape_text(&one[1].shape)
            )));
        }
        for state in &one[2..] {
            stored(state)?;
            equal(state, &one[0].shape, &state.name, &one[0].name)?;
        }
    }
    Ok(vec![])
}

pub(super) fn assign(operands: &[&ValueInfo]) -> Results {
    stored(operands[0])?;
    floats(operands[0], "tensor")?;
    floats(operands[1], "value")?;
    equal(operands[1], &operands[0].shape, "value", &operands[0].name)?;
    Ok(vec![])
}

pub(super) fn increment(operand: &ValueInfo) -> Results {
    stored(operand)?;
    if operand.dtype == DType::I64 && operand.shape.is_empty() {
        return Ok(vec![]);
    }
    Err(Error::Internal("a counter is an int64 of no dimensions".into()))
}
