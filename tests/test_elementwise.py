"""relu, tanh, sigmoid, flatten, add and normalize against the oracle, on every instruction-set level."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import cases
import cnnrs
import oracle
import tolerance
from cases import Array
from cnnrs import _core
from cnnrs import functional as F

Function = Callable[[Any], Any]
ACTIVATIONS = pytest.mark.parametrize(
    ("function", "reference"),
    [(F.relu, oracle.relu), (F.tanh, oracle.tanh), (F.sigmoid, oracle.sigmoid)],
    ids=["relu", "tanh", "sigmoid"],
)
SIZES = [*range(1, 40), 63, 64, 65, 1000, 100_003]


def check_activation(function: Function, reference: Function, x: Array) -> None:
    """Relu is exact but for flushed denormals; the others are within a few units in the last place."""
    expected = reference(x)
    bound = tolerance.TINY if reference is oracle.relu else tolerance.ulps(expected)
    tolerance.assert_within(function(x), expected, bound)


@ACTIVATIONS
@pytest.mark.usefixtures("isa")
def test_every_tail_length(function: Function, reference: Function) -> None:
    """Sizes around the vector lengths, values around zero and in the saturated range."""
    for size in SIZES:
        x = cases.real(1, 1, 1, size) * np.float32(4)
        check_activation(function, reference, x)


@ACTIVATIONS
@pytest.mark.usefixtures("isa")
def test_full_range(function: Function, reference: Function) -> None:
    """Magnitudes from the denormals to the largest float32, both signs, and the special values."""
    magnitudes = np.concatenate([np.logspace(-40, 38.5, 4001), np.linspace(0, 110, 4001), [3.4028234e38, np.inf]])
    x = np.concatenate([magnitudes, -magnitudes, [np.nan, 0.0, -0.0]]).astype(np.float32)
    check_activation(function, reference, x.reshape(1, 1, 1, -1))


@ACTIVATIONS
@pytest.mark.usefixtures("isa")
@given(
    x=hnp.arrays(
        np.float32, hnp.array_shapes(min_dims=4, max_dims=4, min_side=0, max_side=9), elements=st.floats(width=32)
    )
)
def test_any_array(function: Function, reference: Function, x: Array) -> None:
    """Hypothesis' arrays: empty axes, NaN, infinities, denormals."""
    check_activation(function, reference, x)


@pytest.mark.usefixtures("isa")
def test_tanh_and_sigmoid_stay_in_range() -> None:
    """No rounding leaves [-1, 1] and [0, 1], tanh is odd, and both are monotonic within their error."""
    x = np.linspace(-20, 20, 100_001, dtype=np.float32).reshape(1, 1, 1, -1)
    y, s = F.tanh(x), F.sigmoid(x)
    assert (y.min(), y.max()) == (-1.0, 1.0)
    assert s.min() >= 0.0
    assert s.max() == 1.0
    tolerance.assert_same_bits(F.tanh(-x), -y)


@ACTIVATIONS
@pytest.mark.usefixtures("isa")
def test_activation_bits_do_not_depend_on_threads(
    function: Function, reference: Function, assert_deterministic: Callable[..., None]
) -> None:
    """Same bits with 1, 2 and 5 threads, and wherever an element stands in the array."""
    x = cases.real(3, 61, 67, 33)
    assert_deterministic(lambda: function(x))
    tolerance.assert_same_bits(function(x[1:2, 7:8, 11:12, 13:]), function(x)[1:2, 7:8, 11:12, 13:])
    check_activation(function, reference, x)


@ACTIVATIONS
@pytest.mark.usefixtures("isa")
def test_activation_gradient(function: Function, reference: Function) -> None:
    """`vjp` gives f'(x) * g with relu'(0) = 0."""
    x = cases.real(2, 5, 7, 9)
    x[0, 0, 0, :3] = (0.0, -0.0, 30.0)
    grad_y = cases.real(2, 5, 7, 9, seed=1)
    _, pullback = cnnrs.vjp(function, x)
    y = reference(x)
    if reference is oracle.relu:
        tolerance.assert_within(pullback(grad_y), np.where(x > 0, grad_y, 0.0), 0.0)
        return
    # The slope is computed from the rounded y: 1 - y^2 or y (1 - y), each with a few roundings of values up to one.
    slope = 1.0 - y**2 if reference is oracle.tanh else y * (1.0 - y)
    bound = abs(grad_y) * (2.0 * tolerance.ulps(abs(y)) + tolerance.gamma(4)) + tolerance.TINY
    tolerance.assert_within(pullback(grad_y), slope * grad_y, bound)


@pytest.mark.parametrize("order", ["hwc", "chw"])
@pytest.mark.parametrize(
    "shape", [(2, 3, 4, 5), (1, 1, 1, 1), (3, 5, 5, 16), (2, 4, 4, 4), (0, 2, 2, 3), (2, 7, 1, 33)]
)
@pytest.mark.usefixtures("isa")
def test_flatten(order: str, shape: tuple[int, ...]) -> None:
    """Both orders move values without changing a bit, and the gradient moves them back."""
    x = cases.real(*shape)
    tolerance.assert_within(F.flatten(x, order=order), oracle.flatten(x, order), 0.0)
    y, pullback = cnnrs.vjp(lambda value: F.flatten(value, order=order), x)
    tolerance.assert_same_bits(pullback(y), x)


@pytest.mark.usefixtures("isa", "threads")
def test_add_on_values() -> None:
    """`+` of two symbolic values adds them and passes the gradient to both."""
    x = cases.real(3, 9, 11, 35)
    y, pullback = cnnrs.vjp(lambda value: F.relu(value) + value, x)
    tolerance.assert_within(y, np.where(x > 0, x, np.float32(0)) + x, 0.0)
    grad_y = cases.real(*x.shape, seed=1)
    tolerance.assert_within(pullback(grad_y), np.where(x > 0, 2 * grad_y, grad_y), 0.0)


@pytest.mark.parametrize("channels", [1, 3, 16, 17])
@pytest.mark.usefixtures("isa", "threads")
def test_normalize(channels: int) -> None:
    """All 256 values of a byte, one mean for all channels and one per channel."""
    x = np.resize(np.arange(256, dtype=np.uint8), (3, 16, 17, channels))
    generator = np.random.default_rng(channels)
    for length in {1, channels}:
        mean = tuple(float(v) for v in generator.uniform(0.1, 0.9, length))
        std = tuple(float(v) for v in generator.uniform(0.1, 0.9, length))
        (y,) = _core.eager("normalize", [x], {"mean": mean, "std": std})
        magnitude = (x / 255.0 + np.asarray(mean)) / np.asarray(std)
        tolerance.assert_within(y, oracle.normalize(x, mean, std), tolerance.reduction(3, magnitude))
