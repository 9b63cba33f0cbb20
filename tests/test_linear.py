"""linear and its gradients against the oracle, on every instruction-set level."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cases
import cnnrs
import oracle
import tolerance
from cases import Array
from cnnrs import functional as F

Shape = tuple[int, int, int]
SHAPES: list[Shape] = [
    (1, 1, 1),
    (4, 4, 4),
    (0, 3, 5),
    *((3, 7, outputs) for outputs in range(1, 18)),
    *((rows, 19, 33) for rows in range(1, 18)),
    *((2, inputs, 10) for inputs in (1, 2, 15, 16, 17, 31, 33, 255, 257)),
]
BIG_SHAPES: list[Shape] = [
    (1, 400, 120),
    (64, 400, 120),
    (64, 84, 10),
    (100, 1000, 100),
    (5, 3000, 517),
    (1, 9216, 300),
]


def operands(shape: Shape, integer: bool) -> tuple[Array, Array, Array, Array]:
    """Input, weight, bias and gradient of the output."""
    rows, inputs, outputs = shape
    case = cases.ConvCase(rows, (1, 1), inputs, outputs, (1, 1))
    data = case.data(integer)
    return data.x.reshape(rows, inputs), data.weight[0, 0], data.bias, data.grad_y.reshape(rows, outputs)


def check(shape: Shape, integer: bool) -> None:
    """Forward with and without bias, and the gradient of the input."""
    x, weight, bias, grad_y = operands(shape, integer)
    for b in (None, bias):
        magnitude = oracle.linear(abs(x), abs(weight), None if b is None else abs(b))
        bound = 0.0 if integer else tolerance.reduction(shape[1] + 1, magnitude)
        tolerance.assert_within(F.linear(x, weight, b), oracle.linear(x, weight, b), bound, f"{shape} y")
    _, pullback = cnnrs.vjp(lambda value: F.linear(value, weight, bias), x)
    bound = 0.0 if integer else tolerance.reduction(shape[2], oracle.linear(abs(grad_y), abs(weight.T)))
    tolerance.assert_within(pullback(grad_y), oracle.linear(grad_y, weight.T), bound, f"{shape} grad_x")


@pytest.mark.parametrize("integer", [False, True], ids=["real", "integer"])
@pytest.mark.parametrize("shape", [*SHAPES, *BIG_SHAPES], ids=str)
@pytest.mark.usefixtures("isa")
def test_shape(shape: Shape, integer: bool) -> None:
    """Real data within the computed bound, integer data exactly."""
    check(shape, integer)


@pytest.mark.parametrize("shape", BIG_SHAPES, ids=str)
@pytest.mark.usefixtures("isa", "threads")
def test_shape_with_threads(shape: Shape) -> None:
    """Blocks handed to several threads add up to the exact result."""
    check(shape, True)


@pytest.mark.usefixtures("isa")
@given(shape=st.tuples(st.integers(0, 20), st.integers(1, 70), st.integers(1, 70)))
def test_any_shape(shape: Shape) -> None:
    """Hypothesis looks for sizes that fail and shrinks them."""
    check(shape, True)


@pytest.mark.parametrize("shape", BIG_SHAPES, ids=str)
@pytest.mark.usefixtures("isa")
def test_bits_do_not_depend_on_threads(shape: Shape, assert_deterministic: Callable[..., None]) -> None:
    """Same bits with 1, 2 and 5 threads and from run to run."""
    x, weight, bias, _ = operands(shape, integer=False)
    assert_deterministic(lambda: F.linear(x, weight, bias))


@pytest.mark.parametrize("special", [np.nan, np.inf])
@pytest.mark.usefixtures("isa")
def test_special_values_stay_in_their_row(special: float) -> None:
    """A NaN or infinity in one row changes that row only."""
    x, weight, bias, _ = operands((9, 35, 37), integer=False)
    weight = abs(weight) + np.float32(0.125)
    clean = F.linear(x, weight, bias)
    x[4, 34] = special
    touched = F.linear(x, weight, bias)
    np.testing.assert_array_equal(touched[4], np.full(37, special, np.float32))
    touched[4] = clean[4]
    tolerance.assert_same_bits(touched, clean)


def test_the_error_of_a_long_sum_grows_with_the_root_of_its_pieces(isa: str) -> None:
    """One accumulator for all of 16,384 products would be off by 3e-6 of the results' size."""
    x, weight = cases.real(4, 16_384), cases.real(16_384, 40)
    expected = x.astype(np.float64) @ weight.astype(np.float64)
    error = F.linear(x, weight) - expected
    assert np.sqrt(np.mean(error**2)) <= 1e-6 * np.sqrt(np.mean(expected**2))
