"""softmax against the oracle, on every instruction-set level."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cases
import oracle
import tolerance
from cases import Array
from cnnrs import functional as F

SHAPES = [(1, 1), (3, 1), *((4, classes) for classes in range(2, 36)), (64, 10), (7, 1000), (257, 100)]


def check_softmax(logits: Array) -> None:
    """Within the computed bound, and every row sums to one within the sum of its bounds."""
    expected = oracle.softmax(logits)
    tolerance.assert_within(F.softmax(logits), expected, tolerance.softmax(logits, expected))


@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.usefixtures("isa")
def test_shape(shape: tuple[int, int], scale: float) -> None:
    """Flat and peaked distributions, all tail lengths."""
    logits = cases.real(*shape) * np.float32(scale)
    check_softmax(logits)


@pytest.mark.parametrize("classes", [2, 10, 17, 100])
@pytest.mark.usefixtures("isa", "threads")
def test_large_logits(classes: int) -> None:
    """Logits of +-1e4 neither overflow nor lose the differences between them."""
    logits = cases.real(9, classes)
    logits[0] += np.float32(1e4)
    logits[1] -= np.float32(1e4)
    logits[2:5] *= np.float32(1e4)
    logits[5] = 1e4
    logits[6] = -1e4
    logits[7, ::2], logits[7, 1::2] = 1e4, -1e4
    check_softmax(logits)


@pytest.mark.usefixtures("isa")
def test_equal_logits() -> None:
    """Equal scores are equal probabilities."""
    tolerance.assert_within(F.softmax(np.zeros((2, 19), np.float32)), np.full((2, 19), 1 / 19), tolerance.ulps(1 / 19))


@pytest.mark.usefixtures("isa")
def test_special_values() -> None:
    """-inf is a probability of zero; NaN spoils its own row only."""
    logits = cases.real(4, 21)
    logits[0, ::3] = -np.inf
    logits[1, 20] = np.nan
    probabilities = F.softmax(logits)
    finite = [0, 2, 3]
    expected = oracle.softmax(logits[finite])
    tolerance.assert_within(probabilities[finite], expected, tolerance.softmax(logits[finite], expected))
    assert not probabilities[0, ::3].any()
    assert np.isnan(probabilities[1]).all()


@pytest.mark.usefixtures("isa")
def test_empty_batch() -> None:
    """No rows in, no rows out."""
    assert F.softmax(np.zeros((0, 10), np.float32)).shape == (0, 10)


@pytest.mark.usefixtures("isa")
@given(shape=st.tuples(st.integers(1, 12), st.integers(1, 70)), exponent=st.integers(-10, 10))
def test_any_shape(shape: tuple[int, int], exponent: int) -> None:
    """Hypothesis looks for sizes and scales that fail."""
    logits = cases.real(*shape) * np.float32(2.0**exponent)
    check_softmax(logits)


@pytest.mark.parametrize("shape", [(64, 10), (257, 100), (3, 5000), (2000, 33)], ids=str)
@pytest.mark.usefixtures("isa")
def test_bits_do_not_depend_on_threads(shape: tuple[int, int], assert_deterministic: Callable[..., None]) -> None:
    """Same bits with 1, 2 and 5 threads and from run to run."""
    logits = cases.real(*shape)
    assert_deterministic(lambda: F.softmax(logits))
