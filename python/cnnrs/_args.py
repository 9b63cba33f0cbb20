"""Checks and widening of arguments: the only place where ints become pairs and words become numbers."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from cnnrs import graph
from cnnrs._batch_size import BatchSize
from cnnrs._core import ShapeError
from cnnrs._value import Value, is_parameter

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

LIMIT = 2**31 - 1
_ACTIVATIONS = {4: " (N, H, W, C)", 2: " (N, features)"}

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]


def show(value: object) -> str:
    """Return a short text for a received value, also for ints of millions of digits."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an int of {value.bit_length()} bits"
    try:
        text = repr(value)
    except RecursionError:
        return f"a {type(value).__name__} nested too deeply to show"
    return text if len(text) <= 80 else text[:77] + "..."


def _index(value: object) -> int | None:
    """Return the value as a Python int, or None if it is not an int (a bool is not)."""
    if type(value) is int:
        return value
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def whole(value: object, name: str, op: str, low: int = 1) -> int:
    """Return a size-like argument as an int.

    Raises:
        ValueError: not an int, below `low`, or beyond 2**31 - 1.
    """
    number = _index(value)
    if number is None or not low <= number <= LIMIT:
        message = f"{graph.label(op)}: {name} must be an int from {low} to {LIMIT}, got {show(value)}"
        raise ValueError(message)
    return number


def integer(value: object, name: str, op: str, low: int, high: int) -> int:
    """Return any other integer argument as an int.

    Raises:
        TypeError: not an int.
        ValueError: outside of `low` to `high`.
    """
    number = _index(value)
    if number is None:
        message = f"{graph.label(op)}: {name} must be an int, got {show(value)}"
        raise TypeError(message)
    if not low <= number <= high:
        message = f"{graph.label(op)}: {name} must be from {low} to {high}, got {show(value)}"
        raise ValueError(message)
    return number


def float32(value: object, name: str, op: str) -> float:
    """Return a number as the float32 nearest to it; infinities and NaN stay.

    Raises:
        TypeError: not a number.
        ValueError: a finite number beyond float32.
    """
    if not isinstance(value, (int, float, np.integer, np.floating)) or isinstance(value, bool):
        message = f"{graph.label(op)}: {name} must be a number, got {show(value)}"
        raise TypeError(message)
    with np.errstate(over="ignore"):
        number = math.inf if isinstance(value, int) and value.bit_length() > 1000 else float(np.float32(value))
    if math.isinf(number) and not (isinstance(value, (float, np.floating)) and np.isinf(value)):
        message = f"{graph.label(op)}: {name} must be within the range of float32, got {show(value)}"
        raise ValueError(message)
    return number


def real(value: object, name: str, op: str) -> float:
    """Return a finite number as the float32 nearest to it.

    Raises:
        TypeError: not a number.
        ValueError: not finite, or beyond float32.
    """
    number = float32(value, name, op)
    if not math.isfinite(number):
        message = f"{graph.label(op)}: {name} must be finite, got {show(value)}"
        raise ValueError(message)
    return number


def number(value: object, name: str, op: str, low: float = -math.inf, high: float = math.inf) -> float:
    """Return a finite number between two bounds as the float32 nearest to it.

    Raises:
        TypeError: not a number.
        ValueError: not finite, or outside of `low` to `high`.
    """
    result = real(value, name, op)
    if not low <= result <= high:
        limits = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        message = f"{graph.label(op)}: {name} must be {limits}, got {show(value)}"
        raise ValueError(message)
    return result


def sizes(x: Any) -> tuple[int, ...]:
    """Return the shape as numbers for a check alone; another batch size is checked when it is planned."""
    return tuple(size.peek() if isinstance(size, BatchSize) else size for size in x.shape)


def axes(axis: object, ndim: int, op: str) -> list[int]:
    """Return an axis, several, or all of them (None) as ascending non-negative numbers.

    Raises:
        TypeError: neither an int nor ints nor None.
        ValueError: not an axis of the array, or an axis twice.
    """
    if axis is None:
        return list(range(ndim))
    chosen = axis if isinstance(axis, (tuple, list)) else (axis,)
    numbers = []
    for item in chosen:
        number = _index(item)
        if number is None:
            message = f"{graph.label(op)}: axis must be an int, a tuple of ints or None, got {show(axis)}"
            raise TypeError(message)
        if not -ndim <= number < ndim:
            message = f"{graph.label(op)}: axis must be from {-ndim} to {ndim - 1}, got {show(number)}"
            raise ValueError(message)
        numbers.append(number % ndim)
    if len(set(numbers)) < len(numbers):
        message = f"{graph.label(op)}: axis must name each axis once, got {show(axis)}"
        raise ValueError(message)
    return sorted(numbers)


def flag(value: object, name: str, op: str) -> bool:
    """Return a bool argument.

    Raises:
        TypeError: not a bool.
    """
    if not isinstance(value, (bool, np.bool_)):
        message = f"{graph.label(op)}: {name} must be True or False, got {show(value)}"
        raise TypeError(message)
    return bool(value)


def choice(value: object, name: str, op: str, choices: Iterable[str]) -> str:
    """Return one of the choices.

    Raises:
        ValueError: it is another value.
    """
    if not isinstance(value, str) or value not in choices:
        words = ", ".join(f'"{word}"' for word in choices)
        message = f"{graph.label(op)}: {name} must be one of {words}, got {show(value)}"
        raise ValueError(message)
    return value


def pair(value: object, name: str, op: str, low: int = 1) -> Pair:
    """Return an int or an (h, w) pair of ints as a pair.

    Raises:
        ValueError: anything else, an int below `low` or beyond 2**31 - 1.
    """
    if type(value) is int and low <= value <= LIMIT:
        return value, value
    items = value if isinstance(value, (tuple, list)) and len(value) == 2 else (value, value)
    numbers = [_index(item) for item in items]
    if any(number is None or not low <= number <= LIMIT for number in numbers):
        message = (
            f"{graph.label(op)}: {name} must be an int or an (h, w) pair of ints from {low} to {LIMIT}, "
            f"got {show(value)}"
        )
        raise ValueError(message)
    height, width = (int(number) for number in numbers if number is not None)
    return height, width


def padding(value: object, op: str) -> Padding | str:
    """Return padding as ((top, bottom), (left, right)), or "same" or "valid" as it is.

    Raises:
        ValueError: anything else.
    """
    if type(value) is int and 0 <= value <= LIMIT:
        return (value, value), (value, value)
    if isinstance(value, str) and value in ("same", "valid"):
        return value
    if isinstance(value, (tuple, list)) and len(value) == 2:
        axes = [_axis_padding(item) for item in value]
        nested = [isinstance(item, (tuple, list)) for item in value]
        if axes[0] is not None and axes[1] is not None and nested[0] == nested[1]:
            return axes[0], axes[1]
    elif (axis := _axis_padding(value)) is not None:
        return axis, axis
    message = (
        f"{graph.label(op)}: padding must be an int, (h, w) or ((top, bottom), (left, right)) with ints from 0 to "
        f'{LIMIT}, "same" or "valid", got {show(value)}'
    )
    raise ValueError(message)


def _axis_padding(value: object) -> Pair | None:
    """Return (before, after) for an int or a pair of ints, None for anything else."""
    items = value if isinstance(value, (tuple, list)) else (value, value)
    numbers = [number for number in map(_index, items) if number is not None and 0 <= number <= LIMIT]
    return (numbers[0], numbers[1]) if len(items) == len(numbers) == 2 else None


def resolve_padding(given: Padding | str, size: tuple[int, ...], kernel: Pair, stride: Pair, dilation: Pair) -> Padding:
    """Return the padding of both axes as numbers; "same" needs the input's (H, W).

    "same" follows TensorFlow: out = ceil(I/S), total = max((out - 1)*S + K_eff - I, 0), before = total // 2.
    """
    if given == "valid":
        return (0, 0), (0, 0)
    if isinstance(given, str):
        height, width = map(same_padding, size, kernel, stride, dilation)
        return height, width
    return given


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> Pair:
    """Return (before, after) for one axis of size I so that the output is ceil(I / S)."""
    total = max((-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    return total // 2, total - total // 2


def pooling_padding(resolved: Padding, kernel: Pair, op: str) -> Padding:
    """Return the padding of a pooling window.

    Raises:
        ValueError: more than half of the kernel on a side, where a window could see no input at all.
    """
    for (before, after), size in zip(resolved, kernel, strict=True):
        if max(before, after) > size // 2:
            message = (
                f"{graph.label(op)}: padding must be at most kernel_size // 2 on each side, "
                f"got padding {resolved} for kernel_size {kernel}"
            )
            raise ValueError(message)
    return resolved


def shape4(value: object, name: str, op: str) -> tuple[int, int, int, int]:
    """Return an (N, H, W, C) shape given by the caller; N, H and W may be 0.

    Raises:
        TypeError: not a sequence of ints.
        ShapeError: not four of them.
        ValueError: a negative or huge number, or C of 0.
    """
    if not isinstance(value, (tuple, list)):
        message = f"{graph.label(op)}: {name} must be a tuple (N, H, W, C), got {show(value)}"
        raise TypeError(message)
    if len(value) != 4:
        message = f"{graph.label(op)}: {name} must have 4 entries (N, H, W, C), got {show(value)}"
        raise ShapeError(message)
    n, h, w, c = (integer(item, name, op, low, LIMIT) for item, low in zip(value, (0, 0, 0, 1), strict=True))
    return n, h, w, c


def check_array(x: Any, op: str, name: str = "x", rank: int | None = None) -> Any:
    """Return an operand of an op: a symbolic value, a parameter, or a native float32 array.

    Byte-swapped float32 is converted; nothing else is.

    Raises:
        TypeError: anything else than float32; the text says how to convert.
        ShapeError: not `rank` dimensions.
    """
    if isinstance(x, np.ndarray):
        if x.dtype.char != "f":
            _not_float32(f"a {x.dtype} array", name, op)
        if not x.dtype.isnative:
            x = x.astype(np.float32)
    elif not (isinstance(x, Value) or is_parameter(x)):
        _not_float32(show(x), name, op)
    if rank is not None and x.ndim != rank:
        message = (
            f"{graph.label(op)}: {name} must have {rank} dimensions"
            f"{_ACTIVATIONS[rank] if name == 'x' and rank in _ACTIVATIONS else ''}, got shape {x.shape}"
        )
        raise ShapeError(message)
    return x


def _not_float32(got: str, name: str, op: str) -> NoReturn:
    message = f"{graph.label(op)}: {name} must be a float32 NumPy array, got {got}; convert with .astype(np.float32)"
    raise TypeError(message)


def check_labels(labels: Any, op: str, name: str = "labels", rows: int | None = None) -> Any:
    """Return integer class labels (N,) as an int64 array; a symbolic value as it is.

    Raises:
        TypeError: not an array of integers.
        ShapeError: not one dimension.
    """
    if isinstance(labels, Value):
        return labels
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
        got = f"a {labels.dtype} array" if isinstance(labels, np.ndarray) else show(labels)
        message = (
            f"{graph.label(op)}: {name} must be a NumPy array of integers, got {got}; convert with .astype(np.int64)"
        )
        raise TypeError(message)
    if labels.ndim != 1:
        expected = "N" if rows is None else rows
        message = f"{graph.label(op)}: {name} must have 1 dimension ({expected},), got shape {labels.shape}"
        raise ShapeError(message)
    return labels.astype(np.int64, copy=False)


def check_images(x: Any, op: str = "model") -> npt.NDArray[Any]:
    """Return a batch given to a module or trainer as float32 or uint8, native.

    float16 and float64 are converted to float32 once; uint8 stays, to be scaled inside the plan.

    Raises:
        TypeError: any other dtype, or not an array.
        ShapeError: a 0-d array, which has no batch axis.
    """
    if not isinstance(x, np.ndarray) or x.dtype.char not in "fdeB":
        got = f"a {x.dtype} array" if isinstance(x, np.ndarray) else show(x)
        message = (
            f"{graph.label(op)}: x must be a NumPy array of float32, float16, float64 or uint8, "
            f"got {got}; convert with .astype(np.float32)"
        )
        raise TypeError(message)
    if x.ndim == 0:
        message = f"{graph.label(op)}: x must have a batch axis, got shape ()"
        raise ShapeError(message)
    return x if x.dtype.char == "B" or (x.dtype.char == "f" and x.dtype.isnative) else x.astype(np.float32)


def check_apart(out: Any, x: npt.NDArray[Any], op: str) -> None:
    """Refuse arrays for results that share memory with the input, also where that is converted first.

    Raises:
        ValueError: they do.
    """
    for array in out if isinstance(out, (tuple, list)) else [out]:
        if isinstance(array, np.ndarray) and np.may_share_memory(array, x):
            message = f"{graph.label(op)}: out must not share memory with x"
            raise ValueError(message)


def conv_output_size(
    size: int,
    kernel_size: int,
    stride: int = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int = 1,
    ceil_mode: bool = False,
) -> int:
    """Compute the output size of a convolution or pooling window along one axis.

    floor((I - K_eff + P_total) / S) + 1 with K_eff = dilation*(K - 1) + 1. With `ceil_mode` the division rounds
    up, and the last window is left out if it would start behind the input and the padding before it.

    Args:
        size: Size of the input along the axis, in pixels.
        kernel_size: Taps of the window along the axis.
        stride: Pixels between two windows.
        padding: Pixels on both sides, a pair (before, after), "same" (out = ceil(I / S)) or "valid" (none).
        dilation: Pixels between two taps.
        ceil_mode: Round up instead of down.

    Returns:
        The number of windows.

    Raises:
        ShapeError: K_eff exceeds the padded input; the text shows the arithmetic.
        ValueError: a number out of range.
        TypeError: `size` is not an int, `ceil_mode` not a bool.

    Examples:
        >>> import cnnrs
        >>> cnnrs.conv_output_size(224, 7, stride=2, padding=3)
        112
        >>> cnnrs.conv_output_size(112, 3, stride=2, padding=1, ceil_mode=True)
        57
    """
    op = "conv_output_size"
    size = integer(size, "size", op, 1, LIMIT)
    kernel = whole(kernel_size, "kernel_size", op)
    step = whole(stride, "stride", op)
    spread = whole(dilation, "dilation", op)
    if isinstance(padding, str) and padding in ("same", "valid"):
        around: Pair | None = same_padding(size, kernel, step, spread) if padding == "same" else (0, 0)
    else:
        around = _axis_padding(padding)
    if around is None:
        message = (
            f'{op}: padding must be an int or (before, after) with ints from 0 to {LIMIT}, "same" or "valid", '
            f"got {show(padding)}"
        )
        raise ValueError(message)
    round_up = flag(ceil_mode, "ceil_mode", op)
    effective = spread * (kernel - 1) + 1
    free = size + sum(around) - effective
    if free < 0:
        message = (
            f"{op}: the kernel exceeds the padded input: {spread}*({kernel} - 1) + 1 = {effective} > "
            f"{around[0]} + {size} + {around[1]} = {size + sum(around)}"
        )
        raise ShapeError(message)
    out = (-(-free // step) if round_up else free // step) + 1
    return out - 1 if round_up and (out - 1) * step >= size + around[0] else out
