"""softmax and log_softmax along any axis, and their gradients, on every instruction-set level."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import cases
import cnnrs
import oracle_movement as oracle
import tolerance
from cases import Array
from cnnrs import functional as F
from cnnrs import nn

FUNCTIONS = pytest.mark.parametrize("log", [False, True], ids=["softmax", "log_softmax"])


def last(values: Array, axis: int) -> Array:
    """The same numbers with the axis moved to the end."""
    return np.moveaxis(np.asarray(values, np.float64), axis, -1)


def check(log: bool, x: Array, axis: int) -> None:
    """Values within the computed bound, and the gradient that follows from them."""
    function = F.log_softmax if log else F.softmax
    probabilities = last(oracle.softmax(x, axis), -1)
    along = last(probabilities, axis)
    error = (tolerance.log_softmax if log else tolerance.softmax)(last(x, axis), along)
    expected = oracle.log_softmax(x, axis) if log else probabilities
    y, pullback = cnnrs.vjp(lambda v: function(v, axis), x)
    tolerance.assert_within(y, expected, np.moveaxis(error, -1, axis))
    tolerance.assert_same_bits(function(x, axis - x.ndim), y, "the axis counted from the end")

    grad_y = cases.real(*x.shape, seed=1)
    g, count = last(grad_y, axis), x.shape[axis]
    if log:
        total, size = g.sum(axis=-1, keepdims=True), abs(g).sum(axis=-1, keepdims=True)
        grad = g - along * total
        # exp of a result that is off, the rounded sum, the rounded product and difference.
        slope = along * (np.expm1(error) + 2 * tolerance.TRANSCENDENTAL_ULPS * tolerance.UNIT)
        bound = slope * abs(total) + tolerance.gamma(count + 4) * (along * size + abs(g)) + tolerance.ulps(grad, 1)
    else:
        dot, size = (g * along).sum(axis=-1, keepdims=True), (abs(g) * along).sum(axis=-1, keepdims=True)
        grad = along * (g - dot)
        shaken = (abs(g) * error).sum(axis=-1, keepdims=True)
        bound = error * (abs(g) + size) + along * (shaken + tolerance.gamma(count + 4) * (size + abs(g)))
    floor = (count + 4) * (1 + abs(g).max(initial=0.0)) * tolerance.TINY
    tolerance.assert_within(
        pullback(grad_y), np.moveaxis(grad, -1, axis), np.moveaxis(bound + floor, -1, axis), "gradient"
    )


@FUNCTIONS
@pytest.mark.usefixtures("isa")
@given(
    data=st.data(),
    shape=hnp.array_shapes(min_dims=1, max_dims=5, min_side=0, max_side=6),
    exponent=st.integers(-4, 6),
)
def test_any_axis(log: bool, data: st.DataObject, shape: tuple[int, ...], exponent: int) -> None:
    """Any axis of any shape, flat and peaked."""
    axis = data.draw(st.integers(0, len(shape) - 1))
    check(log, cases.real(*shape) * np.float32(2.0**exponent), axis)


@FUNCTIONS
@pytest.mark.parametrize("inner", [*range(1, 36), 63, 64, 65, 127, 128, 130])
@pytest.mark.usefixtures("isa")
def test_every_tail_length(log: bool, inner: int) -> None:
    """Lines side by side, around the vector lengths and the blocks."""
    check(log, cases.real(2, 5, inner), 1)


@FUNCTIONS
@pytest.mark.parametrize(
    ("shape", "axis"), [((2, 21, 30, 40), 1), ((2, 30, 40, 21), 3), ((1000, 7), 0), ((3, 5000), 1), ((4, 1, 70), 1)]
)
@pytest.mark.usefixtures("isa")
def test_large(log: bool, shape: tuple[int, ...], axis: int) -> None:
    """Several tasks, long lines, lines of one element."""
    check(log, cases.real(*shape) * np.float32(3), axis)


@FUNCTIONS
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.usefixtures("isa", "threads")
def test_large_scores(log: bool, axis: int) -> None:
    """Scores of +-1e4 neither overflow nor lose the differences between them."""
    lines = cases.real(7, 9)
    lines[0] += np.float32(1e4)
    lines[1] -= np.float32(1e4)
    lines[2:4] *= np.float32(1e4)
    lines[4], lines[5] = 1e4, -1e4
    lines[6, ::2], lines[6, 1::2] = 1e4, -1e4
    x = np.moveaxis(np.stack([lines, -lines, lines[::-1]]), 2, axis)
    check(log, np.ascontiguousarray(x), axis)


@FUNCTIONS
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.usefixtures("isa")
def test_special_values_spoil_their_own_line(log: bool, axis: int) -> None:
    """NaN, +inf and nothing but -inf give NaN; -inf among numbers is a probability of zero."""
    lines = cases.real(5, 21)
    lines[0, ::3] = -np.inf
    lines[1, 20] = np.nan
    lines[2, 7] = np.inf
    lines[3] = -np.inf
    function = F.log_softmax if log else F.softmax
    y = function(np.ascontiguousarray(lines if axis == 1 else lines.T), axis)
    y = y if axis == 1 else y.T
    assert np.isnan(y[1:4]).all()
    assert not np.isnan(y[[0, 4]]).any()
    assert (y[0, ::3] == (-np.inf if log else 0)).all()
    clean = function(lines[4:], 1)[0]
    error = (tolerance.log_softmax if log else tolerance.softmax)(lines[4:], oracle.softmax(lines[4:], 1))[0]
    tolerance.assert_within(y[4], clean, 2 * error)


@FUNCTIONS
@pytest.mark.usefixtures("isa")
def test_bits_do_not_depend_on_threads(log: bool, assert_deterministic: Callable[..., None]) -> None:
    """Same bits with 1, 2 and 5 threads, and wherever a line stands."""
    function = F.log_softmax if log else F.softmax
    x, grad_y = cases.real(3, 10, 50, 33), cases.real(3, 10, 50, 33, seed=1)

    def run() -> list[Array]:
        results = []
        for axis in range(4):
            y, pullback = cnnrs.vjp(lambda v, axis=axis: function(v, axis), x)
            results += [y, pullback(grad_y)]
        return results

    assert_deterministic(run)
    tolerance.assert_same_bits(function(np.ascontiguousarray(x[1:2, :, 7:9, 11:]), 1), function(x, 1)[1:2, :, 7:9, 11:])


def test_layers() -> None:
    """Any axis, any batch size, one trace."""
    x = cases.real(5, 4, 6)
    for axis in (-1, 1, 2, -2):
        for layer, function in ((nn.Softmax(axis), F.softmax), (nn.LogSoftmax(axis), F.log_softmax)):
            assert repr(layer) == f"{type(layer).__name__}(axis={axis})"
            for batch in (2, 1, 5, 0):
                tolerance.assert_same_bits(layer(x[:batch]), function(x[:batch], axis))
            assert len(layer._programs) == 1
    with pytest.raises(TypeError, match=r"^LogSoftmax: axis must be an int"):
        nn.LogSoftmax(None)  # type: ignore[arg-type]


@FUNCTIONS
def test_errors(log: bool) -> None:
    """Typed, with the name of the argument."""
    name, function = ("log_softmax", F.log_softmax) if log else ("softmax", F.softmax)
    x = cases.real(2, 3)
    for axis in (2, -3, 2**70):
        with pytest.raises(ValueError, match=rf"^{name}: axis must be from -2 to 1"):
            function(x, axis)
    for axis in (True, 1.0, None, "1"):
        with pytest.raises(TypeError, match=rf"^{name}: axis must be an int"):
            function(x, axis)  # type: ignore[arg-type]
    with pytest.raises(cnnrs.ShapeError, match=rf"^{name}: x must have at least one dimension"):
        function(np.zeros((), np.float32))
