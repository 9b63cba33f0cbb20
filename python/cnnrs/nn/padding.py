"""Layers that put a border around feature maps, without parameters."""

from __future__ import annotations

from typing import Any, ClassVar

from cnnrs import _args, functional
from cnnrs.nn.module import Module


class _Pad2d(Module):
    """A border of numbers of rows and columns."""

    mode: ClassVar[str]

    def __init__(self, padding: int | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]]) -> None:
        """Check the padding."""
        super().__init__()
        op = type(self).__name__
        around = _args.padding(padding, op)
        if isinstance(around, str):
            message = f"{op}: padding must be numbers, got {_args.show(padding)}"
            raise ValueError(message)
        self.padding = around

    def forward(self, x: Any) -> Any:
        """Record the padding."""
        return functional.pad(x, self.padding, self.mode)

    def extra_repr(self) -> str:
        """Return the padding."""
        return f"padding={self.padding}"


class ZeroPad2d(_Pad2d):
    """Zeros around feature maps (N, H, W, C); see `functional.pad`.

    Args:
        padding: Rows and columns added, an int, (h, w) or ((top, bottom), (left, right)).

    Raises:
        ValueError: a number is out of range.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import nn
        >>> nn.ZeroPad2d(((1, 0), (2, 3)))(np.zeros((1, 4, 4, 2), np.float32)).shape
        (1, 5, 9, 2)
    """

    mode = "constant"


class ReflectionPad2d(_Pad2d):
    """Feature maps (N, H, W, C) mirrored at their outermost pixels, which are not repeated; see `functional.pad`.

    Args:
        padding: Rows and columns added, an int, (h, w) or ((top, bottom), (left, right)); less than H and W.

    Raises:
        ValueError: a number is out of range.
    """

    mode = "reflect"


class ReplicationPad2d(_Pad2d):
    """Feature maps (N, H, W, C) with their outermost pixels repeated; see `functional.pad`.

    Args:
        padding: Rows and columns added, an int, (h, w) or ((top, bottom), (left, right)).

    Raises:
        ValueError: a number is out of range.
    """

    mode = "edge"
