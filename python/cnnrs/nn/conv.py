"""Convolution layers."""

from __future__ import annotations

import math
from typing import Any

from cnnrs import _args, functional
from cnnrs.nn import init
from cnnrs.nn.module import Module
from cnnrs.nn.parameter import Parameter


class Conv2d(Module):
    """Convolution of images (N, H, W, in_channels) to (N, H_out, W_out, out_channels); see `functional.conv2d`.

    `weight` has shape (kernel_h, kernel_w, in_channels // groups, out_channels), `bias` (out_channels,). Both
    start as in torch: uniform on +-1 / sqrt(fan_in).

    Args:
        in_channels: Channels of the input, a multiple of `groups`.
        out_channels: Channels of the output, a multiple of `groups`.
        kernel_size: Size of the kernels, an int or (h, w).
        stride: Pixels between two windows, an int or (h, w).
        padding: An int, (h, w), ((top, bottom), (left, right)), "same" or "valid".
        dilation: Pixels between two taps, an int or (h, w).
        groups: Number of independent parts of the channels.
        bias: Whether a number is added per output channel.

    Raises:
        ValueError: a number is out of range, or `groups` does not divide the channels.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import nn
        >>> conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        >>> conv(np.zeros((1, 32, 32, 3), np.float32)).shape
        (1, 16, 16, 8)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: functional.Size,
        stride: functional.Size = 1,
        padding: functional.PaddingLike = 0,
        dilation: functional.Size = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        """Draw the parameters."""
        super().__init__()
        op = "Conv2d"
        self.in_channels = _args.whole(in_channels, "in_channels", op)
        self.out_channels = _args.whole(out_channels, "out_channels", op)
        self.kernel_size = _args.pair(kernel_size, "kernel_size", op)
        self.stride = _args.pair(stride, "stride", op)
        self.padding = _args.padding(padding, op)
        self.dilation = _args.pair(dilation, "dilation", op)
        self.groups = _args.whole(groups, "groups", op)
        if self.in_channels % self.groups or self.out_channels % self.groups:
            message = (
                f"{op}: groups must divide in_channels and out_channels, got groups {self.groups}, "
                f"in_channels {self.in_channels}, out_channels {self.out_channels}"
            )
            raise ValueError(message)
        shape = (*self.kernel_size, self.in_channels // self.groups, self.out_channels)
        self.weight = Parameter(init.kaiming_uniform(shape, a=math.sqrt(5)))
        bound = 1 / math.sqrt(init.fans(shape)[0])
        with_bias = _args.flag(bias, "bias", op)
        self.bias = Parameter(init.uniform((self.out_channels,), -bound, bound)) if with_bias else None

    def forward(self, x: Any) -> Any:
        """Record the convolution."""
        return functional.conv2d(
            x,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )

    def extra_repr(self) -> str:
        """Return the arguments that matter."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        for name, default in (("padding", ((0, 0), (0, 0))), ("dilation", (1, 1)), ("groups", 1)):
            if getattr(self, name) != default:
                text += f", {name}={getattr(self, name)!r}"
        return text if self.bias is not None else f"{text}, bias=False"
