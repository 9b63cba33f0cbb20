"""Operations that move numbers without changing them: shapes, axes, parts, borders."""

from __future__ import annotations

import builtins
import operator
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from cnnrs import _args, graph
from cnnrs._batch_size import BatchSize
from cnnrs._core import ShapeError, UnsupportedError
from cnnrs.functional._dispatch import Array, Tensor, apply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnrs._value import Value
    from cnnrs.nn.parameter import Parameter

Span = tuple[int | None, int | None, int]

_WHOLE: Span = (None, None, 1)
_FAR = 2**62  # beyond every axis, within 64 bits


def reshape(x: Tensor, shape: int | Sequence[int]) -> Tensor:
    """Give the same numbers, in NumPy's order, another shape.

    While a model is traced, a size taken from `x.shape` stands for whatever that size is when the model runs, also
    where it follows the batch size; so does -1.

    Args:
        x: Any shape.
        shape: The new sizes, of which one may be -1: whatever is left.

    Returns:
        The new shape.

    Raises:
        ShapeError: the new shape holds another number of elements.
        TypeError: the array is not float32, or a size not an int.
        ValueError: a size below -1, or more than one of -1.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> F.reshape(np.zeros((2, 3, 4), np.float32), (2, -1)).shape
        (2, 12)
    """
    op = "reshape"
    x = _args.check_array(x, op)
    sizes = [_dim(size, x.shape) for size in _items(shape)]
    if sizes.count(-1) > 1:
        message = f"{graph.label(op)}: shape must have at most one -1, got {_args.show(shape)}"
        raise ValueError(message)
    return cast("Tensor", apply(op, [x], dims=sizes)[0])


def _dim(size: Any, own: tuple[Any, ...]) -> int:
    """Return a new size as the extension takes it: -2 - k for the size of the operand's axis k."""
    if isinstance(size, BatchSize):
        for axis, known in enumerate(own):
            if size.follows(known):
                return -2 - axis
    return _args.integer(size, "shape", "reshape", -1, _args.LIMIT)


def _items(value: Any) -> list[Any]:
    """Return the entries of a tuple or list; anything else is the only entry."""
    return list(value) if isinstance(value, (tuple, list)) else [value]


def transpose(x: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    """Put the axes into another order.

    Args:
        x: Any shape.
        axes: Axis `axes[i]` of `x` becomes axis i; negative ones count from the end. None turns the order around.

    Returns:
        The same numbers, a copy; (N, H, W, C) with axes (0, 3, 1, 2) becomes (N, C, H, W).

    Raises:
        ShapeError: `axes` does not name each axis once.
        TypeError: the array is not float32, or `axes` not a sequence of ints.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> F.transpose(np.zeros((2, 5, 6, 3), np.float32), (0, 3, 1, 2)).shape
        (2, 3, 5, 6)
    """
    op = "transpose"
    x = _args.check_array(x, op)
    if axes is not None and not isinstance(axes, (tuple, list)):
        message = f"{graph.label(op)}: axes must be a tuple of ints or None, got {_args.show(axes)}"
        raise TypeError(message)
    given = range(x.ndim)[::-1] if axes is None else axes
    order = [_args.integer(axis, "axes", op, -_args.LIMIT, _args.LIMIT) for axis in given]
    order = [axis + x.ndim if axis < 0 else axis for axis in order]
    if sorted(order) != list(range(x.ndim)):
        message = f"{graph.label(op)}: axes must name each axis of x {x.shape} once, got {_args.show(axes)}"
        raise ShapeError(message)
    return cast("Tensor", apply(op, [x], axes=order)[0])


def slice(x: Tensor, index: Any, stop: Any = None, step: Any = None) -> Tensor:
    """Take a part of each axis.

    With `index` alone it is what NumPy's `x[index]` gives: ints (which drop their axis), slices with any step but
    0, `...`, None (a new axis of one element), or a tuple of them. With `stop`, the arguments are the bounds: one
    number or None per axis, negative ones counted from the end; axes that are not mentioned are taken whole.
    `value[index]` is the same for symbolic values.

    Args:
        x: Any shape.
        index: An index as in NumPy; the first element per axis if `stop` is given.
        stop: Where each axis ends, exclusively.
        step: Distance of the elements along each axis, 1 if None; negative ones go backwards.

    Returns:
        The part, a copy.

    Raises:
        ShapeError: more entries than axes, or an int beyond its axis.
        TypeError: the array is not float32, or an entry is none of the above.
        ValueError: a step of 0, or more than one `...`.
        UnsupportedError: arrays or bools as an index.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> x = np.arange(12, dtype=np.float32).reshape(3, 4)
        >>> F.slice(x, np.s_[1:, ::2]).tolist()
        [[4.0, 6.0], [8.0, 10.0]]
        >>> F.slice(x, (1, 0), (3, 4), (1, 2)).tolist()
        [[4.0, 6.0], [8.0, 10.0]]
    """
    op = "slice"
    x = _args.check_array(x, op)
    if stop is None and step is None:
        entries = _complete(index if isinstance(index, tuple) else (index,), x.shape, op)
    else:
        entries = _bounds(index, stop, step, x.shape, op)
    spans: list[Span] = []
    dims: list[int] = []  # as for the extension: -2 - k is the size of axis k of what the spans leave
    for entry in entries:
        if entry is None:
            dims.append(1)
            continue
        if isinstance(entry, builtins.slice):
            dims.append(-2 - len(spans))
            spans.append(_span(entry, op))
        else:
            spans.append(_single(entry, len(spans), x.shape, op))
    (part,) = apply(op, [x], spans=spans)
    if dims != [-2 - axis for axis in range(x.ndim)]:
        (part,) = apply("reshape", [part], dims=dims)
    return cast("Tensor", part)


def _complete(index: tuple[Any, ...], shape: tuple[int, ...], op: str) -> list[Any]:
    """Return an index with an int or slice for each axis, Nones for the new ones, and no dots."""
    for entry in index:
        if isinstance(entry, (bool, np.bool_, np.ndarray, list)):
            message = f"{graph.label(op)}: index by arrays, lists or bools is not there, got {_args.show(entry)}"
            raise UnsupportedError(message)
    dots = [place for place, entry in enumerate(index) if entry is Ellipsis]
    if len(dots) > 1:
        message = f"{graph.label(op)}: index must have at most one ..., got {_args.show(index)}"
        raise ValueError(message)
    used = sum(entry is not None and entry is not Ellipsis for entry in index)
    if used > len(shape):
        message = f"{graph.label(op)}: index must have at most {len(shape)} entries for x {shape}, got {used}"
        raise ShapeError(message)
    place = dots[0] if dots else len(index)
    rest = [builtins.slice(None)] * (len(shape) - used)
    return [*index[:place], *rest, *index[place + 1 :]]


def _bounds(start: Any, stop: Any, step: Any, shape: tuple[int, ...], op: str) -> list[Any]:
    """Return the slice of each axis from three lists of bounds."""
    lists = [[] if bounds is None else _items(bounds) for bounds in (start, stop, step)]
    if max(map(len, lists)) > len(shape):
        message = f"{graph.label(op)}: index, stop and step must have at most {len(shape)} entries for x {shape}"
        raise ShapeError(message)
    padded = [[*bounds, *[None] * (len(shape) - len(bounds))] for bounds in lists]
    return [builtins.slice(*bounds) for bounds in zip(*padded, strict=True)]


def _span(entry: builtins.slice, op: str) -> Span:
    """Return (start, stop, step) of a slice in 64 bits."""
    start, stop, step = (_place(bound, op) for bound in (entry.start, entry.stop, entry.step))
    if step == 0:
        message = f"{graph.label(op)}: step must be any int but 0, got 0"
        raise ValueError(message)
    return start, stop, 1 if step is None else step


def _place(bound: Any, op: str) -> int | None:
    """Return a bound of a slice as an int near enough, None as it is."""
    if bound is None:
        return None
    try:
        number = operator.index(bound)
    except TypeError:
        message = f"{graph.label(op)}: index must be made of ints, slices, ... and None, got {_args.show(bound)}"
        raise TypeError(message) from None
    return max(-_FAR, min(_FAR, number))


def _single(entry: Any, axis: int, shape: tuple[int, ...], op: str) -> Span:
    """Return the span of one element."""
    place, size = _place(entry, op), shape[axis]
    size = size.peek() if isinstance(size, BatchSize) else size  # another batch is checked when it is planned
    if place is None or not -size <= place < size:
        message = (
            f"{graph.label(op)}: index must be from {-size} to {size - 1} for axis {axis} of x {shape}, "
            f"got {_args.show(entry)}"
        )
        raise ShapeError(message)
    return place, None if place == -1 else place + 1, 1


def concat(arrays: Sequence[Array | Value | Parameter], axis: int = -1) -> Any:
    """Put arrays one behind the other.

    Args:
        arrays: Arrays of equal shapes but for one axis.
        axis: That axis; the last one are the channels.

    Returns:
        The joined array.

    Raises:
        ShapeError: no array, or shapes that differ along other axes.
        TypeError: an array is not float32, or `arrays` not a list or tuple.
        ValueError: `axis` is not an axis of the arrays.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> F.concat([np.zeros((1, 2, 2, 3), np.float32), np.ones((1, 2, 2, 5), np.float32)]).shape
        (1, 2, 2, 8)
    """
    op = "concat"
    if not isinstance(arrays, (tuple, list)):
        message = f"{graph.label(op)}: arrays must be a list or tuple of arrays, got {_args.show(arrays)}"
        raise TypeError(message)
    parts = [_args.check_array(part, op, f"arrays[{place}]") for place, part in enumerate(arrays)]
    if not parts or parts[0].ndim == 0:
        got = "none" if not parts else "shape ()"
        message = f"{graph.label(op)}: arrays must be at least one array of at least one dimension, got {got}"
        raise ShapeError(message)
    rank = parts[0].ndim
    place = _args.integer(axis, "axis", op, -rank, rank - 1) % rank
    return apply(op, parts, axis=place)[0]


def pad(x: Tensor, padding: Any, mode: str = "constant", value: float = 0.0) -> Tensor:
    """Put a border around feature maps, or around any axes.

    Args:
        x: Feature maps (N, H, W, C); any shape if `padding` has a pair per axis.
        padding: Elements added to H and W: an int, (h, w) or ((top, bottom), (left, right)); or a pair
            (before, after) for every axis.
        mode: "constant" puts `value` there, "edge" repeats the outermost element, "reflect" mirrors at it without
            repeating it.
        value: Any float, for "constant".

    Returns:
        The larger array.

    Raises:
        ShapeError: dimensions and `padding` do not fit, or a reflection of at least the size of its axis.
        TypeError: the array is not float32, or `value` not a number.
        ValueError: a number is out of range, another mode, or a value for a mode without one.
        UnsupportedError: reflecting or repeating along the batch, axis 0.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> x = np.arange(3, dtype=np.float32).reshape(1, 1, 3, 1)
        >>> F.pad(x, ((0, 0), (2, 1)), mode="reflect").ravel().tolist()
        [2.0, 1.0, 0.0, 1.0, 2.0, 1.0]
    """
    op = "pad"
    x = _args.check_array(x, op)
    if not isinstance(mode, str) or mode not in ("constant", "reflect", "edge"):
        message = f'{graph.label(op)}: mode must be "constant", "reflect" or "edge", got {_args.show(mode)}'
        raise ValueError(message)
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.floating, np.integer)):
        message = f"{graph.label(op)}: value must be a number, got {_args.show(value)}"
        raise TypeError(message)
    pads = _pads(padding, x.shape, op)
    if mode == "constant":
        return cast("Tensor", apply(op, [x], pads=pads, value=_float(value, op))[0])
    if value != 0:
        message = f'{graph.label(op)}: value must be 0 for mode "{mode}", got {_args.show(value)}'
        raise ValueError(message)
    if pads and pads[0] != (0, 0):
        message = f'{graph.label(op)}: mode "{mode}" along the batch is not there, got {pads[0]} for axis 0'
        raise UnsupportedError(message)
    changed = [axis for axis, around in enumerate(pads) if around != (0, 0)]
    for axis in changed:
        before, after = pads[axis]
        (x,) = apply("axis_map", [x], axis=axis, map=f"pad_{mode}", before=before, after=after)
    return x if changed else cast("Tensor", apply(op, [x], pads=pads, value=0.0)[0])


def _float(value: Any, op: str) -> float:
    """Return a number as a float."""
    try:
        return float(value)
    except OverflowError:
        message = f"{graph.label(op)}: value must be within the range of a float, got {_args.show(value)}"
        raise ValueError(message) from None


def _pads(padding: Any, shape: tuple[int, ...], op: str) -> list[tuple[int, int]]:
    """Return (before, after) of each axis."""
    nested = isinstance(padding, (tuple, list)) and all(isinstance(pair, (tuple, list)) for pair in padding)
    if nested and (len(padding) != 2 or len(shape) != 4):
        if len(padding) != len(shape):
            message = (
                f"{graph.label(op)}: padding must have a pair for each axis of x {shape}, got {_args.show(padding)}"
            )
            raise ShapeError(message)
        return [_pair(pair, op) for pair in padding]
    around = "" if isinstance(padding, str) else _args.padding(padding, op)
    if isinstance(around, str):
        message = f"{graph.label(op)}: padding must be numbers, got {_args.show(padding)}"
        raise ValueError(message)
    if len(shape) != 4:
        message = (
            f"{graph.label(op)}: x must have 4 dimensions (N, H, W, C), or padding a pair for each axis; "
            f"got shape {shape} and {_args.show(padding)}"
        )
        raise ShapeError(message)
    return [(0, 0), *around, (0, 0)]


def _pair(value: Any, op: str) -> tuple[int, int]:
    """Return (before, after) of one axis."""
    if len(value) != 2:
        message = f"{graph.label(op)}: padding must have pairs (before, after), got {_args.show(value)}"
        raise ValueError(message)
    before, after = (_args.whole(item, "padding", op, 0) for item in value)
    return before, after
