"""A worker process: imports one library and runs what the driver asks for (see `benches.peers.Worker`).

`python -m benches.worker LIBRARY THREADS`; LIBRARY has a `side_LIBRARY.py`. Requests come on standard input.
"""

import gc
import importlib
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol


def timed(function: Callable[[], object], warmup: int, repeats: int) -> list[float]:
    """Seconds of each of `repeats` calls after `warmup` untimed ones, with the garbage collector off."""
    for _ in range(warmup):
        function()
    gc.collect()
    gc.disable()
    try:
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
    finally:
        gc.enable()
    return times


def peak_bytes() -> int:
    """Peak resident bytes of this process, as the system counts them."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss starts at the parent's peak after a fork
        return next(int(line.split()[1]) << 10 for line in status.read_text("ascii").splitlines() if "VmHWM" in line)
    return peak if sys.platform == "darwin" else peak << 10


class Side(Protocol):
    """One library's half of every benchmark: what can be timed by name, and methods that answer requests."""

    calls: dict[str, Callable[[], object]]


def serve(side: Side, name: str, arguments: dict[str, Any]) -> object:
    """Answer one request: "ready" and "memory" (the peak so far), "time" one of the side's calls, or any method."""
    if name in ("ready", "memory"):
        return peak_bytes()
    if name == "time":
        return timed(side.calls[arguments["name"]], arguments["warmup"], arguments["repeats"])
    return getattr(side, name)(**arguments)


def main() -> None:
    """Serve requests until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not mix with the answers
    library, threads = sys.argv[1], int(sys.argv[2])
    side: Side | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if side is None:
                side = importlib.import_module(f"benches.side_{library}").Side(threads)
            answer = {"result": serve(side, request["call"], request["arguments"])}
        except Exception as error:  # the driver reports it and stops
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
