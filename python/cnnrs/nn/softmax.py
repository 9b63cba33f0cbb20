"""Layers from scores to probabilities, without parameters."""

from __future__ import annotations

from typing import Any

from cnnrs import _args, functional
from cnnrs.nn.module import Module


class _AlongAxis(Module):
    """A layer with an axis."""

    def __init__(self, axis: int = -1) -> None:
        """Keep the axis."""
        super().__init__()
        self.axis = _args.integer(axis, "axis", type(self).__name__, -_args.LIMIT, _args.LIMIT)

    def extra_repr(self) -> str:
        """Return the axis."""
        return f"axis={self.axis}"


class Softmax(_AlongAxis):
    """Probabilities of scores, any shape; see `functional.softmax`.

    Args:
        axis: The axis along which the result sums to 1.

    Raises:
        TypeError: `axis` is not an int.
    """

    def forward(self, x: Any) -> Any:
        """Record the softmax."""
        return functional.softmax(x, self.axis)


class LogSoftmax(_AlongAxis):
    """Logarithms of the probabilities of scores, any shape; see `functional.log_softmax`.

    Args:
        axis: The axis along which the exponentials of the result sum to 1.

    Raises:
        TypeError: `axis` is not an int.
    """

    def forward(self, x: Any) -> Any:
        """Record the logarithm of the softmax."""
        return functional.log_softmax(x, self.axis)
