"""Gradients of activations that take pooling behind them and the bias's sums along."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cnnrs
from cases import Array, real
from cnnrs import _core, nn
from cnnrs import functional as F
from tolerance import assert_same_bits, assert_within
from traces import differentiated, trained

BATCH = 4
POOLS: dict[str, Callable[[], nn.Module]] = {
    "avg_pool": lambda: nn.AvgPool2d(2),
    "max_pool_tap": lambda: nn.MaxPool2d(2),
    "max_pool_tap overlapping": lambda: nn.MaxPool2d(3, stride=2),
    "": nn.Identity,
}
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "silu": nn.SiLU}
CASES = [(pool, activation) for pool in POOLS for activation in ACTIVATIONS]


def network(pool: str, activation: str, channels: int = 20) -> nn.Sequential:
    """A convolution with a bias, an activation, a pooling, twice, and a linear layer with an activation."""
    cnnrs.manual_seed(5)
    layers: list[nn.Module] = []
    for inputs in (3, channels):
        layers += [nn.Conv2d(inputs, channels, 3, padding=1), ACTIVATIONS[activation](), POOLS[pool]()]
    layers += [nn.GlobalAvgPool2d(), nn.Linear(channels, 6), ACTIVATIONS[activation](), nn.Linear(6, 3)]
    return nn.Sequential(*layers)


class Reading(nn.Module):
    """The network, and what its pooling layers read."""

    def __init__(self, network: nn.Sequential) -> None:
        self.network = network
        self.pooled: list[Any] = []

    def forward(self, x: Any) -> Any:
        """Run the layers."""
        for number, layer in enumerate(self.network):
            if number in {2, 5}:
                self.pooled.append(x)
            x = layer(x)
        return x


def images(seed: int = 1) -> Array:
    """A batch."""
    return real(BATCH, 44, 52, 3, seed=seed)


def kernels(program: _core.Program) -> list[str]:
    """The kernels of its plan, without levels."""
    return [step["kernel"].rpartition("_")[0] for step in program.plan(BATCH)["steps"]]


def read_gradients(network: nn.Sequential, shape: tuple[int, ...]) -> tuple[_core.Program, int]:
    """A program that also gives the gradients by what is pooled, and the number of those."""
    model = Reading(network)
    traced, outputs = differentiated(model, shape, lambda: model.pooled)
    return _core.Program(traced, outputs), len(model.pooled)


@pytest.mark.parametrize(("pool", "activation"), CASES)
@pytest.mark.usefixtures("isa")
def test_gradients_are_those_in_double_precision(pool: str, activation: str) -> None:
    """Pooling and sums have no steps of their own; in steps apart the bits are the same."""
    x = images()
    traced, outputs = differentiated(network(pool, activation), x.shape)
    program = _core.Program(traced, outputs)
    names = kernels(program)
    what = "_".join(part for part in (pool.split(" ")[0], activation) if part)
    assert names.count(f"{what}_backward_sums") == (2 if pool else 3)
    assert not any(name.startswith(("avg_pool_backward", "max_pool_tap_backward")) for name in names)
    assert names.count(f"{activation}_backward_sums") == (1 if pool else 3)
    got = program.run([x])
    # Four layers of sums of up to 9·20 products, each off by a few units of 2^-24; sums over pixels go by 64.
    relative = 4 * (9 * 20 + 64 + BATCH * 44 * 52 / 64) * 2.0**-24
    for number, (one, truth) in enumerate(zip(got, traced.reference(outputs, [x]), strict=True)):
        assert_within(one, truth, relative * (np.abs(truth).max() + 1e-3), f"result {number}")
    reading, more = read_gradients(network(pool, activation), x.shape)
    assert kernels(reading).count(f"{activation}_backward_sums") == 3
    for one, other in zip(got, reading.run([x])[:-more], strict=True):
        assert_same_bits(one, other)


@pytest.mark.parametrize(("pool", "activation"), CASES)
def test_steps_have_the_same_bits_on_any_number_of_threads(
    pool: str, activation: str, assert_deterministic: Callable[..., None]
) -> None:
    batches = [(images(seed), np.arange(BATCH) % 3) for seed in range(2)]
    assert_deterministic(lambda: trained(network(pool, activation), batches))


class Shared(nn.Module):
    """A pooling's operand that is also read elsewhere, and one that is squared: its gradient is a sum, or scaled."""

    def __init__(self) -> None:
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x: Any) -> Any:
        """Run the layers."""
        y = F.relu(self.conv(x))
        return F.avg_pool2d(y, 2) + F.avg_pool2d(y * y, 2)


@pytest.mark.usefixtures("isa")
def test_other_gradients_stay_apart() -> None:
    """The pooling of a sum, and a gradient that somebody else reads."""
    x = images()
    traced, outputs = differentiated(Shared(), x.shape)
    program = _core.Program(traced, outputs)
    names = kernels(program)
    assert names.count("avg_pool_backward") == 2
    assert names.count("relu_backward_sums") == 1
    for one, truth in zip(program.run([x]), traced.reference(outputs, [x]), strict=True):
        assert_within(one, truth, (27 + 64 + 36) * 4 * 2.0**-24 * np.abs(truth).max(), "gradients")
