"""Processes in which the system refuses something, and numbers that must not leak; run by test_faults.py and others."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnnrs
import processes
from cases import real
from cnnrs import Trainer, _core, optim
from cnnrs import functional as F
from fork_programs import inference, training

STACK = 1 << 30
"""Address space of one thread's stack, by the environment variable RUST_MIN_STACK of this program."""


def team() -> int:
    """Size of the running team, 0 before there is one."""
    return _core.config()["threads_running"] or 0


def threads_alive() -> int:
    """Threads of this process, Python's or not."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def address_space() -> int:
    """Bytes of address space that this process uses."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()


def allow_threads(count: int) -> None:
    """Leave address space for so many more stacks, and for half of one of anything else; this binds root, too."""
    present = (max(team(), 1) - 1) * STACK  # the present team's threads go before a new one's are started
    room = address_space() - present + count * STACK + STACK // 2
    resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))


def refused_threads() -> None:
    """Where the system gives fewer threads than were asked for, the team is halved until it fits."""
    assert os.environ["RUST_MIN_STACK"] == str(STACK)
    cnnrs.set_num_threads(1)
    expected = inference(), training()
    for asked, allowed, team_size in [(9, 8, 9), (10, 5, 5), (8, 2, 2), (6, 1, 2), (9, 0, 1), (2, 0, 1)]:
        allow_threads(allowed)
        cnnrs.set_num_threads(asked)
        assert (inference(), training()) == expected, f"{allowed} of {asked - 1} workers"
        assert team() == team_size, f"{team()} for {asked} where {allowed} more are allowed"
        assert cnnrs.get_num_threads() == asked
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert (inference(), training()) == expected
    cnnrs.set_num_threads(4)
    assert (inference(), training()) == expected
    assert team() == 4, "another number, and the threads are to be had"


def one_core() -> None:
    """A process bound to one core uses one thread, starts none, and computes."""
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    assert cnnrs.get_num_threads() == 1
    before = threads_alive()
    expected = inference(), training()
    assert threads_alive() == before
    cnnrs.set_num_threads(3)  # above the cores: taken exactly
    assert (inference(), training()) == expected
    assert team() == 3


def more_threads_than_cores(count: str) -> None:
    """The variable is taken exactly; so is a later call."""
    assert cnnrs.get_num_threads() == int(count)
    expected = inference(), training()
    assert team() == int(count)
    for other in (1, 24, 2):
        cnnrs.set_num_threads(other)
        assert (inference(), training()) == expected
    assert team() == 2


def train_to_file(path: str) -> None:
    """One step of LeNet-5 on the instruction set that the environment sets; writes loss, logits and parameters."""
    import test_grad

    model, _ = test_grad.lenet(smooth=True)
    images, labels = test_grad.lenet_batch(13)
    trainer = Trainer(model, optim.SGD(lr=0.5))
    loss, gradients = trainer.gradients(images, labels)
    stepped = trainer.step(images, labels)
    assert stepped == loss
    facts: dict[str, Any] = {"loss": np.float32(loss), "isa": _core.config()["isa_used"], "logits": model(images)}
    facts |= {f"gradient {name}": value for name, value in gradients.items()}
    np.savez(path, **facts, **model.state_dict())


def usable_after_memory_error() -> None:
    """An output that no machine holds, and one that this process may not have: MemoryError, then work as before."""
    expected = inference()
    x = real(1, 4, 4, 1)
    for padding, limit in ((1 << 30, None), (1 << 15, 1 << 30)):
        if limit:
            resource.setrlimit(resource.RLIMIT_AS, (address_space() + limit, resource.RLIM_INFINITY))
        with pytest.raises(MemoryError, match="bytes"):
            F.conv2d(x, real(1, 1, 1, 1), padding=padding)
        assert inference() == expected


if __name__ == "__main__":
    processes.main(globals())
