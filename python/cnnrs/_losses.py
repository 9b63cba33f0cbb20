"""What a trainer minimises: a loss by its name, or any function of logits and targets on symbolic values."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnrs import functional
from cnnrs._args import check_labels, show
from cnnrs._core import ShapeError
from cnnrs._value import Value

__all__ = ["Loss"]

_LABELS = {"cross_entropy": functional.cross_entropy}
_NUMBERS: dict[str, Callable[..., Any]] = {
    "mse_loss": functional.mse_loss,
    "l1_loss": functional.l1_loss,
    "huber_loss": functional.huber_loss,
    "binary_cross_entropy_with_logits": functional.binary_cross_entropy_with_logits,
}
_NAMED: dict[str, Callable[..., Any]] = _LABELS | _NUMBERS


class Loss:
    """A loss function and what is known about it.

    Args:
        loss: A name of `cnnrs.functional`, or a callable `(logits, target)` on symbolic values.

    Raises:
        TypeError: Neither a name nor a callable.
        ValueError: An unknown name.

    Attributes:
        given: What the caller gave.
        labels: Whether the targets have to be class labels.
        numbers: Whether the targets have to be floats.
    """

    def __init__(self, loss: object) -> None:
        if isinstance(loss, str):
            if loss not in _NAMED:
                msg = f"Trainer: loss must be a callable or one of {', '.join(_NAMED)}, got {loss!r}"
                raise ValueError(msg)
            function = _NAMED[loss]
        elif callable(loss):
            function = loss
        else:
            msg = f"Trainer: loss must be a name or a callable, got {show(loss)}"
            raise TypeError(msg)
        self.given = loss
        self._function: Callable[..., Any] = function
        known = function.func if isinstance(function, functools.partial) and not function.args else function
        self.labels = any(known is one for one in _LABELS.values())
        self.numbers = any(known is one for one in _NUMBERS.values())

    def check(self, y: Any, op: str, rows: int) -> NDArray[Any]:
        """Return targets as the loss takes them: int64 labels (N,), or float32 numbers (N, ...).

        Args:
            y: What the caller gave.
            op: Who asks, for errors.
            rows: Number of images.

        Raises:
            TypeError: Another dtype, or not an array.
            ShapeError: Labels of more than one dimension, or numbers without a batch axis.
        """
        kind = y.dtype.kind if isinstance(y, np.ndarray) else ""
        if self.labels or (kind in "iu" and kind and not self.numbers):
            labels: NDArray[Any] = check_labels(y, op, "y", rows)
            return labels
        if not isinstance(y, np.ndarray) or y.dtype.char not in "fde":
            got = f"a {y.dtype} array" if isinstance(y, np.ndarray) else show(y)
            what = "float32, float16 or float64" + ("" if self.numbers else ", or of integer labels")
            msg = f"{op}: y must be a NumPy array of {what}, got {got}; convert with .astype(np.float32)"
            raise TypeError(msg)
        if y.ndim == 0:
            msg = f"{op}: y must have a batch axis, got shape ()"
            raise ShapeError(msg)
        return y if y.dtype.char == "f" and y.dtype.isnative else y.astype(np.float32)

    def trace(self, logits: Value, target: Value) -> list[int]:
        """Record the loss; return the ids of its measures.

        These are the loss alone, or the loss, the number of rows guessed right and the number of rows counted: if
        the function takes a cross-entropy with the targets as its labels.

        Raises:
            TypeError: The function does not return a symbolic value.
            ShapeError: What it returns has dimensions.
        """
        value = self._function(logits, target)
        if not isinstance(value, Value) or value.dtype != np.float32:
            got = repr(value) if isinstance(value, Value) else type(value).__name__
            msg = f"Trainer: loss must return a symbolic value of float32 to train, got {got}"
            raise TypeError(msg)
        if value.shape:
            msg = f"Trainer: loss must return a value of shape (), such as a mean, got shape {value.shape}"
            raise ShapeError(msg)
        for _, op, inputs, outputs in logits.trace.graph.nodes():
            if op == "cross_entropy" and inputs[1] == target.id:
                return [value.id, outputs[1], outputs[3]]
        return [value.id]
