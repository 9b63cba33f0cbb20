"""From feature maps to rows of features."""

from __future__ import annotations

from typing import Any

from cnnrs import functional
from cnnrs.nn.module import Module


class Flatten(Module):
    """Feature maps (N, H, W, C) to features (N, H * W * C); see `functional.flatten`.

    Args:
        order: "hwc" is NumPy's order; "chw" is torch's, for linear weights that were trained there.

    Raises:
        ValueError: another order.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import nn
        >>> nn.Flatten()(np.zeros((2, 5, 5, 16), np.float32)).shape
        (2, 400)
    """

    def __init__(self, order: str = "hwc") -> None:
        """Keep the order."""
        super().__init__()
        self.order = functional.flatten_order(order)

    def forward(self, x: Any) -> Any:
        """Record the flattening."""
        return functional.flatten(x, self.order)

    def extra_repr(self) -> str:
        """Return the order."""
        return f"order={self.order!r}"
