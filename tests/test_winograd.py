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
"""Largest error relative to the largest result: what the package promises for F(4x4, 3x3)."""
USUAL = 2e-5
"""The same for numbers of one order of magnitude."""
# (n, h, w, in, out, padding): tiles that fit, tiles over the edge, vectors that fit, tails, padding on any side.
SHAPES: list[tuple[int, int, int, int, int, Any]] = [
    (1, 16, 16, 32, 32, 1),
    (2, 17, 19, 40, 33, 1),
    (2, 15, 18, 64, 96, (0, 2)),
    (1, 30, 30, 33, 65, ((2, 0), (1, 2))),
    (5, 7, 7, 128, 64, 1),
    (16, 3, 5, 48, 80, "same"),
    (1, 66, 65, 36, 32, 0),
]


def relative(actual: Any, expected: Any) -> float:
    """The largest error as a part of the largest result."""
    return float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-30))


def errors(x: Any, weight: Any, grad: Any, padding: Any) -> list[float]:
    """The errors of output, data gradient and weight gradient."""
    how = {"stride": 1, "padding": padding, "dilation": 1, "groups": 1}
    return [
        relative(F.conv2d(x, weight, padding=padding), oracle.conv2d(x, weight, None, **how)),
        relative(
            F.conv2d_backward_data(grad, weight, x.shape, padding=padding),
            oracle.conv2d_backward_data(grad, weight, x.shape, **how),
        ),
        relative(
            F.conv2d_backward_weights(x, grad, 3, padding=padding)[0],
            oracle.conv2d_backward_weights(x, grad, (3, 3), **how)[0],
        ),
    ]


def operands(shape: tuple[int, int, int, int, int, Any], seed: int = 0) -> tuple[Any, Any, Any]:
    """Input, weight and gradient of a shape."""
    n, h, w, ic, oc, padding = shape
    x, weight = real(n, h, w, ic, seed=seed), real(3, 3, ic, oc, seed=seed + 1)
    return x, weight, real(*F.conv2d(x, weight, padding=padding, algorithm="direct").shape, seed=seed + 2)


def chosen(shape: tuple[int, int, int, int, int, Any], **arguments: Any) -> bool:
    """Whether a layer of that shape is computed by transformed tiles."""
    n, h, w, ic, oc, padding = shape
    layer = nn.Conv2d(ic, oc, 3, padding=padding, **arguments)
    return "conv_winograd_f4" in layer.explain((n, h, w, ic))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.usefixtures("isa")
def test_error(shape: tuple[int, int, int, int, int, Any]) -> None:
    """Against double precision, in all directions."""
    assert chosen(shape)
    assert max(errors(*operands(shape), shape[5])) <= USUAL


@given(
    n=st.integers(1, 9),
    h=st.integers(3, 22),
    w=st.integers(3, 22),
    ic=st.integers(32, 70),
    oc=st.integers(32, 70),
    padding=st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 2),
)
@pytest.mark.usefixtures("isa")
def test_any_shape(n: int, h: int, w: int, ic: int, oc: int, padding: Any) -> None:
    """Also of shapes too small for tiles, which go the direct way."""
    assert max(errors(*operands((n, h, w, ic, oc, padding)), padding)) <= USUAL


@pytest.mark.parametrize("kind", ["offset", "outlier", "image", "channels of different sizes"])
@pytest.mark.usefixtures("isa")
def test_adversarial_inputs(kind: str) -> None:
    """A large common offset, one value far from all others, a picture after relu, channels of very different sizes."""
    shape = (2, 18, 21, 64, 64, 1)
    x, weight, grad = operands(shape)
    if kind == "offset":
        x, grad = x + np.float32(1000), grad - np.float32(1000)
    elif kind == "outlier":
        x[1, 9, 10, 3], grad[0, 5, 6, 7] = 1e6, -1e6
    elif kind == "image":
        x, weight = np.maximum(x, 0), abs(weight)
    else:
        x, grad = (array * np.float32(10) ** np.arange(-32, 32).astype(np.float32).clip(-6, 6) for array in (x, grad))
    assert max(errors(x, weight, grad, 1)) <= TOLERANCE


@pytest.mark.parametrize("activation", [None, nn.ReLU, nn.Tanh, nn.SiLU])
@pytest.mark.usefixtures("isa")
def test_bias_and_activation(activation: type[nn.Module] | None) -> None:
    """What follows the sum is computed on the way out, with the same results as by direct summation."""
    conv = nn.Conv2d(40, 50, 3, padding=1)
    parts = [conv] if activation is None else [conv, activation()]
    model, x = nn.Sequential(*parts), real(2, 15, 14, 40)
    fast = model(x)
    assert "conv_winograd" in model.explain(x.shape)
    with direct():
        assert relative(fast, model(x)) <= USUAL


class direct:  # noqa: N801
    """Direct summation inside a block."""

    def __enter__(self) -> None:
        cnnrs.set_algorithm("direct")

    def __exit__(self, *_: object) -> None:
        cnnrs.set_algorithm("auto")


@pytest.mark.parametrize("shape", [(3, 20, 20, 64, 96, 1), (2, 7, 7, 256, 256, 1), (16, 4, 4, 40, 33, 1)], ids=str)
@pytest.mark.usefixtures("isa")
def test_bits_do_not_depend_on_threads(
    shape: tuple[int, int, int, int, int, Any], assert_deterministic: Callable[..., None]
) -> None:
    """Blocks, chunks and parts are fixed by the shape."""
    x, weight, grad = operands(shape)
    assert_deterministic(
        lambda: [
            F.conv2d(x, weight, padding=1),
            F.conv2d_backward_data(grad, weight, x.shape, padding=1),
            *F.conv2d_backward_weights(x, grad, 3, padding=1),
        ]
    )


@pytest.mark.usefixtures("isa")
def test_an_image_gets_the_same_bits_in_any_batch() -> None:
    """Where its tiles lie in the blocks does not matter."""
    x, weight = real(9, 16, 16, 40), real(3, 3, 40, 48)
    whole = F.conv2d(x, weight, padding=1)
    for start, stop in ((0, 1), (1, 3), (3, 9)):
        assert_same_bits(F.conv2d(x[start:stop], weight, padding=1), whole[start:stop])


@pytest.mark.parametrize("special", [np.nan, np.inf])
@pytest.mark.usefixtures("isa")
def test_special_values_spread_over_their_tiles_only(special: float) -> None:
    """NaN and infinities make NaN of all 16 results of the tiles that read them; other tiles keep their bits."""
    x, weight = real(1, 16, 16, 32), real(3, 3, 32, 32)
    clean = F.conv2d(x, weight, padding=1)
    x[0, 5, 6, 3] = special  # read by the tiles of rows 4 to 7 and columns 4 to 7 alone
    touched = F.conv2d(x, weight, padding=1)
    tile = (0, slice(4, 8), slice(4, 8))
    assert np.isnan(touched[tile]).all()
    touched[tile] = clean[tile]
    assert_same_bits(touched, clean)


def test_the_rule_looks_at_shape_and_permission_only(restore_threads: None) -> None:
    """Kernel, stride, dilation, groups, channels and tiles; never at the number of threads."""
    shape = (1, 16, 16, 32, 32, 1)
    for threads in (1, 2, 5):
        cnnrs.set_num_threads(threads)
        assert chosen(shape)
    for arguments in ({"stride": 2}, {"dilation": 2}, {"groups": 2}, {"algorithm": "direct"}):
        assert not chosen(shape, **arguments)
    for other in ((1, 16, 16, 31, 32, 1), (1, 16, 16, 32, 31, 1), (1, 12, 12, 32, 32, 1), (1, 16, 16, 32, 32, 3)):
        assert not chosen(other)
    with direct():
        assert not chosen(shape)


def test_reasons_are_explained() -> None:
    """`explain` says why a convolution by 3x3 went the direct way."""
    text = nn.Conv2d(16, 32, 3).explain((1, 16, 16, 16))
    assert "conv_winograd: fewer than 32 channels" in text
    text = nn.Conv2d(32, 32, 3, algorithm="direct").explain((1, 16, 16, 32))
    assert "conv_winograd: algorithm is direct" in text


def test_training_repacks_weights(isa: str) -> None:
    """A step reads the weights that the step before has written: three steps stay with those of direct summation."""
    losses = []
    for algorithm in ("auto", "direct"):
        cnnrs.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(32, 32, 3, padding=1, algorithm=algorithm),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1, algorithm=algorithm),
            nn.Flatten(),
            nn.Linear(32 * 64, 5),
        )
        trainer = Trainer(model, optim.SGD(lr=0.05, momentum=0.9), seed=0)
        losses.append([trainer.step(real(8, 8, 8, 32), np.arange(8) % 5) for _ in range(4)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
