"""Gradients of normalization behind a convolution whose data gradient passes gate, shortcut and sums on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cnnrs
from cases import Array, real
from cnnrs import _core, nn
from cnnrs import functional as F
from tolerance import assert_within
from traces import differentiated, trained

BATCH = 3


class Residual(nn.Module):
    """Normalization, activation, convolution with or without a shortcut around it, and a second such normalization."""

    def __init__(self, conv: Callable[[int, int], nn.Conv2d], channels: int, shortcut: bool) -> None:
        self.norm = nn.BatchNorm2d(channels)
        self.conv = conv(channels, channels)
        self.shortcut = shortcut
        self.last = nn.BatchNorm2d(channels)

    def forward(self, x: Any) -> Any:
        """Run the layers."""
        x = F.relu(self.norm(x))
        y = self.last(self.conv(x))
        return F.relu(y + x if self.shortcut else y)


CONVOLUTIONS: dict[str, tuple[tuple[int, int], Callable[[int, int], nn.Conv2d]]] = {
    "conv_backward_data": ((100, 101), lambda i, o: nn.Conv2d(i, o, 1, bias=False)),
    "conv_backward_data in groups": ((100, 101), lambda i, o: nn.Conv2d(i, o, 3, padding=1, groups=2, bias=False)),
    "conv_backward_data strided": ((100, 101), lambda i, o: nn.Conv2d(i, o, 3, stride=2, padding=1, bias=False)),
    "conv_winograd_backward_data": ((99, 102), lambda i, o: nn.Conv2d(i, o, 3, padding=1, bias=False)),
}


def network(name: str, shortcut: bool, channels: int = 36) -> nn.Sequential:
    """A convolution in front, so that the gradient is asked for; no weight of a normalization is one, no bias zero."""
    cnnrs.manual_seed(5)
    block = Residual(CONVOLUTIONS[name][1], channels, shortcut)
    model = nn.Sequential(nn.Conv2d(6, channels, 1, bias=False), block, nn.GlobalAvgPool2d(), nn.Linear(channels, 4))
    for seed, (parameter_name, parameter) in enumerate(model.named_parameters()):
        if "norm" in parameter_name or "last" in parameter_name:
            bias = real(*parameter.shape, seed=seed) / 4
            parameter.assign(bias + (1 if parameter_name.endswith("weight") else 0))
    return model


def images(name: str, seed: int = 1) -> Array:
    """A batch."""
    return real(BATCH, *CONVOLUTIONS[name][0], 6, seed=seed)


CASES = [
    (name, shortcut) for name in CONVOLUTIONS for shortcut in (False, True) if not (shortcut and "strided" in name)
]


@pytest.mark.parametrize(("name", "shortcut"), CASES)
@pytest.mark.usefixtures("isa")
def test_gradients_are_those_in_double_precision(name: str, shortcut: bool) -> None:
    """And no step of its own takes the sums that a convolution has taken."""
    x = images(name)
    traced, outputs = differentiated(network(name, shortcut), x.shape)
    program = _core.Program(traced, outputs)
    kernels = [step["kernel"] for step in program.plan(BATCH)["steps"]]
    passing = name.split()[0] + ("_add" if shortcut else "") + "_gate_sums_"
    assert sum(kernel.startswith(passing) for kernel in kernels) == 1
    # The last normalization's gradient comes from the pooling.
    assert sum("gate_gradient_sums" in kernel for kernel in kernels) == 1
    expected = traced.reference(outputs, [x])
    got = program.run([x])
    plain = _core.Program(traced, outputs, rewrites=0).run([x])
    # Six layers of sums of up to 9·36 products, each off by a few units of 2^-24; sums over pixels go by 64.
    relative = 6 * (9 * 36 + 64) * 2.0**-24
    for number, (one, other, truth) in enumerate(zip(got, plain, expected, strict=True)):
        bound = relative * (np.abs(truth).max() + 1e-3)
        assert_within(one, truth, bound, f"result {number}")
        assert_within(one, other, bound, f"result {number} without rewrites")


@pytest.mark.parametrize(("name", "shortcut"), CASES)
@pytest.mark.usefixtures("isa")
def test_steps_have_the_same_bits_on_any_number_of_threads(
    name: str, shortcut: bool, assert_deterministic: Callable[..., None]
) -> None:
    batches = [(images(name, seed), np.arange(BATCH)) for seed in range(2)]
    assert_deterministic(lambda: trained(network(name, shortcut), batches))


def reasons(model: nn.Module, shape: tuple[int, ...]) -> list[str]:
    """Why data gradients leave sums to steps of their own."""
    traced, outputs = differentiated(model, shape)
    steps = _core.Program(traced, outputs).plan(shape[0])["steps"]
    return [why for step in steps for candidate, why in step["refused"] if candidate == "conv_backward_data_sums"]


def test_a_normalization_that_takes_them_itself_says_why() -> None:
    """Few numbers; kernels that take none; few pixels for the parts of the work."""

    def normalized(conv: nn.Conv2d) -> nn.Sequential:
        return nn.Sequential(nn.BatchNorm2d(conv.in_channels), nn.ReLU(), conv)

    assert reasons(normalized(nn.Conv2d(40, 64, 1)), (1, 5, 7, 40)) == ["1400 numbers stay in cache"]
    depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
    assert reasons(normalized(depthwise), (2, 200, 200, 16)) == ["the kernel takes none"]
    (reason,) = reasons(normalized(nn.Conv2d(2048, 16, 1)), (512, 1, 1, 2048))
    assert reason.startswith("512 pixels in ")
    assert reasons(normalized(nn.Conv2d(40, 64, 1)), (2, 120, 120, 40)) == []
