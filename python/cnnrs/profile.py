"""Where the time of a call or of a training step goes: `Module.profile` and `Trainer.profile`."""

from __future__ import annotations

import json
import statistics
from typing import TYPE_CHECKING, Any, NamedTuple

from cnnrs import _core
from cnnrs._files import atomic_write
from cnnrs.explain import _table

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

_PEAK_SECONDS = 0.05


class ProfileRow(NamedTuple):
    """One step of a plan; `seconds` is the median over the repeats, with the wait for the slowest thread.

    `bytes` are those of all operands, `gflops` GFLOP/s of the operation as it is written (two per multiply-add), also
    where an algorithm needs fewer; `share` is `gflops` as a part of the measured peak.
    """

    layer: str
    op: str
    shape: str
    kernel: str
    seconds: float
    gflops: float
    share: float
    bytes: int


class Profile(NamedTuple):
    """A printable table of steps in the order in which they run.

    Attributes:
        rows: One for each step.
        seconds: Of the native call, median over the repeats.
        threads: Members of the team.
        peak: Measured rate of multiply-adds in registers on that many threads, GFLOP/s.
        repeats: Calls that were measured.
    """

    rows: list[ProfileRow]
    seconds: float
    threads: int
    peak: float
    repeats: int

    def __str__(self) -> str:
        """Return the table and a line of totals."""
        header = ("step", "layer", "op", "shape", "kernel", "ms", "%", "GFLOP/s", "of peak", "MB")
        lines = [
            (
                str(number),
                row.layer or "-",
                row.op,
                row.shape,
                row.kernel,
                f"{1e3 * row.seconds:.3f}",
                f"{100 * row.seconds / max(self.seconds, 1e-12):.1f}",
                f"{row.gflops:.1f}" if row.gflops else "",
                f"{row.share:.0%}" if row.gflops else "",
                f"{1e-6 * row.bytes:.2f}",
            )
            for number, row in enumerate(self.rows)
        ]
        flops = sum(row.gflops * row.seconds for row in self.rows)
        total = (
            f"{1e3 * self.seconds:.3f} ms on {self.threads} threads, {flops / max(self.seconds, 1e-12):.1f} GFLOP/s; "
            f"peak in registers {self.peak:.1f} GFLOP/s; medians of {self.repeats} calls"
        )
        return "\n".join([*_table([header, *lines], right=(0, 5, 6, 7, 8, 9)), total])

    def __repr__(self) -> str:
        """Return the table, so that a prompt shows it."""
        return str(self)

    def save_trace(self, path: str | os.PathLike[str]) -> None:
        """Write a trace of one call in Chrome's format, for `chrome://tracing`, Perfetto or Speedscope.

        Args:
            path: The file to write; it is replaced at once.

        Raises:
            OSError: the file cannot be written.
        """
        events, at = [], 0.0
        for number, row in enumerate(self.rows):
            details = {"step": number, "shape": row.shape, "kernel": row.kernel, "bytes": row.bytes}
            if row.gflops:
                details |= {"GFLOP/s": row.gflops, "share of peak": row.share}
            event = {"name": f"{row.layer or '-'} {row.op}", "cat": row.op, "ph": "X", "pid": 1, "tid": 1}
            events.append(event | {"ts": 1e6 * at, "dur": 1e6 * row.seconds, "args": details})
            at += row.seconds
        with atomic_write(path) as file:
            file.write(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}).encode())


def measure(call: Callable[[], Any], repeats: int) -> Profile:
    """Run a call once to warm up and then `repeats` times; return the medians of its last program's steps."""
    call()
    _core.start_profile()
    try:
        for _ in range(repeats):
            call()
    finally:
        runs = _core.stop_profile()
    steps, threads = runs[-1]
    kernels = [step["kernel"] for step in steps]
    alike = [run for run, _ in runs if [step["kernel"] for step in run] == kernels]
    peak = _core.fma_peak(threads, _PEAK_SECONDS)
    rows = []
    for index, step in enumerate(steps):
        seconds = statistics.median(run[index]["seconds"] for run in alike)
        gflops = 1e-9 * step["flops"] / seconds if seconds and step["flops"] else 0.0
        facts = (step["name"], step["op"], step["shape"], step["kernel"])
        rows.append(ProfileRow(*facts, seconds, gflops, gflops / peak, step["bytes"]))
    total = statistics.median(sum(step["seconds"] for step in run) for run in alike)
    return Profile(rows, total, threads, peak, len(alike))
