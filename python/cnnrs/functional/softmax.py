"""From scores to probabilities and their logarithms."""

from __future__ import annotations

from typing import cast

from cnnrs import _args, graph
from cnnrs._core import ShapeError
from cnnrs.functional._dispatch import Tensor, apply


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """Compute exp(x) / sum(exp(x)) along an axis, with the maximum along it subtracted first.

    Args:
        x: Scores of any shape, (N, K) of a classifier.
        axis: The axis along which the result sums to 1.

    Returns:
        Probabilities of the same shape; NaN along the axis where a score is NaN or +inf, or all are -inf.

    Raises:
        ShapeError: no dimension.
        TypeError: the array is not float32, or `axis` not an int.
        ValueError: `axis` is not an axis of the array.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> F.softmax(np.zeros((1, 4), np.float32)).tolist()
        [[0.25, 0.25, 0.25, 0.25]]
    """
    return _along("softmax", x, axis)


def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    """Compute x - log(sum(exp(x))) along an axis, with the maximum along it subtracted first.

    Args:
        x: Scores of any shape, (N, K) of a classifier.
        axis: The axis along which the exponentials of the result sum to 1.

    Returns:
        Logarithms of probabilities, the same shape; NaN where `softmax` is.

    Raises:
        ShapeError: no dimension.
        TypeError: the array is not float32, or `axis` not an int.
        ValueError: `axis` is not an axis of the array.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> F.log_softmax(np.array([[0, 1e4]], np.float32)).tolist()
        [[-10000.0, 0.0]]
    """
    return _along("log_softmax", x, axis)


def _along(op: str, x: Tensor, axis: int) -> Tensor:
    x = _args.check_array(x, op)
    if x.ndim == 0:
        message = f"{graph.label(op)}: x must have at least one dimension, got shape ()"
        raise ShapeError(message)
    return cast("Tensor", apply(op, [x], axis=_args.integer(axis, "axis", op, -x.ndim, x.ndim - 1) % x.ndim)[0])
