"""Arithmetic with broadcasting: functions, operators on symbolic values, gradients."""

from __future__ import annotations

from collections.abc import Callable
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
from cnnrs import _core, graph, nn
from cnnrs import functional as F

Call = Callable[..., Any]
PUBLIC = ("add", "sub", "mul", "div", "maximum", "minimum")
EVERY = pytest.mark.parametrize("op", oracle.BINARY)
SHAPES: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((2, 5, 7, 9), (2, 5, 7, 9)),
    ((2, 5, 7, 9), (9,)),
    ((9,), (2, 5, 7, 9)),
    ((2, 5, 7, 9), ()),
    ((), (3, 4)),
    ((), ()),
    ((3, 20, 16), (3, 1, 16)),
    ((3, 40, 3), (3, 1, 1)),
    ((3, 4, 5, 1), (3, 4, 1, 6)),
    ((40, 1), (1, 33)),
    ((2, 60, 3), (3,)),
    ((100, 5), (100, 1)),
    ((1, 1, 7), (5, 1, 1)),
    ((0, 3), (3,)),
    ((4, 0), (4, 1)),
    ((1, 3), (0, 1)),
    ((2, 1, 3, 1, 5, 1), (1, 4, 1, 6, 1, 7)),
    *(((n,), (n,)) for n in range(1, 18)),
]
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -2.5, 3e38, 1e-38, 1e-40], np.float32)


def run(op: str, a: Array, b: Array) -> Array:
    """The op on arrays; a float becomes an array again."""
    return np.asarray(_core.eager(op, [a, b], {})[0], np.float32)


def check(op: str, a: Array, b: Array) -> None:
    """One rounding, and what flushing denormal numbers loses."""
    with np.errstate(all="ignore"):
        expected = oracle.BINARY[op](oracle.flushed(a), oracle.flushed(b))
        rounded = np.where(np.abs(expected) > 3.4028235677973366e38, np.sign(expected) * np.inf, expected)
    bound = tolerance.UNIT * np.abs(np.where(np.isfinite(rounded), rounded, 0.0)) + tolerance.TINY
    tolerance.assert_within(run(op, a, b), rounded, bound, f"{op} {a.shape} {b.shape}")


@EVERY
@pytest.mark.usefixtures("isa")
def test_shapes(op: str) -> None:
    """Whole numbers, of which many are equal, in every way that shapes broadcast."""
    for first, second in SHAPES:
        a, b = np.asarray(np.round(real(*first) * 2)), np.asarray(np.round(real(*second, seed=1) * 2))
        check(op, a, np.asarray(b + np.float32(7)) if op == "div" else b)


@EVERY
@pytest.mark.usefixtures("isa")
def test_special_values(op: str) -> None:
    """Every pair of special values, along both axes and element by element."""
    check(op, SPECIAL[:, None], SPECIAL)
    pairs = np.array(np.meshgrid(SPECIAL, SPECIAL)).reshape(2, -1)
    check(op, pairs[0].copy(), pairs[1].copy())


@EVERY
@pytest.mark.usefixtures("isa")
@given(
    shapes=hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=5, min_side=0, max_side=20), seed=st.integers(0, 9)
)
def test_any_shapes(op: str, shapes: hnp.BroadcastableShapes, seed: int) -> None:
    first, second = shapes.input_shapes
    check(op, np.asarray(real(*first, seed=seed)), np.asarray(real(*second, seed=seed + 1)))


@EVERY
@pytest.mark.usefixtures("isa")
def test_strides_do_not_matter(op: str) -> None:
    a, b = real(6, 7, 8), real(8, 7, 6, seed=1)
    expected = run(op, a, np.ascontiguousarray(b.T))
    tolerance.assert_same_bits(run(op, a, b.T), expected)
    tolerance.assert_same_bits(run(op, a[::-1], b.T[::-1]), expected[::-1])


@EVERY
@pytest.mark.usefixtures("isa")
def test_bits_do_not_depend_on_threads(op: str, assert_deterministic: Callable[..., None]) -> None:
    for first, second in (((9, 70, 67, 5), (5,)), ((300, 1000), (300, 1)), ((200_003,), (200_003,))):
        a, b = real(*first), real(*second, seed=1)
        assert_deterministic(lambda a=a, b=b: run(op, a, b))


@pytest.mark.parametrize("op", PUBLIC)
@pytest.mark.usefixtures("isa", "threads")
def test_gradients(op: str) -> None:
    """Both operands: the derivative times the gradient, summed over the copies that broadcasting made."""
    function = getattr(F, op)
    for first, second in SHAPES:
        a, b = real(*first), real(*second, seed=1)
        if op in ("maximum", "minimum"):
            a, b = np.round(a).astype(np.float32), np.round(b).astype(np.float32)  # ties
        a, b = np.asarray(a), np.asarray(b)
        common = np.broadcast_shapes(first, second)
        grad_y = np.asarray(real(*common, seed=2))
        slopes = oracle.SLOPES[op](oracle.wide(a), oracle.wide(b))
        for own, other, slope, call in (
            (a, b, slopes[0], lambda value, b=b: function(value, b)),
            (b, a, slopes[1], lambda value, a=a: function(a, value)),
        ):
            _, pullback = cnnrs.vjp(call, own)
            terms = slope * grad_y
            expected = oracle.unbroadcast(terms, own.shape)
            copies = max(terms.size // max(own.size, 1), 1)
            bound = tolerance.reduction(copies + 6, oracle.unbroadcast(np.abs(terms), own.shape))
            got = np.asarray(pullback(grad_y), np.float32)
            tolerance.assert_within(got, expected, bound, f"{op} {own.shape} with {other.shape}")


NUMBERS = [2.0, -3, 0.1, 0.25, np.float32(1.7), np.float64(-0.3), np.int64(4), 0]


@pytest.mark.parametrize("op", PUBLIC)
@pytest.mark.parametrize("number", NUMBERS, ids=repr)
@pytest.mark.usefixtures("isa")
def test_numbers(op: str, number: Any) -> None:
    """A Python or NumPy number on either side: float32 arithmetic, the same bits on arrays and on symbols."""
    function, x = getattr(F, op), real(3, 4, 5)
    scalar = np.float32(number)
    with np.errstate(all="ignore"):
        for call, ufunc in (
            (lambda v: function(v, number), lambda: _UFUNCS[op](x, scalar)),
            (lambda v: function(number, v), lambda: _UFUNCS[op](scalar, x)),
        ):
            expected = ufunc()
            np.testing.assert_array_equal(call(x), expected)
            np.testing.assert_array_equal(nn_function(call)(x), expected)
            y, pullback = cnnrs.vjp(call, x)
            np.testing.assert_array_equal(y, expected)
            assert pullback(y).shape == x.shape


_UFUNCS: dict[str, Any] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
}


class nn_function(nn.Module):  # noqa: N801
    """A module that is a function."""

    def __init__(self, function: Call) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


def test_numbers_become_linear_functions_where_that_is_exact() -> None:
    """On symbols; a quotient by a number that is no power of two stays a quotient."""
    with graph.Trace() as trace:
        x = trace.input((2, 3), "float32", "x")
        for y in (x + 1, 2 - x, x - 1, -x, 3 * x, x / 4, x / 3, 1 / x, F.maximum(x, 0.5)):
            assert y.shape == (2, 3)
    assert [op for _, op, _, _ in trace.graph.nodes()] == ["affine"] * 6 + ["div", "div", "maximum"]


def test_a_changing_number_meets_the_same_plan() -> None:
    """A number on arrays is an operand: no new program for each value."""
    x = real(4)
    for i in range(600):
        np.testing.assert_array_equal(F.mul(x, i / 7), x * np.float32(i / 7))


def test_operators() -> None:
    """Values, arrays on either side, parameters, numbers; precedence is Python's."""
    x, array, parameter = real(2, 3, 4), real(3, 4, seed=1), nn.Parameter(np.abs(real(4, seed=2)) + 1)
    matrix, p = real(2, 4, 3, seed=3), parameter.array

    def left(v: Any) -> Any:
        return -v + array * v / parameter - 2 * (1 - v) / 4

    def right(v: Any) -> Any:
        return array - v * (parameter + v) + 1 / (v * v + 1) + np.float32(2) * v - np.float64(3) + (np.int32(2) - v)

    y, _ = cnnrs.vjp(left, x)
    np.testing.assert_allclose(y, -x + array * x / p - 2 * (1 - x) / 4, rtol=1e-5, atol=1e-6)
    y, _ = cnnrs.vjp(right, x)
    np.testing.assert_allclose(y, array - x * (p + x) + 1 / (x * x + 1) + 2 * x - 3 + (2 - x), rtol=1e-5, atol=1e-5)
    y, _ = cnnrs.vjp(lambda v: matrix @ v @ matrix, x)
    np.testing.assert_allclose(y, matrix @ x @ matrix, rtol=1e-4, atol=1e-4)
    y, _ = cnnrs.vjp(lambda v: np.negative(v) + np.subtract(array, v) + np.divide(v, 2) + np.multiply(2.0, v), x)
    np.testing.assert_allclose(y, array + x / 2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "function",
    [
        lambda v: v < 0,
        lambda v: v >= v,
        lambda v: v**2,
        lambda v: v + None,
        lambda v: "a" * v,
        lambda v: [1.0] * v,
        lambda v: v + True,
        lambda v: v % 2,
        lambda v: v // 2,
        lambda v: np.power(v, 2),
        lambda v: np.greater(v, 0),
        lambda v: np.add(v, 1, out=np.zeros(3)),
        lambda v: np.add.reduce(v),
        lambda v: v @ 2.0,
        lambda v: np.zeros((2, 3)) + v,
    ],
)
def test_other_operators_are_refused(function: Call) -> None:
    with pytest.raises(TypeError):
        cnnrs.vjp(function, real(2, 3))


@pytest.mark.parametrize("op", PUBLIC)
def test_arguments(op: str) -> None:
    function, x = getattr(F, op), real(2, 3)
    for wrong in (None, "1", [1.0], np.zeros((2, 3)), True, np.zeros(3, np.int32), 1j):
        with pytest.raises(TypeError, match=rf"^{op}: b must be a float32 NumPy array"):
            function(x, wrong)
        with pytest.raises(TypeError, match=rf"^{op}: a must be a float32 NumPy array"):
            function(wrong, x)
    for wrong in (1e39, 10**400, -1e300):
        with pytest.raises(ValueError, match=rf"^{op}: b must be within the range of float32, got "):
            function(x, wrong)
    with pytest.raises(TypeError, match=rf"^{op}: a or b must be an array, got the numbers 1 and 2.5"):
        function(1, 2.5)
    with pytest.raises(
        cnnrs.ShapeError, match=rf"{op}: b expects a shape that broadcasts with a \(2, 3\), received \(2,\)"
    ):
        function(x, real(2))


def test_memory_is_used_in_place() -> None:
    """A chain of element-wise steps works on one buffer, and neither the input nor a value still needed is touched."""
    x = real(1000, 64)
    with graph.Trace() as trace:
        value = trace.input(x.shape, "float32", "x")
        y = F.exp(-value) + 1
        z = F.log(y * 3) - value
        w = (z + z) * (value - z) / y
    program = _core.Program(trace.graph, [w.id])
    before = x.copy()
    (got,) = program.run([x])
    reference = x.astype(np.float64)
    y64 = np.exp(-reference) + 1
    z64 = np.log(y64 * 3) - reference
    np.testing.assert_allclose(got, (z64 + z64) * (reference - z64) / y64, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(x, before)
    assert program.plan(1000)["arena_bytes"] <= 3 * x.nbytes


def test_parameters_and_constants_are_never_overwritten() -> None:
    parameter, constant = nn.Parameter(real(5, 6)), real(5, 6, seed=1)
    copies = parameter.array.copy(), constant.copy()
    y, pullback = cnnrs.vjp(lambda v: F.exp(parameter) * v + F.relu(F.neg(constant)) / 2, real(5, 6, seed=2))
    pullback(y)
    np.testing.assert_array_equal(parameter.array, copies[0])
    np.testing.assert_array_equal(constant, copies[1])
