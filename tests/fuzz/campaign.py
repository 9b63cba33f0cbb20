"""Runs many cases against one reader and counts what became of them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

MOST_SECONDS = 1.0
"""Processor time of one case."""
MOST_GROWTH = 64 << 20
"""Bytes by which the process may grow over a campaign; the files are a few kilobytes each."""


class Case(NamedTuple):
    """One file, what was done to it, and whether it is known to be valid or known to be damaged (None: not known)."""

    content: bytes
    story: str
    valid: bool | None


class Target(NamedTuple):
    """A reader under test.

    Attributes:
        make: Makes a case from random numbers.
        check: Reads a case; returns whether it was accepted, and raises on anything but a value that is right or the
            reader's own error.
    """

    make: Callable[[random.Random], Case]
    check: Callable[[bytes], bool]


class CaseError(AssertionError):
    """What one case did wrong."""


class Report(NamedTuple):
    """What became of the cases of a campaign."""

    cases: int
    accepted: int
    refused: int
    seconds: float
    slowest: float
    """Processor time of the slowest case, in seconds."""
    growth: int
    """Bytes by which the peak of the process grew."""


def peak() -> int:
    """The most memory that the process ever had, in bytes; what getrusage tells begins at the parent's peak."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def run(target: Target, count: int, seed: int = 0, first: int = 0, seconds: float | None = None) -> Report:
    """Run cases `first` to `first + count` of a seed, or as many of them as `seconds` allow.

    Raises:
        CaseError: A case that was read wrongly, or took too much time or memory; the text repeats it.
    """
    for number in range(20):  # what is imported and cached at first use is no growth
        attempt(target, seed, number)
    begin, before = time.monotonic(), peak()
    accepted = number = 0
    slowest = 0.0
    for number in range(first, first + count):
        took, fine = attempt(target, seed, number)
        accepted += fine
        slowest = max(slowest, took)
        if peak() - before > MOST_GROWTH:
            raise failure(target, seed, number, f"the process grew by {peak() - before} bytes")
        if seconds is not None and time.monotonic() - begin > seconds:
            break
    cases = number - first + 1
    return Report(cases, accepted, cases - accepted, time.monotonic() - begin, slowest, peak() - before)


def attempt(target: Target, seed: int, number: int) -> tuple[float, bool]:
    """Run one case; return its processor time and whether it was accepted."""
    case = make(target, seed, number)
    begin = time.thread_time()
    try:
        accepted = target.check(case.content)
    except Exception as error:
        raise failure(target, seed, number, f"{type(error).__name__}: {error}") from error
    took = time.thread_time() - begin
    if case.valid is not None and accepted != case.valid:
        raise failure(target, seed, number, "accepted, but damaged" if accepted else "refused, but valid")
    if took > MOST_SECONDS:
        raise failure(target, seed, number, f"took {took:.2f} s")
    return took, accepted


def make(target: Target, seed: int, number: int) -> Case:
    """Make the case with that number."""
    return target.make(random.Random((seed << 40) + number))


def failure(target: Target, seed: int, number: int, what: str) -> CaseError:
    """Describe a case so that it can be repeated."""
    content, story, _ = make(target, seed, number)
    shown = content if len(content) <= 2000 else content[:2000] + b"..."
    return CaseError(f"case {number} of seed {seed} ({story}; {len(content)} bytes): {what}\n{shown!r}")
