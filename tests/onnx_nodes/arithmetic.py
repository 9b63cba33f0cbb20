"""ONNX operators on single numbers, sums over axes, and products of matrices."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from cnnrs import functional as F
from onnx_nodes.windows import Arrays, Attributes

Function = Callable[[Attributes, Arrays], Arrays]


def _unary(function: Callable[[Any], Any]) -> Function:
    return lambda _, inputs: [function(inputs[0])]


def _fold(function: Callable[[Any, Any], Any]) -> Function:
    return lambda _, inputs: [functools.reduce(function, inputs)]


def clip(_: Attributes, inputs: Arrays) -> Arrays:
    """Clip by `maximum` and `minimum`: a lower bound above the upper one is legal there, and the upper one wins."""
    x, low, high = (*inputs, None, None)[:3]
    y = x if low is None else F.maximum(x, np.asarray(low))
    return [y if high is None else F.minimum(y, np.asarray(high))]


def gelu(a: Attributes, inputs: Arrays) -> Arrays:
    """Gelu, both forms."""
    return [F.gelu(inputs[0], approximate=a.get("approximate", b"none").decode())]


def hard_sigmoid(a: Attributes, inputs: Arrays) -> Arrays:
    """HardSigmoid with slopes of its own."""
    return [F.clip(F.add(F.mul(inputs[0], a.get("alpha", 0.2)), a.get("beta", 0.5)), 0.0, 1.0)]


def selu(a: Attributes, inputs: Arrays) -> Arrays:
    """Selu."""
    alpha, gamma = a.get("alpha", 1.67326319217681884765625), a.get("gamma", 1.05070102214813232421875)
    return [F.mul(F.elu(inputs[0], alpha), gamma)]


def celu(a: Attributes, inputs: Arrays) -> Arrays:
    """Celu."""
    alpha = a.get("alpha", 1.0)
    return [F.mul(F.elu(F.div(inputs[0], alpha)), alpha)]


def prelu(_: Attributes, inputs: Arrays) -> Arrays:
    """PRelu; a slope per element by its definition."""
    x, slope = inputs
    if slope.ndim == 1:
        return [F.prelu(x, slope)]
    return [F.sub(F.relu(x), F.mul(slope, F.relu(F.neg(x))))]


def swish(a: Attributes, inputs: Arrays) -> Arrays:
    """Swish."""
    return [F.mul(inputs[0], F.sigmoid(F.mul(inputs[0], a.get("alpha", 1.0))))]


def mean(_: Attributes, inputs: Arrays) -> Arrays:
    """Mean of several arrays."""
    return [F.div(functools.reduce(F.add, inputs), float(len(inputs)))]


def _reduction(function: Callable[..., Any]) -> Function:
    def run(a: Attributes, inputs: Arrays) -> Arrays:
        x = inputs[0]
        axes = a.get("axes") if len(inputs) < 2 or inputs[1] is None else [int(axis) for axis in inputs[1]]
        if not axes:
            if a.get("noop_with_empty_axes", 0):
                return [x]
            axes = range(x.ndim)
        return [np.asarray(function(x, axis=tuple(axes), keepdims=bool(a.get("keepdims", 1))), np.float32)]

    return run


def _sum_squares(x: Any, **options: Any) -> Any:
    return F.sum(F.square(x), **options)


def _l2(x: Any, **options: Any) -> Any:
    return F.sqrt(np.asarray(_sum_squares(x, **options), np.float32))


def gemm(a: Attributes, inputs: Arrays) -> Arrays:
    """Gemm."""
    left, right = inputs[0], inputs[1]
    left = F.transpose(left) if a.get("transA", 0) else left
    right = F.transpose(right) if a.get("transB", 0) else right
    y = F.mul(F.matmul(left, right), a.get("alpha", 1.0))
    if len(inputs) > 2 and inputs[2] is not None:
        y = F.add(y, F.mul(inputs[2], a.get("beta", 1.0)))
    return [y]


def matmul(_: Attributes, inputs: Arrays) -> Arrays:
    """MatMul; vectors become matrices and leading axes are repeated before the product."""
    left, right = inputs
    vector = left.ndim == 1, right.ndim == 1
    left = left[None] if vector[0] else left
    right = right[:, None] if vector[1] else right
    front = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    left, right = (np.ascontiguousarray(np.broadcast_to(m, (*front, *m.shape[-2:]))) for m in (left, right))
    y = F.matmul(left, right)
    y = y[..., 0, :] if vector[0] else y
    return [np.asarray(y[..., 0] if vector[1] else y)]


def _global(function: Callable[..., Any]) -> Function:
    return lambda _, inputs: [np.asarray(function(inputs[0], axis=tuple(range(2, inputs[0].ndim)), keepdims=True))]


TABLE: dict[str, Function] = {
    "Relu": _unary(F.relu),
    "Sigmoid": _unary(F.sigmoid),
    "Tanh": _unary(F.tanh),
    "Softplus": _unary(F.softplus),
    "HardSwish": _unary(F.hardswish),
    "Exp": _unary(F.exp),
    "Log": _unary(F.log),
    "Sqrt": _unary(F.sqrt),
    "Abs": _unary(F.abs),
    "Neg": _unary(F.neg),
    "Reciprocal": _unary(lambda x: F.div(np.ones_like(x), x)),
    "Mish": _unary(lambda x: F.mul(x, F.tanh(F.softplus(x)))),
    "LeakyRelu": lambda a, inputs: [F.leaky_relu(inputs[0], a.get("alpha", 0.01))],
    "Elu": lambda a, inputs: [F.elu(inputs[0], a.get("alpha", 1.0))],
    "PRelu": prelu,
    "HardSigmoid": hard_sigmoid,
    "Gelu": gelu,
    "Selu": selu,
    "Celu": celu,
    "Swish": swish,
    "Clip": clip,
    "Add": _fold(F.add),
    "Sub": _fold(F.sub),
    "Mul": _fold(F.mul),
    "Div": _fold(F.div),
    "Max": _fold(F.maximum),
    "Min": _fold(F.minimum),
    "Sum": _fold(F.add),
    "Mean": mean,
    "ReduceSum": _reduction(F.sum),
    "ReduceMean": _reduction(F.mean),
    "ReduceMax": _reduction(F.max),
    "ReduceMin": _reduction(F.min),
    "ReduceSumSquare": _reduction(_sum_squares),
    "ReduceL1": _reduction(lambda x, **options: F.sum(F.abs(x), **options)),
    "ReduceL2": _reduction(_l2),
    "Gemm": gemm,
    "MatMul": matmul,
    "GlobalAveragePool": _global(F.mean),
    "GlobalMaxPool": _global(F.max),
}
