"""Reductions over any set of axes, and global average pooling."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import cnnrs
import oracle_elementwise as oracle
import tolerance
from cases import Array, real
from cnnrs import _core, graph
from cnnrs import functional as F

OPS = ("sum", "mean", "max", "min", "sum_squares")
EVERY = pytest.mark.parametrize("op", OPS)
SHAPES: list[tuple[int, ...]] = [
    (5,),
    (1, 1),
    (3, 4),
    (2, 3, 4, 5),
    (4, 4, 4, 4),
    (1, 7, 1, 9),
    (2, 40, 3),
    (3, 50, 17),
    (20, 20),
    (2, 0, 3),
    (0, 4),
    (2, 3, 2, 3, 2, 3),
]


def run(op: str, x: Array, axis: Any, keepdims: bool = False) -> Array:
    """The op on an array, by the public function where there is one."""
    if op == "sum_squares":
        axes = sorted(a % x.ndim for a in (range(x.ndim) if axis is None else np.atleast_1d(axis)))
        (y,) = _core.eager(op, [x], {"axes": [int(a) for a in axes], "keepdims": keepdims})
    else:
        y = getattr(F, op)(x, axis, keepdims)
    return np.asarray(y, np.float32)


def check(op: str, x: Array, axis: Any, keepdims: bool = False) -> None:
    """Within the bound of a sum; extremes are exact."""
    expected = oracle.reduce(op, x, axis, keepdims)
    bound: Any = tolerance.TINY
    if op not in ("max", "min"):
        with np.errstate(all="ignore"):
            magnitude = oracle.reduce(op, np.abs(x), axis, keepdims)
        length = x.size // max(expected.size, 1)
        bound = tolerance.reduction(length, np.where(np.isfinite(magnitude), magnitude, 0.0))
    tolerance.assert_within(run(op, x, axis, keepdims), expected, bound, f"{op} of {x.shape} over {axis}")


@EVERY
@pytest.mark.usefixtures("isa")
def test_every_set_of_axes(op: str) -> None:
    """All subsets, with axes kept and taken away."""
    for shape in SHAPES:
        x = real(*shape)
        for count in range(len(shape) + 1):
            for axes in itertools.combinations(range(len(shape)), count):
                check(op, x, axes, keepdims=bool(count % 2))


@EVERY
@pytest.mark.usefixtures("isa")
@given(data=st.data(), shape=hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=23), keepdims=st.booleans())
def test_any_axes(op: str, data: st.DataObject, shape: tuple[int, ...], keepdims: bool) -> None:
    axes = data.draw(st.sets(st.integers(-len(shape), len(shape) - 1)) if shape else st.just(set()))
    axes = {axis % len(shape) for axis in axes}
    check(op, np.asarray(real(*shape)), tuple(axes), keepdims)


@EVERY
@pytest.mark.usefixtures("isa")
def test_special_values_wherever_they_stand(op: str) -> None:
    """A NaN or an infinity at the ends and in the middle of every kind of reduction."""
    for shape, axis in (((40, 70), 0), ((40, 70), 1), ((7, 30, 5), 1), ((600,), 0), ((3, 17), 1), ((30, 3), 1)):
        for special in (np.nan, np.inf, -np.inf):
            for at in (0, math.prod(shape) // 2, math.prod(shape) - 1):
                x = np.round(real(*shape)).astype(np.float32)
                x.flat[at] = special
                check(op, x, axis)


def test_nothing() -> None:
    """What an empty reduction gives."""
    empty = np.zeros((0, 3), np.float32)
    assert F.sum(empty) == 0.0
    assert math.isnan(F.mean(empty))
    assert (F.max(empty), F.min(empty)) == (-math.inf, math.inf)
    assert F.max(empty, axis=0).tolist() == [-math.inf] * 3
    assert F.sum(empty, axis=1).shape == (0,)
    assert np.isnan(F.global_avg_pool2d(np.zeros((1, 0, 4, 2), np.float32))).all()
    assert F.global_avg_pool2d(np.zeros((0, 3, 4, 2), np.float32)).shape == (0, 2)


LARGE = [
    ((200_003,), 0),
    ((8, 56, 56, 64), (1, 2)),
    ((8, 56, 56, 64), (0, 1, 2)),
    ((50_000, 6), 0),
    ((3000, 100), 1),
    ((60_000, 3), 1),
    ((8, 56, 56, 12), None),
    ((4, 9, 2000), 1),
    ((30, 40, 5, 60), (1, 3)),
    ((30, 40, 5, 60), (0, 2)),
]


@EVERY
@pytest.mark.usefixtures("isa")
def test_large(op: str, assert_deterministic: Callable[..., None]) -> None:
    """Several tasks and parts: the same bits with 1, 2 and 5 threads."""
    for shape, axis in LARGE:
        x = real(*shape)
        check(op, x, axis)
        assert_deterministic(lambda x=x, axis=axis: run(op, x, axis))


@pytest.mark.usefixtures("isa")
def test_long_sums_stay_precise() -> None:
    """Ten million equal numbers: a running sum would lose several per cent."""
    x = np.full(10_000_000, 0.1, np.float32)
    expected = float(x[0]) * x.size
    assert abs(F.sum(x) - expected) <= 200 * tolerance.UNIT * expected
    assert abs(F.mean(x.reshape(5, -1, 2), axis=1)[3, 1] - x[0]) <= 200 * tolerance.UNIT * x[0]


@EVERY
@pytest.mark.usefixtures("isa")
def test_strides_do_not_matter(op: str) -> None:
    x = real(6, 7, 8)
    for view in (x.T, x[::2, ::-1], x.astype(">f4")):
        for axis in (0, 1, (0, 2), None):
            tolerance.assert_same_bits(run(op, view, axis), run(op, np.ascontiguousarray(view, np.float32), axis))


@pytest.mark.parametrize("op", OPS[:-1])
@pytest.mark.usefixtures("isa", "threads")
def test_gradients(op: str) -> None:
    """Copies of the gradient; equal extremes share it. With and without kept axes."""
    for shape, axis in (
        ((5,), 0),
        ((3, 4, 5), 1),
        ((3, 4, 5), (0, 2)),
        ((2, 6, 5, 3), (1, 2)),
        ((4, 3), None),
        ((2, 3), ()),
    ):
        x = np.round(real(*shape) * 2).astype(np.float32)  # ties
        for keepdims in (False, True):
            y, pullback = cnnrs.vjp(partial(getattr(F, op), axis=axis, keepdims=keepdims), x)
            grad_y = np.asarray(real(*np.shape(y), seed=1))
            flat = grad_y.reshape(np.shape(oracle.reduce(op, x, axis)))
            expected = oracle.reduce_backward(op, x, axis, flat)
            tolerance.assert_within(pullback(grad_y), expected, tolerance.ulps(expected, 2), f"{op} {shape} {axis}")


def test_gradient_of_a_sum_of_squares() -> None:
    x = real(3, 4, 5)
    with graph.Trace() as trace:
        value = trace.input(x.shape, "float32", "x")
        (y,) = graph.record("sum_squares", [value], axes=[0, 2], keepdims=False)
        seed = trace.input((4,), "float32", "seed", batched=False)
        (gradient,) = trace.gradients([y], [seed], [value])
    assert gradient is not None
    grad_y = real(4, seed=1)
    (got,) = _core.Program(trace.graph, [gradient.id]).run([x, grad_y])
    expected = oracle.reduce_backward("sum_squares", x, (0, 2), grad_y)
    tolerance.assert_within(got, expected, tolerance.ulps(expected, 1))


@pytest.mark.parametrize("channels", [1, 3, 16, 17, 200])
@pytest.mark.usefixtures("isa", "threads")
def test_global_average_pooling(channels: int) -> None:
    """The mean over height and width, and its gradient; another batch size meets the same trace."""
    x = real(3, 9, 8, channels)
    expected, size = x.astype(np.float64).mean(axis=(1, 2)), 9 * 8
    bound = tolerance.reduction(size, np.abs(x).astype(np.float64).mean(axis=(1, 2)))
    y, pullback = cnnrs.vjp(F.global_avg_pool2d, x)
    tolerance.assert_within(y, expected, bound)
    grad_y = real(3, channels, seed=1)
    spread = np.broadcast_to(grad_y[:, None, None, :] / np.float64(size), x.shape)
    tolerance.assert_within(pullback(grad_y), spread, tolerance.ulps(spread, 1))
    model = cnnrs.nn.GlobalAvgPool2d()
    tolerance.assert_same_bits(np.concatenate([model(x[:2]), model(x[2:])]), y)


@pytest.mark.parametrize(
    ("axis", "error", "text"),
    [
        (3, ValueError, "axis must be from -3 to 2, got 3"),
        (-4, ValueError, "axis must be from -3 to 2, got -4"),
        (2**70, ValueError, "axis must be from -3 to 2"),
        ((0, -3), ValueError, "axis must name each axis once"),
        (1.0, TypeError, "axis must be an int, a tuple of ints or None, got 1.0"),
        ("0", TypeError, "axis must be an int"),
        (True, TypeError, "axis must be an int"),
        ((0, None), TypeError, "axis must be an int"),
    ],
)
def test_axes_that_do_not_exist(axis: Any, error: type[Exception], text: str) -> None:
    for op in OPS[:-1]:
        with pytest.raises(error, match=f"^{op}: {text}"):
            getattr(F, op)(real(2, 3, 4), axis)


def test_other_arguments() -> None:
    with pytest.raises(TypeError, match=r"^sum: keepdims must be True or False, got 1"):
        F.sum(real(2), keepdims=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^max: x must be a float32 NumPy array"):
        F.max(np.zeros(3))
    with pytest.raises(cnnrs.ShapeError, match=r"^global_avg_pool2d: x must have 4 dimensions"):
        F.global_avg_pool2d(real(2, 3))
    assert F.sum(real(2, 3), axis=[np.int64(-1), 0]) == F.sum(real(2, 3))  # type: ignore[arg-type]
