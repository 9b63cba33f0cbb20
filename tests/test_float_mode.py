"""Decision: denormals are flushed to zero inside runs and only there; whoever called keeps the mode it had."""

from __future__ import annotations

import os
import platform
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import cases
import cnnrs
import tolerance
from cases import Array
from cnnrs import Trainer, _core, models, nn, optim
from cnnrs import functional as F

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the mode is set on x86-64 only")

TINY = np.float32(1e-40)
"""A denormal number."""


def denormals_live() -> bool:
    """Whether this thread computes with denormals: as operands and as results."""
    operands = np.full(64, TINY) + np.full(64, TINY)
    results = np.full(64, 1e-30, np.float32) * np.full(64, 1e-10, np.float32)
    return bool(operands.any() and results.any() and (np.full(64, TINY) > 0).all())


@pytest.fixture(autouse=True)
def mode_is_kept() -> Iterator[None]:
    """Every test of this file begins and ends in the mode of the interpreter."""
    assert denormals_live()
    yield
    assert denormals_live()


class Subject:
    """A model, a trainer and data, and each entry point as a call."""

    def __init__(self) -> None:
        self.model = models.lenet5()
        self.trainer = Trainer(self.model, optim.SGD(lr=0.01, momentum=0.9))
        self.x, self.labels = cases.real(64, 28, 28, 1), np.arange(64) % 10
        self.program = self.model._compiled(self.x).program

    def calls(self) -> dict[str, Callable[[], object]]:
        """Calls that succeed."""
        model, trainer, x, labels = self.model, self.trainer, self.x, self.labels
        _, gradients = trainer.gradients(x, labels)
        _, pull = cnnrs.vjp(model, x)
        return {
            "function": lambda: F.conv2d(x, np.ones((3, 3, 1, 8), np.float32)),
            "small function": lambda: F.relu(x[:1, :2, :2]),
            "call": lambda: model(x),
            "first call": lambda: models.lenet5()(x),
            "bytes": lambda: model(np.ones((2, 28, 28, 1), np.uint8)),
            "predict": lambda: model.predict(x),
            "step": lambda: trainer.step(x, labels),
            "gradients": lambda: trainer.gradients(x, labels),
            "apply": lambda: trainer.apply(gradients),
            "evaluate": lambda: trainer.evaluate((x, labels)),
            "fit": lambda: trainer.fit((x, labels), verbose=False),
            "vjp": lambda: cnnrs.vjp(model, x),
            "pull": lambda: pull(np.ones((64, 10), np.float32)),
            "load_state_dict": lambda: model.load_state_dict(model.state_dict(copy=True)),
            "summary": lambda: model.summary((28, 28, 1)),
            "fma_peak": lambda: _core.fma_peak(2, 0.001),
            "clear_cache": cnnrs.clear_cache,
        }

    def failures(self) -> dict[str, Callable[[], object]]:
        """Calls that raise, early and late."""
        model, trainer, x, labels = self.model, self.trainer, self.x, self.labels

        def panic(call: Callable[[], object], step: int, rank: int) -> None:
            _core.inject_panic(step, rank)
            call()

        return {
            "shape": lambda: model(x[:, :20]),
            "dtype": lambda: F.relu(x.astype(np.int64)),
            "labels": lambda: trainer.step(x, labels + 1),
            "memory": lambda: F.conv2d(x[:1, :4, :4], np.ones((1, 1, 1, 1), np.float32), padding=1 << 30),
            "panic": lambda: panic(lambda: model(x), 0, 0),
            "panic later": lambda: panic(lambda: trainer.step(x, labels), 3, 0),
            "panic of a worker": lambda: panic(lambda: trainer.step(x, labels), 1, 1),
            "arguments of the program": lambda: self.program.run([]),
        }


@pytest.mark.usefixtures("restore_threads", "capfd")
@pytest.mark.parametrize("threads", [1, 2])
def test_every_entry_point_keeps_the_mode(threads: int) -> None:
    """Whether it returns or raises."""
    cnnrs.set_num_threads(threads)
    subject = Subject()
    for name, call in subject.calls().items():
        call()
        assert denormals_live(), name
    for name, call in subject.failures().items():
        if name == "panic of a worker" and threads == 1:
            continue
        with pytest.raises(Exception, match=r"\w"):
            call()
        assert denormals_live(), name


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers")
@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize("raises", [False, True])
def test_signal_handlers_compute_in_their_own_mode(raises: bool) -> None:
    """A handler inside a call and a thread that it starts see denormals, and so does who catches what it raises."""
    cnnrs.set_num_threads(2)
    x, weight = cases.real(16, 96, 96, 64), cases.real(3, 3, 64, 64)
    seen: list[bool] = []

    class RaisedError(Exception):
        pass

    def handler(*_: object) -> None:
        thread = threading.Thread(target=lambda: seen.append(denormals_live()))
        thread.start()
        thread.join()
        seen.append(denormals_live())
        if raises:
            raise RaisedError

    before = signal.signal(signal.SIGUSR2, handler)
    sender = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR2))
    sender.start()
    try:
        while not seen:
            F.conv2d(x, weight, padding=1)
        assert not raises
    except RaisedError:
        assert raises
    finally:
        sender.join()
        signal.signal(signal.SIGUSR2, before)
    assert seen == [True, True]


def net(scale: Any) -> tuple[nn.Module, Array]:
    """A convolution whose weights are `scale`, below a linear layer, and logits of an input that makes them count."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 16, 3, padding=1)
            self.head = nn.Linear(16 * 6 * 6, 5)

        def forward(self, x: Any) -> Any:
            return self.head(F.flatten(self.conv(x)))

    model = Net()
    model.load_state_dict({name: cases.real(*value.shape) for name, value in model.state_dict().items()})
    model.conv.weight.assign(np.full(model.conv.weight.shape, scale, np.float32))
    return model, model(np.full((3, 6, 6, 8), 1e38, np.float32))


@pytest.mark.usefixtures("isa", "threads")
def test_denormal_weights_count_as_zero() -> None:
    """Inside a run; where weights are stored they stay what they are."""
    model, y = net(TINY)
    zeros, expected = net(0.0)
    tolerance.assert_same_bits(y, expected)
    assert (model.state_dict()["conv.weight"] == TINY).all()
    assert (net(1000 * TINY)[1] != expected).any(), "the test would not notice weights"

    x, labels = cases.real(7, 6, 6, 8), np.arange(7) % 5
    for trained in (model, zeros):
        Trainer(trained, optim.SGD(lr=0.5)).step(x, labels)
    tolerance.assert_same_bits(model.state_dict(), zeros.state_dict())


@pytest.mark.usefixtures("isa", "threads")
def test_denormal_operands_of_functions_count_as_zero() -> None:
    """Weights of a linear layer, and an input."""
    large, bias = np.full((3, 40), 1e38, np.float32), cases.real(17)
    tiny = np.full((40, 17), TINY)
    tolerance.assert_same_bits(F.linear(large, tiny, bias), np.tile(bias, (3, 1)))
    assert (F.linear(large, 1000 * tiny, bias) != bias).any()
    y = F.conv2d(np.full((1, 4, 4, 8), TINY), np.full((3, 3, 8, 17), 1e38, np.float32), bias)
    tolerance.assert_same_bits(y, np.tile(bias, (1, 2, 2, 1)))


@pytest.mark.usefixtures("isa", "threads")
def test_denormal_results_are_zero() -> None:
    """A product below the smallest normal number."""
    x, weight = np.full((2, 5, 5, 16), 1e-25, np.float32), np.full((3, 3, 16, 16), 1e-15, np.float32)
    assert not F.conv2d(x, weight).any()
    assert F.conv2d(x * np.float32(1e10), weight).all()
