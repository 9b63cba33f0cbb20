"""Activations: functions of each number by itself that stand behind layers."""

from __future__ import annotations

from typing import cast

from cnnrs import _args, graph
from cnnrs._core import ShapeError
from cnnrs.functional._dispatch import AnyTensor, Tensor, apply
from cnnrs.functional.arithmetic import add, clip, mul


def relu(x: Tensor) -> Tensor:
    """Compute max(x, 0); the derivative at 0 is 0 and NaN stays.

    Args:
        x: Any shape.

    Returns:
        The same shape.

    Raises:
        TypeError: the array is not float32.
    """
    return cast("Tensor", apply("relu", [_args.check_array(x, "relu")])[0])


def relu6(x: Tensor) -> Tensor:
    """Compute min(max(x, 0), 6); the derivative at 0 and at 6 is 0.

    Args:
        x: Any shape.

    Returns:
        The same shape.

    Raises:
        TypeError: the array is not float32.
    """
    return cast("Tensor", apply("relu6", [_args.check_array(x, "relu6")])[0])


def leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    """Compute x where x > 0 and negative_slope * x elsewhere; the derivative at 0 is the slope.

    Args:
        x: Any shape.
        negative_slope: Slope of the negative side.

    Returns:
        The same shape.

    Raises:
        TypeError: the array is not float32, or the slope not a number.
        ValueError: the slope is not finite.
    """
    slope = _args.real(negative_slope, "negative_slope", "leaky_relu")
    return cast("Tensor", apply("leaky_relu", [_args.check_array(x, "leaky_relu")], slope=slope)[0])


def prelu(x: Tensor, weight: AnyTensor) -> Tensor:
    """Compute x where x > 0 and weight * x elsewhere, with a slope that is learned; the derivative at 0 is the slope.

    Args:
        x: Any shape of at least one dimension, channels last.
        weight: Slopes, one for all (1,) or one per channel (C,).

    Returns:
        The shape of `x`.

    Raises:
        ShapeError: neither one slope nor as many as channels.
        TypeError: an array is not float32.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> F.prelu(np.array([[-2, 4]], np.float32), np.array([0.25], np.float32)).tolist()
        [[-0.5, 4.0]]
    """
    op = "prelu"
    x, weight = _args.check_array(x, op), _args.check_array(weight, op, "weight", 1)
    if x.ndim == 0 or weight.shape[0] not in (1, _args.sizes(x)[-1]):
        message = f"{graph.label(op)}: weight must have shape (1,) or (C,) for x {x.shape}, got shape {weight.shape}"
        raise ShapeError(message)
    return cast("Tensor", add(relu(x), mul(weight, clip(x, high=0.0))))


def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """Compute x where x > 0 and alpha * (exp(x) - 1) elsewhere.

    Args:
        x: Any shape.
        alpha: The negative side tends to -alpha.

    Returns:
        The same shape.

    Raises:
        TypeError: the array is not float32, or alpha not a number.
        ValueError: alpha is not finite.
    """
    height = _args.real(alpha, "alpha", "elu")
    return cast("Tensor", apply("elu", [_args.check_array(x, "elu")], alpha=height)[0])


def silu(x: Tensor) -> Tensor:
    """Compute x * sigmoid(x), also known as swish.

    Args:
        x: Any shape.

    Returns:
        The same shape.

    Raises:
        TypeError: the array is not float32.
    """
    return cast("Tensor", apply("silu", [_args.check_array(x, "silu")])[0])


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """Compute x * P(X <= x) for a standard normal X.

    Args:
        x: Any shape.
        approximate: "none" by the error function, to a few units in the last place also where the result is tiny;
            "tanh" for 0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))).

    Returns:
        The same shape.

    Raises:
        TypeError: the array is not float32.
        ValueError: another way of approximation.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> F.gelu(np.array([-1, 0, 1], np.float32)).round(4).tolist()
        [-0.15870000422000885, 0.0, 0.8413000106811523]
    """
    form = gelu_form(approximate, "gelu")
    return cast("Tensor", apply("gelu" if form == "none" else "gelu_tanh", [_args.check_array(x, "gelu")])[0])


def gelu_form(approximate: object, op: str) -> str:
    """Return the way of approximation of `gelu`, checked."""
    if not isinstance(approximate, str) or approximate not in ("none", "tanh"):
        message = f'{graph.label(op)}: approximate must be "none" or "tanh", got {_args.show(approximate)}'
        raise ValueError(message)
    return approximate


def hardswish(x: Tensor) -> Tensor:
    """Compute x * relu6(x + 3) / 6; the derivative at -3 is 0 and at 3 is 1.

    Args:
        x: Any shape.

    Returns:
        The same shape.

    Raises:
        TypeError: the array is not float32.
    """
    return cast("Tensor", apply("hardswish", [_args.check_array(x, "hardswish")])[0])


def hardsigmoid(x: Tensor) -> Tensor:
    """Compute relu6(x + 3) / 6; the derivative at -3 and at 3 is 0.

    Args:
        x: Any shape.

    Returns:
        The same shape.

    Raises:
        TypeError: the array is not float32.
    """
    return cast("Tensor", apply("hardsigmoid", [_args.check_array(x, "hardsigmoid")])[0])


def softplus(x: Tensor) -> Tensor:
    """Compute log(1 + exp(x)).

    Args:
        x: Any shape.

    Returns:
        The same shape.

    Raises:
        TypeError: the array is not float32.
    """
    return cast("Tensor", apply("softplus", [_args.check_array(x, "softplus")])[0])


def tanh(x: Tensor) -> Tensor:
    """Compute the hyperbolic tangent.

    Args:
        x: Any shape.

    Returns:
        The same shape.

    Raises:
        TypeError: the array is not float32.
    """
    return cast("Tensor", apply("tanh", [_args.check_array(x, "tanh")])[0])


def sigmoid(x: Tensor) -> Tensor:
    """Compute 1 / (1 + exp(-x)).

    Args:
        x: Any shape.

    Returns:
        The same shape.

    Raises:
        TypeError: the array is not float32.
    """
    return cast("Tensor", apply("sigmoid", [_args.check_array(x, "sigmoid")])[0])
