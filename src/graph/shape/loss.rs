//! Losses and the scaling of image bytes.

use super::{Results, float, floats, rank};
use crate::error::Error;
use crate::graph::ValueInfo;
use crate::tensor::{DType, shape_text};

pub(super) fn cross_entropy(operands: &[&ValueInfo]) -> Results {
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
    if let Some(weight) = operands.get(2) {
        floats(weight, "weight")?;
        if weight.shape != [logits[1]] {
            return Err(Error::Shape(format!(
                "weight expects shape ({},), one number per class of logits {}, received {}",
                logits[1],
                shape_text(logits),
                shape_text(&weight.shape)
            )));
        }
    }
    let scalar = (vec![], DType::F32);
    Ok(vec![scalar.clone(), scalar.clone(), (logits.to_vec(), DType::F32), scalar])
}

pub(super) fn normalize(operand: &ValueInfo, means: usize, stds: usize) -> Results {
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
    float(vec![n, h, w, c])
}
