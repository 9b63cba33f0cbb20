"""Every shape the kernel tests use: the edge list, shapes large enough for several blocks, and random geometries.

A case knows its geometry and makes its data, seeded by its own shape string. Integer data keeps float32 sums exact.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

import oracle

Array = npt.NDArray[np.float32]
Padding = int | str | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]]


def _generator(text: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(text.encode()))


def _fill(generator: np.random.Generator, shape: tuple[int, ...], integer: bool) -> Array:
    if integer:
        return generator.integers(-4, 5, shape).astype(np.float32)
    return generator.standard_normal(shape).astype(np.float32)


def real(*shape: int, seed: int = 0) -> Array:
    """Standard normal float32 numbers, the same for the same shape and seed."""
    return _fill(_generator(f"{shape}{seed}"), shape, integer=False)


@dataclass(frozen=True)
class ConvData:
    """Operands of one case: input, weight, bias and the gradient of the output."""

    x: Array
    weight: Array
    bias: Array
    grad_y: Array


@dataclass(frozen=True)
class ConvCase:
    """One convolution. `channels` counts all groups together."""

    batch: int
    size: tuple[int, int]
    channels: int
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: Padding = 0
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def __str__(self) -> str:
        """The shape string, also the test's id."""
        return _shape_string(self)

    @property
    def geometry(self) -> dict[str, Any]:
        """Keyword arguments common to the three directions."""
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}

    @property
    def window(self) -> oracle.Window:
        """The resolved window."""
        return oracle.window(self.size, self.kernel, self.stride, self.padding, self.dilation)

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, C)."""
        return (self.batch, *self.size, self.channels)

    def data(self, integer: bool = False) -> ConvData:
        """Operands with standard normal or small integer values."""
        generator = _generator(str(self))
        shapes: tuple[tuple[int, ...], ...] = (
            self.input_shape,
            (*self.kernel, self.channels // self.groups, self.out_channels),
            (self.out_channels,),
            (self.batch, *self.window.out, self.out_channels),
        )
        return ConvData(*(_fill(generator, shape, integer) for shape in shapes))


@dataclass(frozen=True)
class PoolCase:
    """One pooling window; `dilation` is for maximum pooling only."""

    batch: int
    size: tuple[int, int]
    channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int] | None = None
    padding: Padding = 0
    dilation: tuple[int, int] = (1, 1)
    ceil_mode: bool = False

    def __str__(self) -> str:
        """The shape string, also the test's id."""
        return _shape_string(self)

    @property
    def geometry(self) -> dict[str, Any]:
        """Keyword arguments of both poolings."""
        return {"stride": self.stride, "padding": self.padding, "ceil_mode": self.ceil_mode}

    @property
    def window(self) -> oracle.Window:
        """The resolved window."""
        return oracle.window(self.size, self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode)

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, C)."""
        return (self.batch, *self.size, self.channels)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """(N, OH, OW, C)."""
        return (self.batch, *self.window.out, self.channels)

    def data(self, integer: bool = False) -> tuple[Array, Array]:
        """Input and gradient of the output; integers make ties."""
        generator = _generator(str(self))
        return _fill(generator, self.input_shape, integer), _fill(generator, self.output_shape, integer)


def _shape_string(case: ConvCase | PoolCase) -> str:
    short = {
        "batch": "n", "size": "i", "channels": "ic", "out_channels": "oc", "kernel": "k", "stride": "s",
        "padding": "p", "dilation": "d", "groups": "g", "ceil_mode": "ceil",
    }  # fmt: skip
    values = ((field, getattr(case, field.name)) for field in fields(case))
    return "".join(
        short[field.name] + str(value).translate({ord(c): None for c in "() "}).replace(",", "x")
        for field, value in values
        if value != field.default
    )


EDGE_CASES = [
    ConvCase(4, (4, 4), 4, 4, (4, 4)),  # N == C == H == W == K: no two axes can be told apart by size
    ConvCase(3, (3, 3), 3, 3, (3, 3), padding=1),
    ConvCase(1, (1, 1), 1, 1, (1, 1)),
    ConvCase(2, (1, 1), 5, 7, (1, 1), padding=2),
    ConvCase(2, (1, 1), 3, 4, (3, 3), padding=1),  # the kernel is larger than the input, not than the padded input
    ConvCase(1, (2, 2), 3, 5, (5, 5), padding=2),
    ConvCase(2, (3, 5), 2, 3, (5, 3), padding=((3, 0), (0, 1))),
    ConvCase(1, (4, 4), 2, 3, (2, 2), padding=5),  # whole windows of padding
    ConvCase(0, (5, 5), 3, 4, (3, 3)),  # empty batch
    ConvCase(2, (0, 4), 3, 4, (2, 2), padding=1),  # empty rows, output made of padding
    ConvCase(2, (4, 0), 3, 4, (1, 2), padding=(0, 2)),
    *(ConvCase(2, (5, 6), channels, 18 - channels, (3, 3), padding=1) for channels in range(1, 18)),
    *(ConvCase(1, (7, 7), 8, channels, (3, 3)) for channels in (1, 15, 16, 17, 31, 32, 33, 48, 64, 65)),
    ConvCase(2, (9, 8), 3, 4, (2, 2), stride=(3, 4)),  # stride > kernel: input pixels without a gradient
    ConvCase(2, (8, 9), 4, 5, (1, 1), stride=(2, 2)),
    ConvCase(1, (7, 9), 3, 6, (3, 3), stride=(2, 2), padding=1),
    ConvCase(2, (8, 8), 3, 6, (3, 3), stride=(2, 2), padding=1),  # the last row is not reached
    ConvCase(2, (9, 9), 3, 4, (3, 3), dilation=(2, 2)),
    ConvCase(2, (9, 11), 3, 4, (3, 2), padding=(3, 2), dilation=(3, 4)),
    ConvCase(1, (10, 12), 5, 6, (3, 3), stride=(2, 3), padding=2, dilation=(2, 1)),
    ConvCase(2, (6, 7), 3, 4, (3, 3), padding=((0, 2), (1, 0))),
    ConvCase(2, (6, 7), 3, 4, (2, 4), stride=(2, 1), padding=((3, 1), (0, 2))),
    ConvCase(2, (7, 6), 3, 4, (3, 4), padding="same"),
    ConvCase(2, (7, 8), 3, 4, (3, 3), stride=(2, 2), padding="same"),  # odd and even sizes differ by their padding
    ConvCase(2, (8, 7), 3, 4, (2, 5), stride=(2, 2), padding="same"),
    ConvCase(1, (9, 10), 3, 4, (3, 3), stride=(2, 3), padding="same", dilation=(2, 2)),
    ConvCase(1, (9, 10), 3, 4, (1, 1), stride=(3, 3), padding="same"),
    ConvCase(2, (6, 6), 3, 4, (3, 3), padding="valid"),
    ConvCase(2, (6, 6), 4, 6, (3, 3), padding=1, groups=2),
    ConvCase(2, (6, 5), 15, 9, (3, 3), stride=(2, 1), padding=1, groups=3),
    ConvCase(2, (6, 6), 32, 64, (1, 1), groups=2),
    ConvCase(2, (7, 7), 17, 17, (3, 3), padding=1, groups=17),  # depthwise
    ConvCase(1, (7, 7), 8, 24, (5, 5), padding=2, groups=8),  # depthwise with a multiplier
    ConvCase(2, (8, 8), 6, 6, (3, 3), stride=(2, 2), padding="same", dilation=(2, 2), groups=6),
    # Depthwise: channels of less than a vector, of several, and with a rest; lines of several tiles; borders alone.
    *(ConvCase(2, (5, 6), channels, channels, (3, 3), padding=1, groups=channels) for channels in (2, 5, 8, 15, 16)),
    *(ConvCase(1, (6, 23), channels, channels, (3, 3), padding=1, groups=channels) for channels in (24, 31, 40, 64)),
    ConvCase(2, (9, 20), 20, 20, (3, 3), stride=(2, 2), padding=1, groups=20),
    ConvCase(1, (10, 21), 33, 33, (5, 5), stride=(2, 2), padding="same", groups=33),
    ConvCase(1, (9, 22), 18, 18, (3, 3), padding="same", dilation=(2, 3), groups=18),
    ConvCase(2, (12, 13), 9, 9, (3, 2), stride=(3, 2), padding=((3, 0), (1, 2)), dilation=(2, 4), groups=9),
    ConvCase(1, (4, 4), 16, 16, (7, 9), padding=(3, 4), groups=16),  # no pixel reaches every tap
    ConvCase(1, (1, 40), 12, 12, (1, 19), padding=(0, 9), groups=12),
    ConvCase(2, (9, 10), 17, 17, (2, 2), stride=(4, 3), groups=17),  # input pixels without a gradient
    ConvCase(1, (3, 3), 8, 8, (2, 2), padding=4, groups=8),  # whole windows of padding
    ConvCase(0, (5, 5), 24, 24, (3, 3), groups=24),
    ConvCase(2, (0, 4), 6, 6, (2, 2), padding=1, groups=6),
    ConvCase(2, (7, 9), 6, 12, (3, 3), stride=(2, 1), padding="same", groups=6),
    ConvCase(1, (8, 7), 3, 48, (3, 3), padding=1, dilation=(1, 2), groups=3),
]
BIG_CASES = [
    ConvCase(3, (20, 20), 64, 96, (3, 3), padding=1),
    ConvCase(64, (28, 28), 1, 6, (5, 5), padding=2),  # LeNet-5
    ConvCase(32, (14, 14), 6, 16, (5, 5)),
    ConvCase(2, (13, 13), 256, 40, (1, 1)),
    ConvCase(1, (1, 1), 400, 120, (1, 1)),  # a batch-1 linear layer
    ConvCase(1, (33, 31), 3, 64, (7, 7), stride=(2, 2), padding=3),
    ConvCase(2, (14, 14), 128, 100, (3, 3), stride=(2, 2), padding=1),
    ConvCase(2, (17, 19), 40, 33, (3, 3), padding=2, dilation=(2, 2)),
    ConvCase(1, (24, 24), 48, 96, (5, 5), padding=2, groups=2),
    ConvCase(2, (28, 28), 96, 96, (3, 3), padding=1, groups=96),
    ConvCase(3, (29, 28), 136, 136, (3, 3), stride=(2, 2), padding=1, groups=136),
    ConvCase(2, (14, 14), 72, 144, (5, 5), padding=2, groups=72),
    ConvCase(1, (1, 3000), 24, 24, (1, 9), padding=(0, 4), groups=24),  # one long line
    ConvCase(1, (64, 80), 16, 17, (3, 3), padding=1),
    ConvCase(1, (6, 6), 512, 32, (3, 3), padding=1),
]
POOL_CASES = [
    PoolCase(3, (3, 3), 3, (3, 3)),
    PoolCase(1, (1, 1), 1, (1, 1)),
    PoolCase(2, (1, 1), 3, (2, 2), padding=1),
    PoolCase(0, (6, 6), 3, (2, 2)),
    *(PoolCase(2, (5, 7), channels, (2, 3)) for channels in range(1, 18)),
    PoolCase(2, (8, 8), 33, (2, 2)),
    PoolCase(2, (7, 9), 5, (3, 3), (2, 2), padding=1),
    PoolCase(2, (9, 8), 4, (3, 2), (1, 1)),  # overlapping windows
    PoolCase(2, (9, 10), 4, (2, 2), (3, 4)),  # stride > kernel
    PoolCase(2, (6, 7), 3, (3, 4), (2, 1), padding=((1, 0), (0, 2))),
    PoolCase(2, (7, 8), 3, (3, 3), (2, 2), padding="same"),
    PoolCase(2, (8, 7), 3, (2, 2), (2, 2), padding="same"),
    PoolCase(2, (7, 7), 3, (3, 3), padding="valid"),
    PoolCase(2, (6, 7), 3, (3, 3), (2, 2), ceil_mode=True),
    PoolCase(2, (7, 8), 3, (2, 2), (2, 2), padding=1, ceil_mode=True),
    PoolCase(2, (3, 4), 3, (1, 1), (3, 3), ceil_mode=True),  # a window that would start past the input is dropped
    PoolCase(2, (5, 5), 3, (2, 2), (3, 3), padding=((1, 1), (0, 1)), ceil_mode=True),
    PoolCase(2, (10, 11), 16, (5, 4), (3, 3), padding=2, ceil_mode=True),
    PoolCase(64, (28, 28), 6, (2, 2)),  # LeNet-5
    PoolCase(2, (30, 30), 64, (3, 3), (2, 2), padding=1),
    PoolCase(2, (12, 12), 32, (12, 12)),
]
DILATED_POOL_CASES = [
    PoolCase(2, (9, 9), 4, (3, 3), (1, 1), dilation=(2, 2)),
    PoolCase(2, (9, 10), 17, (2, 3), (2, 2), padding=1, dilation=(3, 2)),
    PoolCase(2, (8, 9), 4, (3, 2), (2, 3), padding=((1, 0), (1, 1)), dilation=(2, 3), ceil_mode=True),
]
ONLY_PADDING_POOL_CASE = PoolCase(1, (2, 2), 3, (2, 2), (1, 1), padding=1, dilation=(3, 3))
"""All taps of the only window lie in the padding."""

Choose = Callable[[int, int], int]
"""Draws an integer between two bounds, both included: `random.randint` or hypothesis."""


def _draw_padding(choose: Choose, largest: int) -> tuple[Padding, bool]:
    """A padding of a random form, and whether it fits any kernel (the named forms do)."""
    form = choose(0, 4)
    if form == 0:
        return choose(0, largest), False
    if form == 1:
        return (choose(0, largest), choose(0, largest)), False
    if form == 2:
        return ((choose(0, largest), choose(0, largest)), (choose(0, largest), choose(0, largest))), False
    return ("same", True) if form == 3 else ("valid", False)


def draw_conv(choose: Choose) -> ConvCase:
    """A random legal convolution; sizes grow until the kernel fits."""
    kernel = (choose(1, 5), choose(1, 5))
    dilation = (choose(1, 3), choose(1, 3)) if choose(0, 3) == 0 else (1, 1)
    stride = (choose(1, 4), choose(1, 4)) if choose(0, 1) else (1, 1)
    padding, fits = _draw_padding(choose, 4)
    groups = choose(1, 4) if choose(0, 3) == 0 else 1
    channels, out_channels = groups * choose(1, 19), groups * choose(1, 35)
    if choose(0, 7) == 0:
        groups = channels = choose(1, 40)
        out_channels = channels * max(choose(-2, 3), 1)
    spare = choose(0, 1) * _least(padding)  # sometimes the kernel fits thanks to the padding only
    least = (1, 1) if fits else (dilation[0] * (kernel[0] - 1) + 1 - spare, dilation[1] * (kernel[1] - 1) + 1 - spare)
    size = (max(choose(1, 14), least[0]), max(choose(1, 14), least[1]))
    return ConvCase(choose(1, 3), size, channels, out_channels, kernel, stride, padding, dilation, groups)


def _least(padding: Padding) -> int:
    """What any form adds to either axis at least."""
    if isinstance(padding, str):
        return 0
    if isinstance(padding, int):
        return 2 * padding
    return min(2 * p if isinstance(p, int) else sum(p) for p in padding)


def draw_pool(choose: Choose) -> PoolCase:
    """A random legal pooling without dilation; padding stays within half of the kernel."""
    kernel = (choose(1, 5), choose(1, 5))
    stride = (choose(1, 4), choose(1, 4)) if choose(0, 1) else None
    padding, _ = _draw_padding(choose, min(kernel) // 2)
    size = (max(kernel[0], choose(1, 14)), max(kernel[1], choose(1, 14)))
    return PoolCase(choose(1, 3), size, choose(1, 35), kernel, stride, padding, ceil_mode=bool(choose(0, 1)))


def geometries(count: int, seed: int) -> Iterator[ConvCase]:
    """`count` random convolutions, the same for the same seed."""
    choose = random.Random(seed).randint
    return (draw_conv(choose) for _ in range(count))


def pool_geometries(count: int, seed: int) -> Iterator[PoolCase]:
    """`count` random poolings, the same for the same seed."""
    choose = random.Random(seed).randint
    return (draw_pool(choose) for _ in range(count))


@st.composite
def conv_cases(draw: st.DrawFn) -> ConvCase:
    """Hypothesis' view of `draw_conv`: shrinks towards small sizes."""
    return draw_conv(lambda low, high: draw(st.integers(low, high)))


@st.composite
def pool_cases(draw: st.DrawFn) -> PoolCase:
    """Hypothesis' view of `draw_pool`."""
    return draw_pool(lambda low, high: draw(st.integers(low, high)))
