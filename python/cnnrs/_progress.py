"""What `Trainer.fit` writes while it runs: a bar on a terminal, one plain line an epoch elsewhere; and downloads' bar.

Everything goes to standard error, so that a program's own output stays clean.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TextIO

__all__ = ["DownloadProgress", "Progress"]

_SECONDS_BETWEEN_DRAWS = 0.1
_BAR_WIDTH = 24


class Progress:
    """Shows the epochs of one `fit` call.

    Args:
        last_epoch: Number of the last epoch of the call.
        verbose: False for silence; None and True choose between bar and lines.
        stream: Where to write; None means standard error as it is now.
    """

    def __init__(self, last_epoch: int, verbose: bool | None = None, stream: TextIO | None = None) -> None:
        target = sys.stderr if stream is None else stream
        self._stream = None if verbose is False else target
        self._bar = self._stream is not None and self._stream.isatty()
        self._last_epoch = last_epoch
        self._title = ""
        self._steps: int | None = None
        self._started = self._next_draw = 0.0
        self._width = 0

    def begin_epoch(self, epoch: int, steps: int | None) -> None:
        """Start an epoch of `steps` batches (None if not known)."""
        self._title = f"epoch {epoch}/{self._last_epoch}"
        self._steps = steps
        self._started = time.perf_counter()
        self._next_draw = self._started + _SECONDS_BETWEEN_DRAWS

    def update(self, done: int, loss: float) -> None:
        """Redraw the bar after `done` batches with the mean loss so far, at most ten times a second."""
        if not self._bar:
            return
        now = time.perf_counter()
        if now < self._next_draw:
            return
        self._next_draw = now + _SECONDS_BETWEEN_DRAWS
        self._draw(f"{self._title} {_bar(done, self._steps)} loss {loss:.4f} {now - self._started:.0f} s")

    def end_epoch(self, metrics: Mapping[str, float]) -> None:
        """Write the line of a finished epoch."""
        if self._stream is None:
            return
        shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        line = f"{self._title}: {shown} ({time.perf_counter() - self._started:.1f} s)"
        if self._bar:
            self._draw(line)
            self._width = 0
        else:
            self._stream.write(line)
        self._stream.write("\n")
        self._stream.flush()

    def close(self) -> None:
        """Leave a bar that was interrupted in the middle of an epoch on a line of its own."""
        if self._stream is not None and self._width:
            self._stream.write("\n")
            self._stream.flush()
            self._width = 0

    def _draw(self, line: str) -> None:
        if self._stream is not None:
            self._stream.write("\r" + line.ljust(self._width))
            self._stream.flush()
            self._width = len(line)


class DownloadProgress:
    """A bar for one download; a context manager. Off a terminal nothing is written.

    Args:
        title: What is downloaded.
        total: The bytes that are expected.
        verbose: False for silence.
        stream: Where to write; None means standard error as it is now.
    """

    def __init__(self, title: str, total: int, verbose: bool | None = None, stream: TextIO | None = None) -> None:
        target = sys.stderr if stream is None else stream
        shown = verbose is not False and target is not None and target.isatty()  # pythonw has no standard error
        self._stream = target if shown else None
        self._title, self._total = title, total
        self._next_draw = 0.0
        self._width = 0

    def __enter__(self) -> DownloadProgress:
        return self

    def __exit__(self, *error: object) -> None:
        if self._stream is not None and self._width:
            self._stream.write("\n")
            self._stream.flush()

    def update(self, done: int, total: int | None = None) -> None:
        """Redraw the bar after `done` bytes, at most ten times a second and at the end."""
        self._total = total or self._total
        now = time.perf_counter()
        if self._stream is None or (now < self._next_draw and done < self._total):
            return
        self._next_draw = now + _SECONDS_BETWEEN_DRAWS
        filled = min(done * _BAR_WIDTH // self._total, _BAR_WIDTH)
        sizes = f"{done / 2**20:.1f}/{self._total / 2**20:.1f} MiB"
        line = f"{self._title} [{'=' * filled}{' ' * (_BAR_WIDTH - filled)}] {sizes}"
        self._stream.write("\r" + line.ljust(self._width))
        self._stream.flush()
        self._width = len(line)


def _bar(done: int, steps: int | None) -> str:
    if not steps:
        return f"{done} batches"
    filled = min(done * _BAR_WIDTH // steps, _BAR_WIDTH)
    return f"[{'=' * filled}{' ' * (_BAR_WIDTH - filled)}] {done}/{steps}"
