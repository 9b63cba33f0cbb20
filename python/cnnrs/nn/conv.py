"""Convolution layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from cnnrs import _args, functional
from cnnrs.nn import init
from cnnrs.nn.module import Module
from cnnrs.nn.parameter import Parameter


class _Conv(Module):
    """What convolution layers share: channels, groups, and how their parameters start."""

    weight: Parameter
    bias: Parameter | None

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        op = type(self).__name__
        self.in_channels = _args.whole(in_channels, "in_channels", op)
        self.out_channels = _args.whole(out_channels, "out_channels", op)
        self.groups = _args.whole(groups, "groups", op)
        if self.in_channels % self.groups or self.out_channels % self.groups:
            message = (
                f"{op}: groups must divide in_channels and out_channels, got groups {self.groups}, "
                f"in_channels {self.in_channels}, out_channels {self.out_channels}"
            )
            raise ValueError(message)

    def _draw(self, shape: tuple[int, ...], bias: bool, weight_init: Callable[[Any], init.Array] | None = None) -> None:
        """Make the parameters: what `weight_init` returns and zeros, or all uniform on +-1 / sqrt(fan_in)."""
        self.weight = Parameter(init.drawn(shape, weight_init, type(self).__name__))
        bound = 0.0 if weight_init is not None else 1 / math.sqrt(init.fans(shape)[0])
        with_bias = _args.flag(bias, "bias", type(self).__name__)
        self.bias = Parameter(init.bias((self.out_channels,), bound)) if with_bias else None

    def extra_repr(self) -> str:
        """Return the arguments that matter."""
        text = f"{self.in_channels}, {self.out_channels}"
        defaults: dict[str, tuple[Any, ...]] = {
            "kernel_size": (),
            "stride": (),
            "padding": (((0, 0), (0, 0)), (0, 0)),
            "output_padding": ((0, 0),),
            "dilation": ((1, 1), 1),
            "groups": (1,),
        }
        for name, usual in defaults.items():
            if getattr(self, name, None) not in (None, *usual):
                text += f", {name}={getattr(self, name)!r}"
        return text if self.bias is not None else f"{text}, bias=False"


class Conv2d(_Conv):
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
        weight_init: A function such as `nn.init.kaiming_normal` that makes the first weights of their shape; the
            biases then start at zero.

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
        *,
        weight_init: Callable[[Any], init.Array] | None = None,
    ) -> None:
        """Draw the parameters."""
        super().__init__(in_channels, out_channels, groups)
        op = "Conv2d"
        self.kernel_size = _args.pair(kernel_size, "kernel_size", op)
        self.stride = _args.pair(stride, "stride", op)
        self.padding = _args.padding(padding, op)
        self.dilation = _args.pair(dilation, "dilation", op)
        self._draw((*self.kernel_size, self.in_channels // self.groups, self.out_channels), bias, weight_init)

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


class ConvTranspose2d(_Conv):
    """Transposed convolution (N, H, W, in_channels) to (N, H_out, W_out, out_channels).

    See `functional.conv_transpose2d`. `weight` has shape (kernel_h, kernel_w, out_channels // groups, in_channels),
    `bias` (out_channels,). Both start as in torch: uniform on +-1 / sqrt(fan_in).

    Args:
        in_channels: Channels of the input, a multiple of `groups`.
        out_channels: Channels of the output, a multiple of `groups`.
        kernel_size: Size of the kernels, an int or (h, w).
        stride: Pixels between the windows of two neighbouring pixels, an int or (h, w).
        padding: An int, (h, w), ((top, bottom), (left, right)), "same" or "valid".
        output_padding: Pixels added behind, an int or (h, w), each below `stride` or `dilation`.
        groups: Number of independent parts of the channels.
        bias: Whether a number is added per output channel.
        dilation: Pixels between two taps, an int or (h, w).

    Raises:
        ValueError: a number is out of range, or `groups` does not divide the channels.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import nn
        >>> conv = nn.ConvTranspose2d(8, 3, 3, stride=2, padding=1, output_padding=1)
        >>> conv(np.zeros((1, 16, 16, 8), np.float32)).shape
        (1, 32, 32, 3)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: functional.Size,
        stride: functional.Size = 1,
        padding: functional.PaddingLike = 0,
        output_padding: functional.Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: functional.Size = 1,
    ) -> None:
        """Draw the parameters."""
        super().__init__(in_channels, out_channels, groups)
        op = "ConvTranspose2d"
        self.kernel_size = _args.pair(kernel_size, "kernel_size", op)
        self.stride = _args.pair(stride, "stride", op)
        self.padding = _args.padding(padding, op)
        self.dilation = _args.pair(dilation, "dilation", op)
        self.output_padding = functional.output_padding_pair(output_padding, self.stride, self.dilation, op)
        self._draw((*self.kernel_size, self.out_channels // self.groups, self.in_channels), bias)

    def forward(self, x: Any) -> Any:
        """Record the transposed convolution."""
        return functional.conv_transpose2d(
            x,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.output_padding,
            self.dilation,
            self.groups,
        )


class Conv1d(_Conv):
    """Convolution of sequences (N, L, in_channels) to (N, L_out, out_channels); see `functional.conv1d`.

    `weight` has shape (kernel, in_channels // groups, out_channels), `bias` (out_channels,). Both start as in torch:
    uniform on +-1 / sqrt(fan_in).

    Args:
        in_channels: Channels of the input, a multiple of `groups`.
        out_channels: Channels of the output, a multiple of `groups`.
        kernel_size: Taps of the kernels.
        stride: Steps between two windows.
        padding: An int, (before, after), "same" or "valid".
        dilation: Steps between two taps.
        groups: Number of independent parts of the channels.
        bias: Whether a number is added per output channel.

    Raises:
        ValueError: a number is out of range, or `groups` does not divide the channels.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import nn
        >>> nn.Conv1d(4, 8, 3, padding="same")(np.zeros((2, 20, 4), np.float32)).shape
        (2, 20, 8)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        """Draw the parameters."""
        super().__init__(in_channels, out_channels, groups)
        op = "Conv1d"
        self.kernel_size = _args.whole(kernel_size, "kernel_size", op)
        self.stride = _args.whole(stride, "stride", op)
        around = functional.conv1d_padding(padding, op)
        self.padding = around if isinstance(around, str) else around[1]
        self.dilation = _args.whole(dilation, "dilation", op)
        self._draw((self.kernel_size, self.in_channels // self.groups, self.out_channels), bias)

    def forward(self, x: Any) -> Any:
        """Record the convolution."""
        return functional.conv1d(
            x,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )
