"""float64 NumPy references of element-wise functions, their derivatives, broadcasting and reductions.

Written from the formulas of the contract. The engine computes with denormal numbers as zeros, so the functions that
would show it (logarithm, square root, quotient) flush their operands.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tolerance import TINY

Array = npt.NDArray[np.float64]
Function = Callable[[Array], Array]


def wide(x: Any) -> Array:
    """The numbers in double precision."""
    return np.asarray(x, np.float64)


def flushed(x: Any) -> Array:
    """The numbers in double precision, denormal ones as zeros."""
    x = wide(x)
    return np.where(np.abs(x) < TINY, 0.0 * x, x)


def sigmoid(x: Array) -> Array:
    """`1 / (1 + exp(-x))`, evaluated on the side where exp does not overflow."""
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1.0, small) / (1.0 + small))


_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def normal(x: Array) -> Array:
    """The normal distribution function, also where it is tiny."""
    return np.asarray(0.5 * _erfc(-x / math.sqrt(2.0)))


def density(x: Array) -> Array:
    """The normal distribution's density."""
    return np.asarray(np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi))


def cubic(x: Array) -> Array:
    """Twice the argument of tanh in the approximation of gelu."""
    return np.asarray(2.0 * math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))


def cubic_slope(x: Array) -> Array:
    """The derivative of `cubic`."""
    return np.asarray(2.0 * math.sqrt(2.0 / math.pi) * (1.0 + 3.0 * 0.044715 * x**2))


def times(share: Array, x: Array) -> Array:
    """`share * x`, zero (the limit) where the share is, also at infinity."""
    with np.errstate(invalid="ignore"):
        return np.where(share == 0.0, 0.0, share * x)


def relu6(x: Array) -> Array:
    """`min(max(x, 0), 6)`; NaN stays."""
    return np.clip(x, 0.0, 6.0)


@dataclass(frozen=True)
class Unary:
    """A function of one number: its value, its slope, and what their errors are measured by.

    `ulps` bounds the error of the value in units in its last place (plus `spread`, where the argument of an
    exponential is rounded, in units for each one of it). The slope is computed within `slope_ulps` roundings of the sum
    of the magnitudes of its terms, `scale`. Both may lose what flushing intermediate results to zero loses.
    """

    value: Function
    slope: Function
    ulps: float = 0.0
    spread: Function | None = None
    scale: Function | None = None
    slope_ulps: float = 2.0

    def bound(self, x: Any) -> Array:
        """What the value may be off by."""
        x = wide(x)
        with np.errstate(all="ignore"):
            units = self.ulps + (0.0 if self.spread is None else self.spread(x))
            return np.asarray(units * 2.0**-23 * np.abs(self.value(x)) + 4.0 * TINY)

    def slope_bound(self, x: Any) -> Array:
        """What the slope may be off by."""
        x = wide(x)
        scale = self.slope(x) if self.scale is None else self.scale(x)
        return np.asarray(self.slope_ulps * 2.0**-23 * np.abs(scale) + 128.0 * TINY)


def leaky_relu(slope: float) -> Unary:
    """`x` or `slope * x`."""
    slope = float(np.float32(slope))
    return Unary(lambda x: np.where(x > 0, x, slope * x), lambda x: np.where(x > 0, 1.0, slope), ulps=1.0)


def elu(alpha: float) -> Unary:
    """`x` or `alpha * (exp(x) - 1)`; the slope is computed from the result where that tells the sign."""
    alpha = float(np.float32(alpha))
    return Unary(
        lambda x: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0))),
        lambda x: np.where(x > 0, 1.0, alpha * np.exp(np.minimum(x, 0.0))),
        ulps=3.0,
        scale=lambda x: np.where(x > 0, 1.0, abs(alpha)),
        slope_ulps=4.0,
    )


def clip(low: float, high: float) -> Unary:
    """`min(max(x, low), high)`."""
    return Unary(lambda x: np.minimum(np.maximum(x, low), high), lambda x: wide((x >= low) & (x <= high)))


def affine(scale: float, shift: float) -> Unary:
    """`scale * x + shift`."""
    scale, shift = float(np.float32(scale)), float(np.float32(shift))
    return Unary(lambda x: scale * x + shift, lambda x: np.full_like(x, scale), ulps=2.0)


def _gated(v: Function, v_slope: Function, sign: float = 1.0) -> Function:
    """The slope of `x * sigmoid(v)`, or the sum of the magnitudes of its terms."""

    def slope(x: Array) -> Array:
        s = sigmoid(v(x))
        line = x * v_slope(x) * s * sigmoid(-v(x))
        return np.asarray(s + (line if sign > 0 else np.abs(line)))

    return slope


def _identity(x: Array) -> Array:
    return x


UNARY: dict[str, Unary] = {
    "relu": Unary(lambda x: np.where(np.isnan(x), x, np.maximum(x, 0.0)), lambda x: wide(x > 0)),
    "relu6": Unary(relu6, lambda x: wide((x > 0) & (x < 6))),
    "tanh": Unary(np.tanh, lambda x: 1.0 - np.tanh(x) ** 2, ulps=1.5, scale=np.ones_like, slope_ulps=4.0),
    "sigmoid": Unary(sigmoid, lambda x: sigmoid(x) * sigmoid(-x), ulps=2.5, scale=lambda x: sigmoid(x), slope_ulps=6.0),
    "silu": Unary(
        lambda x: times(sigmoid(x), x),
        _gated(_identity, np.ones_like),
        ulps=3.0,
        scale=_gated(_identity, np.ones_like, -1.0),
        slope_ulps=5.0,
    ),
    "gelu": Unary(
        lambda x: times(normal(x), x),
        lambda x: normal(x) + x * density(x),
        ulps=5.0,
        scale=lambda x: normal(x) + np.abs(x) * density(x),
        slope_ulps=9.0,
    ),
    "gelu_tanh": Unary(
        lambda x: times(sigmoid(cubic(x)), x),
        _gated(cubic, cubic_slope),
        ulps=3.0,
        spread=lambda x: 2.0 * np.clip(-cubic(x), 0.0, 110.0),
        scale=lambda x: _gated(cubic, cubic_slope, -1.0)(x) * (1.0 + np.minimum(np.abs(cubic(x)), 110.0)),
        slope_ulps=5.0,
    ),
    "hardswish": Unary(
        lambda x: times(relu6(x + 3.0) / 6.0, x),
        lambda x: np.where(x <= -3.0, 0.0, np.where(x >= 3.0, 1.0, x / 3.0 + 0.5)),
        ulps=2.0,
        scale=lambda x: np.abs(x) / 3.0 + 0.5,
    ),
    "hardsigmoid": Unary(lambda x: relu6(x + 3.0) / 6.0, lambda x: wide(np.abs(x) < 3.0) / 6.0, ulps=2.0),
    "softplus": Unary(lambda x: np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x))), sigmoid, ulps=3.0, slope_ulps=3.5),
    "exp": Unary(np.exp, np.exp, ulps=1.2, slope_ulps=2.0),
    "log": Unary(lambda x: np.log(flushed(x)), lambda x: 1.0 / flushed(x), ulps=1.5),
    "sqrt": Unary(lambda x: np.sqrt(flushed(x)), lambda x: 0.5 / np.sqrt(flushed(x)), ulps=0.5),
    "abs": Unary(np.abs, np.sign),
    "neg": Unary(np.negative, lambda x: np.full_like(x, -1.0)),
    "square": Unary(np.square, lambda x: 2.0 * x, ulps=0.5),
}
"""By the name of the public function (`gelu_tanh` is `gelu(x, approximate="tanh")`)."""


def _equal(a: Array, b: Array) -> Array:
    return wide(a == b)


BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": lambda a, b: flushed(a) / flushed(b),
    "maximum": np.maximum,
    "minimum": np.minimum,
    "share": lambda a, b: np.where(a > b, 1.0, 0.5 * _equal(a, b)),
    "equal": _equal,
}

SLOPES: dict[str, Callable[[Array, Array], tuple[Array, Array]]] = {
    "add": lambda a, b: (np.ones_like(a + b), np.ones_like(a + b)),
    "sub": lambda a, b: (np.ones_like(a + b), -np.ones_like(a + b)),
    "mul": lambda a, b: (b + 0 * a, a + 0 * b),
    "div": lambda a, b: (1.0 / b + 0 * a, -a / b**2),
    "maximum": lambda a, b: (BINARY["share"](a, b), BINARY["share"](b, a)),
    "minimum": lambda a, b: (BINARY["share"](b, a), BINARY["share"](a, b)),
}
"""The derivatives of a function of two numbers with respect to both."""


def unbroadcast(grad: Array, shape: tuple[int, ...]) -> Array:
    """The sum of a gradient over the copies that broadcasting made of an operand of that shape."""
    lead = grad.ndim - len(shape)
    repeated = tuple(axis + lead for axis, size in enumerate(shape) if size == 1)
    return np.asarray(grad.sum(axis=(*range(lead), *repeated)).reshape(shape))


def reduce(op: str, x: Any, axis: Any, keepdims: bool = False) -> Array:
    """A reduction; an empty one is 0, NaN, -inf or inf."""
    x = wide(x)
    with np.errstate(all="ignore"):
        match op:
            case "sum":
                return np.asarray(x.sum(axis=axis, keepdims=keepdims))
            case "mean":
                return np.asarray(x.sum(axis=axis, keepdims=keepdims) / _count(x, axis))
            case "sum_squares":
                return np.asarray((x * x).sum(axis=axis, keepdims=keepdims))
            case "max":
                return np.asarray(np.max(x, axis=axis, keepdims=keepdims, initial=-np.inf))
            case _:
                return np.asarray(np.min(x, axis=axis, keepdims=keepdims, initial=np.inf))


def _count(x: Array, axis: Any) -> float:
    axes = range(x.ndim) if axis is None else np.atleast_1d(axis)
    return float(math.prod(x.shape[int(a)] for a in axes))


def reduce_backward(op: str, x: Any, axis: Any, grad: Any) -> Array:
    """The gradient of a reduction without kept axes; equal extremes share it."""
    x = wide(x)
    axes = tuple(range(x.ndim)) if axis is None else tuple(int(a) % x.ndim for a in np.atleast_1d(axis))
    grad = np.expand_dims(wide(grad), axes) if axes else wide(grad)
    match op:
        case "sum":
            return grad + 0 * x
        case "mean":
            return grad / _count(x, axis) + 0 * x
        case "sum_squares":
            return 2.0 * grad * x
        case _:
            won = wide(x == np.expand_dims(reduce(op, x, axes), axes)) if axes else np.ones_like(x)
            return won / won.sum(axis=axes, keepdims=True) * grad
