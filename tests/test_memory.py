"""Memory: no copy of an input, and the plan's account of what a run needs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cases
import tolerance
from cnnrs import _core

MARGIN = 64 << 20
"""What threads, caches and the allocator may take beside the arrays."""

PEAK = """
import sys
import numpy as np
from cnnrs import functional as F

function, size = sys.argv[1], int(sys.argv[2])
call = {
    "relu": F.relu,
    "avg_pool2d": lambda x: F.avg_pool2d(x, 2),
    "conv2d": lambda x: F.conv2d(x, np.ones((3, 3, 16, 16), np.float32), padding=1),
}[function]
peak = lambda: int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))) * 1024
call(np.ones((1, 4, 4, 16), np.float32))
x = np.full((size // (64 * 64 * 16 * 4), 64, 64, 16), 1.0, np.float32)
before = peak()
y = call(x)
print(peak() - before, y.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("function", ["relu", "avg_pool2d", "conv2d"])
@pytest.mark.parametrize("size", [128 << 20, pytest.param(400 << 20, marks=pytest.mark.slow)])
def test_a_call_needs_its_output_only(function: str, size: int, run_python: Callable[..., Any]) -> None:
    """The resident peak of a call grows by the output and a margin smaller than the input: no copy was made."""
    result = run_python(PEAK, function, str(size))
    assert result.returncode == 0, result.stderr
    grown, output = map(int, result.stdout.split())
    assert grown <= output + MARGIN


REPEAT = """
import numpy as np
from cnnrs import Trainer, models, optim

peak = lambda: int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))) * 1024
model = models.lenet5()
trainer = Trainer(model, optim.SGD(lr=0.01, momentum=0.9))
x, labels = np.ones((64, 28, 28, 1), np.float32), np.arange(64) % 10

def work(times):
    for _ in range(times):
        trainer.step(x, labels)
        model(x)

work(20)
before = peak()
work(300)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_steps_do_not_accumulate(run_python: Callable[..., Any]) -> None:
    """300 more training steps and calls need less than one more activation of the batch."""
    result = run_python(REPEAT)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 64 * 28 * 28 * 6 * 4


def small_integers(*shape: int) -> cases.Array:
    """Values whose sums through two convolutions stay exact, so that no order of summation shows."""
    return np.random.default_rng(shape).integers(-2, 3, shape).astype(np.float32)


def convolution_program() -> _core.Program:
    """Two convolutions with a relu after each."""
    graph = _core.Graph()
    value = graph.input((1, 32, 32, 8), "float32", "x")
    for layer in range(2):
        weight = graph.parameter(_core.Parameter(small_integers(3, 3, 8, 8)), f"weight{layer}")
        attributes = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
        (value,) = graph.add("conv2d", [value, weight], attributes, f"conv{layer}")
        (value,) = graph.add("relu", [value], {}, f"relu{layer}")
    return _core.Program(graph, [value], "two convolutions")


def test_plan_accounts_for_memory() -> None:
    """Bytes are known before the first run and follow the batch size; parameters do not."""
    program = convolution_program()
    small, large = program.plan(1), program.plan(16)
    assert large["arena_bytes"] > small["arena_bytes"]
    for plan, batch in ((small, 1), (large, 16)):
        activation = batch * 32 * 32 * 8 * 4
        assert activation <= plan["arena_bytes"] <= plan["peak_bytes"]
        assert plan["peak_bytes"] <= 10 * activation + MARGIN
        assert all(step["bytes"] >= 0 and step["kernel"] and step["op"] for step in plan["steps"])
    weights = 2 * 3 * 3 * 8 * 8 * 4
    assert small["parameter_bytes"] == large["parameter_bytes"] == weights
    assert small["packed_bytes"] == large["packed_bytes"]


def test_one_program_runs_every_batch_size() -> None:
    """The batch may grow, shrink and be empty; the images' results do not depend on it."""
    program = convolution_program()
    x = small_integers(9, 32, 32, 8)
    (expected,) = program.run([x])
    assert isinstance(expected, np.ndarray)
    for batch in (1, 9, 4, 0, 2):
        (y,) = program.run([x[:batch]])
        tolerance.assert_same_bits(y, expected[:batch], f"batch {batch}")
