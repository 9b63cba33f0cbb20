"""Allocations that fail: each in turn by a hook, and for real under a limit of the address space.

Memory that cannot be had is a MemoryError that names the bytes, never the end of the process; nothing has changed, and
the next call works.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cases
import cnnrs
import tolerance
from cnnrs import Trainer, _core, nn, optim
from cnnrs import functional as F

NAMED = re.compile(r"^cannot allocate \d+ bytes$")


@pytest.fixture(autouse=True)
def disarm() -> Iterator[None]:
    """Leave no failure behind for other tests."""
    yield
    _core.fail_allocation(0)


def failures(prepare: Callable[[], Any], work: Callable[[Any], Any], same: Callable[[Any], None]) -> int:
    """Let every allocation of `work` fail in turn, from a cold start each time; return how many there are.

    Args:
        prepare: Makes what `work` needs.
        work: The work.
        same: Called after a failure: what `prepare` made must be as it was.
    """
    for number in range(1, 1000):
        state = prepare()
        cnnrs.clear_cache()
        _core.fail_allocation(number)
        try:
            work(state)
        except MemoryError as error:
            assert NAMED.match(str(error)), error  # noqa: PT017  any other exception fails the test
            assert not _core.failure_is_due()
        else:
            assert _core.failure_is_due(), f"failure {number} went unnoticed"
            _core.fail_allocation(0)
            return number - 1
        same(state)
        work(state)  # the engine is as usable as before
    raise AssertionError


def nothing(state: Any) -> None:
    """For work on arrays alone."""


def net() -> nn.Module:
    """Every kind of step, small."""
    cnnrs.manual_seed(3)
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten("chw"), nn.Linear(36, 3))


def batch() -> tuple[Any, Any]:
    """Images and labels for `net`."""
    return cases.real(5, 6, 6, 2), np.arange(5) % 3


def trained(steps: int = 1) -> Trainer:
    """A trainer after some steps."""
    trainer = Trainer(net(), optim.SGD(lr=0.1, momentum=0.9), seed=0)
    for _ in range(steps):
        trainer.step(*batch())
    return trainer


def test_forward() -> None:
    """Results, arena, scratch and packed weights: four allocations at least."""
    expected = net()(batch()[0])
    before = net().state_dict(copy=True)

    def work(model: nn.Module) -> None:
        tolerance.assert_same_bits(model(batch()[0]), expected)

    def same(model: nn.Module) -> None:
        tolerance.assert_same_bits(model.state_dict(), before)

    assert failures(net, work, same) >= 4


def test_functions() -> None:
    x, weight = cases.real(2, 6, 6, 3), cases.real(3, 3, 3, 5)
    grad = F.conv2d(x, weight, stride=2)

    def work(_: Any) -> None:
        y = F.max_pool2d(F.conv2d(x, weight, padding=1), 2)
        F.cross_entropy(F.flatten(y), np.array([1, 2]))
        F.conv2d_backward_data(grad, weight, x.shape, stride=2)
        F.conv2d_backward_weights(x, grad, 3, stride=2)
        out, pull = cnnrs.vjp(lambda value: F.tanh(F.conv2d(value, weight)), x)
        pull(out)

    assert failures(lambda: None, work, nothing) >= 10


@pytest.mark.parametrize("steps", [0, 2], ids=["first", "later"])
def test_a_step_that_fails_changes_nothing(steps: int) -> None:
    """Parameters and momentum are as before: the next step gives the bits of a trainer that never failed."""
    replica = trained(steps)
    before = replica.model.state_dict(copy=True)
    expected = replica.step(*batch())
    after = replica.model.state_dict(copy=True)

    def same(trainer: Trainer) -> None:
        assert trainer.updates == steps
        tolerance.assert_same_bits(trainer.model.state_dict(), before)

    def work(trainer: Trainer) -> None:
        assert trainer.step(*batch()) == expected
        assert trainer.updates == steps + 1
        tolerance.assert_same_bits(trainer.model.state_dict(), after)

    assert failures(lambda: trained(steps), work, same) >= 3


def test_gradients_and_apply() -> None:
    replica = trained()
    before = replica.model.state_dict(copy=True)
    loss, grads = replica.gradients(*batch())
    grads = {name: array.copy() for name, array in grads.items()}
    replica.apply(grads)
    after = replica.model.state_dict(copy=True)

    def same(trainer: Trainer) -> None:
        tolerance.assert_same_bits(trainer.model.state_dict(), before)

    def differentiate(trainer: Trainer) -> None:
        found, arrays = trainer.gradients(*batch())
        assert found == loss
        tolerance.assert_same_bits(arrays, grads)

    def update(trainer: Trainer) -> None:
        trainer.apply(grads)
        tolerance.assert_same_bits(trainer.model.state_dict(), after)

    assert failures(trained, differentiate, same) >= 3
    assert failures(trained, update, same) >= 1


def test_evaluate_and_predict() -> None:
    x, labels = batch()

    def work(trainer: Trainer) -> None:
        trainer.evaluate((x, labels), batch_size=2)
        trainer.predict(x)
        trainer.model.predict(x, top=2)

    before = trained().model.state_dict(copy=True)
    assert failures(trained, work, lambda one: tolerance.assert_same_bits(one.model.state_dict(), before)) >= 6


def test_fit() -> None:
    """Shuffling takes tensor memory, too; a `fit` that fails leaves the state after its last whole step."""

    def work(trainer: Trainer) -> None:
        trainer.fit(batch(), epochs=1, batch_size=2, verbose=False)

    def same(trainer: Trainer) -> None:
        assert all(np.isfinite(array).all() for array in trainer.model.state_dict().values())

    assert failures(trained, work, same) >= 3


def test_making_loading_and_saving(tmp_path: Path) -> None:
    """Loading and saving copy through NumPy: tensor memory is taken where a model is made."""
    path = tmp_path / "m.safetensors"
    net().save(path)
    before = net().state_dict(copy=True)
    content = path.read_bytes()

    def same(model: nn.Module) -> None:
        tolerance.assert_same_bits(model.state_dict(), before)
        assert path.read_bytes() == content

    def save_and_load(model: nn.Module) -> None:
        model.save(path)
        cnnrs.load_weights(model, path)
        model.load_state_dict(before)

    assert failures(lambda: None, lambda _: net(), nothing) >= 4
    assert failures(net, save_and_load, same) == 0


def test_random_numbers() -> None:
    assert failures(lambda: None, lambda _: _core.random_uniform(0, 0, 100), nothing) == 1
    assert failures(lambda: None, lambda _: _core.random_permutation(0, 0, 100), nothing) == 1


def test_a_warm_step_takes_no_tensor_memory() -> None:
    """Nor does a warm call whose last result is gone: an allocation that is to fail does not come."""
    trainer, (x, labels) = trained(3), batch()
    for _ in range(3):
        trainer.model(x)
    for work in (lambda: trainer.step(x, labels), lambda: trainer.model(x)):
        work()
        _core.fail_allocation(1)
        for _ in range(20):
            work()
        assert _core.failure_is_due()
        _core.fail_allocation(0)


# For real: no address space is left.

LIMITED = """
import json, resource, sys
import numpy as np
import cnnrs
from cnnrs import Trainer, functional as F, models, nn, optim

def limited(spare):
    with open("/proc/self/status") as status:
        used = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmSize"))
    resource.setrlimit(resource.RLIMIT_AS, (used + spare, resource.RLIM_INFINITY))

def free():
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

def make():
    cnnrs.manual_seed(0)
    model = models.lenet5()
    return model, Trainer(model, optim.SGD(lr=0.1, momentum=0.9), seed=0)

cnnrs.set_num_threads(2)
model, trainer = make()
x, labels = np.full((8000, 28, 28, 1), 0.5, np.float32), np.arange(8000) % 10
maps, weight = np.ones((8, 64, 64, 8), np.float32), np.ones((3, 3, 8, 512), np.float32)
grad = np.ones((1, 1, 1, 1), np.float32)
large = np.ones(40 << 20, np.float32)
def add(value):
    return value + large
calls = {
    "call": lambda: model(x),
    "step": lambda: trainer.step(x, labels),
    "gradients": lambda: trainer.gradients(x, labels),
    "conv2d": lambda: F.conv2d(maps, weight, padding=1),
    "backward": lambda: F.conv2d_backward_data(grad, grad, (1, 9000, 9000, 1), stride=9000),
    "constant": lambda: cnnrs.vjp(add, large),
    "parameter": lambda: nn.Linear(10000, 10000),
    "pooling": lambda: F.avg_pool2d_backward(grad, (1, 2**31 - 1, 1, 1), 1, stride=2**31 - 1),
    "weights": lambda: F.conv2d_backward_weights(grad, grad, (2**31 - 1, 1), padding=((2**30 - 1, 2**30 - 1), (0, 0))),
}
name, spare = sys.argv[1], int(sys.argv[2])
small = x[:4], labels[:4]
expected = model(small[0])
loss = trainer.step(*small)
before = model.state_dict(copy=True)
limited(spare)
try:
    calls[name]()
except MemoryError as error:
    text = str(error)
else:
    text = "done"
same = all(np.array_equal(array, before[key]) for key, array in model.state_dict().items())
after = model(small[0])  # under the limit still
free()
replica, repeat = make()
assert np.array_equal(replica(small[0]), expected) and repeat.step(*small) == loss
assert np.array_equal(replica(small[0]), after) or text == "done"
if text != "done":
    assert repeat.step(*small) == trainer.step(*small)
print(json.dumps([text, same]))
"""
CALLS = ["call", "step", "gradients", "conv2d", "backward", "constant", "parameter", "pooling", "weights"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS and /proc/self/status")
@pytest.mark.parametrize("name", CALLS)
def test_no_address_space(name: str, run_python: Callable[..., Any]) -> None:
    """The engine's own message, or NumPy's; the model is as before, and calls work under the limit and after it."""
    result = run_python(LIMITED, name, str(24 << 20))
    assert result.returncode == 0, result.stderr
    text, same = json.loads(result.stdout)
    assert NAMED.match(text) or text.startswith("Unable to allocate"), text
    assert same


SWEEP = """
model, trainer = make()
x, labels = x[:300], labels[:300]
model(x[:4])
trainer.step(x[:4], labels[:4])
failed = done = 0
for spare in range(0, 16 << 20, 1 << 18):
    for call in (lambda: model(x), lambda: trainer.step(x, labels), make):
        cnnrs.clear_cache()
        limited(spare)
        try:
            call()
            done += 1
        except MemoryError:
            failed += 1
        free()
assert np.isfinite(trainer.step(x, labels))
print(failed, done)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS and /proc/self/status")
def test_a_limit_anywhere(run_python: Callable[..., Any]) -> None:
    """Whatever the allocation that hits the limit, the process lives."""
    result = run_python(LIMITED.partition("small = ")[0] + SWEEP, "call", "0")
    assert result.returncode == 0, result.stderr
    failed, done = map(int, result.stdout.split())
    assert failed > 20
    assert done > 20
