"""Processes that fork before, during and after the use of the engine; run by test_fork.py."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import cnnrs
import processes
from cases import real
from cnnrs import Trainer, models, nn, optim
from cnnrs import functional as F
from processes import digest, fork, join

LABELS = np.arange(64) % 10


def images(count: int, seed: int = 0) -> Any:
    """Random images for LeNet."""
    return real(count, 28, 28, 1, seed=seed)


def new_model(seed: int = 1) -> nn.Module:
    """LeNet-5 with parameters that do not depend on what was made before."""
    model = models.lenet5()
    model.load_state_dict({k: real(*v.shape, seed=seed) / 10 for k, v in model.state_dict().items()})
    return model


def inference() -> str:
    """The bits of a model's and a function's results, on several threads."""
    x, weight = real(4, 24, 24, 32), real(3, 3, 32, 32)
    return digest([new_model()(images(size)) for size in (1, 7, 64)], F.conv2d(x, weight, padding=1))


def training() -> str:
    """The bits of three steps."""
    model = new_model()
    trainer = Trainer(model, optim.SGD(lr=0.01, momentum=0.9))
    losses = [trainer.step(images(64, seed), LABELS) for seed in range(3)]
    return digest(losses, model.state_dict(copy=True))


WORK = {"inference": inference, "training": training}


@contextlib.contextmanager
def meanwhile(*works: Callable[[], object]) -> Iterator[None]:
    """Let threads repeat some work while the block runs; what a thread raises is raised here."""
    stop, failures = threading.Event(), []

    def repeat(work: Callable[[], object]) -> None:
        try:
            while not stop.is_set():
                work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=repeat, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]


def answer(kind: str, pipe: Any) -> None:
    """Body of a child: do the work twice and send the bits."""
    processes.watch(30)
    cnnrs.set_num_threads(2)
    pipe.send([WORK[kind](), WORK[kind]()])
    pipe.close()


def start_method(method: str, moment: str) -> None:
    """Children of `multiprocessing`, started before, during and after the parent's first use."""
    context = multiprocessing.get_context(method)
    cnnrs.set_num_threads(3)
    before = {kind: work() for kind, work in WORK.items()} if moment == "after" else {}
    with meanwhile(*(WORK.values() if moment == "during" else ())):
        if moment == "during":
            time.sleep(0.05)
        children = []
        for kind in WORK:
            ours, theirs = context.Pipe()
            child = context.Process(target=answer, args=(kind, theirs))
            child.start()
            theirs.close()
            children.append((kind, child, ours))
        results = {kind: ours.recv() for kind, _, ours in children}
        for _, child, _ in children:
            child.join()
            assert child.exitcode == 0
    after = {kind: work() for kind, work in WORK.items()}
    for kind, bits in results.items():
        assert bits == [after[kind]] * 2, f"{kind} in the child"
    assert before in ({}, after)


def prefork_server(workers: int, requests: int) -> None:
    """The parent trains, forks workers that answer on a socket, and trains on meanwhile."""
    workers, requests = int(workers), int(requests)
    cnnrs.set_num_threads(2)
    model = new_model()
    trainer = Trainer(model, optim.SGD(lr=0.01, momentum=0.9))
    trainer.step(images(64), LABELS)
    expected = [model(images(1 + index % 9, index)).tobytes() for index in range(requests)]
    listening = socket.create_server(("127.0.0.1", 0), backlog=requests)
    address = listening.getsockname()

    def serve() -> None:
        while True:
            connection, _ = listening.accept()
            with connection, connection.makefile("rwb") as stream:
                line = stream.readline()
                if line == b"stop\n":
                    return
                index = int(line)
                stream.write(model(images(1 + index % 9, index)).tobytes())

    children = [fork(serve, seconds=40) for _ in range(workers)]

    def ask(index: int) -> bytes:
        with socket.create_connection(address) as connection, connection.makefile("rwb") as stream:
            stream.write(b"%d\n" % index)
            stream.flush()
            return stream.read()

    with meanwhile(lambda: trainer.step(images(64), LABELS)):
        for index in range(requests):
            assert ask(index) == expected[index], f"answer {index}"
    for _ in children:
        with socket.create_connection(address) as connection:
            connection.sendall(b"stop\n")
    for child in children:
        join(child)


def with_joblib(backend: str) -> None:
    """Models and arrays as arguments of joblib's workers, and models trained in them."""
    import joblib

    cnnrs.set_num_threads(2)
    model = new_model()
    expected = [digest(model(images(3, seed))) for seed in range(6)]
    trained = training()
    with joblib.Parallel(n_jobs=2, backend=backend) as parallel:
        assert parallel(joblib.delayed(call)(model, seed) for seed in range(6)) == expected
        assert parallel(joblib.delayed(training)() for _ in range(3)) == [trained] * 3
    assert training() == trained


def call(model: nn.Module, seed: int) -> str:
    """A task for a worker."""
    return digest(model(images(3, seed)))


def storm(forks: int) -> None:
    """Fork again and again while threads call models, compile plans, drop caches and train."""
    cnnrs.set_num_threads(2)
    fixed, trained = new_model(1), new_model(2)
    trainer = Trainer(trained, optim.SGD(lr=1e-4))
    expected = digest(fixed(images(16)))
    sizes = iter(range(10**9))

    def call_models() -> None:
        assert digest(fixed(images(16))) == expected
        fixed(images(1 + next(sizes) % 40))  # more batch sizes than plans are kept
        trained(images(8))

    def call_functions() -> None:
        size = 8 + next(sizes) % 300
        F.conv2d(real(1, 8, 8, 8), real(3, 3, 8, 8), padding=size % 3)
        F.relu(real(1, 1, size, 16))
        if size % 50 == 0:
            cnnrs.clear_cache()

    def child() -> None:
        assert digest(fixed(images(16))) == expected
        # The parent may have been writing these: some are new and some old, and every way to read them agrees.
        logits = trained(images(8))
        assert np.isfinite(logits).all()
        copy = new_model(3)
        copy.load_state_dict(trained.state_dict(copy=True))
        assert digest(copy(images(8))) == digest(logits)
        assert np.isfinite(trainer.step(images(64), LABELS))
        trained.load_state_dict(copy.state_dict())
        cnnrs.clear_cache()
        assert digest(trained(images(8))) == digest(logits)
        F.relu(real(1, 1, 5, 16))

    with meanwhile(call_models, call_functions, lambda: trainer.step(images(64), LABELS)):
        for _ in range(int(forks)):
            join(fork(child))
    assert digest(fixed(images(16))) == expected


class Deep(nn.Module):
    """A model whose training step takes most of a second or more."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(16, 64, 3, padding=1)
        self.again = nn.Conv2d(64, 64, 3, padding=1)
        self.head = nn.Linear(64 * 8 * 8, 10)

    def forward(self, x: Any) -> Any:
        y = F.relu(self.first(x))
        for _ in range(8):
            y = F.relu(self.again(y))
        return self.head(F.flatten(F.avg_pool2d(y, 8)))


def while_a_step_holds_the_model() -> None:
    """A fork in the middle of a long step of another thread neither waits for it nor inherits its locks."""
    cnnrs.set_num_threads(2)
    model = Deep()
    trainer = Trainer(model, optim.SGD(lr=1e-3))
    x = real(2, 64, 64, 16)
    labels = np.arange(64) % 10
    trainer.step(x, labels[:2])
    expected = digest(model(x))
    before = model.state_dict(copy=True)
    long = np.repeat(x, 8, axis=0)
    finished = threading.Event()

    def step() -> None:
        trainer.step(long, labels[:16])
        finished.set()

    def child() -> None:
        assert digest(model(x)) == expected  # nothing was written yet
        assert digest(model.state_dict()) == digest(before)
        assert np.isfinite(trainer.step(x, labels[:2]))
        model.load_state_dict(before)
        assert digest(model(x)) == expected

    thread = threading.Thread(target=step)
    thread.start()
    time.sleep(0.1)
    children = [fork(child, seconds=60) for _ in range(2)]
    assert not finished.is_set(), "the forks waited for the step, or it was too short to prove anything"
    for pid in children:
        join(pid)
    thread.join()
    assert digest(model(x)) != expected


def generations(depth: int) -> None:
    """Children of children of children, each forked while threads of its parent compute."""
    cnnrs.set_num_threads(2)
    expected = {kind: work() for kind, work in WORK.items()}

    def live(left: int) -> None:
        assert {kind: work() for kind, work in WORK.items()} == expected
        if left:
            with meanwhile(inference, training):
                time.sleep(0.02)
                children = [fork(lambda: live(left - 1), seconds=40) for _ in range(2)]
                for child in children:
                    join(child)
        assert inference() == expected["inference"]

    live(int(depth))


def in_a_signal_handler() -> None:
    """A handler that forks in the middle of a call: the parent goes on, the child's call ends with an exception."""
    cnnrs.set_num_threads(2)
    cnnrs.set_algorithm("direct")  # so that a signal finds a call running, not the code between two of them
    weight = real(3, 3, 64, 64)
    x = processes.long_batch((96, 96, 64), lambda x: F.conv2d(x, weight, padding=1), 0.08)
    expected = digest(F.conv2d(x, weight, padding=1))
    parent, children = os.getpid(), []
    cut = 42  # exit status of a child whose call was cut and that could compute afterwards

    def split(*_: object) -> None:
        children.append(os.fork())
        if children[-1] == 0:
            processes.watch(20)

    signal.signal(signal.SIGUSR1, split)
    for turn in range(1, 4):
        sender = threading.Timer(0.05, os.kill, (parent, signal.SIGUSR1))
        sender.start()
        failed = None
        try:
            while len(children) < turn:
                assert digest(F.conv2d(x, weight, padding=1)) == expected
        except RuntimeError as error:
            failed = str(error)
        if os.getpid() != parent:
            usable = digest(F.conv2d(x, weight, padding=1)) == expected
            os._exit(1 if not usable else 0 if failed is None else cut if "forked inside this call" in failed else 2)
        assert failed is None, failed
        sender.join()
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert set(statuses) <= {0, cut}, statuses
    assert cut in statuses, "every signal arrived between two calls"


def pinned_worker() -> None:
    """A forked worker that binds itself to one core before its first call uses one thread, whatever its parent used."""
    assert inference() == inference()
    whole = cnnrs.get_num_threads()

    def child() -> None:
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
        assert cnnrs.get_num_threads() == 1
        assert training() == expected

    expected = training()
    join(fork(child))
    assert cnnrs.get_num_threads() == whole


def while_workers_are_awake(forks: int) -> None:
    """Forks right behind small calls, when the workers still look for the next one; parent and child call on."""
    cnnrs.set_num_threads(3)
    model, image = new_model(), images(1)
    expected = digest(model(image))

    def calls() -> None:
        for _ in range(50):
            assert digest(model(image)) == expected

    for _ in range(int(forks)):
        calls()
        child = fork(calls)
        calls()
        join(child)


if __name__ == "__main__":
    processes.main(globals())
