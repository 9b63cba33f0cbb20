"""Decision: what the system refuses and what breaks inside ends in a smaller team or an exception, never in a hang.

Afterwards the engine computes the same bits as before.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cases
import cnnrs
import fault_programs
import test_grad
import tolerance
from cnnrs import Trainer, _core, models, optim
from cnnrs import functional as F
from processes import run

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and limits of the address space")


@LINUX
def test_threads_refused() -> None:
    """Half as many are asked for, and half again, down to none; the bits are those of one thread."""
    run("fault_programs", "refused_threads", env={"RUST_MIN_STACK": str(fault_programs.STACK)})


@LINUX
def test_one_core() -> None:
    """An affinity mask of one core means one thread."""
    run("fault_programs", "one_core", env={"CNNRS_NUM_THREADS": None})


@LINUX
@pytest.mark.parametrize("count", [5, 12])
def test_more_threads_than_cores(count: int) -> None:
    """`CNNRS_NUM_THREADS` and `set_num_threads` are taken exactly."""
    run("fault_programs", "more_threads_than_cores", count, env={"CNNRS_NUM_THREADS": str(count)})


@LINUX
def test_memory_refused() -> None:
    """MemoryError names the bytes."""
    run("fault_programs", "usable_after_memory_error")


def test_portable_training(tmp_path: Path) -> None:
    """Under `CNNRS_ISA=portable` a whole step agrees with the best level, both within the reference's bounds."""
    found: dict[str, dict[str, Any]] = {}
    for level in ("portable", None):
        file = tmp_path / f"{level}.npz"
        run("fault_programs", "train_to_file", file, env={"CNNRS_ISA": level})
        with np.load(file) as facts:
            found[str(level)] = dict(facts)
    portable, best = found["portable"], found["None"]
    assert str(portable["isa"]) == "portable"
    assert str(best["isa"]) == _core.isa_levels()[-1]

    _, parameters = test_grad.lenet(smooth=True)
    images, labels = test_grad.lenet_batch(13)
    reference = test_grad.reference_lenet(parameters, smooth=True)
    logits = test_grad.ref.forward(list(reference.values()), test_grad.Bounded.exact(images))
    loss, grad_logits = test_grad.ref.cross_entropy(logits, labels)
    test_grad.ref.backward(list(reference.values()), grad_logits)
    tolerance.assert_within(portable["loss"], best["loss"], 2 * loss.error, "loss")
    for name, value in parameters.items():
        layer, kind = name.rsplit(".", 1)
        parametric = reference[layer]
        assert isinstance(parametric, test_grad.ref.Conv2d)
        gradient = parametric.gradients[kind]
        tolerance.assert_within(portable[f"gradient {name}"], best[f"gradient {name}"], 2 * gradient.error, name)
        update = 0.5 * gradient.error + tolerance.reduction(2, np.abs(value) + 0.5 * gradient.magnitude)
        tolerance.assert_within(portable[name], best[name], 2 * update, f"{name} after the step")
        assert (portable[name] != value).any()


def steps_of(program: _core.Program, batch: int) -> list[dict[str, Any]]:
    """The plan's list of kernel calls."""
    steps: list[dict[str, Any]] = program.plan(batch)["steps"]
    return steps


def expect_panic(step: dict[str, Any], call: Callable[[], object]) -> None:
    """The exception names the layer, the kernel and the op."""
    place = f"{step['name']}: " if step["name"] else ""
    message = f"^internal error: {re.escape(place)}{re.escape(step['kernel'])} panicked in {re.escape(step['op'])}$"
    with pytest.raises(RuntimeError, match=message):
        call()


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.usefixtures("restore_threads")
def test_panic_in_a_call(rank: int, capfd: pytest.CaptureFixture[str]) -> None:
    """At every step of a plan, on the calling thread and on workers: RuntimeError, then the same bits."""
    cnnrs.set_num_threads(3)
    model, x = models.lenet5(), cases.real(64, 28, 28, 1)
    expected = model(x).copy()
    program = model._compiled(x).program
    steps = steps_of(program, 64)
    assert len(steps) >= 5
    for number, step in enumerate(steps):
        _core.inject_panic(number, rank)
        expect_panic(step, lambda: model(x))
        tolerance.assert_same_bits(model(x), expected, f"after a panic in step {number}")
    assert "injected by a test" in capfd.readouterr().err


@pytest.mark.usefixtures("threads", "capfd")
def test_panic_in_a_function() -> None:
    """A function of one op; its exception names the op."""
    x, weight = cases.real(4, 24, 24, 16), cases.real(3, 3, 16, 16)
    expected = F.conv2d(x, weight)
    _core.inject_panic(0)
    with pytest.raises(RuntimeError, match=r"panicked in conv2d$"):
        F.conv2d(x, weight)
    tolerance.assert_same_bits(F.conv2d(x, weight), expected)


@pytest.mark.usefixtures("threads", "capfd")
def test_panic_in_a_step() -> None:
    """Before the first write nothing has changed and nothing is counted; afterwards results follow what is stored."""
    model = models.lenet5()
    trainer = Trainer(model, optim.SGD(lr=0.05, momentum=0.9))
    x, labels = cases.real(64, 28, 28, 1), np.arange(64) % 10
    trainer.step(x, labels)
    before = model.state_dict(copy=True)
    expected = model(x).copy()
    steps = steps_of(trainer._programs.step(x, False)._program, 64)
    writing = [number for number, step in enumerate(steps) if step["op"] == "sgd"]
    assert writing
    for number, step in enumerate(steps):
        updates = trainer.updates
        _core.inject_panic(number)
        expect_panic(step, lambda: trainer.step(x, labels))
        if number < min(writing):
            assert trainer.updates == updates
            tolerance.assert_same_bits(model.state_dict(), before)
        else:
            # Some parameters may be updated: packed copies of the old values must not be used any more.
            copy = models.lenet5()
            copy.load_state_dict(model.state_dict(copy=True))
            tolerance.assert_same_bits(model(x), copy(x))
            model.load_state_dict(before)
        tolerance.assert_same_bits(model(x), expected)
    assert np.isfinite(trainer.step(x, labels))


@pytest.mark.usefixtures("restore_threads")
def test_an_injected_panic_needs_its_member() -> None:
    """The hook fires once, in the next run, and only where the team has the member: a clean run uses it up."""
    cnnrs.set_num_threads(1)
    x = cases.real(2, 8, 8, 4)
    expected = F.relu(x)
    for step, rank in ((0, 1), (1, 0), (2**32 - 1, 2**32 - 2)):
        _core.inject_panic(step, rank)
        tolerance.assert_same_bits(F.relu(x), expected)
    tolerance.assert_same_bits(F.relu(x), expected)
