"""Activation layers, without parameters."""

from __future__ import annotations

from typing import Any

from cnnrs import _args, functional
from cnnrs.nn.module import Module


class ReLU(Module):
    """max(x, 0), any shape; the derivative at 0 is 0."""

    def forward(self, x: Any) -> Any:
        """Record the activation."""
        return functional.relu(x)


class Tanh(Module):
    """Hyperbolic tangent, any shape."""

    def forward(self, x: Any) -> Any:
        """Record the activation."""
        return functional.tanh(x)


class Sigmoid(Module):
    """1 / (1 + exp(-x)), any shape."""

    def forward(self, x: Any) -> Any:
        """Record the activation."""
        return functional.sigmoid(x)


class Softmax(Module):
    """Probabilities (N, K) of scores (N, K); see `functional.softmax`.

    Args:
        axis: The last axis, the only one there is yet.

    Raises:
        TypeError: `axis` is not an int.
    """

    def __init__(self, axis: int = -1) -> None:
        """Keep the axis."""
        super().__init__()
        self.axis = _args.integer(axis, "axis", "Softmax", -_args.LIMIT, _args.LIMIT)

    def forward(self, x: Any) -> Any:
        """Record the softmax."""
        return functional.softmax(x, self.axis)

    def extra_repr(self) -> str:
        """Return the axis."""
        return f"axis={self.axis}"
