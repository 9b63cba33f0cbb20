"""Pooling of whole images in the convolution before it: the same bits, and no step of its own."""

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


class Largest(nn.Module):
    """The largest of all pixels, which is a reduction as the mean is one."""

    def forward(self, x: Any) -> Any:
        """Trace it."""
        return F.max(x, (1, 2))


class Head(nn.Module):
    """A convolution with all that may follow it, and a pooling of whole images."""

    def __init__(self, conv: nn.Conv2d, norm: bool, shortcut: bool, activation: nn.Module, pool: nn.Module) -> None:
        super().__init__()
        self.conv, self.activation, self.pool = conv, activation, pool
        self.norm = nn.BatchNorm2d(conv.out_channels) if norm else nn.Identity()
        self.shortcut = nn.Conv2d(conv.in_channels, conv.out_channels, 1, stride=conv.stride) if shortcut else None

    def forward(self, x: Any) -> Any:
        """Trace it."""
        # What comes last has the addition in its epilogue.
        added = self.shortcut(x) if self.shortcut else None
        y = self.norm(self.conv(x))
        return self.pool(self.activation(y if added is None else y + added))


def head(conv: nn.Conv2d, pool: nn.Module | None = None, norm: bool = True, shortcut: bool = True) -> nn.Module:
    """Make such layers, in evaluation."""
    return Head(conv, norm, shortcut, nn.ReLU(), pool or nn.GlobalAvgPool2d()).eval()


def assert_as_apart(model: nn.Module, x: np.ndarray[Any, Any]) -> None:
    """Check that a model gives what it gives where somebody reads what is pooled."""
    pooled = model(x)
    with model.capture("activation"):
        assert_same_bits(model(x), pooled)


def fuses(model: nn.Module, shape: tuple[int, ...]) -> bool:
    """Tell whether some kernel pools whole images."""
    return "_global_" in str(model.explain(shape))


CONVS: dict[str, tuple[Callable[[], nn.Conv2d], tuple[int, int, int]]] = {
    "large weights": (lambda: nn.Conv2d(256, 600, 1), (4, 4, 256)),
    "strided, copied once": (lambda: nn.Conv2d(96, 224, 3, stride=2, padding=1), (13, 13, 96)),
    "tiles": (lambda: nn.Conv2d(64, 128, 3, padding=1), (8, 8, 64)),
    "tiles of tiny images": (lambda: nn.Conv2d(128, 160, 3, padding=1), (5, 3, 128)),
    "one task": (lambda: nn.Conv2d(8, 128, 1), (2, 2, 8)),
    "groups": (lambda: nn.Conv2d(16, 256, 1, groups=2), (2, 2, 16)),
}


@pytest.mark.parametrize("name", CONVS)
@pytest.mark.parametrize("pool", [nn.GlobalAvgPool2d, Largest])
@pytest.mark.usefixtures("isa")
def test_pooling_whole_images_in_the_convolution(name: str, pool: type[nn.Module]) -> None:
    """Whatever follows the sums, and for numbers that are not finite, too."""
    make, shape = CONVS[name]
    for norm, shortcut, activation in (
        (True, True, nn.ReLU()),
        (False, False, nn.ReLU6()),
        (True, False, nn.Identity()),
    ):
        model = Head(make(), norm, shortcut, activation, pool()).eval()
        assert fuses(model, (1, *shape))
        for batch in (1, 3):
            x = real(batch, *shape)
            assert_as_apart(model, x)
            x[0, 0, 0, 0], x[-1, -1, -1, -1] = np.nan, np.inf
            assert_as_apart(model, x)


@pytest.mark.parametrize("name", CONVS)
@pytest.mark.usefixtures("isa")
def test_threads(name: str, assert_deterministic: Callable[[Callable[[], Any]], None]) -> None:
    make, shape = CONVS[name]
    model, x = head(make()), real(2, *shape)
    assert_deterministic(lambda: model(x))


def test_pooling_stays_apart() -> None:
    """Work cut by pixels, columns that are reduced together, long ones, other axes, values with another reader."""
    conv = lambda out=256: nn.Conv2d(128, out, 3, padding=1)  # noqa: E731
    assert fuses(head(conv()), (1, 7, 7, 128))
    assert not fuses(head(conv()), (32, 14, 14, 128))
    assert not fuses(head(nn.Conv2d(16, 24, 1)), (1, 7, 7, 16))
    assert not fuses(head(conv()), (1, 32, 32, 128))
    for pool in (nn.AdaptiveAvgPool2d(2), nn.AvgPool2d(7)):
        assert not fuses(head(conv(), pool), (1, 7, 7, 128))

    class Channels(nn.Module):
        def forward(self, x: Any) -> Any:
            return F.mean(x, (2, 3))

    class Twice(nn.Module):
        def forward(self, x: Any) -> Any:
            return F.mean(x, (1, 2)) + F.max(x, (1, 2))

    for other in (Channels(), Twice()):
        assert not fuses(head(conv(), other), (1, 7, 7, 128))


@given(
    batch=st.integers(1, 5),
    size=st.tuples(st.integers(1, 17), st.integers(1, 17)),
    channels=st.tuples(st.integers(1, 80), st.sampled_from([1, 16, 31, 64, 96, 128, 131, 192])),
    window=st.tuples(st.sampled_from([1, 3, 5]), st.integers(1, 2)),
    largest=st.booleans(),
)
@pytest.mark.usefixtures("isa")
def test_any_shape(
    batch: int, size: tuple[int, int], channels: tuple[int, int], window: tuple[int, int], largest: bool
) -> None:
    kernel, stride = window
    conv = nn.Conv2d(*channels, kernel, stride=stride, padding=kernel // 2)
    assert_as_apart(head(conv, Largest() if largest else None, shortcut=False), real(batch, *size, channels[0]))


@pytest.mark.parametrize(("make", "side"), [(models.resnet18, 224), (models.cifar_resnet20, 32)])
@pytest.mark.usefixtures("isa")
def test_networks(make: Callable[..., nn.Module], side: int) -> None:
    """One image at a time, residual networks have no step for it."""
    text = str(make(num_classes=5).eval().explain((1, side, side, 3)))
    assert "_global_mean_" in text
    assert " mean " not in text
