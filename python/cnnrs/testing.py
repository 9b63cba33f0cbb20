"""Checks of gradients, for tests of your own layers and losses."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from cnnrs import _args, _core
from cnnrs._value import Value
from cnnrs.graph import Root, Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

__all__ = ["GradientError", "gradcheck"]

_ELEMENTS = 64
"""Tensors of so many elements are checked element by element; of larger ones so many random elements."""
_DIRECTIONS = 4
"""Random directions along which every larger tensor is checked as a whole."""


class GradientError(AssertionError):
    """A gradient that is not the derivative.

    Attributes:
        tensor: "x", "x[1]" or the dotted name of a parameter.
        index: Which element; None for a derivative along a random direction of the whole tensor.
        numeric: The derivative by central differences.
        analytic: The derivative by the graph's rules.
    """

    def __init__(self, tensor: str, index: tuple[int, ...] | None, numeric: float, analytic: float, limit: str) -> None:
        """Describe the two derivatives."""
        self.tensor, self.index, self.numeric, self.analytic = tensor, index, numeric, analytic
        place = "along a random direction" if index is None else f"at {index}"
        super().__init__(
            f"gradcheck: the gradient by {tensor} {place} is {analytic:.9g}, but central differences give "
            f"{numeric:.9g} (difference {abs(numeric - analytic):.3g}, allowed {limit})"
        )


def gradcheck(
    fn: Callable[..., Any],
    x: Any,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    seed: int = 0,
    parameters: bool = True,
    training: bool = False,
) -> bool:
    """Compare the gradients of a module or function with central differences, in float64 from end to end.

    The function is traced once and differentiated with the rules that training uses; then both the gradients and
    the function at shifted points are evaluated by the reference executor, which runs the graph node by node in
    double precision without kernels. What is checked is therefore the mathematics: the composition and its rules.

    The outputs are weighted with random numbers and summed, and the derivative of that sum is compared by every
    element of a tensor of up to 64 elements; for a larger one by 64 random elements and along 4 random directions
    of the whole tensor. Points where the function has a kink (relu at 0, ties of a maximum) have no derivative:
    choose an `x` without them. Stored parameters do not change.

    Args:
        fn: A module, or a function of symbolic values built of modules and `cnnrs.functional`.
        x: float32 or float64 array, or a tuple of arrays for several arguments; arrays of integers (labels) are
            passed on and not differentiated by.
        eps: Half of the distance between the two points of a difference.
        atol: Allowed absolute difference.
        rtol: Allowed difference relative to the numeric derivative.
        seed: Seed of the random weights, elements and directions, and of dropout.
        parameters: Whether gradients by the parameters are checked too, also by frozen ones.
        training: Whether layers that behave differently in training do so.

    Returns:
        True.

    Raises:
        GradientError: A gradient is not the derivative; an AssertionError that names the tensor, the element and
            both values.
        TypeError: `fn` or `x` is of another type, or `fn` does not return symbolic values.
        ValueError: A number out of range.
        UnsupportedError: An op of the function has no gradient.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F, nn
        >>> from cnnrs.testing import gradcheck
        >>> gradcheck(nn.Conv2d(2, 3, 3, padding=1), np.random.default_rng(0).normal(size=(1, 4, 4, 2)))
        True
        >>> gradcheck(F.tanh, np.array([[-1.0, 0.5]]))
        True
    """
    op = "gradcheck"
    if not callable(fn):
        message = f"{op}: fn must be a module or a function, got {_args.show(fn)}"
        raise TypeError(message)
    limits = _Limits(_positive(eps, "eps"), _positive(atol, "atol"), _positive(rtol, "rtol"))
    seed = _args.integer(seed, "seed", op, 0, 2**64 - 1)
    with_parameters = _args.flag(parameters, "parameters", op)
    arrays = [_array(item, name) for name, item in _named(x)]
    root = cast("Root", fn) if hasattr(fn, "named_modules") else None
    with Trace(root=root, training=_args.flag(training, "training", op)) as trace:
        symbols = [
            trace.input(array.shape, "int64" if array.dtype.kind == "i" else "float32", name, batched=False)
            for (name, _), array in zip(_named(x), arrays, strict=True)
        ]
        result = fn(*symbols)
        outputs = [value for value in _outputs(result, trace) if value.dtype == np.float32]
        given = zip(_named(x), symbols, strict=True)
        wrt = [Tensor(name, value.id) for (name, _), value in given if value.dtype == np.float32]
        if with_parameters:
            wrt += [Tensor(name, value) for value, name in trace.parameters()]
        feed = trace.feed(arrays, np.array([seed, 0], np.uint64).view(np.int64))
    return check_graph(trace.graph, [value.id for value in outputs], feed, wrt, limits, seed)


class Tensor(NamedTuple):
    """An input or parameter of a graph by whose elements is differentiated."""

    name: str
    value: int


class _Limits(NamedTuple):
    """Step of the differences and allowed errors."""

    eps: float = 1e-6
    atol: float = 1e-5
    rtol: float = 1e-3


def check_graph(
    graph: _core.Graph,
    outputs: Sequence[int],
    feed: Sequence[npt.NDArray[Any]],
    wrt: Sequence[Tensor],
    limits: _Limits | None = None,
    seed: int = 0,
) -> bool:
    """Check the gradients of the float outputs of a graph; see `gradcheck`.

    Args:
        graph: The graph; its backward pass is appended.
        outputs: Ids of float values.
        feed: One array per input in order.
        wrt: Inputs and parameters, all of floats, by whose elements is differentiated.
        limits: Step and allowed errors.
        seed: Seed of the random weights, elements and directions.

    Raises:
        GradientError: As `gradcheck`.
    """
    limits = limits or _Limits()
    generator = np.random.default_rng(seed)
    shapes = [graph.info(value)[0] for value in outputs]
    weights = [np.asarray(generator.standard_normal(shape)) for shape in shapes]
    seeds = [graph.input(shape, "float32", "weights", False) for shape in shapes]
    found = graph.gradients(outputs, seeds, [tensor.value for tensor in wrt])
    feed = [*feed, *weights]
    values = [value for value in found if value is not None]
    analytic = dict(zip(values, graph.reference(values, feed), strict=True))
    points = graph.reference([tensor.value for tensor in wrt], feed)

    def weighted_sum(overrides: dict[int, Array]) -> float:
        results = graph.reference(outputs, feed, overrides)
        return math.fsum(float(np.vdot(weight, y)) for weight, y in zip(weights, results, strict=True))

    for tensor, value, point in zip(wrt, found, points, strict=True):
        gradient = np.zeros(point.shape) if value is None else analytic[value]
        for index, direction in _directions(point.shape, generator):
            ahead, behind = (
                weighted_sum({tensor.value: np.asarray(point + step * direction)}) for step in (limits.eps, -limits.eps)
            )
            numeric, slope = (ahead - behind) / (2 * limits.eps), float(np.vdot(gradient, direction))
            if not abs(numeric - slope) <= limits.atol + limits.rtol * abs(numeric):
                limit = f"{limits.atol:g} + {limits.rtol:g} * {abs(numeric):.3g}"
                raise GradientError(tensor.name, index, numeric, slope, limit)
    return True


def _directions(
    shape: tuple[int, ...], generator: np.random.Generator
) -> Iterator[tuple[tuple[int, ...] | None, Array]]:
    """Yield the directions along which a tensor is checked: one element each, then the whole tensor."""
    size = math.prod(shape)
    chosen = range(size) if size <= _ELEMENTS else np.sort(generator.choice(size, _ELEMENTS, replace=False))
    for flat in chosen:
        direction = np.zeros(size)
        direction[flat] = 1.0
        yield tuple(map(int, np.unravel_index(flat, shape))), direction.reshape(shape)
    for _ in range(_DIRECTIONS if size > _ELEMENTS else 0):
        yield None, generator.choice([-1.0, 1.0], size).reshape(shape)


def _named(x: Any) -> list[tuple[str, Any]]:
    """Return the arguments with their names."""
    return [(f"x[{index}]", item) for index, item in enumerate(x)] if isinstance(x, tuple) else [("x", x)]


def _array(x: Any, name: str) -> npt.NDArray[Any]:
    """Return an argument as a float64 or int64 array."""
    if isinstance(x, np.ndarray) and x.dtype.char in "fd":
        return x.astype(np.float64)
    if isinstance(x, np.ndarray) and x.dtype.kind in "iu":
        return x.astype(np.int64)
    got = f"a {x.dtype} array" if isinstance(x, np.ndarray) else _args.show(x)
    message = f"gradcheck: {name} must be a float32 or float64 NumPy array, or one of integers, got {got}"
    raise TypeError(message)


def _outputs(result: Any, trace: Trace) -> list[Value]:
    """Return what the function returned as values of the trace."""
    outputs = list(result) if isinstance(result, (tuple, list)) else [result]
    if not outputs or not all(isinstance(output, Value) for output in outputs):
        message = f"gradcheck: fn must return a symbolic value or a tuple of them, got {type(result).__name__}"
        raise TypeError(message)
    return [trace.operand(output) for output in outputs]


def _positive(value: object, name: str) -> float:
    """Return a finite number above zero."""
    if isinstance(value, (int, float, np.floating)) and not isinstance(value, bool) and 0 < value < math.inf:
        return float(value)
    message = f"gradcheck: {name} must be a finite number above 0, got {_args.show(value)}"
    raise ValueError(message)
