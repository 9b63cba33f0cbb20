"""The run-time numbers of a step: one row a parameter, as the update reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnrs.optim._checks import check_rate
from cnnrs.optim.optimizer import Optimizer
from cnnrs.optim.schedules import Schedule

__all__ = ["HyperTable", "Moment"]


class Moment(NamedTuple):
    """When an update happens.

    Attributes:
        updates: Updates the trainer made before this one.
        step: Steps the running `fit` call made before this one; None outside `fit`.
        total_steps: Steps of the running `fit` call; None if not known.
        steps_per_epoch: Steps of one of its epochs; None if not known.
    """

    updates: int
    step: int | None = None
    total_steps: int | None = None
    steps_per_epoch: int | None = None


class _Setting(NamedTuple):
    """Hyperparameters that several parameters share."""

    values: dict[str, Any]
    schedule: int | None
    rows: list[int]


class HyperTable:
    """The table of hyperparameters of a step; its columns are those of the optimizer's update.

    Args:
        optimizer: Where the values come from; a later change of it is not seen.
        names: All parameter names of the model, which groups are matched against.
        rows: The names the table has rows for, in order.
        seen: Gives the values that a schedule's metric had at the ends of the epochs so far.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        names: Sequence[str],
        rows: Sequence[str],
        seen: Callable[[Schedule], Sequence[float]],
    ) -> None:
        resolved = dict(zip(names, optimizer.resolve(names), strict=True))
        self._owner = type(optimizer).__name__
        self._row = optimizer._row
        self.counts = optimizer._counts
        """Whether rows depend on the updates that parameters had."""
        self._shape = (len(rows), optimizer._columns)
        self.schedules: list[Schedule] = []
        """The schedules in use, as they were given."""
        self._settings: list[_Setting] = []
        for index, name in enumerate(rows):
            values = dict(resolved[name])
            schedule = None
            if isinstance(values["lr"], Schedule):
                schedule = self._number(values.pop("lr"))
            for setting in self._settings:
                if setting.values == values and setting.schedule == schedule:
                    setting.rows.append(index)
                    break
            else:
                self._settings.append(_Setting(values, schedule, [index]))
        self._followed = [
            schedule.after(seen(schedule)) if schedule.monitor else schedule for schedule in self.schedules
        ]
        self._made: tuple[Any, ...] | None = None
        self._array = np.zeros(self._shape, np.float32)

    def at(self, moment: Moment, counts: Sequence[int]) -> NDArray[np.float32]:
        """Return the table for one update; the array is not written again once returned.

        Args:
            moment: When the update happens.
            counts: Updates that the parameter of each row had before this one; not looked at unless `self.counts`.

        Raises:
            ValueError: A schedule needs a length that is not known, or gave a rate that is not finite and >= 0.
        """
        rates = []
        for given, schedule in zip(self.schedules, self._followed, strict=True):
            position = moment.updates if moment.step is None or given.own_length else moment.step
            rate = schedule.value(position, moment.total_steps, moment.steps_per_epoch)
            rates.append(check_rate(rate, "learning rate", repr(given)))
        made = (rates, tuple(counts) if self.counts else ())
        if made != self._made:
            array = np.zeros(self._shape, np.float32)
            for values, number, rows in self._settings:
                rate = values["lr"] if number is None else rates[number]
                rate = check_rate(rate * values["lr_scale"], "lr times lr_scale", self._owner)
                for count in {counts[row] for row in rows} if self.counts else (0,):
                    chosen = [row for row in rows if counts[row] == count] if self.counts else rows
                    array[chosen] = self._row(values, rate, count + 1)
            self._array, self._made = array, made
        return self._array

    def _number(self, schedule: Schedule) -> int:
        """Number of a schedule among those in use; one object counts once."""
        for index, known in enumerate(self.schedules):
            if known is schedule:
                return index
        self.schedules.append(schedule)
        return len(self.schedules) - 1
