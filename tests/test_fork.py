"""Decision: a forked child gets a pool of its own and every lock free, whatever the parent's threads were doing."""

from __future__ import annotations

import os

import pytest

from processes import run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


@pytest.mark.parametrize("moment", ["before", "during", "after"])
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_start_methods(method: str, moment: str) -> None:
    """Children compute the parent's bits, in inference and training, whatever the parent did before or does now."""
    run("fork_programs", "start_method", method, moment)


def test_prefork_server() -> None:
    """Workers forked after training answer with the bits of that moment while the parent trains on."""
    run("fork_programs", "prefork_server", 3, 24)


@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading"])
def test_joblib(backend: str) -> None:
    """Models are arguments of joblib's workers and are trained in them."""
    pytest.importorskip("joblib")
    run("fork_programs", "with_joblib", backend)


@pytest.mark.parametrize("forks", [25, pytest.param(2000, marks=pytest.mark.slow)])
def test_forks_while_threads_compute(forks: int) -> None:
    """No child of many hangs or sees half of anything, though threads call, compile, clear and train meanwhile."""
    run("fork_programs", "storm", forks, seconds=60 + forks)


def test_fork_in_the_middle_of_a_step() -> None:
    """The fork does not wait, and in the child the model that the step holds is free and as it was."""
    run("fork_programs", "while_a_step_holds_the_model", seconds=120)


@pytest.mark.parametrize("depth", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_grandchildren(depth: int) -> None:
    """A child can do all its parent can, fork included."""
    run("fork_programs", "generations", depth, seconds=120)


def test_fork_while_workers_are_awake() -> None:
    """Small calls go on in parent and child, though the parent's workers were about to take part in the next."""
    run("fork_programs", "while_workers_are_awake", 20)


def test_fork_in_a_signal_handler() -> None:
    """The parent's call goes on; in the child, which has no team, it ends with RuntimeError."""
    run("fork_programs", "in_a_signal_handler")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity masks")
def test_a_pinned_child_uses_one_thread() -> None:
    """The default follows the process's own mask."""
    run("fork_programs", "pinned_worker", env={"CNNRS_NUM_THREADS": None})
