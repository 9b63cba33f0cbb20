"""`CNNRS_CHECK=finite`: the first node with NaN or an infinity is named, and a step that fails changes nothing."""

from __future__ import annotations

import subprocess
import textwrap
from collections.abc import Callable

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]
SETUP = """
import numpy as np
import cnnrs
from cnnrs import Trainer, functional as F, models, nn, optim

def refused(call, *parts):
    try:
        call()
    except FloatingPointError as error:
        text = str(error)
        assert text.endswith("(CNNRS_CHECK=finite)"), text
        for part in parts:
            assert part in text, text
        return
    raise AssertionError("nothing was raised")
"""


@pytest.fixture
def check(run_python: Run) -> Callable[[str], None]:
    """Run a program with the check switched on."""

    def check(program: str, **env: str) -> None:
        result = run_python(SETUP + textwrap.dedent(program), env={"CNNRS_CHECK": "finite", **env})
        assert result.returncode == 0, result.stderr

    return check


@pytest.mark.parametrize("threads", ["1", "2", "5"])
@pytest.mark.parametrize("isa", ["portable", "avx512"])
def test_the_first_node_is_named_with_its_layer(check: Callable[..., None], threads: str, isa: str) -> None:
    check(
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = nn.Conv2d(1, 8, 3, padding=1)
                self.log = Log()
                self.act = nn.ReLU()
            def forward(self, x):
                return self.act(self.log(self.conv(x)))

        class Log(nn.Module):
            def forward(self, x):
                return F.log(x)

        model = Net()
        model.conv.weight.assign(np.zeros((3, 3, 1, 8), np.float32))
        bias = np.ones(8, np.float32)
        model.conv.bias.assign(bias)
        x = np.zeros((4, 64, 64, 1), np.float32)
        model(x)
        bias[1:3] = -1.0, 0.0
        model.conv.bias.assign(bias)
        pixels = 4 * 64 * 64
        counts = f"holds {pixels} NaN and {pixels} infinities among {8 * pixels} values"
        refused(lambda: model(x), "log: log: output 0 " + counts)
        model.conv.bias.assign(np.ones(8, np.float32))
        model(x)
        """,
        CNNRS_NUM_THREADS=threads,
        CNNRS_ISA=isa,
    )


def test_nothing_is_fused(check: Callable[..., None]) -> None:
    """An activation behind a convolution is a node of its own."""
    check(
        """
        text = models.lenet5().explain((1, 28, 28, 1))
        assert text.count("  tanh  ") == 4, text
        """
    )


def test_inputs_and_parameters_are_named_before_anything_runs(check: Callable[..., None]) -> None:
    check(
        """
        model = models.lenet5()
        x = np.zeros((2, 28, 28, 1), np.float32)
        x[1, 3, 4] = np.nan
        refused(lambda: model(x), "x holds 1 NaN and 0 infinities among 1568 values")
        x[1, 3, 4] = 0
        weight = model.features[3].weight.array.copy()
        weight[0, 0, 0, :2] = -np.inf
        model.features[3].weight.assign(weight)
        refused(lambda: model(x), "features.3.weight holds 0 NaN and 2 infinities")
        refused(lambda: F.exp(np.full((2, 3), 100, np.float32)), "exp: output 0 holds 0 NaN and 6 infinities among 6")
        """
    )


def test_a_step_that_fails_changes_nothing(check: Callable[..., None]) -> None:
    """The gradient overflows while the loss is finite: everything stored stays, and training goes on."""
    check(
        """
        class Steep(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(3, 2)
                self.bn = nn.BatchNorm1d(2)
            def forward(self, x):
                return self.bn(self.fc(x))

        def loss(logits, target):
            return F.sum(F.sqrt(F.abs(logits - target)))

        model = Steep()
        trainer = Trainer(model, optim.SGD(lr=0.1, momentum=0.9), loss=loss)
        x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
        y = np.full((4, 2), 100, np.float32)
        trainer.step(x, y)
        before, updates = model.state_dict(copy=True), trainer.updates
        model.bn.weight.assign(np.zeros(2, np.float32))  # logits are the bias, exactly
        model.bn.bias.assign(np.full(2, 100, np.float32))
        stored = model.state_dict(copy=True)
        versions = [p._storage.version for p in model.parameters()]
        refused(lambda: trainer.step(x, y), "sqrt_backward: output 0 holds")
        refused(lambda: trainer.gradients(x, y), "sqrt_backward: output 0 holds")
        for name, array in model.state_dict().items():
            assert (array == stored[name]).all(), name
        assert [p._storage.version for p in model.parameters()] == versions
        assert trainer.updates == updates
        model.load_state_dict(before)
        trainer.step(x, y)
        assert trainer.updates == updates + 1
        """
    )


def test_integers_and_finite_results_pass(check: Callable[..., None]) -> None:
    check(
        """
        model = models.lenet5(activation="relu", pool="max")
        trainer = Trainer(model, optim.SGD(lr=0.1, momentum=0.9))
        x, y = np.random.default_rng(0).normal(size=(8, 28, 28, 1)).astype(np.float32), np.arange(8) % 10
        for _ in range(3):
            trainer.step(x, y)
        F.max_pool2d(x, 2, return_indices=True)
        out = np.empty((8, 10), np.float32)
        model(x, out=out)
        assert np.isfinite(out).all()
        assert model(x[:0]).shape == (0, 10)
        """
    )


def test_without_it_nan_passes_through(run_python: Run) -> None:
    program = SETUP + "assert np.isnan(F.log(np.full(3, -1, np.float32))).all()"
    result = run_python(program, env={"CNNRS_CHECK": None})
    assert result.returncode == 0, result.stderr


def test_another_word_is_refused(run_python: Run) -> None:
    program = SETUP + "F.relu(np.zeros(3, np.float32))"
    result = run_python(program, env={"CNNRS_CHECK": "nan"})
    assert result.stderr.rstrip().endswith('ValueError: CNNRS_CHECK expects finite, received "nan"')
