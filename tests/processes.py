"""Programs in processes of their own, each under a watchdog: what hangs dies loudly, with every Python stack.

A program is a function of a module that ends in `processes.main(globals())`; `run` starts it by name in a fresh
interpreter. Such a file can be imported by the children of `multiprocessing`, whatever the start method.
"""

from __future__ import annotations

import faulthandler
import hashlib
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).parent


def watch(seconds: int) -> None:
    """End this process after so many seconds with a traceback of every thread; a forked child calls it anew."""
    faulthandler.register(signal.SIGALRM, all_threads=True, chain=True)
    signal.alarm(seconds)


def main(functions: dict[str, Any]) -> None:
    """Run the function that the command line names, under the watchdog it sets."""
    seconds, name, *arguments = sys.argv[1:]
    watch(int(seconds))
    functions[name](*arguments)
    signal.alarm(0)
    print(f"{name} done", flush=True)


def long_batch(shape: tuple[int, ...], call: Callable[[np.ndarray], object], seconds: float = 0.3) -> np.ndarray:
    """Numbers of a shape, in a batch so large (8, 16, ...) that a call takes that long: a signal finds it running."""
    batch = 8
    while True:
        x = np.random.default_rng(batch).standard_normal((batch, *shape), dtype=np.float32)
        call(x)
        start = time.perf_counter()
        call(x)
        if time.perf_counter() - start >= seconds:
            return x
        batch *= 2


def run(module: str, name: str, *arguments: object, seconds: int = 60, env: dict[str, str | None] | None = None) -> str:
    """Run a program to its end; return what it printed before its last line.

    Raises:
        AssertionError: it failed, hung or was killed; the text holds its standard error.
    """
    merged = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
        **(env or {}),
    }
    variables = {key: value for key, value in merged.items() if value is not None}
    command = [sys.executable, str(TESTS / f"{module}.py"), str(seconds), name, *map(str, arguments)]
    # Children of a killed program must not hold the pipes open: files do not care.
    with subprocess.Popen(
        command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            output, errors = process.communicate(timeout=seconds + 15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, errors = process.communicate()
            errors += f"\nkilled {seconds + 15} s after its start"
    what = f"{name} {' '.join(map(str, arguments))}: exit status {process.returncode}\n{output}\n{errors}"
    assert process.returncode == 0, what
    assert output.endswith(f"{name} done\n"), what
    return output[: -len(f"{name} done\n")]


def fork(work: Callable[[], object], seconds: int = 20) -> int:
    """Run `work` in a forked child that dies loudly after so many seconds; return its process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            watch(seconds)
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return child


def join(child: int) -> None:
    """Wait for a child of `fork`.

    Raises:
        AssertionError: it failed or was killed by its watchdog.
    """
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 0, f"a child ended with status {code} ({'its watchdog' if code == -signal.SIGALRM else 'see above'})"


def digest(*results: Any) -> str:
    """A short name for the bits of arrays, numbers, and lists and dictionaries of them."""
    found = hashlib.sha256()

    def add(result: Any) -> None:
        if isinstance(result, dict):
            result = list(result.items())
        if isinstance(result, list | tuple):
            for part in result:
                add(part)
        else:
            array = np.asarray(result)
            found.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())

    add(list(results))
    return found.hexdigest()[:16]
