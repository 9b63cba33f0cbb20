"""Programs of many threads, and calls inside of calls; run by test_concurrency.py under a watchdog."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import cnnrs
import processes
from cases import real
from cnnrs import Trainer, _core, nn, optim
from cnnrs import functional as F
from fork_programs import LABELS, Deep, images, meanwhile, new_model, training
from processes import digest


def stress(threads: int, rounds: int) -> None:
    """Threads call one model, train models of their own and use functions; every result has its bits."""
    threads, rounds = int(threads), int(rounds)
    shared = new_model()
    x, weight = real(2, 17, 17, 32), real(3, 3, 32, 32)
    sizes = [1, 2, 5, 16, 33]
    expected = {size: digest(shared(images(size))) for size in sizes}
    convolved, trained = digest(F.conv2d(x, weight, padding=1)), training()
    start = threading.Barrier(threads)

    def work(worker: int) -> None:
        start.wait()
        for turn in range(rounds):
            size = sizes[(worker + turn) % len(sizes)]
            assert digest(shared(images(size))) == expected[size]
            assert digest(F.conv2d(x, weight, padding=1)) == convolved
            if (worker + turn) % 4 == 0:
                assert training() == trained
            if worker == 0:
                cnnrs.set_num_threads(turn % 4 + 1)
            if worker == 1 and turn % 5 == 4:
                cnnrs.clear_cache()
            if worker == 2:
                shared.load_state_dict(shared.state_dict(copy=True))  # the same values: new versions, new packing
            if worker == 3:
                fresh = nn.Conv2d(32, 8, 3)  # bumps the structure epoch under everybody
                fresh(x)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    assert threading.active_count() == 1


def trainer_and_callers() -> None:
    """A loop of steps and loops of calls on one model all go on, and a call sees the model between two steps."""
    cnnrs.set_num_threads(2)
    model = new_model()
    trainer = Trainer(model, optim.SGD(lr=0.01))
    x = images(8)
    replica = new_model()
    repeat = Trainer(replica, optim.SGD(lr=0.01))
    states = [digest(replica(x))]
    for _ in range(60):
        repeat.step(images(64), LABELS)
        states.append(digest(replica(x)))
    calls: list[list[str]] = [[], []]
    works: list[Callable[[], object]] = [lambda seen=seen: seen.append(digest(model(x))) for seen in calls]
    with meanwhile(*works):
        for _ in range(60):
            trainer.step(images(64), LABELS)
    for seen in calls:
        assert len(seen) >= 5, f"a caller got {len(seen)} turns in 60 steps"
        positions = [states.index(state) for state in seen]
        assert positions == sorted(positions), "a call saw an older model than the call before"
    assert digest(model.state_dict()) == digest(replica.state_dict())


def settings_during_a_call() -> None:
    """Reading and changing settings does not wait for a running call, which needs the GIL now and then."""
    cnnrs.set_num_threads(2)
    x, weight = real(16, 96, 96, 64), real(3, 3, 64, 64)
    F.conv2d(x, weight, padding=1)
    done = threading.Event()

    def work() -> None:
        for _ in range(8):
            F.conv2d(x, weight, padding=1)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    turns = 0
    while not done.is_set():
        assert _core.config()["threads"] == cnnrs.get_num_threads()
        cnnrs.set_num_threads(turns % 3 + 1)
        turns += 1
        time.sleep(0.005)
    thread.join()
    assert turns > 8, f"{turns} turns during 8 calls"


def in_a_handler(call: Callable[[], object], handle: Callable[[], object]) -> list[Any]:
    """Repeat a call until a signal arrived inside of it; return what the handler's own call gave or raised."""
    results: list[Any] = []

    def handler(*_: object) -> None:
        try:
            results.append(handle())
        except Exception as error:
            results.append(error)

    signal.signal(signal.SIGUSR1, handler)
    sender = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
    sender.start()
    while not results:
        call()
    sender.join()
    return results


def calls_in_signal_handlers() -> None:
    """A handler may call the model whose call it interrupts; what it would have to wait for is a RuntimeError."""
    cnnrs.set_num_threads(2)
    model = Deep()
    trainer = Trainer(model, optim.SGD(lr=0.0))
    x = processes.long_batch((64, 64, 16), model)
    small, labels = x[:1], np.arange(len(x)) % 10
    trainer.step(small, labels[:1])
    expected = digest(model(small))
    weights = model.state_dict(copy=True)

    (found,) = in_a_handler(lambda: model(x), lambda: digest(model(small)))
    assert found == expected, found
    (found,) = in_a_handler(lambda: model(x), lambda: digest(F.relu(small)))
    assert found == digest(F.relu(small)), found
    # A call holds the model shared, a step exclusively: neither can be waited for inside of itself.
    for outer, inner in [
        (lambda: trainer.step(x, labels), lambda: model(small)),
        (lambda: trainer.step(x, labels), lambda: trainer.step(small, labels[:1])),
        (lambda: model(x), lambda: trainer.step(small, labels[:1])),
        (lambda: model(x), lambda: model.load_state_dict(weights)),
    ]:
        # Between two calls the signal finds nothing to wait for: then it is sent again.
        for _ in range(10):
            (found,) = in_a_handler(outer, inner)
            if isinstance(found, RuntimeError):
                break
        assert isinstance(found, RuntimeError), found
        assert "signal handler" in str(found), found
        assert digest(model(small)) == expected
    assert digest(model.state_dict()) == digest(weights)


def call_while_assigning() -> None:
    """A handler that calls the model while its thread waits to assign does not wait behind that."""
    cnnrs.set_num_threads(2)
    model = Deep()
    x = processes.long_batch((64, 64, 16), model)
    expected = digest(model(x[:1]))
    parameter = next(iter(model.parameters()))
    value = parameter.array.copy()
    with meanwhile(lambda: model(x)):
        (found,) = in_a_handler(lambda: parameter.assign(value), lambda: digest(model(x[:1])))
    assert found == expected, found


def interrupted_while_waiting() -> None:
    """Ctrl-C ends a call that waits for another thread's long step."""
    cnnrs.set_num_threads(2)
    model = Deep()
    trainer = Trainer(model, optim.SGD(lr=0.0))
    x = processes.long_batch((64, 64, 16), model)
    labels = np.arange(len(x)) % 10
    trainer.step(x[:1], labels[:1])
    expected = digest(model(x[:1]))
    stepping = threading.Thread(target=trainer.step, args=(x, labels))
    stepping.start()
    time.sleep(0.1)
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        model(x[:1])
    assert stepping.is_alive(), "the call waited to the end of the step, or the step was too short"
    stepping.join()
    assert digest(model(x[:1])) == expected


def small_stacks() -> None:
    """A thread of 128 KiB of stack can call and train."""
    cnnrs.set_num_threads(2)
    expected = training()
    threading.stack_size(128 << 10)
    results: list[str] = []
    thread = threading.Thread(target=lambda: results.append(training()))
    thread.start()
    thread.join()
    assert results == [expected]


if __name__ == "__main__":
    processes.main(globals())
