"""Reductions over any set of axes."""

from __future__ import annotations

from typing import Any

from cnnrs import _args
from cnnrs._value import Value
from cnnrs.functional._dispatch import Array, apply

Axis = int | tuple[int, ...] | None


def _reduce(op: str, x: Any, axis: Axis, keepdims: bool) -> Any:
    x = _args.check_array(x, op)
    attrs = {"axes": _args.axes(axis, x.ndim, op), "keepdims": _args.flag(keepdims, "keepdims", op)}
    return apply(op, [x], **attrs)[0]


def sum(x: Array | Value, axis: Axis = None, keepdims: bool = False) -> Any:
    """Sum over axes; 0 of nothing.

    Args:
        x: Any shape.
        axis: An axis or several, negative ones counted from the end; all of them if None.
        keepdims: Whether reduced axes stay, with one element.

    Returns:
        The array without the reduced axes; a float if none is left.

    Raises:
        TypeError: the array is not float32, or `axis` neither an int nor ints nor None.
        ValueError: `axis` is not an axis of the array, or stands there twice.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> x = np.arange(6, dtype=np.float32).reshape(2, 3)
        >>> F.sum(x), F.sum(x, axis=-1).tolist()
        (15.0, [3.0, 12.0])
    """
    return _reduce("sum", x, axis, keepdims)


def mean(x: Array | Value, axis: Axis = None, keepdims: bool = False) -> Any:
    """Take the mean over axes; NaN of nothing.

    Args:
        x: Any shape.
        axis: An axis or several, negative ones counted from the end; all of them if None.
        keepdims: Whether reduced axes stay, with one element.

    Returns:
        The array without the reduced axes; a float if none is left.

    Raises:
        TypeError: the array is not float32, or `axis` neither an int nor ints nor None.
        ValueError: `axis` is not an axis of the array, or stands there twice.
    """
    return _reduce("mean", x, axis, keepdims)


def max(x: Array | Value, axis: Axis = None, keepdims: bool = False) -> Any:
    """Take the maximum over axes; NaN if one is among them, -inf of nothing. Equal numbers share the gradient.

    Args:
        x: Any shape.
        axis: An axis or several, negative ones counted from the end; all of them if None.
        keepdims: Whether reduced axes stay, with one element.

    Returns:
        The array without the reduced axes; a float if none is left.

    Raises:
        TypeError: the array is not float32, or `axis` neither an int nor ints nor None.
        ValueError: `axis` is not an axis of the array, or stands there twice.
    """
    return _reduce("max", x, axis, keepdims)


def min(x: Array | Value, axis: Axis = None, keepdims: bool = False) -> Any:
    """Take the minimum over axes; NaN if one is among them, inf of nothing. Equal numbers share the gradient.

    Args:
        x: Any shape.
        axis: An axis or several, negative ones counted from the end; all of them if None.
        keepdims: Whether reduced axes stay, with one element.

    Returns:
        The array without the reduced axes; a float if none is left.

    Raises:
        TypeError: the array is not float32, or `axis` neither an int nor ints nor None.
        ValueError: `axis` is not an axis of the array, or stands there twice.
    """
    return _reduce("min", x, axis, keepdims)
