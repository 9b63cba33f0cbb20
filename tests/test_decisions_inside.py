"""One test for each decision about looking inside and about processes: captures, forks, running values, gradcheck."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cnnrs
from cases import real
from cnnrs import Trainer, nn, optim
from cnnrs import functional as F
from cnnrs.testing import gradcheck
from tolerance import assert_same_bits


def test_05_hooks_are_captures() -> None:
    """A capture is one more output of the plan, read-only; it changes no bit of the others and ends with its block."""
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    x = real(2, 6, 6, 2)
    plain = model(x)
    with model.capture("1", "3") as activations:
        assert_same_bits(model(x), plain)
    assert set(activations) == {"1", "3"}
    assert_same_bits(activations["1"], F.relu(F.conv2d(x, model[0].weight.array, model[0].bias.array)))
    assert_same_bits(activations["3"], plain)
    assert not activations["1"].flags.writeable
    before = dict(activations)
    model(real(1, 6, 6, 2))
    assert all(activations[name] is array for name, array in before.items())


FORK = """
import os
import numpy as np, cnnrs
from cnnrs import functional as F, nn

cnnrs.set_num_threads(2)
x, model = np.ones((8, 64, 64, 8), np.float32), nn.Conv2d(8, 16, 3)
expected = model(x)
child = os.fork()
if child == 0:
    os._exit(0 if np.array_equal(model(x), expected) and cnnrs.get_num_threads() == 2 else 1)
assert np.array_equal(model(x), expected)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_10_a_forked_child_computes_with_a_team_of_its_own(run_python: Callable[..., Any]) -> None:
    """The parent's team is left alone, the locks are fresh; tests of all start methods are in `test_fork.py`."""
    result = run_python(FORK)
    assert result.stdout.split() == ["0"], result.stderr


@pytest.mark.parametrize("call", ["step", "gradients"])
def test_13_running_values_are_written_by_steps_and_gradients(call: str) -> None:
    """Biased variance normalizes, unbiased variance runs; calls and `evaluate` change nothing."""
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))
    x, y = real(4, 2, 2, 3), np.array([0, 1, 1, 0])
    trainer = Trainer(model, optim.SGD(lr=0.0))
    model(x)
    trainer.evaluate((x, y))
    assert model.state_dict()["0.num_batches_tracked"] == 0
    getattr(trainer, call)(x, y)
    state = model.state_dict()
    rows = x.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(state["0.running_mean"], 0.1 * rows.mean(0), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(state["0.running_var"], 0.9 + 0.1 * rows.var(0, ddof=1), rtol=1e-6)
    assert state["0.num_batches_tracked"] == 1
    single = Trainer(nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 2)), optim.SGD(lr=0.1))
    with pytest.raises(ValueError, match="one value"):
        single.step(x[:1, :1, :1], y[:1])


def test_14_compile_keeps_the_plan() -> None:
    """A function is traced once per sample shape."""
    traced = []

    @cnnrs.compile
    def doubled(x: Any) -> Any:
        traced.append(x.shape)
        return x + x

    for count in (1, 3, 3):
        assert_same_bits(doubled(np.ones((count, 2), np.float32)), np.full((count, 2), 2, np.float32))
    assert len(traced) == 1


def test_15_gradcheck_is_double_from_end_to_end() -> None:
    """It resolves slopes that single precision would lose: steps of 1e-6 beside an offset of a thousand."""
    offset = np.full((1, 3), 1000, np.float32)
    gradcheck(lambda x: F.sum((x + offset) * (x + offset)), real(2, 3))


def test_18_a_layer_chooses_for_itself() -> None:
    """`algorithm="direct"` stays in the graph, shows in the layer, and never widens what the process permits."""
    strict, free = (nn.Conv2d(8, 8, 3, algorithm=name) for name in ("direct", "auto"))
    free.load_state_dict(strict.state_dict())
    x = real(1, 6, 6, 8)
    assert "algorithm='direct'" in repr(strict)
    assert "algorithm" not in repr(free)
    assert "conv_direct" in strict.explain((1, 6, 6, 8))
    np.testing.assert_allclose(strict(x), free(x), rtol=1e-3, atol=1e-4)
    grad = real(1, 4, 4, 8)
    shared = {"input_shape": x.shape, "weight": strict.weight.array}
    direct = F.conv2d_backward_data(grad, algorithm="direct", **shared)
    _, pull = cnnrs.vjp(strict, x)
    assert_same_bits(pull(grad), direct)
    with pytest.raises(ValueError, match='algorithm must be one of "auto", "direct"'):
        nn.Conv2d(8, 8, 3, algorithm="winograd?")
    with pytest.raises(ValueError, match='algorithm must be one of "auto", "direct"'):
        F.conv2d(x, strict.weight.array, algorithm=None)  # type: ignore[arg-type]
