"""Padding layers, whole models of moving parts, and the files their weights are kept in."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cases
import cnnrs
import tolerance
from cnnrs import functional as F
from cnnrs import nn


def integers(*shape: int, seed: int = 0) -> cases.Array:
    """Small whole numbers: sums of their products are exact."""
    return np.random.default_rng([seed, *shape]).integers(-2, 3, shape).astype(np.float32)


PADS = [(nn.ZeroPad2d, "constant"), (nn.ReflectionPad2d, "reflect"), (nn.ReplicationPad2d, "edge")]


@pytest.mark.parametrize(("layer_type", "mode"), PADS)
@pytest.mark.parametrize("padding", [1, (2, 0), ((1, 0), (2, 3))])
def test_padding_layers(layer_type: Any, mode: str, padding: Any) -> None:
    """The three modes, every form of padding, every batch size with one trace."""
    layer = layer_type(padding)
    x = cases.real(5, 4, 6, 3)
    for batch in (2, 1, 5, 0):
        around = ((0, 0), *layer.padding, (0, 0))
        tolerance.assert_same_bits(layer(x[:batch]), np.pad(x[:batch], around, mode))  # type: ignore[call-overload]
    assert len(layer._programs) == 1
    assert repr(layer) == f"{layer_type.__name__}(padding={layer.padding})"


@pytest.mark.parametrize("layer_type", [layer_type for layer_type, _ in PADS])
@pytest.mark.parametrize("padding", [-1, 1.5, "same", (1, 2, 3), ((1, 1), (1, -1)), None])
def test_padding_layers_check_their_argument(layer_type: Any, padding: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{layer_type.__name__}: padding must be"):
        layer_type(padding)


def test_a_reflection_wider_than_the_map_names_the_layer() -> None:
    model = nn.Sequential(nn.Identity(), nn.ReflectionPad2d(4))
    with pytest.raises(cnnrs.ShapeError, match=r"^1: pad: padding by reflection expects less than the 4 elements"):
        model(cases.real(1, 4, 9, 2))


class Hourglass(nn.Module):
    """A small encoder and decoder with a connection across, linear in its input."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False)
        self.up = nn.ConvTranspose2d(6, 4, 4, stride=2, padding=1, bias=False)
        self.grow = nn.Upsample(scale_factor=2)
        self.border = nn.ReflectionPad2d(((1, 0), (0, 1)))
        self.line = nn.Conv1d(7, 5, 3, padding="same", bias=False)

    def forward(self, x: Any) -> Any:
        y = F.concat([self.up(self.down(x)), x])
        y = self.border(self.grow(y)[:, 1::2, ::-1])
        rows = y[:, 0].transpose(0, 2, 1).transpose((0, 2, 1))
        return F.pad(self.line(rows), ((0, 0), (1, 0), (0, 0))).reshape(x.shape[0], -1)


@pytest.fixture
def hourglass() -> Hourglass:
    """The model with whole numbers as weights."""
    model = Hourglass()
    for parameter in model.parameters():
        parameter.assign(integers(*parameter.shape))
    return model


@pytest.mark.usefixtures("isa", "threads")
def test_a_model_of_moving_parts(hourglass: Hourglass) -> None:
    """One trace for every batch size, each image by itself, and an exact adjoint as its gradient."""
    x = integers(5, 8, 6, 3)
    whole = hourglass(x)
    for batch in (2, 1, 0):
        tolerance.assert_same_bits(hourglass(x[:batch]), whole[:batch])
    assert len(hourglass._programs) == 1
    y, pullback = cnnrs.vjp(hourglass, x)
    tolerance.assert_same_bits(y, whole)
    grad_y = integers(*y.shape, seed=1)
    assert np.vdot(pullback(grad_y).astype(np.float64), x) == np.vdot(y.astype(np.float64), grad_y)


def test_weights_keep_torchs_layout_by_rank(hourglass: Hourglass, tmp_path: Path) -> None:
    """(out, in, kernel) for a kernel of one dimension, (in, out // groups, h, w) for a transposed convolution."""
    hourglass.extra = nn.Parameter(integers(2, 3, 4, 5, 6))
    hourglass.scale = nn.Parameter(integers(7))
    path = tmp_path / "hourglass.safetensors"
    hourglass.save(path)
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert {name: fields["shape"] for name, fields in header.items() if name != "__metadata__"} == {
        "down.weight": [6, 3, 3, 3],
        "up.weight": [6, 4, 4, 4],
        "line.weight": [5, 7, 3],
        "extra": [2, 3, 4, 5, 6],
        "scale": [7],
    }
    begin, end = header["line.weight"]["data_offsets"]
    stored = np.frombuffer(content[8 + length + begin : 8 + length + end], "<f4").reshape(5, 7, 3)
    np.testing.assert_array_equal(stored.transpose(2, 1, 0), hourglass.line.weight.array)
    begin, end = header["up.weight"]["data_offsets"]
    stored = np.frombuffer(content[8 + length + begin : 8 + length + end], "<f4").reshape(6, 4, 4, 4)
    np.testing.assert_array_equal(stored.transpose(2, 3, 1, 0), hourglass.up.weight.array)

    other = Hourglass()
    other.extra, other.scale = nn.Parameter(np.zeros((2, 3, 4, 5, 6), np.float32)), nn.Parameter(integers(7, seed=3))
    assert cnnrs.load_weights(other, path) == ([], [])
    tolerance.assert_same_bits(other.state_dict(copy=True), hourglass.state_dict(copy=True))


def test_summary_counts_transposed_convolutions() -> None:
    """Every input number meets kernel_h * kernel_w * out_channels // groups weights."""
    model = nn.Sequential(nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2), nn.AdaptiveAvgPool2d(1))
    summary = model.summary((5, 7, 6))
    assert summary.macs == 5 * 7 * 6 * 3 * 3 * 2
    assert summary.rows[0].op == "conv_transpose2d"
    assert nn.Conv1d(6, 4, 3).summary((10, 6)).macs == 8 * 3 * 6 * 4


def test_initialisation_counts_the_fans_of_a_kernel_of_one_dimension() -> None:
    assert nn.init.fans((5, 4, 7)) == (20, 35)
    with pytest.raises(ValueError, match=r"^fans: shape must be \(in, out\), \(kernel, in, out\)"):
        nn.init.fans((2, 2, 2, 2, 2))
