"""float64 NumPy references of movement, interpolation, adaptive pooling and transposed convolution, by plain loops.

Each is written from its formula, element by element, so that it shares no step with the engine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

import oracle
from oracle import Array

Row = dict[int, float]
"""What one element of a line sums: weights by source index."""


def nearest_row(i: int, size: int, to: int) -> Row:
    """`floor(i * from / to)`."""
    return {math.floor(Fraction(i * size, to)): 1.0}


def linear_row(i: int, size: int, to: int, align_corners: bool) -> Row:
    """The two neighbours of the source position, which is exact, clamped to the line."""
    if align_corners:
        at = Fraction(i * (size - 1), to - 1) if to > 1 else Fraction(0)
    else:
        at = Fraction(2 * i + 1, 2) * Fraction(size, to) - Fraction(1, 2)
    at = min(max(at, Fraction(0)), Fraction(size - 1))
    low = math.floor(at)
    row = {low: float(1 - (at - low))}
    if at > low:
        row[low + 1] = float(at - low)
    return row


def adaptive_row(i: int, size: int, to: int) -> Row:
    """The mean of `floor(i * from / to)` up to `ceil((i + 1) * from / to)`."""
    window = range(math.floor(Fraction(i * size, to)), math.ceil(Fraction((i + 1) * size, to)))
    return {j: 1.0 / len(window) for j in window}


def matrix(row: Callable[..., Row], size: int, to: int, **options: Any) -> Array:
    """The map of a line as a dense (to, from) matrix."""
    dense = np.zeros((to, size))
    for i in range(to):
        for j, weight in row(i, size, to, **options).items():
            dense[i, j] = weight
    return dense


def resample(x: Any, rows: Array, columns: Array) -> Array:
    """Apply one matrix along H and one along W of (N, H, W, C)."""
    along_h = np.einsum("ah,nhwc->nawc", rows, np.asarray(x, np.float64))
    return np.einsum("bw,nawc->nabc", columns, along_h)


def conv_transpose2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Array:
    """Every input pixel adds its kernel to the result: `full[i*S + m*D, j*S + n*D] += W[m,n] @ x[i,j]`, then a crop."""
    x, weight = np.asarray(x, np.float64), np.asarray(weight, np.float64)
    (sh, sw), (dh, dw), (eh, ew) = oracle.pair(stride), oracle.pair(dilation), oracle.pair(output_padding)
    batch, height, width, channels = x.shape
    kh, kw, out_per_group, _ = weight.shape
    full_h, full_w = (height - 1) * sh + dh * (kh - 1) + 1, (width - 1) * sw + dw * (kw - 1) + 1
    if padding == "same":
        extents = (dh * (kh - 1) + 1, sh), (dw * (kw - 1) + 1, sw)
        totals = [max(extent - step, 0) for extent, step in extents]
        (top, left), (out_h, out_w) = [total // 2 for total in totals], (height * sh, width * sw)
    else:
        (top, bottom), (left, right) = oracle.window((1, 1), 1, 1, padding).padding
        out_h, out_w = full_h - top - bottom + eh, full_w - left - right + ew
    full = np.zeros((batch, full_h + top + out_h, full_w + left + out_w, out_per_group * groups))
    for i, j, m, n, group in np.ndindex(height, width, kh, kw, groups):
        given = slice(group * channels // groups, (group + 1) * channels // groups)
        made = slice(group * out_per_group, (group + 1) * out_per_group)
        full[:, i * sh + m * dh, j * sw + n * dw, made] += x[:, i, j, given] @ weight[m, n][:, given].T
    y = full[:, top : top + out_h, left : left + out_w]
    return y if bias is None else y + np.asarray(bias, np.float64)


def conv1d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
    dilation: int = 1,
    groups: int = 1,
) -> Array:
    """`Y[i,k] = sum_mc X[i*S + m*D - P, c] * W[m,c,k] + b[k]`, tap by tap."""
    x, weight = np.asarray(x, np.float64), np.asarray(weight, np.float64)
    batch, _, channels = x.shape
    taps, per_group, outputs = weight.shape
    padded = np.pad(x, ((0, 0), padding, (0, 0)))
    length = (padded.shape[1] - dilation * (taps - 1) - 1) // stride + 1
    y = np.zeros((batch, length, outputs))
    for i, m, group in np.ndindex(length, taps, groups):
        given = slice(group * per_group, (group + 1) * per_group)
        made = slice(group * outputs // groups, (group + 1) * outputs // groups)
        y[:, i, made] += padded[:, i * stride + m * dilation, given] @ weight[m][:, made]
    assert channels == per_group * groups
    return y if bias is None else y + np.asarray(bias, np.float64)


def softmax(x: Any, axis: int) -> Array:
    """`exp(x - max) / sum exp(x - max)` along an axis."""
    return np.moveaxis(oracle.softmax(np.moveaxis(np.asarray(x, np.float64), axis, -1)), -1, axis)


def log_softmax(x: Any, axis: int) -> Array:
    """`x - max - log(sum exp(x - max))` along an axis."""
    x = np.asarray(x, np.float64)
    shifted = x - x.max(axis=axis, keepdims=True, initial=-np.inf)
    with np.errstate(divide="ignore"):  # the sum of no exponentials
        return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
