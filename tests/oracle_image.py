"""Resizing by its definition, in double precision."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def triangle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weight of linear interpolation at a distance."""
    return np.maximum(1.0 - np.abs(x), 0.0)


def cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic with a = -1/2."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1.0
    far = -0.5 * x**3 + 2.5 * x**2 - 4.0 * x + 2.0
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


FILTERS = {"bilinear": (triangle, 1.0), "bicubic": (cubic, 2.0)}


def matrix(src: int, dst: int, interpolation: str) -> NDArray[np.float64]:
    """(dst, src): the weights of every source pixel, by the distance of the centres in units of the coarser grid."""
    weight, support = FILTERS[interpolation]
    scale = src / dst
    stretch = max(scale, 1.0)
    centres = (np.arange(dst) + 0.5) * scale
    pixels = np.arange(src) + 0.5
    distances = (pixels[np.newaxis] - centres[:, np.newaxis]) / stretch
    # Only pixels whose centre is within the support, as it is counted in whole pixels.
    first = np.maximum(np.trunc(centres - support * stretch + 0.5), 0)[:, np.newaxis]
    end = np.minimum(np.trunc(centres + support * stretch + 0.5), src)[:, np.newaxis]
    inside = (np.arange(src) >= first) & (np.arange(src) < end)
    weights = np.where(inside, weight(distances), 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def to_bytes(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Nearest bytes, halves up; a sum that is a half but for rounding counts as one."""
    return np.clip(np.floor(x + 0.5 + 1e-9), 0.0, 255.0)


def resize(x: NDArray[np.uint8], size: tuple[int, int], interpolation: str) -> NDArray[np.float64]:
    """(N, H, W, C) to (N, h, w, C), rounded after each pass; which comes first is the reducing one's affair."""
    rows = matrix(x.shape[1], size[0], interpolation)
    columns = matrix(x.shape[2], size[1], interpolation)

    def horizontal(y: NDArray[np.float64]) -> NDArray[np.float64]:
        return to_bytes(np.einsum("jw,nhwc->nhjc", columns, y))

    def vertical(y: NDArray[np.float64]) -> NDArray[np.float64]:
        return to_bytes(np.einsum("ih,nhwc->niwc", rows, y))

    lost_rows, lost_columns = x.shape[1] - size[0], x.shape[2] - size[1]
    vertical_first = lost_rows > 0 and lost_rows > 2 * lost_columns
    pixels = x.astype(np.float64)
    return horizontal(vertical(pixels)) if vertical_first else vertical(horizontal(pixels))
