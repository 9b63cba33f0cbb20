"""Fuzzing of the file readers: a short campaign for each by default, longer ones with the slow marker."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fuzz import CaseError, Target, run
from fuzz.__main__ import TARGETS
from fuzz.campaign import Case

HERE = Path(__file__).parent
LONG = [pytest.param(seed, 400_000, marks=pytest.mark.slow) for seed in (1, 2)]


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an interpreter of its own, so that the memory it takes is that of the campaign."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=280, check=False)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize(("seed", "count"), [(0, 10_000), *LONG])
def test_damaged_files_are_refused_and_others_read_right(name: str, seed: int, count: int) -> None:
    """Every case is refused with the reader's own error or confirmed by an independent reading."""
    result = python("-m", "fuzz", name, "--count", str(count), "--seed", str(seed))
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["cases"] == count
    assert report["accepted"] > count // 20  # the mutations leave enough files whole to compare their contents
    assert report["refused"] > count // 2


def test_a_case_depends_on_the_seed_and_its_number_only() -> None:
    for target in TARGETS.values():
        cases = [target.make(random.Random(number)) for number in range(200)]
        assert cases == [target.make(random.Random(number)) for number in range(200)]
        assert len({case.content for case in cases}) > 150


def fails(content: bytes) -> bool:
    raise KeyError(content)


def dawdles(content: bytes) -> bool:
    end = time.thread_time() + 1.1
    while time.thread_time() < end:
        pass
    return True


@pytest.mark.parametrize(
    ("valid", "reader", "text"),
    [
        (None, fails, "KeyError: b'content'"),
        (True, lambda content: False, "refused, but valid"),
        (False, lambda content: True, "accepted, but damaged"),
        (None, dawdles, r"took 1\.\d+ s"),
    ],
    ids=["exception", "refused", "accepted", "slow"],
)
def test_a_campaign_ends_at_the_first_failure(valid: bool | None, reader: Any, text: str) -> None:
    target = Target(lambda rng: Case(b"content", "made up", valid), reader)
    with pytest.raises(CaseError, match=rf"case 0 of seed 7 \(made up; 7 bytes\): {text}"):
        run(target, 10, seed=7)


SWELLING = """
from fuzz.campaign import MOST_GROWTH, Case, CaseError, Target, run
kept = []
def check(content):
    kept.append(b"\\1" * (MOST_GROWTH // 50))
    return True
try:
    run(Target(lambda rng: Case(b"", "", None), check), 1000)
except CaseError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_a_campaign_sees_memory_grow() -> None:
    result = python("-c", SWELLING)
    assert "the process grew by" in result.stdout, result.stderr
