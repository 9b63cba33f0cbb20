"""Normalization, residual additions and activations in the epilogue of convolutions: the same numbers, fewer steps."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnnrs
from cases import real
from cnnrs import Trainer, _core, models, nn, optim
from cnnrs.graph import Trace
from tolerance import assert_same_bits


class Block(nn.Module):
    """A residual block: two convolutions with normalization, a shortcut, an addition and an activation."""

    def __init__(self, channels: int, out: int, stride: int = 1, groups: int = 1, bias: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride=stride, padding=1, groups=groups, bias=bias)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, groups=groups, bias=bias)
        self.bn2 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride=stride), nn.BatchNorm2d(out))

    def forward(self, x: Any) -> Any:
        """Trace the block."""
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give the model parameters and statistics of which none is neutral."""
    state = {}
    for index, (name, value) in enumerate(model.state_dict().items()):
        array = np.asarray(value)
        if array.dtype != np.float32:
            continue
        fresh = real(*array.shape, seed=seed + index)
        if name.endswith("running_var"):
            fresh = np.abs(fresh) + np.float32(0.3)
        elif array.ndim == 4:
            fresh *= np.float32(np.prod(array.shape[:3]) ** -0.5)
        state[name] = fresh
    model.load_state_dict({**model.state_dict(), **state})
    return model


def unfused(model: nn.Module, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Run the graph of a call as it was traced, without rewrites."""
    with Trace(root=model) as trace:
        y = model.trace_logits(trace.input(x.shape, "float32", "x"))
    (result,) = _core.Program(trace.graph, [y.id], "unfused", rewrites=0).run([x])
    return np.asarray(result)


def steps(model: nn.Module, shape: tuple[int, ...]) -> list[str]:
    """List the ops of a call's steps."""
    return [line.split()[2] for line in model.explain(shape).splitlines()[2:-1]]


BLOCKS = {
    "direct": (lambda: Block(5, 5, bias=True), (2, 6, 7, 5)),
    "one channel": (lambda: Block(1, 6, bias=True), (2, 9, 11, 1)),
    "wide": (lambda: Block(24, 40), (2, 6, 6, 24)),
    "strided": (lambda: Block(6, 19, stride=2), (3, 9, 8, 6)),
    "winograd": (lambda: Block(32, 32), (2, 13, 12, 32)),
    "winograd, other channels": (lambda: Block(32, 45, bias=True), (1, 16, 15, 32)),
    "depthwise": (lambda: Block(16, 16, groups=16), (2, 7, 7, 16)),
    "depthwise, uneven": (lambda: Block(19, 19, groups=19, bias=True), (2, 7, 7, 19)),
    "grouped": (lambda: Block(8, 8, groups=2), (2, 5, 5, 8)),
}


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("name", BLOCKS)
def test_a_fused_block_is_the_traced_one(name: str) -> None:
    """To the same bits, in one step per convolution."""
    make, shape = BLOCKS[name]
    model, x = shaken(make()), real(*shape)
    assert_same_bits(model(x), unfused(model, x))
    assert set(steps(model, shape)) == {"conv2d"}


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", BLOCKS)
def test_threads_do_not_matter(name: str) -> None:
    make, shape = BLOCKS[name]
    model, x = shaken(make()), real(*shape)
    y = model(x)
    cnnrs.set_num_threads(1)
    assert_same_bits(y, model(x))


def test_explain_shows_what_was_fused() -> None:
    lines = Block(32, 64, stride=2).explain((4, 16, 16, 32)).splitlines()
    kernels = [word for line in lines for word in line.split() if word.startswith("conv_") and word[-1] != ":"]
    assert kernels[0].startswith("conv_direct_norm_relu_")
    assert kernels[1].startswith("conv_winograd_norm_f4_")
    assert kernels[2].startswith("conv_direct_norm_add_relu_")


@pytest.mark.parametrize("make", [models.resnet18, models.resnet50])
def test_networks_have_no_step_of_normalization(make: Any) -> None:
    """No normalization, addition or activation is left beside the convolutions of whole networks."""
    model = make(num_classes=7)
    left = set(steps(model, (1, 64, 64, 3)))
    assert left <= {"conv2d", "max_pool2d", "mean", "adaptive_avg_pool2d", "linear", "reshape", "avg_pool2d"}


@pytest.mark.usefixtures("isa")
def test_whole_network_is_the_traced_one() -> None:
    model = shaken(models.resnet18(num_classes=7))
    x = real(2, 64, 64, 3)
    assert_same_bits(model(x), unfused(model, x))


def test_statistics_and_weights_are_never_stale() -> None:
    """What a call uses are the numbers of now: after training, loading, assigning."""
    model = nn.Sequential(Block(4, 4), nn.Flatten(), nn.Linear(64, 3))
    x, labels = real(6, 4, 4, 4), np.array([0, 1, 2, 0, 1, 2])
    trainer = Trainer(model, optim.SGD(lr=0.1))
    seen = []

    def check() -> None:
        y = model(x)
        assert_same_bits(y, unfused(model, x))
        assert all((y != before).any() for before in seen)
        seen.append(y)

    check()
    for _ in range(2):
        trainer.step(x, labels)
        check()
    shaken(model, seed=3)
    check()
    block = model[0]
    for name in ("running_mean", "running_var", "weight", "bias"):
        block.bn2.load_state_dict({**block.bn2.state_dict(), name: block.bn2.state_dict()[name] + np.float32(0.5)})
        check()
    block.bn2.weight.assign(block.bn2.weight.array * np.float32(1.5))
    check()
    block.conv2.weight.assign(block.conv2.weight.array * np.float32(1.5))
    check()


class Shared(nn.Module):
    """A convolution whose result is normalized and also returned."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)

    def forward(self, x: Any) -> Any:
        """Trace it."""
        y = self.conv(x)
        return self.bn(y) * y


def test_a_result_with_two_readers_is_not_fused() -> None:
    model, x = shaken(Shared()), real(2, 5, 5, 3)
    assert steps(model, x.shape) == ["conv2d", "batch_norm_infer", "mul"]
    assert_same_bits(model(x), unfused(model, x))


def test_captures_inside_a_fused_chain() -> None:
    """The convolution's own result, the normalization's and the block's, and nothing of the result changes."""
    model, x = shaken(Block(6, 6)), real(2, 6, 6, 6)
    plain = model(x)
    with model.capture("conv1", "conv2", "bn2", "") as found:
        y = model(x)
    assert_same_bits(y, plain)
    assert_same_bits(found["conv1"], model.conv1(x))
    inner = np.maximum(np.asarray(model.bn1(found["conv1"])), 0)
    assert_same_bits(found["conv2"], model.conv2(inner))
    assert_same_bits(found["bn2"], model.bn2(found["conv2"]))
    assert_same_bits(found[""], plain)
    np.testing.assert_array_equal(plain, np.maximum(found["bn2"] + x, 0))


def test_what_is_added_stays_whole_where_it_is_read_again() -> None:
    """The shortcut is an input, a captured value, or the convolution's own source: none of them is overwritten."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(4, 32, 1)
            self.conv = nn.Conv2d(32, 32, 3, padding=1)
            self.last = nn.Conv2d(32, 32, 3, padding=1)

        def forward(self, x: Any) -> Any:
            x = self.first(x)
            y = self.conv(x) + x
            z = self.last(y) + y
            return z + y

    model, x = shaken(Own()), real(3, 12, 12, 4)
    assert_same_bits(model(x), unfused(model, x))
    block, x = shaken(Block(5, 5)), real(2, 6, 6, 5)
    before = x.copy()
    block(x)
    assert_same_bits(x, before)


TRAINING = """
import hashlib, json, sys
import numpy as np
import cnnrs
from cnnrs import Trainer, nn, optim
from cases import real
from test_fusion import Block, shaken

model = shaken(nn.Sequential(Block(4, 4), Block(4, 32, stride=2), Block(32, 32), nn.Flatten(), nn.Linear(2048, 3)))
for block in model[:3]:
    for layer in (block.bn1, block.bn2):
        layer.freeze() if sys.argv[1] == "frozen" else layer.eval()
x, labels = real(6, 16, 16, 4), np.array([0, 1, 2, 0, 1, 2])
trainer = Trainer(model, optim.SGD(lr=0.01))
loss, gradients = trainer.gradients(x, labels)
trainer.step(x, labels)
digest = hashlib.sha256(np.float32(loss).tobytes())
for name in sorted(gradients):
    digest.update(np.asarray(gradients[name]).tobytes())
for name, value in sorted(model.state_dict().items()):
    digest.update(np.asarray(value).tobytes())
ops = [row.op for row in trainer.profile(x, labels, repeats=1).rows]
print(json.dumps([digest.hexdigest(), ops.count("batch_norm_infer"), len(gradients)]))
"""


@pytest.mark.parametrize("how", ["frozen", "eval"])
def test_gradients_beside_fused_normalization(how: str, run_python: Callable[..., Any]) -> None:
    """A frozen normalization is fused in training too: same loss, gradients and update as without fusion."""

    def run(check: str | None) -> list[Any]:
        paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        result = run_python(TRAINING, how, env={"CNNRS_CHECK": check, "PYTHONPATH": paths})
        assert result.returncode == 0, result.stderr
        found: list[Any] = json.loads(result.stdout)
        return found

    # Where values are checked, every node is run by itself.
    (fused, left, gradients), (apart, all_of_them, _) = run(None), run("finite")
    assert fused == apart
    assert (left, all_of_them) == ((0, 6) if how == "frozen" else (6, 6))
    assert gradients > 8
