"""Which metrics the schedules of a trainer follow, and since when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cnnrs.optim.schedules import Schedule

__all__ = ["Following", "check_measured"]


class Following:
    """Gives each schedule that follows a metric the values of the epochs since the trainer first saw it.

    Args:
        history: Lists of metrics by name, one entry an epoch; None where an epoch lacks the metric.
    """

    def __init__(self, history: Mapping[str, Sequence[Any]]) -> None:
        self._history = history
        self._since: list[tuple[Schedule, int]] = []

    def seen(self, schedule: Schedule) -> list[float]:
        """Return the values of the schedule's metric; none for a schedule that was not seen before."""
        since = next((epoch for known, epoch in self._since if known is schedule), None)
        if since is None:
            since = len(self._history.get("epoch", ()))
            self._since.append((schedule, since))
        values = self._history.get(schedule.monitor or "", ())[since:]
        return [value for value in values if value is not None]

    def keep(self, schedules: Sequence[Schedule]) -> None:
        """Forget all other schedules."""
        self._since = [known for known in self._since if any(known[0] is schedule for schedule in schedules)]


def check_measured(schedules: Sequence[Schedule], metrics: Mapping[str, float]) -> None:
    """Refuse schedules that follow a metric which is not measured.

    Raises:
        ValueError: There is one.
    """
    for schedule in schedules:
        if schedule.monitor is not None and schedule.monitor not in metrics:
            hint = "; val_ metrics need validation data" if schedule.monitor.startswith("val_") else ""
            msg = f"{schedule!r}: monitor {schedule.monitor!r} is not measured, there are {', '.join(metrics)}{hint}"
            raise ValueError(msg)
