"""First contents of parameters: each function returns a new float32 array of a shape.

Random ones take the next stream of `cnnrs.manual_seed`. Fans are counted as in torch: for a kernel HWIO,
fan_in = H * W * I and fan_out = H * W * O, likewise for a kernel of one dimension; for a linear weight (in, out),
fan_in = in and fan_out = out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from cnnrs import _args, random
from cnnrs._core import ShapeError

Array = npt.NDArray[np.float32]
Shape = tuple[int, ...]


def zeros(shape: Shape) -> Array:
    """Return zeros.

    Args:
        shape: Shape of the array.
    """
    return np.zeros(_checked(shape, "zeros"), np.float32)


def constant(shape: Shape, value: float) -> Array:
    """Return one number everywhere.

    Args:
        shape: Shape of the array.
        value: The number.
    """
    return np.full(_checked(shape, "constant"), _finite(value, "value", "constant"), np.float32)


def uniform(shape: Shape, low: float = 0.0, high: float = 1.0) -> Array:
    """Draw from the uniform distribution on [low, high).

    Args:
        shape: Shape of the array.
        low: Lower bound.
        high: Upper bound.

    Raises:
        ValueError: bounds that are not finite or not in order.

    Examples:
        >>> from cnnrs.nn import init
        >>> weights = init.uniform((2, 3), -0.5, 0.5)
        >>> weights.shape, bool((abs(weights) <= 0.5).all())
        ((2, 3), True)
    """
    shape = _checked(shape, "uniform")
    low, high = _finite(low, "low", "uniform"), _finite(high, "high", "uniform")
    if low > high:
        message = f"uniform: low must be at most high, got low {low} and high {high}"
        raise ValueError(message)
    return random.uniform(math.prod(shape), low, high - low).reshape(shape)


def normal(shape: Shape, mean: float = 0.0, std: float = 1.0) -> Array:
    """Draw from the normal distribution.

    Args:
        shape: Shape of the array.
        mean: Its mean.
        std: Its standard deviation, >= 0.

    Raises:
        ValueError: a number that is not finite, or `std` below zero.

    Examples:
        >>> from cnnrs.nn import init
        >>> init.normal((3, 4), std=0.01).shape
        (3, 4)
    """
    shape = _checked(shape, "normal")
    mean, std = _finite(mean, "mean", "normal"), _finite(std, "std", "normal")
    if std < 0.0:
        message = f"normal: std must be at least 0, got {std}"
        raise ValueError(message)
    return random.normal(math.prod(shape), mean, std).reshape(shape)


def kaiming_uniform(shape: Shape, a: float = 0.0) -> Array:
    """Draw from U(-bound, bound) with bound = sqrt(6 / ((1 + a^2) * fan_in)) (He et al., 2015).

    Args:
        shape: Shape of a weight, (in, out), (kernel, in // groups, out) or (kernel_h, kernel_w, in // groups, out).
        a: Slope of the following leaky ReLU on negative numbers; sqrt(5) gives torch's default for layers.

    Raises:
        ValueError: a shape without fans.
    """
    fan_in, _ = fans(shape, "kaiming_uniform")
    bound = math.sqrt(6.0 / ((1.0 + _finite(a, "a", "kaiming_uniform") ** 2) * fan_in))
    return uniform(shape, -bound, bound)


def kaiming_normal(shape: Shape, a: float = 0.0, mode: str = "fan_in") -> Array:
    """Draw from N(0, std^2) with std = sqrt(2 / ((1 + a^2) * fan)) (He et al., 2015).

    Args:
        shape: Shape of a weight, (in, out), (kernel, in // groups, out) or (kernel_h, kernel_w, in // groups, out).
        a: Slope of the following leaky ReLU on negative numbers.
        mode: The fan that counts: "fan_in" keeps the size of activations, "fan_out" that of their gradients.

    Raises:
        ValueError: a shape without fans, or another mode.
    """
    if mode not in ("fan_in", "fan_out"):
        message = f'kaiming_normal: mode must be one of "fan_in", "fan_out", got {_args.show(mode)}'
        raise ValueError(message)
    fan = fans(shape, "kaiming_normal")[mode == "fan_out"]
    return normal(shape, 0.0, math.sqrt(2.0 / ((1.0 + _finite(a, "a", "kaiming_normal") ** 2) * fan)))


def xavier_uniform(shape: Shape, gain: float = 1.0) -> Array:
    """Draw from U(-bound, bound) with bound = gain * sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, 2010).

    Args:
        shape: Shape of a weight, (in, out), (kernel, in // groups, out) or (kernel_h, kernel_w, in // groups, out).
        gain: Factor for the activation that follows, such as 5/3 for tanh.

    Raises:
        ValueError: a shape without fans.
    """
    bound = abs(_finite(gain, "gain", "xavier_uniform")) * math.sqrt(6.0 / sum(fans(shape, "xavier_uniform")))
    return uniform(shape, -bound, bound)


def fans(shape: Shape, op: str = "fans") -> tuple[int, int]:
    """Return (fan_in, fan_out) of a weight's shape.

    Args:
        shape: (in, out), or the same behind the sizes of a kernel of one or two dimensions.
        op: Stands before the error text.

    Raises:
        ValueError: not 2 to 4 dimensions, or an empty weight.
    """
    shape = _checked(shape, op)
    if not 2 <= len(shape) <= 4 or 0 in shape:
        message = (
            f"{op}: shape must be (in, out), (kernel, in, out) or (kernel_h, kernel_w, in, out) without zeros, "
            f"got {shape}"
        )
        raise ValueError(message)
    taps = math.prod(shape[:-2])
    return taps * shape[-2], taps * shape[-1]


def drawn(shape: Shape, weight_init: Callable[[Any], Array] | None, op: str) -> Array:
    """Return the first weights of a layer: what the function returns, or torch's default.

    Args:
        shape: Shape of the weights.
        weight_init: The function, or None.
        op: Stands before the error text.

    Raises:
        TypeError: not a function, or one that does not return a float32 array.
        ShapeError: it returns an array of another shape.
    """
    if weight_init is None:
        return kaiming_uniform(shape, a=math.sqrt(5))
    if not callable(weight_init):
        message = f"{op}: weight_init must be a function of a shape, got {_args.show(weight_init)}"
        raise TypeError(message)
    array: Array = _args.check_array(weight_init(shape), op, "the result of weight_init")
    if array.shape != shape:
        message = f"{op}: weight_init must return an array of shape {shape}, got {array.shape}"
        raise ShapeError(message)
    return array


def bias(shape: Shape, bound: float) -> Array:
    """Return the first biases of a layer, uniform on +-bound; nothing is drawn for a bound of zero.

    Args:
        shape: Shape of the biases.
        bound: >= 0.
    """
    return uniform(shape, -bound, bound) if bound else zeros(shape)


def _checked(shape: object, op: str) -> Shape:
    """Return a shape as a tuple of ints."""
    if not isinstance(shape, (tuple, list)):
        message = f"{op}: shape must be a tuple of ints, got {_args.show(shape)}"
        raise TypeError(message)
    return tuple(_args.integer(item, "shape", op, 0, _args.LIMIT) for item in shape)


def _finite(value: object, name: str, op: str) -> float:
    """Return a finite number as a float."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        message = f"{op}: {name} must be a number, got {_args.show(value)}"
        raise TypeError(message)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        message = f"{op}: {name} must be finite, got {_args.show(value)}"
        raise ValueError(message)
    return number
