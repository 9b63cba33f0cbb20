"""Maximum pooling in the convolution before it: the same bits, and no step of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cases import real
from cnnrs import functional as F
from cnnrs import models, nn
from tolerance import assert_same_bits


def assert_as_apart(model: nn.Sequential, x: np.ndarray[Any, Any]) -> None:
    """Check that a model whose last layer pools gives what it gives where somebody reads what is pooled."""
    before, pool = str(len(model) - 2), model[len(model) - 1]
    pooled = model(x)
    with model.capture(before) as captured:
        apart = model(x)
    assert_same_bits(apart, pooled)
    assert_same_bits(pool(captured[before]), pooled)


def fuses(model: nn.Module, shape: tuple[int, ...]) -> bool:
    """Tell whether some kernel pools on the way out."""
    return "_max_pool_" in str(model.explain(shape))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("activation", [None, nn.ReLU, nn.Tanh])
@pytest.mark.usefixtures("isa")
def test_pooling_in_the_convolution_before_it(norm: bool, activation: type[nn.Module] | None) -> None:
    """Maxima over 2x2 results are taken on the way out, to the same bits, unless somebody reads what is pooled."""
    parts: list[nn.Module] = [nn.Conv2d(33, 40, 3, padding=1)]
    parts += [nn.BatchNorm2d(40)] if norm else []
    parts += [activation()] if activation else []
    model = nn.Sequential(*parts, nn.MaxPool2d(2))
    for shape in ((2, 18, 22, 33), (1, 64, 62, 33), (2, 17, 22, 33), (1, 8, 8, 33)):
        x = real(*shape)
        pooled = model(x)
        fused = "_max_pool_f4" in model.explain(shape)
        assert fused == (shape[1] % 2 == 0 and shape[1] > 8 and activation is not nn.Tanh)
        with model.capture(str(len(parts) - 1)) as captured:
            assert_same_bits(model(x), pooled)
        assert_same_bits(F.max_pool2d(captured[str(len(parts) - 1)], 2), pooled)
    x = real(2, 18, 22, 33)
    x[1, 5, 6, 7] = np.nan
    with model.capture(str(len(parts) - 1)):
        apart = model(x)
    assert_same_bits(model(x), apart)


def test_pooling_stays_apart() -> None:
    """Other poolings, large weights, sums with a shortcut, values with another reader."""
    shape = (1, 32, 32, 32)
    conv = lambda out=32, **how: nn.Conv2d(32, out, 3, padding=1, **how)  # noqa: E731
    assert fuses(nn.Sequential(conv(), nn.MaxPool2d(2)), shape)
    for pool in (nn.MaxPool2d(3, stride=2), nn.MaxPool2d(2, stride=1), nn.MaxPool2d(2, padding=1), nn.AvgPool2d(2)):
        assert not fuses(nn.Sequential(conv(), pool), shape)
    direct = conv(algorithm="direct")
    for pool in (nn.MaxPool2d(2), nn.MaxPool2d(3, stride=2), nn.MaxPool2d(2, stride=1), nn.MaxPool2d(2, padding=1)):
        assert fuses(nn.Sequential(direct, pool), shape)
        assert fuses(nn.Sequential(conv(stride=2), nn.ReLU(), pool), (1, 64, 64, 32))
    for pool in (nn.MaxPool2d(2, dilation=2), nn.AvgPool2d(2), nn.MaxPool2d(16)):
        assert not fuses(nn.Sequential(direct, pool), shape)
    assert not fuses(nn.Sequential(conv(512, algorithm="direct"), nn.MaxPool2d(2)), shape)

    class Twice(nn.Module):
        def __init__(self, conv: nn.Module) -> None:
            super().__init__()
            self.conv = conv

        def forward(self, x: Any) -> Any:
            y = self.conv(x)
            return F.max_pool2d(y, 2), y

    class Shortcut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = direct

        def forward(self, x: Any) -> Any:
            return F.max_pool2d(F.relu(self.conv(x) + x), 2)

    assert not fuses(Twice(conv()), shape)
    assert not fuses(Twice(direct), shape)
    assert not fuses(Shortcut(), shape)


# Convolution (out, kernel, stride, padding), pooling (kernel, stride, padding) and picture of first layers.
STEMS = {
    "resnet": ((64, 7, 2, 3), (3, 2, 1), (112, 90)),
    "alexnet": ((64, 11, 4, 2), (3, 2, 0), (151, 130)),
    "plain": ((40, 3, 1, 1), (2, 2, 0), (45, 61)),
    "overlapping": ((33, 5, 1, 2), (3, 1, 1), (64, 30)),
}


def stem(name: str, norm: bool, activation: type[nn.Module] | None) -> nn.Sequential:
    """Make such layers."""
    (out, kernel, stride, padding), (window, step, around), _ = STEMS[name]
    parts: list[nn.Module] = [nn.Conv2d(3, out, kernel, stride=stride, padding=padding, bias=not norm)]
    parts += [nn.BatchNorm2d(out)] if norm else []
    parts += [activation()] if activation else []
    return nn.Sequential(*parts, nn.MaxPool2d(window, stride=step, padding=around)).eval()


@pytest.mark.parametrize("name", STEMS)
@pytest.mark.parametrize(("norm", "activation"), [(True, nn.ReLU), (False, nn.ReLU), (False, None), (True, nn.Tanh)])
@pytest.mark.usefixtures("isa")
def test_first_layers(name: str, norm: bool, activation: type[nn.Module] | None) -> None:
    """Bands of lines are pooled while they are in cache, numbers that are not finite included."""
    model = stem(name, norm, activation)
    for batch in (1, 3, 16):
        x = real(batch, *STEMS[name][2], 3)
        assert fuses(model, x.shape)
        assert_as_apart(model, x)
        x[0, 20, 20, 0], x[-1, 40, 0, 1], x[-1, -1, -1, 2] = np.nan, np.inf, -np.inf
        assert_as_apart(model, x)


@pytest.mark.parametrize("name", STEMS)
@pytest.mark.usefixtures("isa")
def test_threads(name: str, assert_deterministic: Callable[[Callable[[], Any]], None]) -> None:
    model = stem(name, True, nn.ReLU)
    for batch in (1, 3):
        x = real(batch, *STEMS[name][2], 3)
        assert_deterministic(lambda x=x: model(x))  # type: ignore[misc]


@given(
    batch=st.integers(1, 3),
    size=st.tuples(st.integers(16, 50), st.integers(16, 50)),
    channels=st.tuples(st.integers(2, 9), st.integers(16, 70)),
    window=st.tuples(st.integers(1, 7), st.integers(1, 3), st.integers(0, 3)),
    pool=st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2)),
)
@pytest.mark.usefixtures("isa")
def test_any_shape(
    batch: int,
    size: tuple[int, int],
    channels: tuple[int, int],
    window: tuple[int, int, int],
    pool: tuple[int, int, int],
) -> None:
    (kernel, stride, padding), (extent, step, around) = window, pool
    model = nn.Sequential(
        nn.Conv2d(*channels, kernel, stride=stride, padding=padding, algorithm="direct"),
        nn.ReLU(),
        nn.MaxPool2d(extent, stride=step, padding=min(around, extent // 2)),
    )
    assert_as_apart(model, real(batch, *size, channels[0]))


@pytest.mark.parametrize("make", [models.resnet18, models.resnet50, models.alexnet])
def test_networks(make: Callable[..., nn.Module]) -> None:
    """The first pooling has no step of its own."""
    for batch in (1, 32):
        lines = str(make(num_classes=5).eval().explain((batch, 224, 224, 3))).splitlines()
        first, second = [line for line in lines if "avx" in line or "portable" in line][:2]
        assert "_max_pool_" in first
        assert "conv2d" in second
