"""Training through normalization, residual and activation as one pass: the steps that remain, and what they compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cnnrs
from cases import real
from cnnrs import _core, nn, optim
from cnnrs import functional as F
from cnnrs._losses import Loss
from cnnrs._programs import Programs, Recipe
from tolerance import assert_within
from traces import differentiated, trained

ACTIVATIONS = {"relu": F.relu, "relu6": F.relu6}
BATCH = 3


class Block(nn.Module):
    """A residual block: two normalized convolutions, and a shortcut that is normalized too if the channels change."""

    def __init__(self, channels: int, out_channels: int, activation: Callable[[Any], Any]) -> None:
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.activation = activation
        self.shortcut: nn.Module | None = None
        if channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Any) -> Any:
        """Run the block."""
        y = self.activation(self.bn1(self.conv1(x)))
        return self.activation(self.bn2(self.conv2(y)) + (x if self.shortcut is None else self.shortcut(x)))


def network(activation: str = "relu") -> nn.Sequential:
    """Three blocks, one of which changes the channels; no weight of a normalization is one, no bias zero."""
    cnnrs.manual_seed(3)
    blocks = [Block(*channels, ACTIVATIONS[activation]) for channels in ((5, 5), (5, 9), (9, 9))]
    model = nn.Sequential(*blocks, nn.GlobalAvgPool2d(), nn.Linear(9, 4))
    for seed, (name, parameter) in enumerate(model.named_parameters()):
        if ".bn" in name:
            parameter.assign(real(*parameter.shape, seed=seed) / 4 + (1 if name.endswith("weight") else 0))
    return model


def images(batch: int = BATCH) -> Any:
    """A batch."""
    return real(batch, 6, 7, 5, seed=1)


def labels(batch: int = BATCH) -> Any:
    """Their classes."""
    return np.arange(batch) % 4


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_of_residual_blocks_are_those_in_double_precision(activation: str) -> None:
    """Fused or not; what fusion may change is a few roundings."""
    model = network(activation)
    traced, outputs = differentiated(model, (BATCH, 6, 7, 5))
    x = images()
    expected = traced.reference(outputs, [x])
    plain = _core.Program(traced, outputs, rewrites=0).run([x])
    fused = _core.Program(traced, outputs).run([x])
    assert len(expected) == 1 + 1 + len(list(model.named_parameters()))
    for number, (one, other, truth) in enumerate(zip(fused, plain, expected, strict=True)):
        size = np.abs(truth).max() + 1e-3
        # Thirteen layers of sums of up to 126 products, each off by a few units of 2^-24.
        assert_within(one, truth, 13 * 126 * 2.0**-24 * size, f"fused result {number}")
        assert_within(one, other, 13 * 126 * 2.0**-24 * size, f"result {number} without rewrites")


def test_what_remains_of_a_training_step() -> None:
    """Only what meets at the pooling is added by a step of its own; running values are written by one step."""
    step = Programs(network(), Loss("cross_entropy")).step(images(), labels(), Recipe.of(optim.SGD(0.1)))
    ops = [row["op"] for row in step._program.plan(BATCH)["steps"]]
    kernels = [row["kernel"].rpartition("_")[0] for row in step._program.plan(BATCH)["steps"]]
    assert not {"relu", "relu_backward"} & set(ops)
    assert ops.count("assign") == ops.count("increment") == 1
    assert kernels.count("normalize_relu") == 3
    assert kernels.count("normalize_add_relu") == 3
    # The gradients of the two paths are summed where the next normalization reads them, but for the input's.
    assert kernels.count("add_gate_gradient_sums") == 2
    assert kernels.count("gate_gradient_sums") == 4
    assert "add" not in ops
    # Statistics and sums are finished within the steps that make them.
    assert not [kernel for kernel in kernels if "finish" in kernel]


def test_a_captured_layer_keeps_its_value() -> None:
    """The value between normalization and activation is asked for, and is the same as without a capture."""
    model = network()
    model.train()
    y = model(images())
    model.load_state_dict(network().state_dict())
    with model.capture("0.bn1", "1.bn2") as found:
        assert_within(model(images()), y, 1e-5 * np.abs(y).max())
    for name in ("0.bn1", "1.bn2"):
        assert (found[name] < 0).any()


@pytest.mark.usefixtures("isa")
def test_steps_have_the_same_bits_on_any_number_of_threads(assert_deterministic: Callable[..., None]) -> None:
    batches = [(images(16), labels(16))] * 3
    assert_deterministic(lambda: trained(network(), batches))


def test_running_values_of_a_layer_that_is_used_twice_follow_both_uses() -> None:
    """Their assignments are two, and the later one counts."""
    norm = nn.BatchNorm2d(5)
    model = nn.Sequential(norm, nn.ReLU(), norm, nn.ReLU(), nn.GlobalAvgPool2d(), nn.Linear(5, 4))
    x = images().astype(np.float64)
    cnnrs.Trainer(model, optim.SGD(0.0)).step(images(), labels())
    mean = 0.1 * x.mean((0, 1, 2))
    normal = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
    mean = 0.9 * mean + 0.1 * np.maximum(normal, 0).mean((0, 1, 2))
    assert_within(model.state_dict()["0.running_mean"], mean, 1e-6, "running mean")
    assert model.state_dict()["0.num_batches_tracked"] == 2


def test_fusion_takes_no_more_memory() -> None:
    """Of a batch that is large against the partial sums, which may lie less well."""
    traced, outputs = differentiated(network(), (64, 6, 7, 5))
    arena = [_core.Program(traced, outputs, rewrites=limit).plan(64)["arena_bytes"] for limit in (0, None)]
    assert arena[1] <= arena[0]
