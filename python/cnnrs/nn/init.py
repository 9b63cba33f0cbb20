"""First contents of parameters: each function returns a new float32 array of a shape.

Random ones take the next stream of `cnnrs.manual_seed`. Fans are counted as in torch: for a kernel HWIO,
fan_in = H * W * I and fan_out = H * W * O, likewise for a kernel of one dimension; for a linear weight (in, out),
fan_in = in and fan_out = out.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from cnnrs import _args, random

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
    numbers = random.uniform(math.prod(shape)).reshape(shape)
    return numbers * np.float32(high - low) + np.float32(low)


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
