"""float64 NumPy references, written from the formulas of the contract and from nothing else.

Signatures mirror `cnnrs.functional`, so that one dictionary of arguments drives both sides. A window operation is a
sum (or a maximum) over the taps of its kernel: every function loops over taps and is vectorised over all the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Pair = tuple[int, int]
PaddingPairs = tuple[Pair, Pair]


def pair(value: int | Pair) -> Pair:
    """An int stands for the same number on both axes."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def output_size(size: int, kernel: int, stride: int, padding: Pair, dilation: int = 1, ceil_mode: bool = False) -> int:
    """`floor((I - K_eff + P) / S) + 1`; `ceil_mode` rounds up, then drops a window that starts past the input."""
    before, after = padding
    extent = dilation * (kernel - 1) + 1
    room = size + before + after - extent
    if room < 0:
        message = f"effective kernel {extent} exceeds padded input {size + before + after}"
        raise ValueError(message)
    if not ceil_mode:
        return room // stride + 1
    out = -(-room // stride) + 1
    return out - 1 if (out - 1) * stride >= size + before else out


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> Pair:
    """The padding that makes the output `ceil(I / S)`; the odd pixel goes after."""
    out = -(-size // stride)
    total = max((out - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    return total // 2, total - total // 2


@dataclass(frozen=True)
class Window:
    """A resolved window: sizes, strides and padding as pairs, output size computed."""

    size: Pair
    kernel: Pair
    stride: Pair
    padding: PaddingPairs
    dilation: Pair
    ceil_mode: bool = False

    @property
    def out(self) -> Pair:
        """Output height and width."""
        h, w = (
            output_size(self.size[a], self.kernel[a], self.stride[a], self.padding[a], self.dilation[a], self.ceil_mode)
            for a in (0, 1)
        )
        return h, w

    @property
    def extent(self) -> Pair:
        """Height and width that the windows touch, measured in padded coordinates."""
        h, w = ((self.out[a] - 1) * self.stride[a] + self.dilation[a] * (self.kernel[a] - 1) + 1 for a in (0, 1))
        return h, w

    def taps(self) -> Iterator[tuple[Pair, tuple[slice, slice]]]:
        """Each tap in row-major order with the slices of the padded plane it reads, one element per output."""
        for m in range(self.kernel[0]):
            for n in range(self.kernel[1]):
                rows, columns = (
                    slice(
                        tap * self.dilation[a],
                        tap * self.dilation[a] + (self.out[a] - 1) * self.stride[a] + 1,
                        self.stride[a],
                    )
                    for a, tap in ((0, m), (1, n))
                )
                yield (m, n), (rows, columns)

    def pad(self, plane: npt.NDArray[Any], fill: float) -> npt.NDArray[Any]:
        """Put the plane (axes 1 and 2) into a larger one filled with `fill`, large enough for every tap."""
        (top, bottom), (left, right) = self.padding
        height = max(self.size[0] + top + bottom, self.extent[0])
        width = max(self.size[1] + left + right, self.extent[1])
        padded = np.full((plane.shape[0], height, width, *plane.shape[3:]), fill, plane.dtype)
        padded[:, top : top + self.size[0], left : left + self.size[1]] = plane
        return padded

    def crop(self, padded: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The inverse of `pad`."""
        (top, _), (left, _) = self.padding
        return padded[:, top : top + self.size[0], left : left + self.size[1]]


def window(
    size: Pair,
    kernel_size: int | Pair,
    stride: int | Pair | None = None,
    padding: Any = 0,
    dilation: int | Pair = 1,
    ceil_mode: bool = False,
) -> Window:
    """Resolve every public form of the arguments; a stride of None is the kernel size."""
    kernel, dilations = pair(kernel_size), pair(dilation)
    strides = kernel if stride is None else pair(stride)
    pairs: PaddingPairs
    if padding == "valid":
        pairs = ((0, 0), (0, 0))
    elif padding == "same":
        rows, columns = (same_padding(size[a], kernel[a], strides[a], dilations[a]) for a in (0, 1))
        pairs = (rows, columns)
    elif isinstance(padding, int):
        pairs = ((padding, padding), (padding, padding))
    elif isinstance(padding[0], int):
        pairs = ((padding[0], padding[0]), (padding[1], padding[1]))
    else:
        pairs = (pair(padding[0]), pair(padding[1]))
    return Window(size, kernel, strides, pairs, dilations, ceil_mode)


def _grouped(values: Array, groups: int) -> Array:
    """(..., groups * c) to (groups, rows, c), ready for a batched matrix product."""
    return values.reshape(-1, groups, values.shape[-1] // groups).transpose(1, 0, 2)


def conv2d(x: Any, weight: Any, bias: Any = None, groups: int = 1, **geometry: Any) -> Array:
    """`Y[i,j,k] = sum_mnc X[i*S + m*D, j*S + n*D, c] * W[m,n,c,k] + b[k]` on the zero-padded input, per group."""
    x, weight = np.asarray(x, np.float64), np.asarray(weight, np.float64)
    win = window(x.shape[1:3], weight.shape[:2], **{"stride": 1, **geometry})
    padded = win.pad(x, 0.0)
    channels = weight.shape[3]
    y = np.zeros((groups, x.shape[0] * win.out[0] * win.out[1], channels // groups))
    for (m, n), at in win.taps():
        y += _grouped(padded[:, at[0], at[1]], groups) @ _grouped(weight[m, n], groups)
    y = y.transpose(1, 0, 2).reshape(x.shape[0], *win.out, channels)
    return y if bias is None else y + np.asarray(bias, np.float64)


def conv2d_backward_data(
    grad_y: Any, weight: Any, input_shape: tuple[int, ...], groups: int = 1, **geometry: Any
) -> Array:
    """`dX[i*S + m*D, j*S + n*D, c] += sum_k dY[i,j,k] * W[m,n,c,k]`."""
    grad_y, weight = np.asarray(grad_y, np.float64), np.asarray(weight, np.float64)
    win = window(input_shape[1:3], weight.shape[:2], **{"stride": 1, **geometry})
    grads = _grouped(grad_y, groups)
    padded = win.pad(np.zeros(input_shape), 0.0)
    for (m, n), at in win.taps():
        product = grads @ _grouped(weight[m, n], groups).transpose(0, 2, 1)
        padded[:, at[0], at[1]] += product.transpose(1, 0, 2).reshape(*grad_y.shape[:3], input_shape[3])
    return np.ascontiguousarray(win.crop(padded))


def conv2d_backward_weights(
    x: Any, grad_y: Any, kernel_size: int | Pair, groups: int = 1, **geometry: Any
) -> tuple[Array, Array]:
    """`dW[m,n,c,k] = sum_ij X[i*S + m*D, j*S + n*D, c] * dY[i,j,k]` and `db[k] = sum_ij dY[i,j,k]`."""
    x, grad_y = np.asarray(x, np.float64), np.asarray(grad_y, np.float64)
    win = window(x.shape[1:3], kernel_size, **{"stride": 1, **geometry})
    padded = win.pad(x, 0.0)
    grads = _grouped(grad_y, groups)
    grad_w = np.zeros((*win.kernel, x.shape[3] // groups, grad_y.shape[3]))
    for (m, n), at in win.taps():
        product = _grouped(padded[:, at[0], at[1]], groups).transpose(0, 2, 1) @ grads
        grad_w[m, n] = product.transpose(1, 0, 2).reshape(grad_w.shape[2:])
    return grad_w, grad_y.sum(axis=(0, 1, 2))


def linear(x: Any, weight: Any, bias: Any = None) -> Array:
    """`y = x @ W + b` with `W` of shape (in, out)."""
    y = np.asarray(x, np.float64) @ np.asarray(weight, np.float64)
    return y if bias is None else y + np.asarray(bias, np.float64)


def max_pool2d(x: Any, kernel_size: int | Pair, **geometry: Any) -> tuple[Array, npt.NDArray[np.int64]]:
    """Maximum over each window and its flat position `iy * W + ix`.

    Padding is -inf and never selected (a window of padding alone has index -1); NaN wins; the first of equals stays.
    """
    x = np.asarray(x, np.float64)
    win = window(x.shape[1:3], kernel_size, **geometry)
    values = win.pad(x, -np.inf)
    positions = win.pad(np.arange(win.size[0] * win.size[1]).reshape(1, *win.size, 1), -1)
    best = np.full((x.shape[0], *win.out, x.shape[3]), -np.inf)
    index = np.full(best.shape, -1)
    for _, at in win.taps():
        value = values[:, at[0], at[1]]
        position = np.broadcast_to(positions[:, at[0], at[1]], value.shape)
        better = (value > best) | (np.isnan(value) & ~np.isnan(best)) | (index < 0)
        better &= position >= 0
        best = np.where(better, value, best)
        index = np.where(better, position, index)
    return best, index


def max_pool2d_backward(grad_y: Any, index: Any, input_shape: tuple[int, ...]) -> Array:
    """Each gradient goes to the position that won; positions of -1 (all padding) receive nothing."""
    grad_y, index = np.asarray(grad_y, np.float64), np.asarray(index, np.int64)
    batch, height, width, channels = input_shape
    grad_x = np.zeros((batch, height * width, channels))
    n, _, _, c = np.indices(index.shape)
    valid = index >= 0
    np.add.at(grad_x, (n[valid], index[valid], c[valid]), grad_y[valid])
    return grad_x.reshape(input_shape)


def avg_divisor(win: Window, count_include_pad: bool) -> Array:
    """Elements each window shares with the padded input, or with the input alone; shape (oh, ow)."""
    counts = []
    for a in (0, 1):
        before, after = win.padding[a]
        start = np.arange(win.out[a]) * win.stride[a] - before
        low, high = (-before, win.size[a] + after) if count_include_pad else (0, win.size[a])
        counts.append(np.minimum(start + win.kernel[a], high) - np.maximum(start, low))
    return np.outer(counts[0], counts[1]).astype(np.float64)


def avg_pool2d(x: Any, kernel_size: int | Pair, count_include_pad: bool = True, **geometry: Any) -> Array:
    """Sum over each window divided by `avg_divisor`."""
    x = np.asarray(x, np.float64)
    win = window(x.shape[1:3], kernel_size, **geometry)
    padded = win.pad(x, 0.0)
    total = np.zeros((x.shape[0], *win.out, x.shape[3]))
    for _, at in win.taps():
        total += padded[:, at[0], at[1]]
    return total / avg_divisor(win, count_include_pad)[:, :, None]


def avg_pool2d_backward(
    grad_y: Any, input_shape: tuple[int, ...], kernel_size: int | Pair, count_include_pad: bool = True, **geometry: Any
) -> Array:
    """Every element of a window receives the gradient over the divisor."""
    win = window(input_shape[1:3], kernel_size, **geometry)
    share = np.asarray(grad_y, np.float64) / avg_divisor(win, count_include_pad)[:, :, None]
    padded = win.pad(np.zeros(input_shape), 0.0)
    for _, at in win.taps():
        padded[:, at[0], at[1]] += share
    return np.ascontiguousarray(win.crop(padded))


def relu(x: Any) -> Array:
    """`max(x, 0)`; NaN stays."""
    x = np.asarray(x, np.float64)
    return np.where(np.isnan(x), x, np.maximum(x, 0.0))


def tanh(x: Any) -> Array:
    """Hyperbolic tangent."""
    return np.tanh(np.asarray(x, np.float64))


def sigmoid(x: Any) -> Array:
    """`1 / (1 + exp(-x))`, evaluated on the side where exp does not overflow."""
    x = np.asarray(x, np.float64)
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def flatten(x: Any, order: str = "hwc") -> Array:
    """(N, H, W, C) to (N, H*W*C); "chw" lists a channel's whole plane before the next channel."""
    x = np.asarray(x, np.float64)
    x = x.transpose(0, 3, 1, 2) if order == "chw" else x
    return x.reshape(x.shape[0], int(np.prod(x.shape[1:])))


def unflatten(grad: Any, shape: tuple[int, ...], order: str = "hwc") -> Array:
    """The inverse of `flatten`, which is also its gradient."""
    grad = np.asarray(grad, np.float64)
    n, h, w, c = shape
    return grad.reshape(n, c, h, w).transpose(0, 2, 3, 1) if order == "chw" else grad.reshape(shape)


def softmax(x: Any) -> Array:
    """`exp(x - max) / sum exp(x - max)` over the last axis."""
    x = np.asarray(x, np.float64)
    powers = np.exp(x - x.max(axis=-1, keepdims=True, initial=-np.inf))
    return powers / powers.sum(axis=-1, keepdims=True)


def cross_entropy(logits: Any, labels: Any) -> tuple[float, int, Array]:
    """Mean of `log sum exp(z) - z[label]`, the number of rows whose argmax is the label, and d loss / d logits."""
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    rows = np.arange(len(labels))
    shifted = logits - logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[rows, labels]
    grad = softmax(logits)
    grad[rows, labels] -= 1.0
    correct = int((logits.argmax(axis=1) == labels).sum())
    return float(losses.mean()), correct, grad / len(labels)


def normalize(x: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> Array:
    """`(x / 255 - mean) / std` of uint8 images, per channel or one value for all."""
    return (np.asarray(x, np.float64) / 255.0 - np.asarray(mean)) / np.asarray(std)


def sgd(
    weight: Any,
    grad: Any,
    buffer: Any,
    lr: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    decoupled_weight_decay: float = 0.0,
    nesterov: bool = False,
) -> tuple[Array, Array]:
    """One step of torch's SGD with a zero first buffer and no dampening; returns the new weight and buffer."""
    weight, grad = np.asarray(weight, np.float64), np.asarray(grad, np.float64)
    grad = grad + weight_decay * weight
    weight = weight - lr * decoupled_weight_decay * weight
    buffer = momentum * np.asarray(buffer, np.float64) + grad
    step = grad + momentum * buffer if nesterov else buffer
    return weight - lr * step, buffer
