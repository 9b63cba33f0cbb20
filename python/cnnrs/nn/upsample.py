"""Interpolation of feature maps as a layer."""

from __future__ import annotations

from typing import Any

from cnnrs import functional
from cnnrs.nn.module import Module


class Upsample(Module):
    """Feature maps (N, H, W, C) of another height and width; see `functional.upsample`.

    Args:
        size: Height and width of the result.
        scale_factor: What H and W are multiplied by, rounded down; one number or (h, w). Exactly one of the two is
            given.
        mode: "nearest" or "bilinear".
        align_corners: Whether the corners of both sides lie on each other ("bilinear" only).

    Raises:
        TypeError: a flag is not a bool.
        ValueError: a number is out of range, another mode, or both or none of `size` and `scale_factor`.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import nn
        >>> nn.Upsample(scale_factor=2, mode="bilinear")(np.zeros((1, 4, 5, 3), np.float32)).shape
        (1, 8, 10, 3)
    """

    def __init__(
        self,
        size: functional.Size | None = None,
        scale_factor: float | tuple[float, float] | None = None,
        mode: str = "nearest",
        align_corners: bool = False,
    ) -> None:
        """Check the arguments."""
        super().__init__()
        self.mode, self.align_corners = functional.upsample_mode(mode, align_corners, "Upsample")
        self.size, self.scale_factor = functional.upsample_size(size, scale_factor, "Upsample")

    def forward(self, x: Any) -> Any:
        """Record the interpolation."""
        return functional.upsample(x, self.size, self.scale_factor, self.mode, self.align_corners)

    def extra_repr(self) -> str:
        """Return the arguments that matter."""
        text = f"size={self.size}" if self.size is not None else f"scale_factor={self.scale_factor}"
        text += f", mode={self.mode!r}"
        return f"{text}, align_corners=True" if self.align_corners else text
