"""`model.profile` and `trainer.profile`: what they tell, and that they change nothing."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnnrs
from cases import real
from cnnrs import Trainer, _core, models, nn, optim
from cnnrs import functional as F
from tolerance import assert_same_bits


def net() -> nn.Module:
    """A convolution, a normalization and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(2048, 5)
    )


def test_a_call_is_told_step_by_step() -> None:
    """The steps are those of `explain`, each with a time; the times make up the call."""
    model, x = net(), real(2, 8, 8, 3)
    profile = model.profile(x, repeats=3)
    assert profile.repeats == 3
    assert profile.threads in (1, cnnrs.get_num_threads())
    assert profile.rows[0].layer == "0"
    kernels = [row.kernel for row in profile.rows]
    assert all(kernel in model.explain(x.shape) for kernel in kernels)
    assert all(row.seconds > 0 and row.bytes > 0 for row in profile.rows)
    assert 0.2 * profile.seconds <= sum(row.seconds for row in profile.rows) <= 5 * profile.seconds
    conv = profile.rows[0]
    assert conv.gflops == pytest.approx(2 * 2 * 64 * 27 * 32 * 1e-9 / conv.seconds, rel=1e-6)
    assert conv.share == pytest.approx(conv.gflops / profile.peak)


def test_the_table_and_the_trace(tmp_path: Path) -> None:
    """A line for each step and one of totals; a file that trace viewers read."""
    profile = net().profile(real(2, 8, 8, 3), repeats=2)
    lines = str(profile).splitlines()
    assert len(lines) == len(profile.rows) + 3
    assert lines[0].split() == ["step", "layer", "op", "shape", "kernel", "ms", "%", "GFLOP/s", "of", "peak", "MB"]
    assert lines[-1].endswith("medians of 2 calls")
    assert repr(profile) == str(profile)
    profile.save_trace(tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text())
    events = trace["traceEvents"]
    assert len(events) == len(profile.rows)
    assert all(event["ph"] == "X" and event["dur"] > 0 for event in events)
    assert events[0]["name"] == "0 conv2d"
    ends = [event["ts"] + event["dur"] for event in events]
    assert all(event["ts"] == pytest.approx(end) for event, end in zip(events[1:], ends, strict=False))


def test_a_step_is_told_and_nothing_changes() -> None:
    """Forward, backward and update are there; model, optimizer and trainer go on as if nothing had been."""
    x, y = real(4, 8, 8, 3), np.arange(4)
    trainers = []
    for _ in range(2):
        cnnrs.manual_seed(0)
        trainers.append(Trainer(net(), optim.SGD(lr=optim.OneCycle(0.1), momentum=0.9), seed=3))
        trainers[-1].optimizer = optim.SGD(lr=0.1, momentum=0.9)
    for trainer in trainers:
        trainer.step(x, y)
    before = trainers[0].model.state_dict(copy=True)
    profile = trainers[0].profile(x, y, repeats=2)
    ops = {row.op for row in profile.rows}
    assert {"conv2d", "conv2d_backward_weights", "batch_norm_train", "cross_entropy", "sgd"} <= ops
    assert_same_bits(trainers[0].model.state_dict(), before)
    assert trainers[0].updates == 1
    assert trainers[0].step(x, y) == trainers[1].step(x, y)
    assert_same_bits(trainers[0].model.state_dict(), trainers[1].model.state_dict())


def test_a_schedule_without_a_length_is_no_obstacle() -> None:
    trainer = Trainer(net(), optim.SGD(lr=optim.OneCycle(0.1)))
    assert trainer.profile(real(2, 8, 8, 3), np.array([0, 1]), repeats=1).repeats == 1


def test_only_the_thread_that_records_is_recorded() -> None:
    """Calls of other threads, and calls afterwards, leave nothing."""
    x = real(1, 4)
    _core.start_profile()
    other = threading.Thread(target=F.relu, args=(x,))
    other.start()
    other.join()
    F.relu(x)
    runs = _core.stop_profile()
    assert [[step["op"] for step in steps] for steps, _ in runs] == [["relu"]]
    F.relu(x)
    assert _core.stop_profile() == []


@pytest.mark.parametrize("repeats", [0, -1, 1.5, None, True])
def test_bad_repeats(repeats: Any) -> None:
    with pytest.raises(ValueError, match="repeats must be an int"):
        models.lenet5().profile(np.zeros((1, 28, 28, 1), np.float32), repeats=repeats)


def test_an_error_ends_recording() -> None:
    with pytest.raises(cnnrs.ShapeError):
        net().profile(real(1, 9, 8, 3))
    assert _core.stop_profile() == []
