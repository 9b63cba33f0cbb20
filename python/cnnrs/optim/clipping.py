"""Gradients of bounded size, on arrays and inside the graph of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnrs import functional
from cnnrs._args import check_array
from cnnrs._value import Value
from cnnrs.functional._dispatch import apply
from cnnrs.optim._checks import check_rate

__all__ = ["clip_grad_norm", "scaled_to_norm", "within_value"]

_NORM_EPS = 1e-6  # keeps the quotient finite, as in torch


def clip_grad_norm(
    grads: Mapping[str, NDArray[np.float32]], max_norm: float
) -> tuple[dict[str, NDArray[np.float32]], float]:
    """Scale gradients down so that their norm, all of them taken as one vector, is at most `max_norm`.

    The factor is `min(1, max_norm / (norm + 1e-6))`. The numbers are the same, to the bit, as with
    `Trainer(clip_norm=max_norm)`. Formula: torch `clip_grad_norm_`.

    Args:
        grads: float32 arrays by name, as `Trainer.gradients` returns them.
        max_norm: Highest norm, finite and > 0.

    Returns:
        The scaled gradients, and the norm before.

    Raises:
        TypeError: Not a mapping of float32 arrays, or `max_norm` is not a number.
        ValueError: `max_norm` is out of range.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import optim
        >>> grads = {"weight": np.array([3.0, 4.0], np.float32)}
        >>> clipped, norm = optim.clip_grad_norm(grads, 1.0)
        >>> norm, [round(float(x), 4) for x in clipped["weight"]]
        (5.0, [0.6, 0.8])
    """
    if not isinstance(grads, Mapping):
        msg = f"grads: expected a dictionary of arrays by parameter name, got {type(grads).__name__}"
        raise TypeError(msg)
    largest = np.asarray(check_rate(max_norm, "max_norm", "clip_grad_norm", positive=True), np.float32)
    arrays = [check_array(array, "grads", name) for name, array in grads.items()]
    if not arrays:
        return {}, 0.0
    scaled, norm = scaled_to_norm(arrays, largest)
    return dict(zip(grads, scaled, strict=True)), float(norm)


def scaled_to_norm(gradients: Sequence[Any], max_norm: Any) -> tuple[list[Any], Any]:
    """Return arrays or symbolic values times `min(1, max_norm / (norm + 1e-6))`, and their norm."""
    squares = [_sum_squares(gradient) for gradient in gradients]
    total = squares[0]
    for square in squares[1:]:
        total = _scalar(functional.add(total, square))
    norm = _scalar(functional.sqrt(total))
    above = _scalar(apply("affine", [norm], scale=1.0, shift=_NORM_EPS)[0])
    factor = _scalar(functional.minimum(_scalar(functional.div(max_norm, above)), np.ones((), np.float32)))
    return [functional.mul(gradient, factor) for gradient in gradients], norm


def within_value(gradients: Sequence[Value], value: Value) -> list[Value]:
    """Return symbolic values with every number brought into [-value, value]; NaN stays."""
    lowest = functional.neg(value)
    return [functional.maximum(functional.minimum(gradient, value), lowest) for gradient in gradients]


def _sum_squares(gradient: Any) -> Any:
    return _scalar(apply("sum_squares", [gradient], axes=list(range(gradient.ndim)), keepdims=False)[0])


def _scalar(value: Any) -> Any:
    """Return a result of no dimensions as an operand: ops on arrays give a Python float."""
    return np.asarray(value, np.float32) if isinstance(value, float) else value
