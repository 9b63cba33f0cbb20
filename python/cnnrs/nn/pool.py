"""Pooling layers."""

from __future__ import annotations

from typing import Any

from cnnrs import _args, functional
from cnnrs.nn.module import Module


class _Pool2d(Module):
    """The window that both kinds of pooling share."""

    def __init__(
        self,
        kernel_size: functional.Size,
        stride: functional.Size | None,
        padding: functional.PaddingLike,
        ceil_mode: bool,
    ) -> None:
        super().__init__()
        op = type(self).__name__
        self.kernel_size = _args.pair(kernel_size, "kernel_size", op)
        self.stride = self.kernel_size if stride is None else _args.pair(stride, "stride", op)
        self.padding = _args.padding(padding, op)
        self.ceil_mode = _args.flag(ceil_mode, "ceil_mode", op)
        if not isinstance(self.padding, str):
            _args.pooling_padding(self.padding, self.kernel_size, op)

    def extra_repr(self) -> str:
        """Return the arguments that matter."""
        text = f"kernel_size={self.kernel_size}, stride={self.stride}"
        for name, default in (("padding", ((0, 0), (0, 0))), ("dilation", (1, 1)), ("ceil_mode", False)):
            if getattr(self, name, default) != default:
                text += f", {name}={getattr(self, name)!r}"
        return text


class MaxPool2d(_Pool2d):
    """Maximum of each window, (N, H, W, C) to (N, H_out, W_out, C); see `functional.max_pool2d`.

    Args:
        kernel_size: Size of the window, an int or (h, w).
        stride: Pixels between two windows; the kernel size if None.
        padding: At most kernel_size // 2 on each side.
        dilation: Pixels between two taps.
        ceil_mode: Round the output size up.

    Raises:
        ValueError: a number is out of range.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import nn
        >>> nn.MaxPool2d(3, stride=2, padding=1)(np.zeros((1, 8, 8, 4), np.float32)).shape
        (1, 4, 4, 4)
    """

    def __init__(
        self,
        kernel_size: functional.Size,
        stride: functional.Size | None = None,
        padding: functional.PaddingLike = 0,
        dilation: functional.Size = 1,
        ceil_mode: bool = False,
    ) -> None:
        """Check the arguments."""
        super().__init__(kernel_size, stride, padding, ceil_mode)
        self.dilation = _args.pair(dilation, "dilation", "MaxPool2d")

    def forward(self, x: Any) -> Any:
        """Record the pooling."""
        return functional.max_pool2d(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)


class AvgPool2d(_Pool2d):
    """Mean of each window, (N, H, W, C) to (N, H_out, W_out, C); see `functional.avg_pool2d`.

    Args:
        kernel_size: Size of the window, an int or (h, w).
        stride: Pixels between two windows; the kernel size if None.
        padding: At most kernel_size // 2 on each side.
        ceil_mode: Round the output size up.
        count_include_pad: Whether padding counts in the divisor.

    Raises:
        ValueError: a number is out of range.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import nn
        >>> nn.AvgPool2d(2)(np.ones((1, 4, 4, 1), np.float32)).ravel().tolist()
        [1.0, 1.0, 1.0, 1.0]
    """

    def __init__(
        self,
        kernel_size: functional.Size,
        stride: functional.Size | None = None,
        padding: functional.PaddingLike = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        """Check the arguments."""
        super().__init__(kernel_size, stride, padding, ceil_mode)
        self.count_include_pad = _args.flag(count_include_pad, "count_include_pad", "AvgPool2d")

    def forward(self, x: Any) -> Any:
        """Record the pooling."""
        return functional.avg_pool2d(
            x, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad
        )


class AdaptiveAvgPool2d(Module):
    """Means over as many windows as the output has pixels; see `functional.adaptive_avg_pool2d`.

    Args:
        output_size: Height and width of the result, an int or (h, w); None keeps the size of an axis.

    Raises:
        ValueError: a number is out of range.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import nn
        >>> nn.AdaptiveAvgPool2d((1, None))(np.ones((2, 7, 5, 4), np.float32)).shape
        (2, 1, 5, 4)
    """

    def __init__(self, output_size: int | tuple[int | None, int | None] | None) -> None:
        """Check the size."""
        super().__init__()
        self.output_size = functional.adaptive_size(output_size, "AdaptiveAvgPool2d")

    def forward(self, x: Any) -> Any:
        """Record the pooling."""
        return functional.adaptive_avg_pool2d(x, self.output_size)

    def extra_repr(self) -> str:
        """Return the size."""
        return f"output_size={self.output_size}"


class GlobalAvgPool2d(Module):
    """Mean of each channel of each image, (N, H, W, C) to (N, C); see `functional.global_avg_pool2d`."""

    def forward(self, x: Any) -> Any:
        """Record the pooling."""
        return functional.global_avg_pool2d(x)
