"""The same bits with any number of threads, concurrent callers, forks, and the setting itself."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import cases
import cnnrs
import tolerance
from cases import Array
from cnnrs import Trainer, models, optim
from cnnrs import functional as F

FORMS = pytest.mark.parametrize("form", [{}, {"activation": "relu", "pool": "max"}], ids=["tanh-avg", "relu-max"])


def images_and_labels(count: int) -> tuple[Array, np.ndarray[Any, np.dtype[np.int64]]]:
    """Random images with labels that go round."""
    return cases.real(count, 28, 28, 1), np.arange(count) % 10


def train(form: dict[str, str], steps: int) -> list[Any]:
    """Losses of every step, then the parameters; everything starts from the same seed."""
    cnnrs.manual_seed(1)
    model = models.lenet5(**form)
    trainer = Trainer(model, optim.SGD(lr=0.05, momentum=0.9, weight_decay=5e-4), seed=1)
    losses = []
    for step in range(steps):
        images, labels = images_and_labels(32 + step % 3)
        losses.append(trainer.step(images, np.roll(labels, step)))
    return [np.asarray(losses), model.state_dict(copy=True)]


@FORMS
@pytest.mark.usefixtures("isa")
def test_training_is_deterministic(form: dict[str, str], assert_deterministic: Callable[..., None]) -> None:
    """20 steps give the same losses and parameters with 1, 2 and 5 threads and from run to run."""
    assert_deterministic(lambda: train(form, steps=20))


@FORMS
@pytest.mark.parametrize("batch", [1, 7, 64])
@pytest.mark.usefixtures("isa")
def test_inference_is_deterministic(
    form: dict[str, str], batch: int, assert_deterministic: Callable[..., None]
) -> None:
    """Logits of a whole model."""
    model = models.lenet5(**form)
    images, _ = images_and_labels(batch)
    assert_deterministic(lambda: model(images))


@pytest.mark.usefixtures("isa")
def test_small_calls_are_the_same_whoever_takes_part(restore_threads: None) -> None:
    """A batch of one, with workers that are awake, asleep or on their way, as pauses between the calls let them be."""
    model = models.lenet5()
    image, _ = images_and_labels(1)
    cnnrs.set_num_threads(1)
    expected = model(image).copy()
    for count in (2, 5):
        cnnrs.set_num_threads(count)
        for call in range(300):
            tolerance.assert_same_bits(model(image), expected, f"{count} threads, call {call}")
            if call % 20 >= 18:
                time.sleep(0.001 * (call % 3))


@FORMS
@pytest.mark.usefixtures("isa")
def test_gradients_are_deterministic(form: dict[str, str], assert_deterministic: Callable[..., None]) -> None:
    """Loss and gradients without an update."""
    trainer = Trainer(models.lenet5(**form), optim.SGD(lr=0.1))
    assert_deterministic(lambda: trainer.gradients(*images_and_labels(33)))


@pytest.mark.usefixtures("threads")
def test_two_callers_share_one_model() -> None:
    """Concurrent calls of one model with different batches give what they give alone."""
    model = models.lenet5()
    batches = [cases.real(size, 28, 28, 1, seed=size) for size in (1, 2, 17, 64)]
    expected = [model(batch).copy() for batch in batches]

    def work(worker: int) -> None:
        for turn in range(25):
            which = (worker + turn) % len(batches)
            tolerance.assert_same_bits(model(batches[which]), expected[which], f"worker {worker}, turn {turn}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


@pytest.mark.usefixtures("threads")
def test_two_trainers_at_once() -> None:
    """Two models trained in two threads do not see each other."""
    expected = train_alone(0), train_alone(1)
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(train_alone, range(2)))
    tolerance.assert_same_bits(results, list(expected))


def train_alone(seed: int) -> list[Any]:
    """Ten steps of a model whose parameters come from arrays, as `manual_seed` is one setting for all threads."""
    model = models.lenet5()
    model.load_state_dict({k: cases.real(*v.shape, seed=seed) / 10 for k, v in model.state_dict().items()})
    trainer = Trainer(model, optim.SGD(lr=0.01, momentum=0.9))
    losses = [trainer.step(*images_and_labels(16)) for _ in range(10)]
    return [np.asarray(losses), model.state_dict(copy=True)]


@pytest.mark.usefixtures("restore_threads")
def test_the_number_of_threads_may_change_under_a_running_call() -> None:
    """A run keeps the team it set memory aside for; whatever the number is meanwhile, the bits are the same."""
    x, weight = cases.real(4, 40, 40, 32), cases.real(3, 3, 32, 48)
    expected = F.conv2d(x, weight, padding=1)
    with ThreadPoolExecutor(1) as pool:
        runs = pool.submit(lambda: [F.conv2d(x, weight, padding=1) for _ in range(200)])
        count = 0
        while not runs.done():
            count = count % 7 + 1
            cnnrs.set_num_threads(count)
    for result in runs.result():
        tolerance.assert_same_bits(result, expected)


@pytest.mark.usefixtures("restore_threads")
def test_number_of_threads_is_taken_exactly() -> None:
    """Also above the number of cores; the work still gives the right result."""
    x = cases.real(4, 33, 33, 16)
    expected = F.relu(x)
    for count in (1, 3, 256, 2):
        cnnrs.set_num_threads(count)
        assert cnnrs.get_num_threads() == count
        tolerance.assert_same_bits(F.relu(x), expected)


@pytest.mark.parametrize("count", [0, -1, 257, 2**31, 2**70, -(2**70)])
@pytest.mark.usefixtures("restore_threads")
def test_number_of_threads_out_of_range(count: int) -> None:
    """Never OverflowError, and the setting stays."""
    before = cnnrs.get_num_threads()
    with pytest.raises(ValueError, match=str(count)):
        cnnrs.set_num_threads(count)
    assert cnnrs.get_num_threads() == before


@pytest.mark.parametrize("count", [1.5, "2", None, True])
@pytest.mark.usefixtures("restore_threads")
def test_number_of_threads_must_be_an_int(count: Any) -> None:
    """A number that is not an int is a mistake, not a rounding."""
    with pytest.raises(TypeError):
        cnnrs.set_num_threads(count)


FORK = """
import os, sys
import numpy as np, cnnrs
from cnnrs import functional as F
cnnrs.set_num_threads(3)
x = np.random.default_rng(0).standard_normal((8, 40, 40, 32)).astype(np.float32)
w = np.random.default_rng(1).standard_normal((3, 3, 32, 32)).astype(np.float32)
expected = F.conv2d(x, w, padding=1)
child = os.fork()
if child == 0:
    ok = all(np.array_equal(F.conv2d(x, w, padding=1), expected) for _ in range(3))
    cnnrs.set_num_threads(2)
    ok = ok and np.array_equal(F.conv2d(x, w, padding=1), expected)
    os._exit(0 if ok else 1)
status = os.waitpid(child, 0)[1]
assert np.array_equal(F.conv2d(x, w, padding=1), expected)
print("child", os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_child_of_a_fork_computes(run_python: Callable[..., Any]) -> None:
    """The parent has used its threads; the child builds its own, computes the same bits and exits."""
    result = run_python(FORK, timeout=60)
    assert (result.stdout.strip(), result.returncode) == ("child 0", 0), result.stderr
