"""Profiles, instruction-set levels and thread counts shared by all tests.

`CNNRS_TEST_PROFILE=long` runs more hypothesis examples with fresh seeds; `CNNRS_REQUIRE_ISA=avx2,avx512` turns the
skip of a level the machine lacks into a failure.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import cnnrs
from cnnrs import _core, datasets
from tolerance import assert_same_bits

ISA_LEVELS = ("portable", "avx2", "avx512")
THREAD_COUNTS = (1, 2, 5)
REQUIRED_ISA = tuple(filter(None, os.environ.get("CNNRS_REQUIRE_ISA", "").split(",")))

# Fixtures hold settings of the engine that are the same for every example, hence no function_scoped_fixture check.
_CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
settings.register_profile("fast", derandomize=True, max_examples=25, deadline=None, suppress_health_check=_CHECKS)
settings.register_profile("long", max_examples=1000, deadline=None, suppress_health_check=_CHECKS)
settings.load_profile(os.environ.get("CNNRS_TEST_PROFILE", "fast"))


@pytest.fixture(params=ISA_LEVELS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test on one instruction-set level; all known levels are parameters, so a missing one is visible."""
    level: str = request.param
    if level not in _core.isa_levels():
        missing = f"this CPU lacks {level}"
        if level in REQUIRED_ISA:
            pytest.fail(f"{missing}, and CNNRS_REQUIRE_ISA names it")
        pytest.skip(missing)
    _core.set_isa(level)
    yield level
    _core.set_isa(None)


@pytest.fixture(params=THREAD_COUNTS)
def threads(request: pytest.FixtureRequest, restore_threads: None) -> int:
    """Run the test with one number of threads."""
    count: int = request.param
    cnnrs.set_num_threads(count)
    return count


@pytest.fixture
def restore_threads() -> Iterator[None]:
    """Give the number of threads back after the test."""
    before = cnnrs.get_num_threads()
    yield
    cnnrs.set_num_threads(before)


@pytest.fixture
def assert_deterministic(restore_threads: None) -> Callable[[Callable[[], Any]], None]:
    """A check that a function gives the same bits with every number of threads and from run to run."""

    def check(function: Callable[[], Any]) -> None:
        cnnrs.set_num_threads(THREAD_COUNTS[0])
        expected = function()
        for count in THREAD_COUNTS:
            cnnrs.set_num_threads(count)
            for run in range(2):
                assert_same_bits(function(), expected, f"{count} threads, run {run}")

    return check


@pytest.fixture(scope="session")
def cifar10_pictures() -> tuple[datasets.Dataset, datasets.Dataset]:
    """CIFAR-10 from the JPEG images in `$CNNRS_DATA`, decoded once for all tests."""
    root = os.environ.get("CNNRS_DATA")
    if not root or not Path(root, "cifar10-images.tar.xz").is_file():
        pytest.skip("CNNRS_DATA names no folder with cifar10-images.tar.xz")
    pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    return datasets.cifar10(root, download=False)


@pytest.fixture
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program in a fresh interpreter with changed environment variables (None removes one)."""

    def run(
        program: str, *arguments: str, env: dict[str, str | None] | None = None, timeout: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        merged = {**os.environ, **(env or {})}
        variables = {name: value for name, value in merged.items() if value is not None}
        command = [sys.executable, "-c", program, *arguments]
        return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=timeout, check=False)

    return run
