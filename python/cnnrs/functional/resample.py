"""Feature maps of another height and width: interpolation and adaptive pooling."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np

from cnnrs import _args, graph
from cnnrs._core import ShapeError
from cnnrs.functional._dispatch import Size, Tensor, apply


def upsample(
    x: Tensor,
    size: Size | None = None,
    scale_factor: float | tuple[float, float] | None = None,
    mode: str = "nearest",
    align_corners: bool = False,
) -> Tensor:
    """Interpolate feature maps to another height and width.

    Row i of the result is row floor(i * from / to) of the input ("nearest"), or lies at (i + 1/2) * from / to - 1/2
    between two of them ("bilinear"; with `align_corners` at i * (from - 1) / (to - 1)), clamped to the outermost.

    Args:
        x: Feature maps (N, H, W, C).
        size: Height and width of the result.
        scale_factor: What H and W are multiplied by, rounded down; one number or (h, w). Exactly one of `size` and
            `scale_factor` is given.
        mode: "nearest" or "bilinear".
        align_corners: Whether the corners of both sides lie on each other ("bilinear" only).

    Returns:
        Feature maps (N, H_out, W_out, C).

    Raises:
        ShapeError: not four dimensions, a height or width of 0, or a result without pixels.
        TypeError: the array is not float32, or a flag not a bool.
        ValueError: a number is out of range, another mode, or both or none of `size` and `scale_factor`.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> x = np.array([0, 1], np.float32).reshape(1, 1, 2, 1)
        >>> F.upsample(x, size=(1, 4)).ravel().tolist()
        [0.0, 0.0, 1.0, 1.0]
        >>> F.upsample(x, scale_factor=(1, 2), mode="bilinear").ravel().tolist()
        [0.0, 0.25, 0.75, 1.0]
    """
    op = "upsample"
    x = _args.check_array(x, op, "x", 4)
    mode, align_corners = upsample_mode(mode, align_corners, op)
    given, factor = upsample_size(size, scale_factor, op)
    height, width = given or _scaled(x.shape[1:3], factor, op)
    attrs: dict[str, Any] = {"map": "nearest" if mode == "nearest" else "linear", "align_corners": align_corners}
    (y,) = apply("axis_map", [x], axis=1, to=height, **attrs)
    return cast("Tensor", apply("axis_map", [y], axis=2, to=width, **attrs)[0])


def upsample_mode(mode: object, align_corners: object, op: str) -> tuple[str, bool]:
    """Return the two arguments, checked."""
    if not isinstance(mode, str) or mode not in ("nearest", "bilinear"):
        message = f'{graph.label(op)}: mode must be "nearest" or "bilinear", got {_args.show(mode)}'
        raise ValueError(message)
    corners = _args.flag(align_corners, "align_corners", op)
    if corners and mode == "nearest":
        message = f'{graph.label(op)}: align_corners must be False for mode "nearest", got True'
        raise ValueError(message)
    return mode, corners


def upsample_size(
    size: object, scale_factor: object, op: str
) -> tuple[tuple[int, int] | None, tuple[float, float] | None]:
    """Return the size or the factors, the other as None."""
    if (size is None) == (scale_factor is None):
        message = (
            f"{graph.label(op)}: exactly one of size and scale_factor must be given, "
            f"got size {_args.show(size)} and scale_factor {_args.show(scale_factor)}"
        )
        raise ValueError(message)
    if size is not None:
        return _args.pair(size, "size", op), None
    items = scale_factor if isinstance(scale_factor, (tuple, list)) else (scale_factor, scale_factor)
    numbers = [_factor(item) for item in items]
    if len(numbers) != 2 or numbers[0] is None or numbers[1] is None:
        message = (
            f"{graph.label(op)}: scale_factor must be a number above 0 or an (h, w) pair of them, "
            f"got {_args.show(scale_factor)}"
        )
        raise ValueError(message)
    return None, (numbers[0], numbers[1])


def _factor(value: object) -> float | None:
    """Return a finite number above 0 as a float, None for anything else."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.floating, np.integer)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if 0 < number < math.inf else None


def _scaled(size: tuple[int, ...], factors: tuple[float, float] | None, op: str) -> tuple[int, int]:
    """Return the size times the factors, rounded down."""
    result = []
    for pixels, factor in zip(size, factors or (1.0, 1.0), strict=True):
        scaled = pixels * factor
        if not 1 <= scaled < _args.LIMIT + 1:
            message = (
                f"{graph.label(op)}: the result must have from 1 to {_args.LIMIT} pixels along each axis, "
                f"got floor({pixels} * {factor}) for x of height and width {size}"
            )
            raise ShapeError(message)
        result.append(math.floor(scaled))
    return result[0], result[1]


def adaptive_avg_pool2d(x: Tensor, output_size: int | tuple[int | None, int | None] | None) -> Tensor:
    """Take means over as many windows as the output has pixels.

    Row i is the mean of the rows from floor(i * H / h) to ceil((i + 1) * H / h) - 1; columns likewise.

    Args:
        x: Feature maps (N, H, W, C).
        output_size: Height and width of the result, an int or (h, w); None keeps the size of an axis.

    Returns:
        The means (N, h, w, C).

    Raises:
        ShapeError: not four dimensions, or a height or width of 0.
        TypeError: the array is not float32.
        ValueError: a number is out of range.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> x = np.arange(5, dtype=np.float32).reshape(1, 1, 5, 1)
        >>> F.adaptive_avg_pool2d(x, (1, 2)).ravel().tolist()
        [1.0, 3.0]
    """
    op = "adaptive_avg_pool2d"
    x = _args.check_array(x, op, "x", 4)
    height, width = adaptive_size(output_size, op)
    (y,) = apply("axis_map", [x], axis=1, map="adaptive_avg", to=height or max(x.shape[1], 1))
    return cast("Tensor", apply("axis_map", [y], axis=2, map="adaptive_avg", to=width or max(x.shape[2], 1))[0])


def adaptive_size(value: object, op: str) -> tuple[int | None, int | None]:
    """Return the output size of adaptive pooling as a pair; None stands for the size of the input.

    Raises:
        ValueError: neither an int from 1 on, nor a pair of such ints or Nones.
    """
    items = value if isinstance(value, (tuple, list)) else (value, value)
    if len(items) != 2:
        message = (
            f"{graph.label(op)}: output_size must be an int or an (h, w) pair of ints or Nones, got {_args.show(value)}"
        )
        raise ValueError(message)
    height, width = (None if item is None else _args.whole(item, "output_size", op) for item in items)
    return height, width
