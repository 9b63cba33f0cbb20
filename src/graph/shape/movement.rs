//! Arithmetic with broadcasting, reductions, and everything that only moves elements.

use super::{Results, axis_of, equal, float, floats};
use crate::error::{Error, Result};
use crate::function::AxisMap;
use crate::graph::ValueInfo;
use crate::graph::op::{Dim, Span};
use crate::tensor::{shape_text, volume};

pub(super) fn binary(operands: &[&ValueInfo]) -> Results {
    floats(operands[0], "a")?;
    floats(operands[1], "b")?;
    let (a, b) = (&operands[0].shape, &operands[1].shape);
    let rank = a.len().max(b.len());
    let size = |shape: &[usize], axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |at| shape[at]);
    let mut shape = Vec::with_capacity(rank);
    for axis in 0..rank {
        shape.push(match (size(a, axis), size(b, axis)) {
            (x, y) if x == y || y == 1 => x,
            (1, y) => y,
            _ => {
                return Err(Error::Shape(format!(
                    "b expects a shape that broadcasts with a {}, received {}",
                    shape_text(a),
                    shape_text(b)
                )));
            }
        });
    }
    float(shape)
}

pub(super) fn reduce(operand: &ValueInfo, axes: &[usize], keepdims: bool) -> Results {
    floats(operand, "x")?;
    for pair in axes.windows(2) {
        if pair[0] >= pair[1] {
            return Err(Error::Internal("axes ascend".into()));
        }
    }
    if let Some(&last) = axes.last() {
        axis_of(operand, last)?;
    }
    let sizes = operand.shape.iter().enumerate();
    float(if keepdims {
        sizes.map(|(axis, &size)| if axes.contains(&axis) { 1 } else { size }).collect()
    } else {
        sizes.filter(|(axis, _)| !axes.contains(axis)).map(|(_, &size)| size).collect()
    })
}

pub(super) fn expand(operands: &[&ValueInfo]) -> Results {
    floats(operands[0], "x")?;
    let (x, like) = (&operands[0].shape, &operands[1].shape);
    let fits = x.len() <= like.len() && x.iter().rev().zip(like.iter().rev()).all(|(&a, &b)| a == b || a == 1);
    if fits {
        return float(like.clone());
    }
    Err(Error::Shape(format!("x expects a shape that broadcasts to {}, received {}", shape_text(like), shape_text(x))))
}

pub(super) fn reshape(operand: &ValueInfo, dims: &[Dim]) -> Results {
    floats(operand, "x")?;
    let all = volume(&operand.shape)?;
    let mut shape = Vec::with_capacity(dims.len());
    let mut rest = None;
    // What is left is counted without the axes that stay, so that it is known even if they are empty.
    let mut spread = operand.shape.clone();
    let mut known = 1usize;
    for &dim in dims {
        shape.push(match dim {
            Dim::Size(size) => {
                known = known.saturating_mul(size);
                size
            }
            Dim::Same(axis) => {
                axis_of(operand, axis)?;
                spread[axis] = 1;
                operand.shape[axis]
            }
            Dim::Rest => {
                rest = Some(shape.len());
                1
            }
        });
    }
    if let Some(axis) = rest
        && known > 0
    {
        shape[axis] = volume(&spread)? / known;
    }
    if volume(&shape)? == all && (known > 0 || rest.is_none()) {
        return float(shape);
    }
    let wanted: Vec<String> = dims
        .iter()
        .zip(&shape)
        .map(|(dim, size)| if *dim == Dim::Rest { "-1".to_owned() } else { size.to_string() })
        .collect();
    Err(Error::Shape(format!(
        "shape ({}) does not hold the {all} elements of x {}",
        wanted.join(", "),
        shape_text(&operand.shape)
    )))
}

pub(super) fn reshape_like(operands: &[&ValueInfo]) -> Results {
    floats(operands[0], "x")?;
    if volume(&operands[0].shape)? == volume(&operands[1].shape)? {
        return float(operands[1].shape.clone());
    }
    Err(Error::Shape(format!(
        "x expects as many elements as {}, received {}",
        shape_text(&operands[1].shape),
        shape_text(&operands[0].shape)
    )))
}

pub(super) fn transpose(operand: &ValueInfo, axes: &[usize]) -> Results {
    floats(operand, "x")?;
    let mut sorted = axes.to_vec();
    sorted.sort_unstable();
    if sorted != (0..operand.shape.len()).collect::<Vec<_>>() {
        return Err(Error::Shape(format!(
            "axes expects each axis of x {} once, received {}",
            shape_text(&operand.shape),
            shape_text(axes)
        )));
    }
    float(axes.iter().map(|&axis| operand.shape[axis]).collect())
}

pub(super) fn slice(operand: &ValueInfo, spans: &[Span]) -> Results {
    floats(operand, "x")?;
    every_axis(operand, spans.len(), "a span")?;
    if spans.iter().any(|span| span.step == 0) {
        return Err(Error::Value("step expects any integer but 0".into()));
    }
    float(spans.iter().zip(&operand.shape).map(|(span, &size)| span.resolve(size).1).collect())
}

pub(super) fn pad(operand: &ValueInfo, pads: &[[usize; 2]]) -> Results {
    floats(operand, "x")?;
    every_axis(operand, pads.len(), "padding")?;
    let sizes = pads.iter().zip(&operand.shape);
    float(sizes.map(|(pad, &size)| size.saturating_add(pad[0]).saturating_add(pad[1])).collect())
}

fn every_axis(operand: &ValueInfo, count: usize, what: &str) -> Result<()> {
    if count == operand.shape.len() {
        return Ok(());
    }
    Err(Error::Shape(format!("expects {what} for each axis of x {}, received {count}", shape_text(&operand.shape))))
}

pub(super) fn concat(parts: &[&ValueInfo], axis: usize) -> Results {
    let Some(first) = parts.first() else {
        return Err(Error::Shape("expects at least one array, received none".into()));
    };
    axis_of(first, axis)?;
    let mut shape = first.shape.clone();
    shape[axis] = 0;
    for part in parts {
        floats(part, "x")?;
        let fits = part.shape.len() == shape.len()
            && part.shape.iter().enumerate().all(|(at, &size)| at == axis || size == shape[at]);
        if !fits {
            return Err(Error::Shape(format!(
                "arrays expect equal shapes but for axis {axis}, received {} and {}",
                shape_text(&first.shape),
                shape_text(&part.shape)
            )));
        }
        shape[axis] = shape[axis].saturating_add(part.shape[axis]);
    }
    float(shape)
}

pub(super) fn concat_part(operands: &[&ValueInfo], axis: usize, index: usize) -> Results {
    let Some((whole, parts)) = operands.split_first() else {
        return Err(Error::Internal("expects the whole and its parts".into()));
    };
    let expected = concat(parts, axis)?;
    equal(whole, &expected[0].0, "grad_y", "the whole")?;
    match parts.get(index) {
        Some(part) => float(part.shape.clone()),
        None => Err(Error::Internal(format!("there is no part {index}"))),
    }
}

pub(super) fn axis_map(operand: &ValueInfo, axis: usize, map: AxisMap) -> Results {
    floats(operand, "x")?;
    axis_of(operand, axis)?;
    let mut shape = operand.shape.clone();
    let from = shape[axis];
    check_map(map, from, &shape)?;
    shape[axis] = map.size(from);
    float(shape)
}

pub(super) fn axis_map_backward(operand: &ValueInfo, axis: usize, map: AxisMap, from: usize) -> Results {
    floats(operand, "grad_y")?;
    axis_of(operand, axis)?;
    let mut shape = operand.shape.clone();
    check_map(map, from, &shape)?;
    if shape[axis] != map.size(from) {
        return Err(Error::Shape(format!(
            "grad_y expects {} elements along axis {axis}, received {}",
            map.size(from),
            shape_text(&shape)
        )));
    }
    shape[axis] = from;
    float(shape)
}

fn check_map(map: AxisMap, from: usize, shape: &[usize]) -> Result<()> {
    if from == 0 {
        return Err(Error::Shape(format!(
            "x expects at least one element along the axis, received {}",
            shape_text(shape)
        )));
    }
    match map {
        AxisMap::PadReflect { before, after } if before >= from || after >= from => Err(Error::Shape(format!(
            "padding by reflection expects less than the {from} elements of the axis, received ({before}, {after})"
        ))),
        _ => Ok(()),
    }
}
