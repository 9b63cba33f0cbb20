"""One test for each decision that users rely on: caches, tracing, parameters, steps, threads, random numbers."""

from __future__ import annotations

import logging
import platform
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import cnnrs
from cases import real
from cnnrs import Trainer, _core, graph, models, nn, optim
from cnnrs import functional as F
from tolerance import assert_same_bits


class Counting(nn.Module):
    """A small network that counts how often its layers' code runs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.head = nn.Linear(4 * 36, 3)
        self.traced = 0

    def forward(self, x: Any) -> Any:
        object.__setattr__(self, "traced", self.traced + 1)
        return self.head(F.flatten(F.relu(self.conv(x))))


def net() -> Counting:
    """The network, always the same."""
    cnnrs.manual_seed(5)
    return Counting()


def batch(count: int = 8, seed: int = 0) -> tuple[Any, Any]:
    """Images and labels for it."""
    return real(count, 6, 6, 2, seed=seed), np.arange(count) % 3


def trainer(model: nn.Module | None = None, **arguments: Any) -> Trainer:
    """A trainer with momentum."""
    return Trainer(model or net(), optim.SGD(**{"lr": 0.1, "momentum": 0.9, **arguments}), seed=0)


@pytest.fixture
def restore_settings() -> Iterator[None]:
    """Give instruction set, algorithm and threads back after the test."""
    algorithm, threads = _core.get_algorithm(), cnnrs.get_num_threads()
    yield
    _core.set_isa(None)
    cnnrs.set_algorithm(algorithm)
    cnnrs.set_num_threads(threads)


def test_01_the_plan_key_and_the_structure_epoch() -> None:
    """A new layer, mode or frozen part never meets a stale plan; a warm call runs no layer code."""
    model, (x, labels) = net(), batch()
    model(x)
    for _ in range(3):
        model(x)
    assert model.traced == 1
    before, epoch = model(x), graph.epoch()
    model.head = nn.Linear(4 * 36, 5)
    assert graph.epoch() > epoch
    assert model(x).shape == (8, 5)
    assert model.traced == 2
    model.head = net().head
    assert_same_bits(model(x), before)
    for change in (model.train, model.eval, model.freeze, model.unfreeze):
        epoch = graph.epoch()
        change()
        assert graph.epoch() > epoch
    model.unfreeze().train()
    one = trainer(model)
    one.step(x, labels)
    frozen = model.state_dict(copy=True)["conv.weight"]
    model.freeze("conv")
    one.step(x, labels)
    assert_same_bits(model.state_dict()["conv.weight"], frozen)


@pytest.mark.usefixtures("restore_settings")
def test_01_the_plan_key_holds_the_instruction_set_and_the_algorithm() -> None:
    """Plans of several levels live side by side; each call runs on the level that is set."""
    model, (x, _) = net(), batch()
    for isa in _core.isa_levels():
        _core.set_isa(isa)
        for algorithm in ("auto", "direct"):
            cnnrs.set_algorithm(algorithm)
            model(x)
            program = model._compiled(x).program
            assert program.plan(8)["isa"] == isa
            assert isa in program.plan(8)["steps"][0]["kernel"]
    assert len(model._programs.plans) == 2 * len(_core.isa_levels())
    assert model.traced == 1


def test_02_a_new_batch_size_is_planned_but_not_traced(caplog: pytest.LogCaptureFixture) -> None:
    """One trace for each sample shape; every compile of a model is logged."""
    model, (x, _) = net(), batch(40)
    with caplog.at_level(logging.DEBUG, "cnnrs"):
        expected = model(x)
        for count in (1, 40, 7, 0, 23):
            assert_same_bits(model(x[:count]), expected[:count])
    assert model.traced == 1
    assert len(model._programs.plans) == 5
    assert [record.message.startswith("compiled Counting for float32 (6, 6, 2)") for record in caplog.records] == [True]


def test_02_a_model_keeps_32_plans() -> None:
    """Over all batch sizes and sample shapes, the least recently used one goes first; results do not depend on it."""
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU())
    x = real(40, 12, 12, 2)
    expected = model(x)
    for count in range(40):
        assert_same_bits(model(x[:count]), expected[:count])
    assert len(model._programs.plans) == 32
    for size in range(3, 13):
        for count in range(1, 9):
            model(np.ascontiguousarray(x[:count, :size]))
    assert len(model._programs.plans) == 32
    assert_same_bits(model(x), expected)
    cnnrs.clear_cache()
    assert len(model._programs.plans) == 0
    assert_same_bits(model(x), expected)


def test_02_a_trainer_keeps_32_plans() -> None:
    one = trainer()
    x, labels = batch(40)
    for count in range(1, 41):
        one.step(x[:count], labels[:count])
    assert len(one._programs.plans) == 32


def test_02_a_process_keeps_256_plans_of_single_ops() -> None:
    cnnrs.clear_cache()
    assert _core.cached_ops() == 0
    x = real(300, 1, 1, 1)
    for count in range(1, 300):
        assert_same_bits(F.relu(x[:count]), np.maximum(x[:count], 0))
    assert _core.cached_ops() == 256
    cnnrs.clear_cache()
    assert _core.cached_ops() == 0
    assert_same_bits(F.relu(x), np.maximum(x, 0))


MISUSES: dict[str, Callable[[Any], Any]] = {
    "bool": bool,
    "float": float,
    "iteration": list,
    "asarray": np.asarray,
    "comparison": lambda value: 1 if value else 0,
}


@pytest.mark.parametrize("misuse", MISUSES.values(), ids=MISUSES)
def test_03_symbolic_values_are_no_numbers(misuse: Callable[[Any], Any]) -> None:
    """The error names the layer and the way out; shape, ndim and dtype are there; arrays become constants."""

    class Misused(nn.Module):
        def forward(self, x: Any) -> Any:
            assert (x.shape, x.ndim, x.dtype) == ((2, 3, 3, 1), 4, np.dtype(np.float32))
            return misuse(x)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Misused()

        def forward(self, x: Any) -> Any:
            return self.part(x + np.ones(x.shape, np.float32))

    with pytest.raises(TypeError, match=r"part: .*cnnrs\.functional"):
        Outer()(real(2, 3, 3, 1))


def test_03_tracing_is_local_to_its_thread() -> None:
    """While one thread traces, another one computes."""
    inside, done = threading.Event(), threading.Event()

    class Waiting(nn.Module):
        def forward(self, x: Any) -> Any:
            inside.set()
            assert done.wait(30)
            return F.relu(x)

    x = real(2, 3, 3, 1)
    with ThreadPoolExecutor(1) as pool:
        traced = pool.submit(Waiting(), x)
        assert inside.wait(30)
        y = F.relu(x)
        done.set()
        assert isinstance(y, np.ndarray)
        assert_same_bits(traced.result(), y)


def test_04_custom_layers_compose_ops() -> None:
    """A layer of functions and parameters needs nothing else to run, to train and to be differentiated."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(np.full((36 * 2, 3), 0.01, np.float32))

        def forward(self, x: Any) -> Any:
            return F.linear(F.flatten(F.tanh(x) + F.sigmoid(x)), self.weight)

    x, labels = batch()
    model = Scaled()
    one = trainer(model)
    losses = [one.step(x, labels) for _ in range(10)]
    assert losses[-1] < losses[0]
    out, pull = cnnrs.vjp(model, x)
    assert pull(np.ones_like(out)).shape == x.shape


def test_06_parameters_live_in_one_store() -> None:
    """The state dict shows changes as they happen and cannot be written; assigning copies and raises the version."""
    model, (x, labels) = net(), batch()
    state = model.state_dict()
    view, before = state["conv.weight"], model(x)
    assert not view.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        view[...] = 0
    source = np.ones(view.shape, np.float32)
    version = model.conv.weight._storage.version
    model.conv.weight.assign(source)
    assert model.conv.weight._storage.version == version + 1
    source[...] = 2
    assert np.all(view == 1)
    after = model(x)  # packed weights are keyed by the version
    assert not np.array_equal(after, before)
    trainer(model).step(x, labels)
    assert not np.all(view == 1)
    assert not np.array_equal(model(x), after)
    assert model.traced == 2  # the call and the step
    model.load_state_dict(net().state_dict())
    assert_same_bits(model(x), before)


def test_06_shared_modules_train_once_under_every_name() -> None:
    """Gradients of all uses are summed, one update is made, and the state dict has every name."""

    def chain(shared: bool) -> nn.Sequential:
        cnnrs.manual_seed(1)
        first = nn.Linear(4, 4)
        second = first if shared else nn.Linear(4, 4)
        second.load_state_dict(first.state_dict())
        return nn.Sequential(first, nn.Tanh(), second)

    x, labels = real(6, 4), np.arange(6) % 4
    shared, separate = chain(True), chain(False)
    assert list(shared.state_dict()) == list(separate.state_dict())
    one, two = trainer(shared), trainer(separate)
    _, summed = one.gradients(x, labels)
    _, parts = two.gradients(x, labels)
    assert list(summed) == ["0.weight", "0.bias"]
    bound = 4 * np.finfo(np.float32).eps * (np.abs(parts["0.weight"]) + np.abs(parts["2.weight"]))
    assert np.all(np.abs(summed["0.weight"] - (parts["0.weight"] + parts["2.weight"])) <= bound)
    one.step(x, labels)
    assert_same_bits(shared.state_dict()["0.weight"], shared.state_dict()["2.weight"])


def test_07_a_step_is_atomic() -> None:
    """What does not fit is found before anything is written: the next step is that of a trainer that never saw it."""
    (x, labels), one, other = batch(), trainer(), trainer()
    one.step(x, labels)
    other.step(x, labels)
    before = one.model.state_dict(copy=True)
    with pytest.raises(ValueError, match="received 3 at row 7"):
        one.step(x, np.array([0, 1, 2, 0, 1, 2, 0, 3]))
    with pytest.raises(cnnrs.ShapeError):
        one.step(x[:, :5], labels)
    with pytest.raises(cnnrs.ShapeError):
        one.step(x, labels[:-1])
    with pytest.raises(ValueError, match="at least one image"):
        one.step(x[:0], labels[:0])
    assert_same_bits(one.model.state_dict(), before)
    assert one.step(x, labels) == other.step(x, labels)
    assert_same_bits(one.model.state_dict(), other.model.state_dict(copy=True))


def test_07_rates_are_no_constants_of_the_plan() -> None:
    """Learning rate, momentum and decay change from step to step without a new plan."""
    model, (x, labels) = net(), batch()
    one = trainer(model)
    one.step(x, labels)
    traced, plans = model.traced, len(one._programs.plans)
    for rate in (0.05, 0.0, 1e-3):
        one.optimizer.lr, one.optimizer.momentum, one.optimizer.weight_decay = rate, rate, rate
        before = model.state_dict(copy=True)
        one.step(x, labels)
        assert np.array_equal(model.state_dict()["conv.weight"], before["conv.weight"]) == (rate == 0.0)
    assert (model.traced, len(one._programs.plans)) == (traced, plans)


@pytest.mark.usefixtures("restore_settings")
def test_08_a_second_caller_gives_the_same_bits() -> None:
    """Whoever finds the threads busy computes alone."""
    cnnrs.set_num_threads(2)
    model = models.lenet5()
    batches = [real(64, 28, 28, 1, seed=seed) for seed in range(4)]
    expected = [model(x) for x in batches]
    start = threading.Barrier(4)

    def work(index: int) -> list[Any]:
        start.wait()
        return [model(batches[index]) for _ in range(10)]

    with ThreadPoolExecutor(4) as pool:
        for index, results in enumerate(pool.map(work, range(4))):
            for result in results:
                assert_same_bits(result, expected[index])


POOL = """
import os
import numpy as np, cnnrs
from cnnrs import functional as F
count = lambda: len(os.listdir("/proc/self/task"))
alone = count()
cnnrs.set_num_threads(4)
assert count() == alone and cnnrs._core.config()["threads_running"] is None
F.relu(np.ones((1, 2, 2, 1), np.float32))  # small: stays on the calling thread
assert count() == alone
x = np.ones((8, 64, 64, 16), np.float32)
F.relu(x)
assert count() == alone + 3 and cnnrs._core.config()["threads_running"] == 4
cnnrs.set_num_threads(2)
F.relu(x)
assert count() == alone + 1 and cnnrs._core.config()["threads_running"] == 2
print("ok")
"""


def test_09_threads_are_started_at_first_use_and_taken_exactly(run_python: Callable[..., Any]) -> None:
    """Neither the import nor a small call starts one; the number is exact, also above that of the cores."""
    result = run_python(POOL)
    assert (result.stdout.strip(), result.returncode) == ("ok", 0), result.stderr
    for wrong in (0, 257, -1, 2**70):
        with pytest.raises(ValueError, match="1"):
            cnnrs.set_num_threads(wrong)


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 as its paper states it (Salmon et al., SC'11)."""
    for number in range(10):
        if number:
            key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
        first, second = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [
            (second >> 32) ^ counter[1] ^ key[0],
            second % 2**32,
            (first >> 32) ^ counter[3] ^ key[1],
            first % 2**32,
        ]
    return counter


def test_11_random_numbers_are_philox_keyed_by_seed_and_stream() -> None:
    """Element i is word i % 4 of block i // 4; without a seed it is 0."""
    assert philox([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]  # published
    seed, stream = 2**40 + 3, 2**33 + 9
    words = [
        word
        for block in range(3)
        for word in philox([block, 0, stream % 2**32, stream >> 32], [seed % 2**32, seed >> 32])
    ]
    expected = np.array([(word >> 8) / 2**24 for word in words], np.float32)
    assert_same_bits(_core.random_uniform(seed, stream, 12), expected)
    assert_same_bits(_core.random_uniform(seed, stream, 7), expected[:7])


UNSEEDED = """
import numpy as np, cnnrs, sys
from cnnrs import models
if len(sys.argv) > 1:
    cnnrs.manual_seed(int(sys.argv[1]))
print(models.lenet5().state_dict()["features.0.weight"].tobytes().hex())
"""


def test_11_unseeded_is_seed_zero(run_python: Callable[..., Any]) -> None:
    unseeded, zero, one = (run_python(UNSEEDED, *arguments).stdout for arguments in ([], ["0"], ["1"]))
    assert unseeded == zero != one
    assert unseeded


def test_12_reductions_have_parts_fixed_by_the_shape(assert_deterministic: Callable[..., None]) -> None:
    """Weight gradients, bias gradients and the mean of a loss: the same bits on any number of threads."""
    x, grad = real(16, 24, 24, 5), real(16, 24, 24, 9)
    weight = real(5, 4)
    labels = np.arange(16 * 24 * 24) % 4
    assert_deterministic(lambda: list(F.conv2d_backward_weights(x, grad, 3, padding=1)))
    assert_deterministic(lambda: np.asarray(F.cross_entropy(F.linear(x.reshape(-1, 5), weight), labels)))


def test_14_eager_calls_pack_weights_inside_each_call() -> None:
    """A weight that changes in place between two calls is seen: nothing of it is kept."""
    x, weight = real(2, 8, 8, 3), real(3, 3, 3, 16)
    before = F.conv2d(x, weight)
    weight *= 2
    assert_same_bits(F.conv2d(x, weight), before * 2)
    assert _core.cached_ops() >= 1


def test_14_vjp_traces_at_each_call() -> None:
    model, (x, _) = net(), batch()
    for times in (1, 2, 3):
        out, pull = cnnrs.vjp(model, x)
        pull(out)
        pull(2 * out)
        assert model.traced == times


def address(array: np.ndarray[Any, Any]) -> int:
    """Where an array's memory is."""
    return int(array.__array_interface__["data"][0])


def test_16_outputs_are_recycled_when_the_last_reference_is_gone() -> None:
    """Memory of a result comes back for one of the same size, and never while any view of it lives."""
    x = real(4, 16, 16, 8)
    cnnrs.clear_cache()
    held = F.relu(x)
    view, where, before = held[1:3, ::2], address(held), held.copy()
    del held
    others = [F.relu(real(4, 16, 16, 8, seed=seed)) for seed in range(1, 6)]
    assert where not in {address(other) for other in others}
    assert_same_bits(np.ascontiguousarray(view), np.ascontiguousarray(before[1:3, ::2]))
    del view
    assert address(F.relu(x)) == where


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="only x86-64 has the mode")
@pytest.mark.usefixtures("restore_settings")
def test_17_denormals_are_flushed_inside_of_runs_only() -> None:
    """They count as zero in kernels, on every thread of the team; the caller's thread computes with them as before."""
    tiny = np.float32(1e-40)
    x = np.full((4, 64, 64, 16), tiny, np.float32)
    weight = np.ones((1, 1, 16, 16), np.float32)
    for threads in (1, 3):
        cnnrs.set_num_threads(threads)
        assert not F.conv2d(x, weight).any()
        assert np.all(x * np.float32(0.5) > 0)
        assert np.float32(0.5) * tiny > 0


VARIABLE = """
import cnnrs
print(cnnrs._core.get_algorithm())
cnnrs.set_algorithm("auto")
print(cnnrs._core.get_algorithm())
"""


@pytest.mark.usefixtures("restore_settings")
def test_18_the_algorithm_can_be_chosen(run_python: Callable[..., Any]) -> None:
    """By call and by variable; what runs is in `explain`, and plans made under another choice are not used."""
    result = run_python(VARIABLE, env={"CNNRS_ALGORITHM": "direct"})
    assert result.stdout.split() == ["direct", "auto"], result.stderr
    model = nn.Sequential(nn.Conv2d(8, 8, 3))
    for name in ("direct", "auto"):
        cnnrs.set_algorithm(name)
        model(real(1, 6, 6, 8))
        assert "conv" in model.explain((1, 6, 6, 8))
    assert len(model._programs.plans) == 2
    cnnrs.set_algorithm("direct")
    assert "conv_direct" in model.explain((1, 6, 6, 8))
    with pytest.raises(ValueError, match="direct"):
        cnnrs.set_algorithm("winograd?")
