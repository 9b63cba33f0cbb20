"""Dropout layers; only a trainer's steps drop anything."""

from __future__ import annotations

from typing import Any

from cnnrs import _args, functional
from cnnrs.nn.module import Module


class _Dropout(Module):
    """Keeps the probability."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = _args.number(p, "p", type(self).__name__, 0.0, 1.0)

    def extra_repr(self) -> str:
        """Return the probability."""
        return f"p={self.p:g}"


class Dropout(_Dropout):
    """Sets numbers to zero with probability p in a trainer's steps, any shape; see `functional.dropout`.

    Args:
        p: Probability of a zero, in [0, 1].

    Raises:
        TypeError: `p` is not a number.
        ValueError: `p` is out of range.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import nn
        >>> nn.Dropout(0.5)(np.ones((1, 3), np.float32)).tolist()
        [[1.0, 1.0, 1.0]]
    """

    def forward(self, x: Any) -> Any:
        """Record the dropout, in training mode."""
        return functional.dropout(x, self.p)


class Dropout2d(_Dropout):
    """Sets channels of images (N, H, W, C) to zero with probability p; see `functional.dropout2d`.

    Args:
        p: Probability of a zero, in [0, 1].

    Raises:
        TypeError: `p` is not a number.
        ValueError: `p` is out of range.
    """

    def forward(self, x: Any) -> Any:
        """Record the dropout, in training mode."""
        return functional.dropout2d(x, self.p)


class DropPath(_Dropout):
    """Sets images (N, ...) to zero with probability p; see `functional.drop_path`.

    Args:
        p: Probability of a zero, in [0, 1].

    Raises:
        TypeError: `p` is not a number.
        ValueError: `p` is out of range.
    """

    def forward(self, x: Any) -> Any:
        """Record the dropout, in training mode."""
        return functional.drop_path(x, self.p)
