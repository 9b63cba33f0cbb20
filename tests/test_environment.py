"""Environment variables, what an import does, and what it must not do."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

from cnnrs import _core

CONFIG = """
import json, cnnrs
from cnnrs import _core
print(json.dumps([_core.config(), cnnrs.get_num_threads()], default=str))
"""
LEVELS = ["portable", "avx2", "avx512", "amx"]
HEAVY = [
    "PIL", "asyncio", "concurrent.futures", "http.client", "logging", "matplotlib", "multiprocessing", "scipy",
    "sklearn", "ssl", "torch", "unittest", "urllib.request",
]  # fmt: skip


def configuration(run_python: Callable[..., Any], **env: str | None) -> tuple[dict[str, Any], int]:
    """What a fresh process reports."""
    result = run_python(CONFIG, env={"CNNRS_ISA": None, "CNNRS_NUM_THREADS": None, **env})
    assert result.returncode == 0, result.stderr
    config, threads = json.loads(result.stdout)
    return config, threads


@pytest.mark.parametrize("cap", LEVELS)
def test_isa_is_capped(cap: str, run_python: Callable[..., Any]) -> None:
    """The best level of the machine that does not exceed the cap is used."""
    config, _ = configuration(run_python, CNNRS_ISA=cap)
    allowed = [level for level in _core.isa_levels() if LEVELS.index(level) <= LEVELS.index(cap)]
    assert config["isa_used"] == max(allowed, key=LEVELS.index)


@pytest.mark.parametrize("count", [1, 3, 256])
def test_number_of_threads(count: int, run_python: Callable[..., Any]) -> None:
    """Taken exactly, also above the number of cores."""
    config, threads = configuration(run_python, CNNRS_NUM_THREADS=str(count))
    assert (config["threads"], threads) == (count, count)


def test_set_num_threads_overrides_the_variable(run_python: Callable[..., Any]) -> None:
    """A call is more specific than the environment."""
    program = "import cnnrs; cnnrs.set_num_threads(2); print(cnnrs.get_num_threads())"
    assert run_python(program, env={"CNNRS_NUM_THREADS": "5"}).stdout.strip() == "2"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity masks")
def test_default_respects_affinity(run_python: Callable[..., Any]) -> None:
    """A process confined to one core uses one thread."""
    program = (
        "import os\n"
        "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "import cnnrs\n"
        "print(cnnrs.get_num_threads())\n"
    )
    result = run_python(program, env={"CNNRS_NUM_THREADS": None})
    assert result.stdout.strip() == "1", result.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("CNNRS_NUM_THREADS", value) for value in ("0", "-1", "257", "two", "1.5", "99999999999999999999")),
        *(("CNNRS_ISA", value) for value in ("sse9", "AVX-2", "1")),
        ("CNNRS_ALGORITHM", "fastest"),
    ],
)
def test_bad_values(name: str, value: str, run_python: Callable[..., Any]) -> None:
    """ValueError that names the variable and the value, no later than the first call; never a silent default."""
    program = (
        "import cnnrs, numpy as np\n"
        "from cnnrs import functional as F\n"
        "F.conv2d(np.ones((1, 4, 4, 1), np.float32), np.ones((3, 3, 1, 1), np.float32))\n"
    )
    result = run_python(program, env={name: value})
    last = result.stderr.strip().splitlines()[-1] if result.stderr else ""
    assert result.returncode == 1
    assert last.startswith("ValueError: ")
    assert name in last
    assert value in last


IMPORT = """
import json, os, sys
import numpy
def tasks():
    return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else None
before, modules = tasks(), set(sys.modules)
import cnnrs
print(json.dumps([tasks() == before, sorted(set(sys.modules) - modules)]))
"""


def test_import_is_light(run_python: Callable[..., Any]) -> None:
    """Beside NumPy's own, importing the package loads no heavy module and starts no thread."""
    result = run_python(IMPORT)
    assert result.returncode == 0, result.stderr
    no_new_thread, loaded = json.loads(result.stdout)
    assert no_new_thread
    assert not set(HEAVY) & set(loaded)


def test_import_leaves_the_process_alone(run_python: Callable[..., Any]) -> None:
    """No signal handler, warning filter or environment variable is changed, and nothing is printed."""
    program = (
        "import os, signal, warnings, numpy\n"
        "state = lambda: (dict(os.environ), signal.getsignal(signal.SIGINT), list(warnings.filters))\n"
        "before = state()\n"
        "import cnnrs\n"
        "assert state() == before\n"
    )
    result = run_python(program)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_interpreter_is_supported() -> None:
    """The suite runs on what the package declares."""
    assert sys.version_info >= (3, 11)
