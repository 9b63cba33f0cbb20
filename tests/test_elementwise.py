"""flatten and normalize against the oracle, on every instruction-set level."""

from __future__ import annotations

import numpy as np
import pytest

import cases
import cnnrs
import oracle
import tolerance
from cnnrs import _core
from cnnrs import functional as F


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
