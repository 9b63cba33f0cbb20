"""Decision: any number of threads may call at once; one team works at a time, everybody else alone, with equal bits."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from processes import run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the programs send themselves signals")

MODULE = Path(__file__).parent.parent / "src/python/mod.rs"


def gil_enabled() -> bool:
    """Whether this interpreter runs one thread at a time."""
    ask = getattr(sys, "_is_gil_enabled", None)
    return True if ask is None else bool(ask())


@pytest.mark.parametrize(("threads", "rounds"), [(8, 12), pytest.param(8, 1000, marks=pytest.mark.slow)])
def test_stress(threads: int, rounds: int) -> None:
    """Eight threads on one model and on separate ones, with settings, caches, weights and structure changing."""
    run("thread_programs", "stress", threads, rounds, seconds=60 + 5 * rounds)


@pytest.mark.skipif(gil_enabled(), reason="this interpreter has a GIL: test_stress ran, but not without one")
def test_stress_ran_without_a_gil() -> None:
    """Importing the extension did not switch the GIL on."""
    assert not gil_enabled()


def test_extension_declares_that_it_needs_no_gil() -> None:
    """In the source, as the stable ABI of an interpreter with a GIL has no place for it."""
    assert "#[pymodule(gil_used = false)]" in MODULE.read_text(encoding="utf-8")


def test_callers_and_a_trainer_on_one_model() -> None:
    """Nobody starves, and every call sees the model as it was between two steps."""
    run("thread_programs", "trainer_and_callers")


def test_settings_during_a_call() -> None:
    """`show_config` and `set_num_threads` come back while another thread's call runs."""
    run("thread_programs", "settings_during_a_call")


def test_calls_in_signal_handlers() -> None:
    """Nested calls compute where they can and raise where they would wait for themselves."""
    run("thread_programs", "calls_in_signal_handlers")


def test_call_while_its_thread_waits_to_assign() -> None:
    """A nested call passes what its own thread is queued for."""
    run("thread_programs", "call_while_assigning")


def test_interrupt_while_waiting_for_a_step() -> None:
    """Waiting for a model is as interruptible as running it."""
    run("thread_programs", "interrupted_while_waiting")


def test_small_stacks() -> None:
    """Calls need little stack."""
    run("thread_programs", "small_stacks")
