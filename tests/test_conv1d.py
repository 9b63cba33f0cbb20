"""conv1d against plain loops, its gradients as adjoints, and the layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cases
import cnnrs
import oracle
import oracle_movement
import tolerance
from cases import Array
from cnnrs import functional as F
from cnnrs import nn


def integers(*shape: int, seed: int = 0) -> Array:
    """Small whole numbers: sums of their products are exact."""
    return np.random.default_rng([seed, *shape]).integers(-4, 5, shape).astype(np.float32)


def check(x: Array, weight: Array, bias: Array, padding: Any, **geometry: int) -> None:
    """Values and all three gradients, exact in small integers."""
    taps, stride, dilation = weight.shape[0], geometry["stride"], geometry["dilation"]
    if padding == "same":
        around = oracle.same_padding(x.shape[1], taps, stride, dilation)
    elif padding == "valid":
        around = (0, 0)
    else:
        around = oracle.pair(padding)
    expected = oracle_movement.conv1d(x, weight, bias, padding=around, **geometry)
    tolerance.assert_within(F.conv1d(x, weight, bias, padding=padding, **geometry), expected, 0.0)
    grad_y = integers(*expected.shape, seed=1)
    calls: list[tuple[Array, Callable[[Any], Any]]] = [
        (x, lambda v: F.conv1d(v, weight, None, padding=padding, **geometry)),
        (weight, lambda v: F.conv1d(x, v, None, padding=padding, **geometry)),
    ]
    for operand, function in calls:
        y, pullback = cnnrs.vjp(function, operand)
        grad = pullback(grad_y)
        assert grad.shape == operand.shape
        assert np.vdot(grad.astype(np.float64), operand) == np.vdot(y.astype(np.float64), grad_y)
    _, pullback = cnnrs.vjp(lambda v: F.conv1d(x, weight, v, padding=padding, **geometry), bias)
    tolerance.assert_within(pullback(grad_y), grad_y.sum(axis=(0, 1), dtype=np.float64), 0.0)


@pytest.mark.usefixtures("isa")
@given(st.data())
def test_any_geometry(data: st.DataObject) -> None:
    """Every form of padding, strides, dilation, groups."""

    def choose(low: int, high: int) -> int:
        return data.draw(st.integers(low, high))

    taps, stride, dilation, groups = choose(1, 5), choose(1, 4), choose(1, 3), choose(1, 3)
    padding = data.draw(st.sampled_from(["same", "valid", 2, (0, 3), (1, 0)]))
    length = choose(1, 12) + dilation * (taps - 1)
    channels, outputs = choose(1, 9), groups * choose(1, 9)
    x, weight = integers(choose(0, 2), length, groups * channels), integers(taps, channels, outputs)
    check(x, weight, integers(outputs), padding, stride=stride, dilation=dilation, groups=groups)


@pytest.mark.usefixtures("isa", "threads")
def test_long_sequences() -> None:
    """Several tasks, also with a single channel."""
    geometry = {"stride": 2, "dilation": 3, "groups": 1}
    check(integers(2, 5000, 1), integers(7, 1, 24), integers(24), "same", **geometry)
    check(integers(4, 300, 40), integers(3, 40, 48), integers(48), (1, 1), **geometry)


def test_layer() -> None:
    """Parameters of torch's shapes turned around, torch's bounds, weights packed once, every batch size."""
    cnnrs.manual_seed(3)
    layer = nn.Conv1d(6, 8, 3, padding="same", dilation=2, groups=2)
    assert (layer.weight.shape, layer.bias and layer.bias.shape) == ((3, 3, 8), (8,))
    bound = 1 / np.sqrt(3 * 3)
    for parameter in layer.parameters():
        assert 0.5 * bound < abs(parameter.array).max() <= bound
    assert repr(layer) == "Conv1d(6, 8, kernel_size=3, stride=1, padding='same', dilation=2, groups=2)"
    assert repr(nn.Conv1d(6, 8, 3, padding=1, bias=False)) == (
        "Conv1d(6, 8, kernel_size=3, stride=1, padding=(1, 1), bias=False)"
    )
    x = cases.real(5, 20, 6)
    for batch in (2, 1, 5, 0):
        wanted = F.conv1d(x[:batch], layer.weight, layer.bias, 1, "same", 2, 2)
        tolerance.assert_same_bits(layer(x[:batch]), wanted)
    assert len(layer._programs) == 1
    explained = layer.explain((2, 20, 6))
    assert "pack_" not in explained
    assert "packed 0 bytes" not in explained


@pytest.mark.parametrize(
    ("error", "arguments", "text"),
    [
        (ValueError, {"stride": (1, 1)}, "stride must be an int"),
        (ValueError, {"dilation": 0}, "dilation must be an int"),
        (ValueError, {"groups": "2"}, "groups must be an int"),
        (ValueError, {"padding": ((1, 1), (1, 1))}, "padding must be an int"),
        (ValueError, {"padding": -1}, "padding must be an int from 0"),
        (ValueError, {"padding": "full"}, "padding must be an int"),
        (cnnrs.ShapeError, {"groups": 2}, r"weight \(3, 6, 4\) with groups=2 expects 6 \* 2 = 12 channels"),
        (cnnrs.ShapeError, {"x": cases.real(2, 6)}, "x must have 3 dimensions"),
        (cnnrs.ShapeError, {"weight": cases.real(3, 6)}, "weight must have 3 dimensions"),
        (cnnrs.ShapeError, {"bias": cases.real(4, 1)}, "bias must have 1 dimensions"),
        (TypeError, {"x": np.zeros((2, 9, 6))}, "x must be a float32"),
    ],
)
def test_errors(error: type[Exception], arguments: dict[str, Any], text: str) -> None:
    """Typed, with the name of the argument."""
    given_: dict[str, Any] = {"x": cases.real(2, 9, 6), "weight": cases.real(3, 6, 4), **arguments}
    with pytest.raises(error, match=f"^conv1d: .*{text}"):
        F.conv1d(**given_)


def test_a_kernel_beyond_the_padded_sequence_is_a_shape_error() -> None:
    """With the arithmetic of the window."""
    with pytest.raises(cnnrs.ShapeError, match=r"window exceeds the padded input.*spans 5, width 3 with padding 1"):
        F.conv1d(cases.real(1, 3, 2), cases.real(3, 2, 4), padding=(1, 0), dilation=2)
