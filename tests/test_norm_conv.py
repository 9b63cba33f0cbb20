"""Batch normalization in training behind a convolution that takes the statistics of its results on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cnnrs
import oracle_norm as ref
from cases import Array, real
from cnnrs import _core, graph, nn
from cnnrs import functional as F
from tolerance import assert_same_bits, assert_within
from traces import trained

CONVOLUTIONS: dict[str, tuple[tuple[int, ...], Callable[[], nn.Conv2d]]] = {
    "conv_direct": ((3, 26, 27, 24), lambda: nn.Conv2d(24, 37, 1)),
    "conv_direct of one pixel": ((130, 1, 1, 24), lambda: nn.Conv2d(24, 37, 1)),
    "conv_direct strided": ((3, 53, 54, 20), lambda: nn.Conv2d(20, 33, 3, stride=2, padding=1)),
    "conv_direct in groups": ((2, 33, 34, 32), lambda: nn.Conv2d(32, 68, 3, padding=1, groups=2)),
    "conv_winograd": ((3, 26, 27, 33), lambda: nn.Conv2d(33, 37, 3, padding=1)),
    "conv_winograd of few tiles": ((2, 7, 9, 40), lambda: nn.Conv2d(40, 33, 3, padding=1)),
    "conv_winograd of few channels": ((3, 60, 62, 3), lambda: nn.Conv2d(3, 33, 7, stride=2, padding=3)),
    "conv_winograd 5x5": ((3, 15, 14, 33), lambda: nn.Conv2d(33, 36, 5, padding=2)),
}


def program(model: nn.Sequential, shape: tuple[int, ...]) -> tuple[_core.Program, int]:
    """Convolution, normalization in training: what lies between them and the results of the normalization."""
    with graph.Trace(root=model, training=True) as trace:
        x = trace.input(shape, "float32", "x")
        between = model[0](x)
        y = F.batch_norm(between, None, None, training=True, eps=0.0)
    return _core.Program(trace.graph, [between.id, y.id]), shape[0]


def layer(name: str, offset: float = 0.0) -> tuple[nn.Sequential, Array]:
    """A convolution whose results lie around an offset, and its source."""
    cnnrs.manual_seed(7)
    shape, make = CONVOLUTIONS[name]
    model = nn.Sequential(make())
    bias = model[0].bias
    bias.assign(real(*bias.shape, seed=2) + np.float32(offset))
    return model, real(*shape)


@pytest.mark.parametrize("offset", [0.0, 1e4, -3e5, 1e6])
@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.usefixtures("isa")
def test_statistics_are_those_of_the_results(name: str, offset: float) -> None:
    """In double precision, of the very numbers that the convolution wrote, whatever they lie around."""
    model, x = layer(name, offset)
    run, batch = program(model, x.shape)
    kernels = [step["kernel"] for step in run.plan(batch)["steps"]]
    assert [kernel for kernel in kernels if kernel.startswith(name.split()[0] + "_moments_")]
    assert not [kernel for kernel in kernels if kernel.startswith("moments") and "finish" not in kernel]
    between, y = run.run([x])
    norm = ref.batch_norm(between, 1.0, 0.0, eps=0.0)
    assert_within(y, *norm.forward(), name)


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.usefixtures("isa")
def test_steps_have_the_same_bits_on_any_number_of_threads(
    name: str, assert_deterministic: Callable[..., None]
) -> None:
    def train() -> Any:
        conv, x = layer(name)
        channels = conv[0].out_channels
        model = nn.Sequential(
            conv[0], nn.BatchNorm2d(channels), nn.ReLU(), nn.GlobalAvgPool2d(), nn.Linear(channels, 4)
        )
        return trained(model, [(x, np.arange(len(x)) % 4)] * 2)

    assert_deterministic(train)


def test_a_normalization_that_takes_them_itself_says_why() -> None:
    """Too few pixels for the parts of the work; kernels whose results are not whole in one place."""
    reasons = []
    for shape, conv in (
        ((1, 7, 7, 64), nn.Conv2d(64, 64, 1)),
        ((2, 20, 20, 16), nn.Conv2d(16, 16, 3, padding=1, groups=16)),
    ):
        run, batch = program(nn.Sequential(conv), shape)
        (step,) = [step for step in run.plan(batch)["steps"] if step["kernel"].startswith("moments_")]
        reasons += [reason for candidate, reason in step["refused"] if candidate == "conv_moments"]
    assert reasons == ["49 pixels in 2 parts", "the kernel takes none"]


def test_two_normalizations_read_the_same_statistics() -> None:
    """Of one result; they are taken once."""
    model, x = layer("conv_winograd")
    with graph.Trace(root=model, training=True) as trace:
        between = model[0](trace.input(x.shape, "float32", "x"))
        first = F.batch_norm(between, None, None, training=True)
        second = F.batch_norm(between, None, None, training=True)
        both = _core.Program(trace.graph, [first.id, second.id])
    kernels = [step["kernel"] for step in both.plan(len(x))["steps"]]
    assert sum("_moments_" in kernel for kernel in kernels) == 1
    assert sum(kernel == "moments_finish" for kernel in kernels) == 2
    one, other = both.run([x])
    assert_same_bits(one, other)


def test_looking_at_every_result_changes_no_bit(run_python: Callable[..., Any]) -> None:
    """With `CNNRS_CHECK=finite`, and a result that is not finite is that of its own layer."""
    code = """
import numpy as np, cnnrs
from cnnrs import nn, optim
cnnrs.manual_seed(3)
conv = nn.Conv2d(32, 40, 3, padding=1)
model = nn.Sequential(conv, nn.BatchNorm2d(40), nn.ReLU(), nn.GlobalAvgPool2d(), nn.Linear(40, 4))
x = np.random.default_rng(0).standard_normal((3, 14, 15, 32), dtype=np.float32)
trainer = cnnrs.Trainer(model, optim.SGD(0.05), seed=1)
for _ in range(2):
    trainer.step(x, np.arange(3))
print(model.state_dict()["1.running_var"].tobytes().hex())
x[0] = 3e38
try:
    trainer.step(x, np.arange(3))
except FloatingPointError as error:
    print(error)
"""
    plain, checked = (run_python(code, env={"CNNRS_CHECK": check}).stdout.splitlines() for check in (None, "finite"))
    assert plain[0] == checked[0]
    assert len(plain) == 1
    assert "conv2d" in checked[1]
