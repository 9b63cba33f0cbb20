//! From an op's name and keyword attributes to [`Op`].

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::error::Error;
use crate::graph::op::{Algorithm, AxisMap, BinaryKind, Dim, DropoutUnit, Optimizer, ReduceKind, Span};
use crate::graph::{FlattenOrder, Fused, Op, Scalar, UnaryKind};
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

    fn scalar(&self, name: &str) -> PyResult<Scalar> {
        Ok(Scalar::new(self.get::<f64>(name)? as f32))
    }

    /// New sizes: a size, −1 for the rest, −2 − k for the operand's axis k.
    fn dims(&self) -> PyResult<Vec<Dim>> {
        let sizes: Vec<i64> = self.get("dims")?;
        let dim = |size: i64| match size {
            -1 => Dim::Rest,
            size if size < 0 => Dim::Same((-2 - size) as usize),
            size => Dim::Size(size as usize),
        };
        Ok(sizes.into_iter().map(dim).collect())
    }

    fn spans(&self) -> PyResult<Vec<Span>> {
        let spans: Vec<(Option<i64>, Option<i64>, i64)> = self.get("spans")?;
        Ok(spans.into_iter().map(|(start, stop, step)| Span { start, stop, step }).collect())
    }

    fn pads(&self) -> PyResult<Vec<[usize; 2]>> {
        let pads: Vec<(usize, usize)> = self.get("pads")?;
        pads.into_iter()
            .map(|(before, after)| Ok([check(before, "padding", 0)?, check(after, "padding", 0)?]))
            .collect()
    }

    fn axis_map(&self) -> PyResult<AxisMap> {
        let to = || self.number("to", 1);
        let around = || Ok::<_, PyErr>((self.number("before", 0)?, self.number("after", 0)?));
        Ok(match self.get::<String>("map")?.as_str() {
            "nearest" => AxisMap::Nearest { to: to()? },
            "linear" => AxisMap::Linear { to: to()?, align_corners: self.get("align_corners")? },
            "adaptive_avg" => AxisMap::AdaptiveAvg { to: to()? },
            "pad_edge" => {
                let (before, after) = around()?;
                AxisMap::PadEdge { before, after }
            }
            "pad_reflect" => {
                let (before, after) = around()?;
                AxisMap::PadReflect { before, after }
            }
            other => return Err(PyValueError::new_err(format!("unknown map {other:?}"))),
        })
    }

    fn dropout_unit(&self) -> PyResult<DropoutUnit> {
        match self.get::<String>("unit")?.as_str() {
            "element" => Ok(DropoutUnit::Element),
            "channel" => Ok(DropoutUnit::Channel),
            "sample" => Ok(DropoutUnit::Sample),
            other => Err(PyValueError::new_err(format!("unknown unit {other:?}"))),
        }
    }

    /// Which algorithms the op may use; all if it does not say.
    fn algorithm(&self) -> PyResult<Algorithm> {
        match self.0.get_item("algorithm")? {
            None => Ok(Algorithm::Auto),
            Some(name) => Ok(Algorithm::parse(name.extract()?)?),
        }
    }

    fn optimizer(&self) -> PyResult<Optimizer> {
        Ok(match self.get::<String>("optimizer")?.as_str() {
            "sgd" => Optimizer::Sgd { nesterov: self.get("nesterov")? },
            "rmsprop" => Optimizer::RmsProp { centered: self.get("centered")? },
            "adam" => Optimizer::Adam { amsgrad: self.get("amsgrad")? },
            "adagrad" => Optimizer::Adagrad,
            other => return Err(PyValueError::new_err(format!("unknown optimizer {other:?}"))),
        })
    }

    /// Element-wise functions and reductions, by their names.
    fn function(&self, name: &str) -> PyResult<Op> {
        let unary = match name {
            "relu" => UnaryKind::Relu,
            "relu6" => UnaryKind::Relu6,
            "leaky_relu" => UnaryKind::LeakyRelu(self.scalar("slope")?),
            "elu" => UnaryKind::Elu(self.scalar("alpha")?),
            "tanh" => UnaryKind::Tanh,
            "sigmoid" => UnaryKind::Sigmoid,
            "silu" => UnaryKind::Silu,
            "gelu" => UnaryKind::Gelu,
            "gelu_tanh" => UnaryKind::GeluTanh,
            "hardswish" => UnaryKind::Hardswish,
            "hardsigmoid" => UnaryKind::Hardsigmoid,
            "softplus" => UnaryKind::Softplus,
            "exp" => UnaryKind::Exp,
            "log" => UnaryKind::Log,
            "sqrt" => UnaryKind::Sqrt,
            "abs" => UnaryKind::Abs,
            "clip" => UnaryKind::Clip(self.scalar("low")?, self.scalar("high")?),
            "affine" => UnaryKind::Affine(self.scalar("scale")?, self.scalar("shift")?),
            _ => return self.arithmetic(name),
        };
        Ok(Op::Unary(unary))
    }

    fn arithmetic(&self, name: &str) -> PyResult<Op> {
        use BinaryKind::{Add, Div, Equal, Maximum, Minimum, Mul, Share, Sub};
        use ReduceKind::{Max, Mean, Min, Sum, SumSquares};
        let binary = [Add, Sub, Mul, Div, Maximum, Minimum, Share, Equal];
        if let Some(kind) = binary.into_iter().find(|kind| kind.name() == name) {
            return Ok(Op::Binary(kind));
        }
        match [Sum, Mean, Max, Min, SumSquares].into_iter().find(|kind| kind.name() == name) {
            Some(kind) => Ok(Op::Reduce { kind, axes: self.get("axes")?, keepdims: self.get("keepdims")? }),
            None => Err(PyValueError::new_err(format!("unknown op {name:?}"))),
        }
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
            Op::Conv2d { window, groups, algorithm: attrs.algorithm()?, fused: Fused::default() }
        }
        "conv2d_backward_data" => {
            let (window, groups) = (attrs.window(weight(), true)?, attrs.number("groups", 1)?);
            Op::Conv2dBackwardData {
                window,
                groups,
                algorithm: attrs.algorithm()?,
                input: attrs.pair("input_size", 0)?,
            }
        }
        "conv2d_backward_weights" => Op::Conv2dBackwardWeights {
            window: attrs.pool(true)?,
            groups: attrs.number("groups", 1)?,
            algorithm: attrs.algorithm()?,
        },
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
        "flatten" => Op::Flatten { order: attrs.order()? },
        "softmax" | "log_softmax" => Op::Softmax { axis: attrs.get("axis")?, log: op == "log_softmax" },
        "batch_norm_train" => {
            let [eps, momentum] = [attrs.scalar("eps")?, attrs.scalar("momentum")?];
            Op::BatchNormTrain { eps, momentum, activation: None }
        }
        "batch_norm_infer" => Op::BatchNormInfer { eps: attrs.scalar("eps")? },
        "group_norm" => Op::GroupNorm { groups: attrs.number("groups", 1)?, eps: attrs.scalar("eps")? },
        "local_response_norm" => Op::LocalResponseNorm {
            size: attrs.number("size", 1)?,
            alpha: attrs.scalar("alpha")?,
            beta: attrs.scalar("beta")?,
            k: attrs.scalar("k")?,
        },
        "dropout" => Op::Dropout { p: attrs.scalar("p")?, unit: attrs.dropout_unit()?, stream: attrs.get("stream")? },
        "cross_entropy" => {
            Op::CrossEntropy { smoothing: attrs.scalar("label_smoothing")?, ignore: attrs.get("ignore_index")? }
        }
        "normalize" => Op::Normalize { mean: attrs.floats("mean")?, std: attrs.floats("std")? },
        "update" => Op::Update(attrs.optimizer()?),
        "assign" => Op::Assign,
        "blend" => Op::Blend,
        "increment" => Op::Increment,
        "expand" => Op::Expand { mean: attrs.get("mean")? },
        "reshape" => Op::Reshape { dims: attrs.dims()? },
        "reshape_like" => Op::ReshapeLike,
        "transpose" => Op::Transpose { axes: attrs.get("axes")? },
        "slice" => Op::Slice { spans: attrs.spans()? },
        "pad" => Op::Pad { pads: attrs.pads()?, value: attrs.scalar("value")? },
        "concat" => Op::Concat { axis: attrs.get("axis")? },
        "axis_map" => Op::AxisMap { axis: attrs.get("axis")?, map: attrs.axis_map()? },
        _ => return attrs.function(op),
    })
}
