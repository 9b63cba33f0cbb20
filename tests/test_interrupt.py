"""Ctrl-C: ends long calls with KeyboardInterrupt, leaves the model after a whole step, and the engine usable."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT to another process")

WATCHDOG = 30.0
"""Seconds after which an interrupt counts as ignored; the programs would otherwise run for minutes."""

PRELUDE = """
import numpy as np, cnnrs
from cnnrs import Trainer, models, nn, optim, functional as F
cnnrs.set_num_threads(2)
x = np.random.default_rng(0).standard_normal((16, 96, 96, 64)).astype(np.float32)
def ready():
    print("ready", flush=True)
def usable():
    assert np.array_equal(F.relu(x[:2]), np.maximum(x[:2], 0))
    print("usable", flush=True)
"""
ONE_KERNEL = """
weight = np.ones((95, 95, 64, 64), np.float32)
F.conv2d(x[:1, :8, :8], weight[:3, :3])
ready()
try:
    F.conv2d(x, weight, padding=47)
except KeyboardInterrupt:
    usable()
"""
MANY_STEPS = """
class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(64, 64, 3, padding=1)
    def forward(self, value):
        for _ in range(1500):
            value = F.tanh(self.layer(value))
        return value
model = Deep()
model(x[:1, :2, :2])
ready()
try:
    model(x)
except KeyboardInterrupt:
    usable()
"""
STEPS = """
images, labels = np.random.default_rng(1).random((512, 28, 28, 1), np.float32), np.arange(512) % 10
def make():
    cnnrs.manual_seed(0)
    model = models.lenet5()
    return model, Trainer(model, optim.SGD(lr=0.05, momentum=0.9), seed=0)
def same(one, other):
    return all(np.array_equal(one[name], other[name]) for name in one)
model, trainer = make()
trainer.step(images, labels)
done = 1
ready()
try:
    while True:
        trainer.step(images, labels)
        done += 1
except KeyboardInterrupt:
    pass
after = model.state_dict(copy=True)
replica, repeat = make()
for _ in range(done):
    repeat.step(images, labels)
whole = same(after, replica.state_dict())
if not whole:
    repeat.step(images, labels)
    whole = same(after, replica.state_dict())
assert whole, "the model is between two steps"
assert np.isfinite(trainer.step(images, labels))
usable()
"""
FIT = """
images, labels = np.random.default_rng(1).random((2000, 28, 28, 1), np.float32), np.arange(2000) % 10
model = models.lenet5()
trainer = Trainer(model, optim.SGD(lr=0.01), seed=0)
ready()
try:
    trainer.fit((images, labels), epochs=100000, batch_size=50)
except KeyboardInterrupt:
    assert all(np.isfinite(value).all() for value in model.state_dict().values())
    assert np.isfinite(trainer.step(images[:50], labels[:50]))
    usable()
"""
VGG = """
import time
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        widths = [3, 64, 64, 128, 128, 256, 256]
        self.features = nn.Sequential(*(
            layer for ic, oc in zip(widths, widths[1:])
            for layer in (nn.Conv2d(ic, oc, 3, padding=1), nn.ReLU())
        ))
        self.pool = nn.MaxPool2d(4)
        self.head = nn.Linear(256 * 8 * 8, 10)
    def forward(self, x):
        return self.head(F.flatten(self.pool(self.features(x))))
def digest(state):
    return [value.tobytes() for value in state.values()]
model = Net()
trainer = Trainer(model, optim.SGD(lr=1e-4, momentum=0.9), seed=0)
images, labels = np.random.default_rng(1).random((32, 32, 32, 3), np.float32), np.arange(32) % 10
trainer.step(images[:2], labels[:2])
spans = []
for _ in range(5):
    begun = time.monotonic()
    trainer.step(images[:2], labels[:2])
    spans.append(time.monotonic() - begun)
print(8 * min(spans), flush=True)  # seconds within which a signal finds the step of 32 images running
while True:
    before, updates = digest(model.state_dict()), trainer.updates
    ready()
    try:
        trainer.step(images, labels)
        print("finished", flush=True)
        break
    except KeyboardInterrupt:
        now = time.monotonic()
    assert (digest(model.state_dict()) != before) == (trainer.updates != updates)
    print(now, trainer.updates - updates, flush=True)
    assert np.isfinite(trainer.step(images[:1], labels[:1]))
"""
PROGRAMS = {"one kernel": ONE_KERNEL, "many steps": MANY_STEPS, "training steps": STEPS, "fit": FIT}


@contextmanager
def started(program: str) -> Iterator[subprocess.Popen[str]]:
    """A child process that is ended whatever happens."""
    command = [sys.executable, "-c", PRELUDE + program]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


@pytest.mark.parametrize("delay", [0.3, 1.0])
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_interrupt(program: str, delay: float) -> None:
    """The signal arrives in the middle of native code; the process ends by itself long before the work would."""
    with started(program) as child:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == "ready", child.communicate()[1]
        time.sleep(delay)
        child.send_signal(signal.SIGINT)
        try:
            output, errors = child.communicate(timeout=WATCHDOG)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running {WATCHDOG} s after the signal")
    assert (output.strip(), child.returncode) == ("usable", 0), errors


@pytest.mark.parametrize(
    ("tries", "limit"), [(2, WATCHDOG), pytest.param(15, 0.1, marks=pytest.mark.slow, id="within 100 ms")]
)
def test_reaction(tries: int, limit: float) -> None:
    """A step of a convolutional network ends soon after the signal and has changed nothing.

    The limit of 100 ms, for the median, needs a machine that does nothing else.
    """
    with started(VGG) as child:
        assert child.stdout is not None
        span = float(child.stdout.readline() or "nan")
        reactions = []
        for turn in range(tries):
            assert child.stdout.readline().strip() == "ready", child.communicate()[1]
            time.sleep(span * (turn + 1) / tries)
            sent = time.monotonic()
            child.send_signal(signal.SIGINT)
            line = child.stdout.readline().split()
            assert line, child.communicate()[1]
            assert line != ["finished"], "the signal was ignored"
            assert line[1] == "0", "the step is not in its update this early"
            reactions.append(float(line[0]) - sent)
        print("reactions:", " ".join(f"{1000 * seconds:.0f} ms" for seconds in sorted(reactions)))
        assert statistics.median(reactions) <= limit
