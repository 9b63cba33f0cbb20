"""float64 references of normalization and dropout, from the formulas, with bounds of the engine's rounding.

Every reference returns its results together with the error float32 may make, in the same order.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

import tolerance
from tolerance import UNIT, Array, gamma

RUN = 64 + 36
"""Rounded additions one result can go through: a run of 64, then the lanes of a vector and the parts of the work."""

Checked = tuple[Array, Array]
"""A reference and the bound of its error."""


def wide(*arrays: Any) -> list[Array]:
    """The arrays in double precision."""
    return [np.asarray(array, np.float64) for array in arrays]


class Norm:
    """Normalization over some axes of an array shaped so that each statistic has its own place, and its gradient.

    Args:
        x: The operand, any shape.
        view: The shape in which the statistics' axes are separate.
        axes: The axes of `view` that one statistic is taken over.
        weight: Broadcasts to `x`.
        bias: Broadcasts to `x`.
        eps: Added to the variance.
        given: Mean and variance, if they are not the operand's own.
    """

    def __init__(
        self,
        x: Any,
        view: tuple[int, ...],
        axes: tuple[int, ...],
        weight: Any,
        bias: Any,
        eps: float = 1e-5,
        given: tuple[Any, Any] | None = None,
    ) -> None:
        x, self.weight, self.bias = wide(x, weight, bias)
        self.shape, self.view, self.axes = x.shape, view, axes
        eps = float(np.float32(eps))
        x = x.reshape(view)
        self.count = math.prod(view[axis] for axis in axes)
        if given is None:
            self.mean, self.var = (f(x, axis=axes, keepdims=True) for f in (np.mean, np.var))
            spread = np.abs(x - self.mean).mean(axis=axes, keepdims=True)
            self.mean_error = UNIT * np.abs(self.mean) + gamma(RUN) * spread
            relative = gamma(4 * RUN)
        else:
            self.mean, self.var = wide(*given)
            self.mean_error, relative = np.zeros_like(self.mean), 0.0
        self.rstd = 1.0 / np.sqrt(self.var + eps)
        self.rstd_error = relative / 2 + 4 * UNIT
        self.centred = x - self.mean
        self.normal = self.centred * self.rstd

    def back(self, array: Array) -> Array:
        """From the view to the operand's shape."""
        return np.broadcast_to(array, self.view).reshape(self.shape)

    def forward(self) -> Checked:
        """(x - mean) * rstd * weight + bias."""
        scaled = self.back(self.normal) * self.weight
        error = self.back(self.rstd * self.mean_error) * np.abs(self.weight)
        error = error + np.abs(scaled) * (self.rstd_error + gamma(4)) + UNIT * np.abs(self.bias)
        return scaled + self.bias, error + tolerance.ulps(scaled + self.bias, 1)

    def backward(self, grad: Any, reduce: tuple[int, ...]) -> tuple[Checked, Checked, Checked]:
        """Gradients of x, weight and bias; `reduce` are the axes of x that weight and bias are repeated along."""
        (grad,) = wide(grad)
        g = (grad * self.weight).reshape(self.view)
        shift = self.rstd * self.mean_error

        def mean(array: Array) -> Array:
            return np.asarray(array.mean(axis=self.axes, keepdims=True))

        value = self.rstd * (g - mean(g) - self.normal * mean(g * self.normal))
        magnitude = self.rstd * (np.abs(g) + mean(np.abs(g)) + np.abs(self.normal) * mean(np.abs(g * self.normal)))
        drift = self.rstd * shift * (mean(np.abs(g * self.normal)) + np.abs(self.normal) * mean(np.abs(g)))
        error = magnitude * (3 * self.rstd_error + gamma(RUN + 12)) + 2 * drift
        products = grad * self.back(self.normal)
        weight_error = np.abs(products) * (self.rstd_error + gamma(RUN + 6)) + np.abs(grad) * self.back(shift)
        return (
            (self.back(value), self.back(error) + tolerance.TINY),
            (products.sum(axis=reduce), weight_error.sum(axis=reduce) + tolerance.TINY),
            (grad.sum(axis=reduce), gamma(RUN) * np.abs(grad).sum(axis=reduce) + tolerance.TINY),
        )

    def running(self, old_mean: Any, old_var: Any, momentum: float) -> tuple[Checked, Checked]:
        """What the running values of channels become: the new ones weigh `momentum`, the variance is unbiased."""
        old_mean, old_var = wide(old_mean, old_var)
        momentum = float(np.float32(momentum))
        var = self.var * self.count / (self.count - 1)
        results = []
        for old, seen, error in ((old_mean, self.mean, self.mean_error), (old_var, var, gamma(4 * RUN) * var)):
            seen, error = seen.reshape(-1), error.reshape(-1)
            value = (1 - momentum) * old + momentum * seen
            results.append((value, momentum * error + tolerance.ulps(np.abs(old) + np.abs(seen), 1)))
        return results[0], results[1]


def batch_norm(x: Any, weight: Any, bias: Any, eps: float = 1e-5, given: tuple[Any, Any] | None = None) -> Norm:
    """Statistics per channel over all other axes."""
    return Norm(x, x.shape, tuple(range(x.ndim - 1)), weight, bias, eps, given)


def group_norm(x: Any, groups: int, weight: Any, bias: Any, eps: float = 1e-5) -> Norm:
    """Statistics per image and group of channels."""
    view = (*x.shape[:-1], groups, x.shape[-1] // groups)
    axes = (*range(1, x.ndim - 1), len(view) - 1)
    return Norm(x, view, axes, weight, bias, eps)


def layer_norm(x: Any, shape: tuple[int, ...], weight: Any, bias: Any, eps: float = 1e-5) -> Norm:
    """Statistics over the trailing axes."""
    return Norm(x, x.shape, tuple(range(x.ndim - len(shape), x.ndim)), weight, bias, eps)


def _windows(values: Array, size: int, before: int) -> Array:
    """Sum over the channels `c - before` to `c - before + size - 1` that exist."""
    total = np.zeros_like(values)
    channels = values.shape[-1]
    for c in range(channels):
        total[..., c] = values[..., max(c - before, 0) : max(c - before + size, 0)].sum(axis=-1)
    return total


def local_response_norm(
    x: Any, grad: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> tuple[Checked, Checked]:
    """y = x / (k + alpha / size * sum x^2)^beta and the gradient of x."""
    x, grad = wide(x, grad)
    alpha, beta, k = (float(np.float32(number)) for number in (alpha, beta, k))
    s = k + alpha / size * _windows(x**2, size, size // 2)
    power = s**-beta
    # A relative error of s, beta times, and an exponential of a rounded logarithm unless square roots do it.
    relative = abs(beta) * gamma(size + 4) + gamma(8) + 4 * UNIT * np.abs(beta * np.log(s))
    ratio = grad * x * power / s
    spread = 2 * alpha * abs(beta) / size * np.abs(x)
    value = grad * power - 2 * alpha * beta / size * x * _windows(ratio, size, (size - 1) // 2)
    rest = _windows(np.abs(ratio) * (relative + gamma(2 * size + 12)), size, (size - 1) // 2)
    error = np.abs(grad * power) * (relative + gamma(2)) + spread * rest
    return (x * power, np.abs(x * power) * (relative + gamma(2)) + tolerance.TINY), (value, error + tolerance.TINY)


def philox(counter: npt.NDArray[Any], key: tuple[int, int]) -> npt.NDArray[Any]:
    """Philox4x32-10 of counters (n, 4); Salmon et al., 2011."""
    mask = np.uint64(2**32 - 1)
    c = [counter[:, i].astype(np.uint64) for i in range(4)]
    k0, k1 = key
    for _ in range(10):
        left, right = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [
            (right >> np.uint64(32)) ^ c[1] ^ np.uint64(k0),
            right & mask,
            (left >> np.uint64(32)) ^ c[3] ^ np.uint64(k1),
            left & mask,
        ]
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return np.stack(c, axis=1).astype(np.uint32)


def stream(path: str = "", use: int = 0) -> int:
    """The 64-bit FNV-1a hash of path, zero byte, use."""
    code = 14695981039346656037
    for byte in path.encode() + b"\0" + str(use).encode():
        code = ((code ^ byte) * 1099511628211) & (2**64 - 1)
    return code


def uniforms(count: int, seed: int, step: int = 0, number: int | None = None) -> Array:
    """The uniform numbers that units 0 to count - 1 draw."""
    number = stream() if number is None else number
    blocks = -(-count // 4)
    rest = (step % 2**32, number % 2**32, number >> 32)
    counter = np.stack([np.arange(blocks), *(np.full(blocks, word) for word in rest)], axis=1)
    words = philox(counter, (seed % 2**32, seed >> 32)).reshape(-1)[:count]
    return np.asarray((words >> 8) / 2.0**24)


def kept(shape: tuple[int, ...], p: float, unit: str = "element", **draws: Any) -> npt.NDArray[np.bool_]:
    """Which numbers of a tensor survive."""
    units = {"element": shape, "channel": (shape[0], *[1] * (len(shape) - 2), shape[-1]), "sample": (shape[0],)}[unit]
    mask = uniforms(math.prod(units), **draws).reshape(units) >= np.float32(p)
    if unit == "sample":
        mask = mask.reshape(shape[0], *[1] * (len(shape) - 1))
    return np.broadcast_to(mask, shape)


def dropout(x: Any, mask: Any, p: float) -> npt.NDArray[np.float32]:
    """The exact float32 result for a mask."""
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.float32(1) / (np.float32(1) - np.float32(p))
        return np.where(mask, x * scale, np.float32(0))
