"""What every benchmark shares: interleaved timing, statistics and tables. Standard library only."""

import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benches.peers import Worker


class CheckError(RuntimeError):
    """The two libraries do not compute the same: nothing was timed."""


@dataclass(frozen=True)
class Contestant:
    """One library in one form: the process that runs it and the name of the call there."""

    label: str
    worker: Worker
    call: str

    def time(self, warmup: int, repeats: int) -> list[float]:
        """Seconds of each of `repeats` calls after `warmup` untimed ones."""
        times: list[float] = self.worker.call("time", name=self.call, warmup=warmup, repeats=repeats)
        return times


@dataclass(frozen=True)
class Summary:
    """Order statistics of one contestant's calls, in seconds; all but the median by nearest rank."""

    median: float
    p10: float
    p90: float
    calls: int
    least: float
    q1: float
    q3: float


def summarise(times: Sequence[float]) -> Summary:
    """Median, the ends of the middle 80 %, quartiles and the least of `times`."""
    ordered = sorted(times)

    def rank(part: float) -> float:
        return ordered[round(part * (len(ordered) - 1))]

    median = statistics.median(ordered)
    return Summary(median, rank(0.1), rank(0.9), len(ordered), ordered[0], rank(0.25), rank(0.75))


@dataclass(frozen=True)
class Rounds:
    """How often and how gently to measure.

    Each of `count` rounds gives every contestant one turn of about `seconds`, `pause` seconds after the one before:
    thread pools spin for a while when their work is done, and must not do so in the next contestant's time.
    """

    count: int
    seconds: float
    pause: float

    def measure(self, contestants: Sequence[Contestant]) -> dict[str, Summary]:
        """Time the contestants in turns A B C A B C ...; every turn begins with a quarter of its length untimed.

        All of them get the same number of calls, set by the slowest in a trial before. Calls longer than a turn have
        nothing untimed in front of them: the trial has warmed them up.
        """
        slowest = max(min(times) for times in self._turns(contestants, 1, warmup=1, repeats=1).values())
        if slowest < self.seconds:
            slowest = max(min(times) for times in self._turns(contestants, 1, warmup=1, repeats=3).values())
        repeats = max(1, min(2000, round(self.seconds / slowest)))
        warmup = max(1, repeats // 4) if slowest < self.seconds else 0
        times = self._turns(contestants, self.count, warmup=warmup, repeats=repeats)
        return {label: summarise(values) for label, values in times.items()}

    def measure_once_a_turn(self, contestants: Sequence[Contestant]) -> dict[str, Summary]:
        """Time calls of seconds each: one untimed round, then one call a turn."""
        self._turns(contestants, 1, warmup=0, repeats=1)
        times = self._turns(contestants, self.count, warmup=0, repeats=1)
        return {label: summarise(values) for label, values in times.items()}

    def _turns(
        self, contestants: Sequence[Contestant], count: int, warmup: int, repeats: int
    ) -> dict[str, list[float]]:
        """Seconds of every timed call by label."""
        times: dict[str, list[float]] = {contestant.label: [] for contestant in contestants}
        for _ in range(count):
            for contestant in contestants:
                time.sleep(self.pause)
                times[contestant.label] += contestant.time(warmup, repeats)
        return times


@dataclass(frozen=True)
class Hosts:
    """The interpreters that have the libraries; processes are started as they are needed."""

    cnnrs: str
    torch: str
    peers: str

    def start(self, library: str, threads: int) -> Worker:
        """A fresh process of one library.

        Raises:
            WorkerError: the interpreter or the library cannot be had.
        """
        return Worker(
            library, {"cnnrs": self.cnnrs, "torch": self.torch, "export": self.torch}.get(library, self.peers), threads
        )


@dataclass(frozen=True)
class Session:
    """What one run of a benchmark works with: the two processes, the peer's variants and the temporary folder."""

    cnnrs: Worker
    torch: Worker | None
    variants: tuple[str, ...]
    rounds: Rounds
    folder: str

    def contestants(self, call: str) -> list[Contestant]:
        """Everybody who can do `call`, cnnrs first."""
        ours = Contestant("cnnrs", self.cnnrs, call)
        if self.torch is None:
            return [ours]
        return [ours, *(Contestant(f"torch {name}", self.torch, f"{call}/{name}") for name in self.variants)]

    def peak(self) -> float:
        """The machine's FMA rate of this moment in GFLOP/s: registers only, on the benchmark's number of threads."""
        time.sleep(self.rounds.pause)
        rate: float = self.cnnrs.call("peak", seconds=0.2)
        return rate

    def stream(self) -> dict[str, float]:
        """The rates of the machine's memory at this moment in GB/s, on the benchmark's number of threads."""
        time.sleep(self.rounds.pause)
        rates: dict[str, float] = self.cnnrs.call("stream")
        return rates


@dataclass(frozen=True)
class Outcome:
    """What a benchmark found: plain values for the JSON file and Markdown for readers.

    Attributes:
        record: Values for the JSON file.
        text: Markdown.
        libraries: What the workers that the benchmark started itself say of themselves.
        notes: What was left out and why; empty when everything ran.
    """

    record: dict[str, Any]
    text: str
    libraries: dict[str, dict[str, object]] = field(default_factory=dict)
    notes: Sequence[str] = ()


def milliseconds(seconds: float) -> str:
    """Milliseconds with three significant digits."""
    value = seconds * 1e3
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def spread(summary: Summary) -> str:
    """Median [p10-p90] in ms."""
    return f"{milliseconds(summary.median)} [{milliseconds(summary.p10)}-{milliseconds(summary.p90)}]"


def quartiles(summary: Summary) -> str:
    """Median [first quartile-third quartile] in ms."""
    return f"{milliseconds(summary.median)} [{milliseconds(summary.q1)}-{milliseconds(summary.q3)}]"


def plain_reason(error: BaseException | str) -> str:
    """The first line of an error without the folders of its paths, for a note in a result file."""
    lines = str(error).strip().splitlines() or ["no reason given"]
    return re.sub(r"(?<![\w.])/(?:[^\s/'\":,;()]+/)*([^\s/'\":,;()]+)", r"\1", lines[0])[:200]


def lead(medians: dict[str, float], ours: str = "cnnrs") -> float | None:
    """How many times faster than the fastest peer `ours` is; None when cnnrs runs alone."""
    peers = [median for label, median in medians.items() if not label.startswith("cnnrs")]
    return min(peers) / medians[ours] if peers else None


def times_text(ratio: float | None) -> str:
    """A ratio for a table."""
    return "-" if ratio is None else f"{ratio:.2f}x"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded so that it also reads well on a terminal; the first column is left-aligned."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        padded[0] = cells[0].ljust(widths[0])
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(head), line(rule), *(line(row) for row in rows)])
