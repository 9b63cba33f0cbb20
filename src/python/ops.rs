//! From an op's name and keyword attributes to [`Op`].

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::error::Error;
use crate::graph::{FlattenOrder, Op, Scalar, UnaryKind};
use crate::window::Window2d;

/// Largest size, stride or padding.
const LIMIT: usize = i32::MAX as usize;

/// Attributes of one call; a missing one is a bug of the Python layer.
struct Attrs<'a, 'py>(&'a Bound<'py, PyDict>);

impl<'py> Attrs<'_, 'py> {
    fn get<T: for<'a> FromPyObject<'a, 'py>>(&self, name: &str) -> PyResult<T> {
        let Some(value) = self.0.get_item(name)? else {
            return Err(Error::Internal(format!("attribute {name} is missing")).into());
        };
        value.extract().map_err(|_| PyValueError::new_err(format!("{name} is out of range: received {value}")))
    }

    fn number(&self, name: &str, least: usize) -> PyResult<usize> {
        check(self.get(name)?, name, least)
    }

    fn pair(&self, name: &str, least: usize) -> PyResult<[usize; 2]> {
        let (h, w): (usize, usize) = self.get(name)?;
        Ok([check(h, name, least)?, check(w, name, least)?])
    }

    fn padding(&self) -> PyResult<[[usize; 2]; 2]> {
        let ((top, bottom), (left, right)): ((usize, usize), (usize, usize)) = self.get("padding")?;
        for size in [top, bottom, left, right] {
            check(size, "padding", 0)?;
        }
        Ok([[top, bottom], [left, right]])
    }

    fn window(&self, kernel: [usize; 2], dilated: bool) -> PyResult<Window2d> {
        let dilation = if dilated { self.pair("dilation", 1)? } else { [1, 1] };
        Ok(Window2d { kernel, stride: self.pair("stride", 1)?, dilation, pad: self.padding()? })
    }

    fn pool(&self, dilated: bool) -> PyResult<Window2d> {
        self.window(self.pair("kernel_size", 1)?, dilated)
    }

    fn floats(&self, name: &str) -> PyResult<Vec<Scalar>> {
        let values: Vec<f64> = self.get(name)?;
        Ok(values.into_iter().map(|x| Scalar::new(x as f32)).collect())
    }

    fn order(&self) -> PyResult<FlattenOrder> {
        match self.get::<String>("order")?.as_str() {
            "hwc" => Ok(FlattenOrder::Hwc),
            "chw" => Ok(FlattenOrder::Chw),
            other => Err(PyValueError::new_err(format!("order expects \"hwc\" or \"chw\", received {other:?}"))),
        }
    }
}

fn check(value: usize, name: &str, least: usize) -> PyResult<usize> {
    if (least..=LIMIT).contains(&value) {
        return Ok(value);
    }
    Err(PyValueError::new_err(format!("{name} expects {least} to {LIMIT}, received {value}")))
}

/// The op of that name; `shapes` are the operands' shapes, from which a convolution's kernel size is read.
pub fn parse(op: &str, attrs: &Bound<'_, PyDict>, shapes: &[&[usize]]) -> PyResult<Op> {
    let attrs = Attrs(attrs);
    // A weight of another rank is refused, with its shape, when the node is added.
    let weight = || match shapes.get(1) {
        Some(&&[h, w, _, _]) => [h, w],
        _ => [1, 1],
    };
    Ok(match op {
        "conv2d" => {
            let (window, groups) = (attrs.window(weight(), true)?, attrs.number("groups", 1)?);
            Op::Conv2d { window, groups, activation: None }
        }
        "conv2d_backward_data" => {
            let (window, groups) = (attrs.window(weight(), true)?, attrs.number("groups", 1)?);
            Op::Conv2dBackwardData { window, groups, input: attrs.pair("input_size", 0)? }
        }
        "conv2d_backward_weights" => {
            Op::Conv2dBackwardWeights { window: attrs.pool(true)?, groups: attrs.number("groups", 1)? }
        }
        "bias_grad" => Op::BiasGrad,
        "linear" => Op::Linear { activation: None },
        "max_pool2d" => Op::MaxPool2d { window: attrs.pool(true)?, ceil_mode: attrs.get("ceil_mode")? },
        "max_pool2d_backward" => Op::MaxPool2dBackward {
            window: attrs.pool(true)?,
            ceil_mode: attrs.get("ceil_mode")?,
            input: attrs.pair("input_size", 0)?,
        },
        "avg_pool2d" => Op::AvgPool2d {
            window: attrs.pool(false)?,
            ceil_mode: attrs.get("ceil_mode")?,
            count_include_pad: attrs.get("count_include_pad")?,
        },
        "avg_pool2d_backward" => Op::AvgPool2dBackward {
            window: attrs.pool(false)?,
            ceil_mode: attrs.get("ceil_mode")?,
            count_include_pad: attrs.get("count_include_pad")?,
            input: attrs.pair("input_size", 0)?,
        },
        "relu" => Op::Unary(UnaryKind::Relu),
        "tanh" => Op::Unary(UnaryKind::Tanh),
        "sigmoid" => Op::Unary(UnaryKind::Sigmoid),
        "add" => Op::Add,
        "flatten" => Op::Flatten { order: attrs.order()? },
        "softmax" => Op::Softmax,
        "cross_entropy" => Op::CrossEntropy,
        "normalize" => Op::Normalize { mean: attrs.floats("mean")?, std: attrs.floats("std")? },
        "sgd" => Op::Sgd { nesterov: attrs.get("nesterov")? },
        _ => return Err(PyValueError::new_err(format!("unknown op {op:?}"))),
    })
}
