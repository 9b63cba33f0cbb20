"""Operations on each number by itself: activations and addition."""

from __future__ import annotations

from typing import cast

from cnnrs import _args
from cnnrs.functional._dispatch import Tensor, apply


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


def add(a: Tensor, b: Tensor) -> Tensor:
    """Compute a + b; symbolic values have the operator `+` for it.

    Args:
        a: Any shape.
        b: The same shape; nothing is broadcast.

    Returns:
        The same shape.

    Raises:
        ShapeError: the shapes differ.
        TypeError: an array is not float32.
    """
    return cast("Tensor", apply("add", [_args.check_array(a, "add", "a"), _args.check_array(b, "add", "b")])[0])
