"""Convolution by transformed tiles: its published tolerance, in every direction, and the rule that chooses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cnnrs
import oracle
from cases import real
from cnnrs import Trainer, nn, optim
from cnnrs import functional as F
from tolerance import assert_same_bits

TOLERANCE = 1e-4
"""Largest error relative to the largest result: what the package promises for all schemes."""
USUAL = 2e-5
"""The same for numbers of one order of magnitude."""
Shape = tuple[int, int, int, int, int, int, int, Any]
"""(kernel, stride, n, h, w, in, out, padding)."""
# Tiles that fit, tiles over the edge, vectors that fit, tails, padding on any side.
SHAPES: list[Shape] = [
    (3, 1, 1, 16, 16, 32, 32, 1),
    (3, 1, 2, 17, 19, 40, 33, 1),
    (3, 1, 2, 15, 18, 64, 96, (0, 2)),
    (3, 1, 1, 30, 30, 33, 65, ((2, 0), (1, 2))),
    (3, 1, 5, 7, 7, 128, 64, 1),
    (3, 1, 16, 3, 5, 48, 80, "same"),
    (3, 1, 1, 66, 65, 36, 32, 0),
    (3, 1, 1, 7, 7, 128, 64, 1),
    (3, 1, 2, 7, 8, 33, 65, ((2, 0), (1, 2))),
    (3, 1, 1, 11, 10, 70, 40, 0),
    (5, 1, 1, 8, 8, 32, 32, 2),
    (5, 1, 1, 27, 27, 64, 192, 2),
    (5, 1, 2, 11, 14, 40, 33, (0, 4)),
    (5, 1, 1, 15, 12, 33, 65, ((4, 0), (1, 3))),
    (5, 1, 5, 5, 6, 128, 64, "same"),
    (5, 1, 1, 36, 35, 36, 32, 0),
    (3, 2, 1, 28, 28, 64, 64, 1),
    (3, 2, 2, 17, 19, 70, 65, 1),
    (3, 2, 3, 14, 15, 96, 70, ((1, 0), (1, 2))),
    (3, 2, 9, 5, 4, 64, 128, 1),
    (3, 2, 3, 14, 14, 64, 96, 1),
]
# Of few channels: lines of pixels that are one or two vectors, whole taps and missing ones, windows over every edge.
FIRST_LAYERS: list[Shape] = [
    (7, 2, 1, 64, 64, 3, 64, 3),
    (7, 2, 2, 33, 46, 3, 40, ((3, 2), (0, 5))),
    (8, 2, 2, 30, 33, 4, 32, ((3, 4), (0, 2))),
    (11, 4, 2, 60, 63, 3, 33, 2),
    (12, 4, 1, 60, 71, 4, 65, 5),
    (5, 2, 2, 25, 28, 8, 65, 2),
    (6, 2, 9, 14, 13, 3, 32, "same"),
    (7, 3, 2, 40, 43, 5, 48, 0),
    (12, 3, 1, 50, 45, 2, 96, 9),
]
SHAPES += FIRST_LAYERS


def relative(actual: Any, expected: Any) -> float:
    """The largest error as a part of the largest result."""
    return float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-30))


def errors(x: Any, weight: Any, grad: Any, padding: Any, stride: int = 1) -> list[float]:
    """The errors of output, data gradient and weight gradient."""
    how = {"stride": stride, "padding": padding, "dilation": 1, "groups": 1}
    return [
        relative(fast, exact)
        for fast, exact in zip(
            passes(x, weight, grad, padding, stride),
            (
                oracle.conv2d(x, weight, None, **how),
                oracle.conv2d_backward_data(grad, weight, x.shape, **how),
                oracle.conv2d_backward_weights(x, grad, weight.shape[:2], **how)[0],
            ),
            strict=True,
        )
    ]


def passes(x: Any, weight: Any, grad: Any, padding: Any, stride: int) -> list[Any]:
    """Output, data gradient and weight gradient."""
    return [
        F.conv2d(x, weight, stride=stride, padding=padding),
        F.conv2d_backward_data(grad, weight, x.shape, stride=stride, padding=padding),
        F.conv2d_backward_weights(x, grad, len(weight), stride=stride, padding=padding)[0],
    ]


def operands(shape: Shape, seed: int = 0) -> tuple[Any, Any, Any]:
    """Input, weight and gradient of a shape."""
    kernel, stride, n, h, w, ic, oc, padding = shape
    x, weight = real(n, h, w, ic, seed=seed), real(kernel, kernel, ic, oc, seed=seed + 1)
    out = F.conv2d(x, weight, stride=stride, padding=padding, algorithm="direct")
    return x, weight, real(*out.shape, seed=seed + 2)


def chosen(shape: Shape, **arguments: Any) -> bool:
    """Whether a layer of that shape is computed by transformed tiles."""
    kernel, stride, n, h, w, ic, oc, padding = shape
    layer = nn.Conv2d(ic, oc, kernel, stride=stride, padding=padding, **arguments)
    text = layer.explain((n, h, w, ic))
    schemes = {(3, 1): ("f4", "f2"), (3, 2): ("f2s2",), (5, 1): ("f2k5",)}.get((kernel, stride), ())
    if ic < 32 and stride > 1:
        schemes = (f"f4s{stride}" if kernel <= 3 * stride else f"f3k4s{stride}",)
    return any(f"conv_winograd_{scheme}_" in text for scheme in schemes)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.usefixtures("isa")
def test_error(shape: Shape) -> None:
    """Against double precision, in all directions."""
    assert chosen(shape)
    assert max(errors(*operands(shape), shape[-1], shape[1])) <= USUAL


@given(data=st.data())
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (5, 1), (3, 2)])
@pytest.mark.usefixtures("isa")
def test_any_shape(kernel: int, stride: int, data: st.DataObject) -> None:
    """Also of shapes too small for tiles, which go the direct way."""
    most = 70 if stride == 1 else 100
    n, side, channels, pad = (st.integers(*ends) for ends in ((1, 9), (kernel, 22), (32, most), (0, kernel - 1)))
    padding = data.draw(st.tuples(*[st.tuples(pad, pad)] * 2), "padding")
    n, h, w, ic, oc = data.draw(st.tuples(n, side, side, channels, channels), "n, h, w, ic, oc")
    assert max(errors(*operands((kernel, stride, n, h, w, ic, oc, padding)), padding, stride)) <= USUAL


@given(data=st.data())
@pytest.mark.parametrize(("kernel", "stride"), [(5, 2), (7, 2), (7, 3), (11, 4), (14, 4)])
@pytest.mark.usefixtures("isa")
def test_any_first_layer(kernel: int, stride: int, data: st.DataObject) -> None:
    """Also with more channels than are put together, and fewer results than pay."""
    pad = st.integers(0, kernel + 1)
    ranges = ((1, 4), (kernel, 10 * stride), (kernel, 10 * stride), (1, 18 // stride), (30, 70))
    n, h, w, ic, oc = data.draw(st.tuples(*[st.integers(*ends) for ends in ranges]), "n, h, w, ic, oc")
    padding = data.draw(st.tuples(*[st.tuples(pad, pad)] * 2), "padding")
    assert max(errors(*operands((kernel, stride, n, h, w, ic, oc, padding)), padding, stride)) <= USUAL


@pytest.mark.parametrize("kind", ["offset", "outlier", "image", "channels of different sizes"])
@pytest.mark.parametrize(
    ("kernel", "stride", "size", "channels"),
    [
        (3, 1, (2, 18, 21), 64),
        (3, 1, (2, 7, 8), 64),
        (5, 1, (2, 18, 21), 64),
        (3, 2, (2, 24, 21), 64),
        (7, 2, (2, 36, 41), 3),
        (11, 4, (2, 70, 61), 3),
    ],
)
@pytest.mark.usefixtures("isa")
def test_adversarial_inputs(kernel: int, stride: int, size: tuple[int, int, int], channels: int, kind: str) -> None:
    """A large common offset, one value far from all others, a picture after relu, channels of very different sizes."""
    shape = (kernel, stride, *size, channels, 64, kernel // 2)
    assert chosen(shape)
    x, weight, grad = operands(shape)
    if kind == "offset":
        x, grad = x + np.float32(1000), grad - np.float32(1000)
    elif kind == "outlier":
        x[1, 6, 5, -1], grad[0, 5, 6, 7] = 1e6, -1e6
    elif kind == "image":
        x, weight = np.maximum(x, 0), abs(weight)
    else:
        x, grad = (array * np.float32(10) ** (np.arange(array.shape[-1]) - 32).clip(-6, 6) for array in (x, grad))
        x, grad = x.astype(np.float32), grad.astype(np.float32)
    assert max(errors(x, weight, grad, kernel // 2, stride)) <= TOLERANCE


@pytest.mark.parametrize("activation", [None, nn.ReLU, nn.Tanh, nn.SiLU])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.usefixtures("isa")
def test_bias_and_activation(kernel: int, activation: type[nn.Module] | None) -> None:
    """What follows the sum is computed on the way out, with the same results as by direct summation."""
    conv = nn.Conv2d(40, 50, kernel, padding=kernel // 2)
    parts = [conv] if activation is None else [conv, activation()]
    model, x = nn.Sequential(*parts), real(2, 15, 14, 40)
    fast = model(x)
    assert "conv_winograd" in model.explain(x.shape)
    with direct():
        assert "conv_winograd_" not in model.explain(x.shape)
        assert relative(fast, model(x)) <= USUAL


class direct:  # noqa: N801
    """Direct summation inside a block."""

    def __enter__(self) -> None:
        cnnrs.set_algorithm("direct")

    def __exit__(self, *_: object) -> None:
        cnnrs.set_algorithm("auto")


@pytest.mark.parametrize(
    "shape",
    [
        (3, 1, 3, 20, 20, 64, 96, 1),
        (3, 1, 2, 7, 7, 256, 256, 1),
        (3, 1, 16, 4, 4, 40, 33, 1),
        (5, 1, 5, 27, 27, 64, 192, 2),
        (5, 1, 1, 13, 14, 40, 33, 2),
        (3, 2, 1, 27, 28, 64, 96, 1),
        (3, 2, 4, 28, 28, 128, 256, 1),
        (7, 2, 3, 61, 64, 3, 65, 3),
        (11, 4, 3, 119, 123, 3, 96, 2),
    ],
    ids=str,
)
@pytest.mark.usefixtures("isa")
def test_bits_do_not_depend_on_threads(shape: Shape, assert_deterministic: Callable[..., None]) -> None:
    """Blocks, chunks and parts are fixed by the shape."""
    assert chosen(shape)
    operands_of = operands(shape)
    assert_deterministic(lambda: passes(*operands_of, shape[-1], shape[1]))


@pytest.mark.parametrize(("kernel", "stride", "channels"), [(3, 1, 40), (5, 1, 40), (3, 2, 80), (7, 2, 3), (11, 4, 3)])
@pytest.mark.usefixtures("isa")
def test_an_image_gets_the_same_bits_in_any_batch(kernel: int, stride: int, channels: int) -> None:
    """Where its tiles lie in the blocks does not matter."""
    size = 16 * stride
    assert chosen((kernel, stride, 1, size, size, channels, 80, kernel // 2))
    x, weight = real(9, size, size, channels), real(kernel, kernel, channels, 80)

    def convolved(x: Any) -> Any:
        return F.conv2d(x, weight, stride=stride, padding=kernel // 2)

    whole = convolved(x)
    for start, stop in ((0, 1), (1, 3), (3, 9)):
        assert_same_bits(convolved(x[start:stop]), whole[start:stop])


@pytest.mark.parametrize("channels", [64, 65])
@pytest.mark.usefixtures("isa")
def test_large_results(channels: int, assert_deterministic: Callable[..., None]) -> None:
    """Results that go past the caches, if their lines are whole, have the bits of those that do not."""
    x, weight = real(5, 64, 66, 32), real(3, 3, 32, channels)
    assert 5 * 64 * 66 * channels * 4 >= 4 << 20 > 64 * 66 * channels * 4
    whole = F.conv2d(x, weight, padding=1)
    for image in range(5):
        assert_same_bits(F.conv2d(x[image : image + 1], weight, padding=1), whole[image : image + 1])
    assert_deterministic(lambda: F.conv2d(x, weight, padding=1))


@pytest.mark.parametrize("special", [np.nan, np.inf])
# By 3x3 the pixel is read by the tile of rows and columns 4 to 7 alone; by 5x5, and in small tiles, these are the
# results that read it.
@pytest.mark.parametrize(
    ("kernel", "size", "rows", "columns"),
    [(3, 16, (4, 8), (4, 8)), (3, 8, (4, 7), (5, 8)), (5, 16, (3, 8), (4, 9))],
)
@pytest.mark.usefixtures("isa")
def test_special_values_spread_over_their_tiles_only(
    kernel: int, size: int, rows: tuple[int, int], columns: tuple[int, int], special: float
) -> None:
    """NaN and infinities make NaN of all results of the tiles that have them inside; what reads none keeps its bits."""
    x, weight = real(1, size, size, 32), real(kernel, kernel, 32, 32)
    assert chosen((kernel, 1, 1, size, size, 32, 32, kernel // 2))
    clean = F.conv2d(x, weight, padding=kernel // 2)
    x[0, 5, 6, 3] = special
    touched = F.conv2d(x, weight, padding=kernel // 2)
    tiles = (0, slice(*rows), slice(*columns))
    assert not np.isfinite(touched[tiles]).any()
    if size == 16:
        assert np.isnan(touched[0, 4:8, 4:8]).all()
    touched[tiles] = clean[tiles]
    assert_same_bits(touched, clean)


@pytest.mark.parametrize("special", [np.nan, np.inf])
# By 3x3 result y reads the lines 2y - 1 to 2y + 1, and others of its tile keep their bits. By 7x7 it reads the lines
# 2y - 3 to 2y + 3, and the tile of results 3t to 3t + 2 the lines 6t - 3 to 6t + 8.
@pytest.mark.parametrize(
    ("shape", "pixel", "readers", "touched"),
    [
        ((3, 2, 1, 16, 16, 64, 64, 1), (5, 6), np.s_[0, 2:4, 3:4], np.s_[0, 2:4, 3:4]),
        ((7, 2, 1, 48, 48, 3, 32, 3), (20, 21), np.s_[0, 9:12, 9:13], np.s_[0, 6:12, 9:15]),
    ],
)
@pytest.mark.usefixtures("isa")
def test_special_values_with_stride_2(
    shape: Shape, pixel: tuple[int, int], readers: Any, touched: Any, special: float
) -> None:
    """Results that read the pixel are not finite, those of tiles that do not read it keep their bits."""
    assert chosen(shape)
    x, weight, _ = operands(shape)
    clean = F.conv2d(x, weight, stride=2, padding=shape[-1])
    x[0, *pixel, 1] = special
    spoilt = F.conv2d(x, weight, stride=2, padding=shape[-1])
    assert not np.isfinite(spoilt[readers]).any()
    spoilt[touched] = clean[touched]
    assert_same_bits(spoilt, clean)


def test_the_rule_of_few_channels() -> None:
    """Three or four taps of the stride, at most 16 floats of a line of pixels, 12 of all, 32 results; else directly."""
    assert chosen((7, 2, 1, 48, 48, 8, 32, 3))
    for shape in ((7, 2, 9), (7, 2, 2), (9, 2, 3), (4, 2, 3), (11, 5, 3), (11, 3, 6)):
        kernel, stride, channels = shape
        assert not chosen((kernel, stride, 1, 80, 80, channels, 32, 3)), shape
    assert not chosen((7, 2, 1, 48, 48, 3, 31, 3))
    assert not chosen((7, 2, 1, 18, 18, 3, 32, 3))
    for arguments in ({"dilation": 2}, {"algorithm": "direct"}):
        assert not chosen((7, 2, 1, 48, 48, 3, 32, 3), **arguments)


def test_the_rule_looks_at_shape_and_permission_only(restore_threads: None) -> None:
    """Kernel, stride, dilation, groups, channels and tiles; never at the number of threads."""
    for kernel in (3, 5):
        small, few, most = 8 if kernel == 5 else 7, 6 if kernel == 5 else 5, kernel - 1
        shape = (kernel, 1, 1, small, small, 32, 32, kernel // 2)
        for threads in (1, 2, 5):
            cnnrs.set_num_threads(threads)
            assert chosen(shape)
        for arguments in ({"dilation": 2}, {"groups": 2}, {"algorithm": "direct"}):
            assert not chosen((kernel, 1, 4, *shape[3:]), **arguments)
        assert not chosen((kernel, 2, 4, *shape[3:]))
        for ic, oc in ((31, 32), (32, 31)):
            assert not chosen((kernel, 1, 1, 16, 16, ic, oc, kernel // 2))
        assert not chosen((kernel, 1, 1, few, few, 32, 32, kernel // 2))
        assert chosen((kernel, 1, 1, 16, 16, 32, 32, most))
        assert not chosen((kernel, 1, 1, 16, 16, 32, 32, most + 1))
        with direct():
            assert not chosen(shape)
    assert not chosen((7, 1, 1, 16, 16, 32, 32, 3))


def test_the_rule_with_stride_2() -> None:
    """3x3 with padding 1 before, 64 channels; where a quarter of the tiles' results is none, few of these only."""
    assert chosen((3, 2, 1, 14, 14, 64, 64, 1))
    for n, h, w, ic, oc, padding in ((1, 14, 14, 63, 64, 1), (1, 14, 14, 64, 63, 1), (1, 14, 14, 64, 64, 0)):
        assert not chosen((3, 2, n, h, w, ic, oc, padding))
    assert chosen((3, 2, 1, 13, 14, 64, 64, ((1, 0), (1, 2))))
    assert not chosen((3, 2, 1, 10, 12, 64, 64, 1))
    assert not chosen((3, 3, 1, 30, 30, 64, 64, 1))
    assert not chosen((3, 2, 1, 28, 28, 64, 64, 1), algorithm="direct")
    assert chosen((3, 2, 8, 14, 14, 64, 64, 1))
    assert not chosen((3, 2, 9, 14, 14, 64, 64, 1))
    assert chosen((3, 2, 9, 16, 16, 64, 64, 1))


def test_reasons_are_explained() -> None:
    """`explain` says why a convolution by 3x3 or 5x5 went the direct way; of others that is no question."""
    for kernel in (3, 5):
        text = nn.Conv2d(16, 32, kernel).explain((1, 16, 16, 16))
        assert "conv_winograd: fewer than 32 channels" in text
        text = nn.Conv2d(32, 32, kernel, algorithm="direct").explain((1, 16, 16, 32))
        assert "conv_winograd: algorithm is direct" in text
    assert "winograd" not in nn.Conv2d(32, 32, 7).explain((1, 16, 16, 32))


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.usefixtures("isa")
def test_training_repacks_weights(kernel: int) -> None:
    """A step reads the weights that the step before has written: three steps stay with those of direct summation."""
    losses = []
    for algorithm in ("auto", "direct"):
        cnnrs.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(32, 32, kernel, padding=kernel // 2, algorithm=algorithm),
            nn.ReLU(),
            nn.Conv2d(32, 32, kernel, padding=kernel // 2, algorithm=algorithm),
            nn.Flatten(),
            nn.Linear(32 * 64, 5),
        )
        trainer = Trainer(model, optim.SGD(lr=0.05, momentum=0.9), seed=0)
        losses.append([trainer.step(real(8, 8, 8, 32), np.arange(8) % 5) for _ in range(4)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
