"""Transposed convolution against scatter loops, its gradients as adjoints, on every instruction-set level."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, fields
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


@dataclass(frozen=True)
class Case:
    """One transposed convolution; channels count all groups together."""

    batch: int
    size: tuple[int, int]
    channels: int
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: Any = 0
    output_padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def __str__(self) -> str:
        """What differs from the defaults, also the test's id."""
        changed = [(field.name, getattr(self, field.name)) for field in fields(self)[5:]]
        text = "x".join(map(str, (self.batch, *self.size, self.channels, self.out_channels, *self.kernel)))
        return "-".join([text, *(f"{name}{value}".replace(" ", "") for name, value in changed if value not in (0, 1))])

    @property
    def geometry(self) -> dict[str, Any]:
        """Keyword arguments of the function and of the reference."""
        return {field.name: getattr(self, field.name) for field in fields(self)[5:]}

    def data(self, integer: bool) -> tuple[Array, Array, Array]:
        """Input, weight and bias."""
        generator = np.random.default_rng([*map(ord, str(self))])
        weight = (*self.kernel, self.out_channels // self.groups, self.channels)
        shapes: tuple[tuple[int, ...], ...] = ((self.batch, *self.size, self.channels), weight, (self.out_channels,))
        x, w, b = (
            (generator.integers(-4, 5, shape) if integer else generator.standard_normal(shape)).astype(np.float32)
            for shape in shapes
        )
        return x, w, b


CASES = [
    Case(1, (1, 1), 1, 1, (1, 1)),
    Case(3, (3, 3), 3, 3, (3, 3), padding=1),  # N == C == H == W == K
    Case(2, (4, 5), 3, 4, (3, 3), (2, 2), padding=1, output_padding=(1, 1)),  # twice the size, as decoders have it
    Case(2, (4, 5), 3, 4, (4, 4), (2, 2), padding=1),
    Case(2, (4, 5), 3, 4, (2, 2), (2, 2)),
    Case(2, (3, 4), 3, 4, (2, 1), (3, 4), output_padding=(2, 3)),  # pixels that no window reaches
    Case(2, (4, 3), 5, 4, (3, 2), dilation=(2, 3)),
    Case(2, (4, 3), 5, 4, (3, 2), (2, 1), dilation=(3, 2), output_padding=(2, 1)),
    Case(1, (3, 3), 2, 3, (1, 1), output_padding=(2, 0), dilation=(3, 1)),  # zeros behind the last window
    Case(1, (1, 4), 2, 3, (1, 2), padding=((2, 0), (0, 0)), output_padding=(2, 0), dilation=(3, 1)),  # only zeros
    Case(1, (2, 4), 2, 3, (1, 2), padding=((0, 1), (0, 0)), output_padding=(2, 1), dilation=(3, 2)),
    Case(2, (4, 5), 3, 4, (3, 3), padding=((0, 2), (1, 0))),
    Case(2, (4, 5), 3, 4, (3, 4), (2, 3), padding=((2, 1), (0, 3)), output_padding=(1, 0)),
    Case(2, (4, 5), 3, 4, (3, 4), (2, 3), padding="same"),
    Case(2, (4, 5), 3, 4, (2, 1), (3, 2), padding="same"),
    Case(2, (4, 5), 3, 4, (3, 3), (1, 2), padding="same", dilation=(2, 2)),
    Case(2, (4, 5), 3, 4, (3, 3), padding="valid"),
    Case(2, (4, 4), 6, 9, (3, 3), (2, 2), padding=1, output_padding=(1, 0), groups=3),
    Case(1, (4, 4), 8, 8, (3, 3), (2, 2), padding=1, output_padding=(1, 1), groups=8),  # depthwise
    Case(1, (4, 4), 8, 24, (4, 4), (2, 2), padding=1, groups=8),
    Case(0, (4, 5), 3, 4, (3, 3), (2, 2)),
    *(Case(2, (3, 4), channels, 18 - channels, (3, 3), (2, 1), padding=1) for channels in range(1, 18)),
]
BIG = [
    Case(2, (8, 8), 64, 32, (4, 4), (2, 2), padding=1),
    Case(4, (7, 7), 128, 64, (3, 3), (2, 2), padding=1, output_padding=(1, 1)),
    Case(2, (14, 14), 48, 24, (2, 2), (2, 2)),
    Case(1, (10, 12), 32, 32, (3, 3), padding=2, dilation=(2, 2), groups=2),
]


def draw(choose: Callable[[int, int], int]) -> Case:
    """A random legal case."""
    kernel, stride = (choose(1, 4), choose(1, 4)), (choose(1, 3), choose(1, 3))
    dilation = (choose(1, 3), choose(1, 3)) if choose(0, 2) == 0 else (1, 1)
    size = (choose(1, 5), choose(1, 5))
    groups = choose(1, 3) if choose(0, 2) == 0 else 1
    channels, out_channels = groups * choose(1, 9), groups * choose(1, 9)
    if choose(0, 4) == 0:
        return Case(choose(0, 2), size, channels, out_channels, kernel, stride, "same", (0, 0), dilation, groups)
    extra = [choose(0, max(stride[axis], dilation[axis]) - 1) for axis in (0, 1)]
    around = []
    for axis in (0, 1):
        room = (size[axis] - 1) * stride[axis] + dilation[axis] * (kernel[axis] - 1) + extra[axis]
        before = choose(0, min(room, 4))
        around.append((before, choose(0, min(room - before, 4))))
    padding = ((around[0][0], around[0][1]), (around[1][0], around[1][1]))
    output_padding = (extra[0], extra[1])
    return Case(choose(0, 2), size, channels, out_channels, kernel, stride, padding, output_padding, dilation, groups)


RANDOM = [draw(random.Random(seed).randint) for seed in range(40)]


def check(case: Case, integer: bool) -> None:
    """Values against the loops; with integers, exactly, and the three gradients as adjoints."""
    x, weight, bias = case.data(integer)
    expected = oracle_movement.conv_transpose2d(x, weight, bias, **case.geometry)
    terms = case.kernel[0] * case.kernel[1] * case.channels // case.groups + 1
    magnitude = oracle_movement.conv_transpose2d(abs(x), abs(weight), abs(bias), **case.geometry)
    bound = 0.0 if integer else tolerance.reduction(terms, magnitude)
    tolerance.assert_within(F.conv_transpose2d(x, weight, bias, **case.geometry), expected, bound, str(case))
    if not integer:
        return
    calls: list[tuple[Array, Callable[[Any], Any]]] = [
        (x, lambda v: F.conv_transpose2d(v, weight, None, **case.geometry)),
        (weight, lambda v: F.conv_transpose2d(x, v, None, **case.geometry)),
    ]
    grad_y = np.random.default_rng(1).integers(-4, 5, expected.shape).astype(np.float32)
    for operand, function in calls:
        y, pullback = cnnrs.vjp(function, operand)
        grad = pullback(grad_y)
        assert grad.shape == operand.shape
        assert np.vdot(grad.astype(np.float64), operand) == np.vdot(y.astype(np.float64), grad_y)
    y, pullback = cnnrs.vjp(lambda v: F.conv_transpose2d(x, weight, v, **case.geometry), bias)
    tolerance.assert_within(pullback(grad_y), grad_y.sum(axis=(0, 1, 2), dtype=np.float64), 0.0, "grad_bias")


@pytest.mark.parametrize("integer", [True, False], ids=["integer", "real"])
@pytest.mark.parametrize("case", [*CASES, *RANDOM], ids=str)
@pytest.mark.usefixtures("isa")
def test_geometry(case: Case, integer: bool) -> None:
    """Edge shapes, every form of padding, output padding, dilation, groups."""
    check(case, integer)


@pytest.mark.parametrize("case", BIG, ids=str)
@pytest.mark.usefixtures("isa", "threads")
def test_big(case: Case) -> None:
    """Layers of decoders."""
    check(case, True)


@pytest.mark.usefixtures("isa")
@given(st.data())
def test_any_geometry(data: st.DataObject) -> None:
    """Hypothesis looks for a geometry that fails."""
    check(draw(lambda low, high: data.draw(st.integers(low, high))), True)


@pytest.mark.parametrize("case", [*CASES[:8], *RANDOM[:12]], ids=str)
def test_gradients_are_those_of_the_formula(case: Case) -> None:
    """Each gradient, element by element, against convolutions of the float64 reference."""
    x, weight, bias = case.data(False)
    out = oracle_movement.conv_transpose2d(x, weight, bias, **case.geometry).shape
    grad_y = cases.real(*out, seed=1)
    _, pull_x = cnnrs.vjp(lambda v: F.conv_transpose2d(v, weight, bias, **case.geometry), x)
    _, pull_w = cnnrs.vjp(lambda v: F.conv_transpose2d(x, v, bias, **case.geometry), weight)
    # Linear in each operand: the gradient holds the products of grad_y with the images of single elements.
    for pull, operand, image in (
        (pull_x, x, lambda one: oracle_movement.conv_transpose2d(one, weight, None, **case.geometry)),
        (pull_w, weight, lambda one: oracle_movement.conv_transpose2d(x, one, None, **case.geometry)),
    ):
        grad = pull(grad_y)
        for place in np.random.default_rng(2).permutation(operand.size)[:10]:
            one = np.zeros(operand.size)
            one[place] = 1.0
            picture = image(one.reshape(operand.shape))
            bound = tolerance.reduction(grad_y.size, (abs(picture) * abs(grad_y)).sum())
            wanted = (picture * grad_y).sum()
            tolerance.assert_within(grad.reshape(-1)[place], np.asarray(wanted), bound, f"{case} at {place}")


@pytest.mark.parametrize("case", [*CASES, *RANDOM], ids=str)
def test_output_size_is_the_formula(case: Case) -> None:
    """(I - 1)*S - P_total + K_eff + output_padding, or I * S."""
    x, weight, _ = case.data(False)
    y = F.conv_transpose2d(x, weight, **case.geometry)
    for axis in (0, 1):
        size, step = case.size[axis], case.stride[axis]
        if case.padding == "same":
            assert y.shape[axis + 1] == size * step
            continue
        around = sum(oracle.window((1, 1), 1, 1, case.padding).padding[axis])
        extent = case.dilation[axis] * (case.kernel[axis] - 1) + 1
        assert y.shape[axis + 1] == (size - 1) * step - around + extent + case.output_padding[axis]


@pytest.mark.parametrize("padding", [0, 1, ((1, 0), (0, 2)), "same"])
@pytest.mark.parametrize("stride", [1, 2, (3, 1)])
@pytest.mark.usefixtures("isa")
def test_it_is_the_gradient_of_conv2d(stride: Any, padding: Any) -> None:
    """The same numbers as `conv2d_backward_data` gives for the size that fits exactly."""
    x, weight = cases.real(2, 4, 5, 6), cases.real(3, 3, 4, 6)
    y = F.conv_transpose2d(x, weight, stride=stride, padding=padding)
    assert F.conv2d(y, weight, stride=stride, padding=padding).shape == x.shape
    grad = F.conv2d_backward_data(x, weight, y.shape, stride=stride, padding=padding)
    tolerance.assert_same_bits(y, grad)


@pytest.mark.usefixtures("isa")
def test_bits_do_not_depend_on_threads(assert_deterministic: Callable[..., None]) -> None:
    """Forward and all gradients."""
    case = BIG[1]
    x, weight, bias = case.data(False)

    def run() -> list[Array]:
        results = []
        for operand, function in (
            (x, lambda v: F.conv_transpose2d(v, weight, bias, **case.geometry)),
            (weight, lambda v: F.conv_transpose2d(x, v, bias, **case.geometry)),
            (bias, lambda v: F.conv_transpose2d(x, weight, v, **case.geometry)),
        ):
            y, pullback = cnnrs.vjp(function, operand)
            results += [y, pullback(y)]
        return results

    assert_deterministic(run)


def test_views_are_read_as_they_are() -> None:
    """Strided and transposed operands."""
    x, weight = cases.real(4, 8, 5, 6)[::2, ::2], cases.real(3, 3, 6, 4).transpose(1, 0, 3, 2)
    plain = F.conv_transpose2d(np.ascontiguousarray(x), np.ascontiguousarray(weight), stride=2)
    tolerance.assert_same_bits(F.conv_transpose2d(x, weight, stride=2), plain)


def test_layer() -> None:
    """Parameters of torch's shapes after the permutation, torch's bounds, one trace for every batch size."""
    cnnrs.manual_seed(3)
    layer = nn.ConvTranspose2d(6, 4, (3, 2), stride=2, padding=1, output_padding=(1, 0), groups=2)
    assert (layer.weight.shape, layer.bias and layer.bias.shape) == ((3, 2, 2, 6), (4,))
    bound = 1 / np.sqrt(2 * 3 * 2)  # torch: fan_in = out_channels // groups * kernel_h * kernel_w
    for parameter in layer.parameters():
        assert 0.5 * bound < abs(parameter.array).max() <= bound
    text = "kernel_size=(3, 2), stride=(2, 2), padding=((1, 1), (1, 1)), output_padding=(1, 0), groups=2"
    assert repr(layer) == f"ConvTranspose2d(6, 4, {text})"
    assert nn.ConvTranspose2d(6, 4, 3, bias=False).bias is None
    x = cases.real(5, 4, 3, 6)
    for batch in (2, 1, 5, 0):
        wanted = F.conv_transpose2d(x[:batch], layer.weight, layer.bias, 2, 1, (1, 0), 1, 2)
        tolerance.assert_same_bits(layer(x[:batch]), wanted)
    assert len(layer._programs) == 1


@pytest.mark.parametrize(
    ("error", "arguments", "text"),
    [
        (ValueError, {"output_padding": 1}, r"output_padding must be below stride or dilation, got output_padding \(1"),
        (ValueError, {"output_padding": (1, 2), "stride": 2}, "output_padding must be below stride or dilation"),
        (ValueError, {"output_padding": -1}, "output_padding must be an int"),
        (ValueError, {"output_padding": 1, "stride": 2, "padding": "same"}, "output_padding must be 0 for padding"),
        (ValueError, {"stride": 0}, "stride must be an int"),
        (ValueError, {"dilation": 1.5}, "dilation must be an int"),
        (ValueError, {"groups": 0}, "groups must be an int"),
        (ValueError, {"padding": -1}, "padding must be an int"),
        (cnnrs.ShapeError, {"padding": 3}, r"height 4 gives .* = \(4 - 1\)\*1 - 6 \+ 3 \+ 0 = 0 pixels"),
        (cnnrs.ShapeError, {"stride": 2**31 - 1}, "both must be at least 1|pixels"),
        (cnnrs.ShapeError, {"groups": 4}, "groups 4 must divide them"),
        (cnnrs.ShapeError, {"bias": cases.real(5)}, r"bias must have shape \(4,\), got \(5,\)"),
        (cnnrs.ShapeError, {"bias": cases.real(4, 1)}, "bias must have 1 dimensions"),
        (TypeError, {"bias": np.zeros(4)}, "bias must be a float32"),
        (cnnrs.ShapeError, {"weight": cases.real(3, 3, 6, 4)}, "must have as many input channels"),
        (cnnrs.ShapeError, {"weight": cases.real(3, 4, 6)}, "weight must have 4 dimensions"),
        (cnnrs.ShapeError, {"x": cases.real(1, 0, 5, 6)}, "height 0 gives"),
        (cnnrs.ShapeError, {"x": cases.real(5, 5, 6)}, r"x must have 4 dimensions \(N, H, W, C\)"),
    ],
)
def test_errors(error: type[Exception], arguments: dict[str, Any], text: str) -> None:
    """Typed, with the argument and the arithmetic."""
    given_: dict[str, Any] = {"x": cases.real(2, 4, 5, 6), "weight": cases.real(3, 3, 4, 6), **arguments}
    with pytest.raises(error, match=f"^conv_transpose2d: .*{text}"):
        F.conv_transpose2d(**given_)


def test_errors_of_the_layer() -> None:
    """Refused when it is made, not when it is called."""
    with pytest.raises(ValueError, match=r"^ConvTranspose2d: output_padding must be below stride or dilation"):
        nn.ConvTranspose2d(3, 3, 3, output_padding=1)
    with pytest.raises(ValueError, match=r"^ConvTranspose2d: groups must divide in_channels and out_channels"):
        nn.ConvTranspose2d(3, 4, 3, groups=3)
    with pytest.raises(ValueError, match=r"^ConvTranspose2d: padding must be"):
        nn.ConvTranspose2d(3, 4, 3, padding=-1)
