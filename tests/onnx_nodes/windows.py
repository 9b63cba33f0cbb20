"""ONNX operators with windows: convolution and pooling, channels first there, channels last here."""

from __future__ import annotations

from typing import Any

import numpy as np

from cnnrs import functional as F

Arrays = list[Any]
Attributes = dict[str, Any]


class UnsupportedCaseError(Exception):
    """The case needs something that cnnrs does not have; the text says what."""


def last(x: Any) -> Any:
    """Channels first to channels last."""
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


def first(x: Any) -> Any:
    """Channels last to channels first."""
    return np.ascontiguousarray(np.moveaxis(x, -1, 1))


def planar(x: Any) -> Any:
    """A signal (N, C, L) as an image (N, C, 1, L); an image as it is."""
    if x.ndim > 4:
        message = f"{x.ndim - 2} spatial dimensions"
        raise UnsupportedCaseError(message)
    return x[:, :, None] if x.ndim == 3 else x


def pair(values: Any, default: int) -> tuple[int, int]:
    """Two numbers from an attribute of one or two."""
    numbers = [default, *(values or [default, default])][-2:] if values is None or len(values) < 2 else list(values)
    return int(numbers[0]), int(numbers[1])


def paddings(a: Attributes, size: Any, kernel: Any, stride: Any, dilation: Any) -> tuple[tuple[int, int], ...]:
    """((top, bottom), (left, right)) of `pads` or `auto_pad`."""
    mode = a.get("auto_pad", b"NOTSET").decode()
    if mode in ("NOTSET", "VALID"):
        pads = a.get("pads") or [0, 0, 0, 0]
        pads = [0, pads[0], 0, pads[1]] if len(pads) == 2 else pads
        return (pads[0], pads[2]), (pads[1], pads[3])
    both = []
    for axis in (0, 1):
        extent = dilation[axis] * (kernel[axis] - 1) + 1
        total = max((-(-size[axis] // stride[axis]) - 1) * stride[axis] + extent - size[axis], 0)
        small, large = total // 2, total - total // 2
        both.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return tuple(both)


def conv(a: Attributes, inputs: Arrays) -> Arrays:
    """Conv, one- and two-dimensional."""
    signal = inputs[0].ndim == 3
    x, weight = planar(inputs[0]), planar(inputs[1])
    bias = inputs[2] if len(inputs) > 2 else None
    stride, dilation = pair(a.get("strides"), 1), pair(a.get("dilations"), 1)
    padding = paddings(a, x.shape[2:], weight.shape[2:], stride, dilation)
    y = F.conv2d(last(x), weight.transpose(2, 3, 1, 0), bias, stride, padding, dilation, a.get("group", 1))
    return [first(y)[:, :, 0] if signal else first(y)]


def conv_transpose(a: Attributes, inputs: Arrays) -> Arrays:
    """ConvTranspose, one- and two-dimensional."""
    signal = inputs[0].ndim == 3
    x, weight = planar(inputs[0]), planar(inputs[1])
    bias = inputs[2] if len(inputs) > 2 else None
    stride, dilation = pair(a.get("strides"), 1), pair(a.get("dilations"), 1)
    extra = pair(a.get("output_padding"), 0)
    mode = a.get("auto_pad", b"NOTSET").decode()
    shape = a.get("output_shape")
    if shape is None and mode.startswith("SAME"):
        shape = [size * step for size, step in zip(x.shape[2:], stride, strict=True)]
    if shape is None:
        padding = paddings(a, x.shape[2:], weight.shape[2:], stride, dilation)
    else:
        both = []
        for axis, wanted in enumerate(shape[-2:]):
            extent = dilation[axis] * (weight.shape[2 + axis] - 1) + 1
            total = stride[axis] * (x.shape[2 + axis] - 1) + extra[axis] + extent - wanted
            extra = tuple(size + max(-total, 0) if at == axis else size for at, size in enumerate(extra))
            total = max(total, 0)
            small, large = total // 2, total - total // 2
            both.append((small, large) if mode == "SAME_UPPER" else (large, small))
        padding = tuple(both)
    kernel = weight.transpose(2, 3, 1, 0)
    y = F.conv_transpose2d(last(x), kernel, bias, stride, padding, extra, dilation, a.get("group", 1))
    return [first(y)[:, :, 0] if signal else first(y)]


def _pool_window(a: Attributes, x: Any, signal: bool) -> tuple[Any, Any, Any, Any]:
    kernel = (1, *a["kernel_shape"])[-2:] if signal else tuple(a["kernel_shape"])
    stride = pair(a.get("strides"), 1)
    dilation = pair(a.get("dilations"), 1)
    return kernel, stride, paddings(a, x.shape[2:], kernel, stride, dilation), dilation


def _too_wide(padding: Any, kernel: Any) -> bool:
    return any(max(sides) > size // 2 for sides, size in zip(padding, kernel, strict=True))


def max_pool(a: Attributes, inputs: Arrays) -> Arrays:
    """MaxPool with positions; padding beyond half of the kernel is made by `pad` with -inf."""
    signal = inputs[0].ndim == 3
    x = planar(inputs[0])
    kernel, stride, padding, dilation = _pool_window(a, x, signal)
    ceil_mode = bool(a.get("ceil_mode", 0))
    maps = last(x)
    if _too_wide(padding, kernel):
        if ceil_mode:
            message = "padding beyond half of the kernel with ceil_mode"
            raise UnsupportedCaseError(message)
        maps, padding = F.pad(maps, padding, value=-np.inf), 0
        return [first(F.max_pool2d(maps, kernel, stride, padding, dilation))]
    y, index = F.max_pool2d(maps, kernel, stride, padding, dilation, ceil_mode, return_indices=True)
    n, c, h, w = x.shape
    plane = first(index).astype(np.int64)
    if a.get("storage_order", 0):
        plane = plane // w + plane % w * h
    places = plane + (np.arange(n)[:, None] * c + np.arange(c))[:, :, None, None] * h * w
    results = [first(y), places]
    return [result[:, :, 0] for result in results] if signal else results


def average_pool(a: Attributes, inputs: Arrays) -> Arrays:
    """AveragePool; dilation through a depthwise convolution, wide padding by `pad` and the share that is no padding."""
    signal = inputs[0].ndim == 3
    x = planar(inputs[0])
    kernel, stride, padding, dilation = _pool_window(a, x, signal)
    ceil_mode, counted = bool(a.get("ceil_mode", 0)), bool(a.get("count_include_pad", 0))
    maps = last(x)
    if dilation != (1, 1):
        free = [size - step * (taps - 1) - 1 for size, step, taps in zip(x.shape[2:], dilation, kernel, strict=True)]
        uneven = any(room % step for room, step in zip(free, stride, strict=True))
        if padding != ((0, 0), (0, 0)) or (ceil_mode and uneven):
            message = "dilated average pooling with padding or ceil_mode"
            raise UnsupportedCaseError(message)
        channels = maps.shape[-1]
        weight = np.full((*kernel, 1, channels), 1.0 / (kernel[0] * kernel[1]), np.float32)
        y = F.conv2d(maps, weight, stride=stride, dilation=dilation, groups=channels)
    elif _too_wide(padding, kernel):
        if ceil_mode:
            message = "padding beyond half of the kernel with ceil_mode"
            raise UnsupportedCaseError(message)
        y = F.avg_pool2d(F.pad(maps, padding), kernel, stride)
        if not counted:
            y = F.div(y, F.avg_pool2d(F.pad(np.ones_like(maps), padding), kernel, stride))
    else:
        y = F.avg_pool2d(maps, kernel, stride, padding, ceil_mode, counted)
    return [first(y)[:, :, 0] if signal else first(y)]


TABLE = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
}
