"""Learning-rate schedules: pure functions of the step, standing where the number stood.

Every schedule is an immutable value with one method, `value(step, total_steps, steps_per_epoch)`.

Inside `Trainer.fit` steps are counted from the first step of that call, `total_steps` is the number of
steps the call will make (epochs times batches) and `steps_per_epoch` the number of batches. A schedule
therefore runs over one `fit` call and starts again in the next one.

A schedule that was given `total_steps=` runs over that many updates of the trainer instead, whoever makes
them: several `fit` calls, `Trainer.step`, `Trainer.apply`. Steps are then counted from the trainer's first
update. Past its end every schedule stays at its last value.

Updates made by hand, outside `fit`, know no length: the step is the trainer's number of updates so far,
`total_steps` and `steps_per_epoch` are None. `Constant` needs neither, `Step`, `MultiStep` and `Exponential` then
count steps instead of epochs, and `Cosine`, `OneCycle` without `total_steps=` raise ValueError.

A schedule that follows a metric (`ReduceOnPlateau`) is a pure function too: of the metric's values at the ends of
the epochs since the trainer first saw the schedule, over all `fit` calls. `after` gives the schedule as those
values leave it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cnnrs._args import whole
from cnnrs.optim._checks import check_rate

__all__ = ["Constant", "Cosine", "Exponential", "MultiStep", "OneCycle", "Schedule", "Step", "Warmup"]


class Schedule(ABC):
    """A learning rate that depends on the step; derive from it to write your own."""

    @abstractmethod
    def value(self, step: int, total_steps: int | None = None, steps_per_epoch: int | None = None) -> float:
        """Return the learning rate of one update.

        Args:
            step: Number of updates made before this one, from 0.
            total_steps: Length of the run in updates; None if it is not known.
            steps_per_epoch: Updates in one epoch; None if it is not known.

        Raises:
            ValueError: A length the formula needs is not known.
        """

    @property
    def own_length(self) -> bool:
        """Whether the schedule brings its own `total_steps` and so counts all updates of the trainer."""
        return False

    @property
    def monitor(self) -> str | None:
        """Name of the metric the schedule follows, None if it follows none."""
        return None

    def after(self, metrics: Sequence[float]) -> Schedule:
        """Return the schedule as these values of the metric it follows, one an epoch, leave it."""
        return self


@dataclass(frozen=True)
class Constant(Schedule):
    """The same learning rate at every step.

    Args:
        lr: Learning rate, finite and >= 0.
    """

    lr: float

    def __post_init__(self) -> None:
        check_rate(self.lr, "lr", "Constant")

    def value(self, step: int, total_steps: int | None = None, steps_per_epoch: int | None = None) -> float:
        """Return `lr`."""
        return float(self.lr)


@dataclass(frozen=True)
class Step(Schedule):
    """Multiply the rate by `gamma` every `step_size` epochs: `lr * gamma ** (epoch // step_size)`.

    `epoch = step // steps_per_epoch`. Where `steps_per_epoch` is not known (updates made by hand)
    `step_size` counts steps, as torch's `StepLR` counts calls. Formula: torch `StepLR`.

    Args:
        lr: First learning rate, finite and >= 0.
        step_size: Epochs between two decays, >= 1.
        gamma: Factor of each decay, finite and >= 0.
    """

    lr: float
    step_size: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        check_rate(self.lr, "lr", "Step")
        whole(self.step_size, "step_size", "Step")
        check_rate(self.gamma, "gamma", "Step")

    def value(self, step: int, total_steps: int | None = None, steps_per_epoch: int | None = None) -> float:
        """Return the rate after `step // steps_per_epoch` epochs."""
        return _decayed(self.lr, self.gamma, _epoch(step, steps_per_epoch) // self.step_size)


@dataclass(frozen=True)
class MultiStep(Schedule):
    """Multiply the rate by `gamma` at each milestone: `lr * gamma ** (number of milestones <= epoch)`.

    `epoch = step // steps_per_epoch`. Where `steps_per_epoch` is not known (updates made by hand) milestones count
    steps. Formula: torch `MultiStepLR`.

    Args:
        lr: First learning rate, finite and >= 0.
        milestones: Epochs of the decays, each >= 1, in any order; one given twice decays twice.
        gamma: Factor of each decay, finite and >= 0.
    """

    lr: float
    milestones: Sequence[int]
    gamma: float = 0.1

    def __post_init__(self) -> None:
        check_rate(self.lr, "lr", "MultiStep")
        if not isinstance(self.milestones, Sequence) or isinstance(self.milestones, str):
            msg = f"MultiStep: milestones must be a sequence of epochs, got {self.milestones!r}"
            raise TypeError(msg)
        milestones = sorted(whole(milestone, "milestones", "MultiStep") for milestone in self.milestones)
        object.__setattr__(self, "milestones", tuple(milestones))
        check_rate(self.gamma, "gamma", "MultiStep")

    def value(self, step: int, total_steps: int | None = None, steps_per_epoch: int | None = None) -> float:
        """Return the rate after `step // steps_per_epoch` epochs."""
        return _decayed(self.lr, self.gamma, bisect_right(self.milestones, _epoch(step, steps_per_epoch)))


@dataclass(frozen=True)
class Exponential(Schedule):
    """Multiply the rate by `gamma` every epoch: `lr * gamma ** epoch`.

    `epoch = step // steps_per_epoch`. Where `steps_per_epoch` is not known (updates made by hand) every step counts
    as one. Formula: torch `ExponentialLR`.

    Args:
        lr: First learning rate, finite and >= 0.
        gamma: Factor of each decay, finite and >= 0.
    """

    lr: float
    gamma: float

    def __post_init__(self) -> None:
        check_rate(self.lr, "lr", "Exponential")
        check_rate(self.gamma, "gamma", "Exponential")

    def value(self, step: int, total_steps: int | None = None, steps_per_epoch: int | None = None) -> float:
        """Return the rate after `step // steps_per_epoch` epochs."""
        return _decayed(self.lr, self.gamma, _epoch(step, steps_per_epoch))


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from `lr` down to `min_lr`, changed at every step.

    `min_lr + (lr - min_lr) * (1 + cos(pi * step / total_steps)) / 2`; `min_lr` is reached at step
    `total_steps`, one past the last. Formula: torch `CosineAnnealingLR` (closed form, one call per step).

    Args:
        lr: First learning rate, finite and >= 0.
        min_lr: Rate at the end, finite and >= 0.
        total_steps: Length in updates of the trainer; None: the length of the `fit` call.
    """

    lr: float
    min_lr: float = 0.0
    total_steps: int | None = None

    def __post_init__(self) -> None:
        check_rate(self.lr, "lr", "Cosine")
        check_rate(self.min_lr, "min_lr", "Cosine")
        if self.total_steps is not None:
            whole(self.total_steps, "total_steps", "Cosine")

    @property
    def own_length(self) -> bool:
        """Whether `total_steps` was given."""
        return self.total_steps is not None

    def value(self, step: int, total_steps: int | None = None, steps_per_epoch: int | None = None) -> float:
        """Return the rate at `step`.

        Raises:
            ValueError: The length is not known.
        """
        total = _length(self.total_steps, total_steps, "Cosine")
        return _anneal(float(self.lr), float(self.min_lr), min(step / total, 1.0))


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up from `max_lr / div_factor` to `max_lr`, then down to `max_lr / (div_factor * final_div_factor)`.

    Both legs are half cosines; the peak is at step `pct_start * total_steps - 1` and the last value at step
    `total_steps - 1`. Changed at every step; momentum is not cycled. Formula: torch `OneCycleLR`
    (`anneal_strategy="cos"`, two phases).

    Args:
        max_lr: Highest learning rate, finite and >= 0.
        pct_start: Part of the run spent going up, in [0, 1].
        div_factor: `max_lr` over the first rate, finite and > 0.
        final_div_factor: First rate over the last rate, finite and > 0.
        total_steps: Length in updates of the trainer; None: the length of the `fit` call.
    """

    max_lr: float
    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    total_steps: int | None = None

    def __post_init__(self) -> None:
        check_rate(self.max_lr, "max_lr", "OneCycle")
        check_rate(self.pct_start, "pct_start", "OneCycle", most=1.0)
        check_rate(self.div_factor, "div_factor", "OneCycle", positive=True)
        check_rate(self.final_div_factor, "final_div_factor", "OneCycle", positive=True)
        if self.total_steps is not None:
            whole(self.total_steps, "total_steps", "OneCycle")

    @property
    def own_length(self) -> bool:
        """Whether `total_steps` was given."""
        return self.total_steps is not None

    def value(self, step: int, total_steps: int | None = None, steps_per_epoch: int | None = None) -> float:
        """Return the rate at `step`.

        Raises:
            ValueError: The length is not known.
        """
        total = _length(self.total_steps, total_steps, "OneCycle")
        high = float(self.max_lr)
        low = high / self.div_factor
        peak, last = self.pct_start * total - 1.0, total - 1.0
        if step <= peak:
            return _anneal(low, high, step / peak) if peak > 0.0 else high
        done = (step - peak) / (last - peak) if last > peak else 1.0
        return _anneal(high, low / self.final_div_factor, min(done, 1.0))


@dataclass(frozen=True)
class Warmup(Schedule):
    """Rise linearly to another schedule's first value, then run that schedule over the steps that are left.

    For the first `n` steps (`n = steps`, or `epochs * steps_per_epoch`) the rate is
    `first * (start_factor + (1 - start_factor) * step / n)` where `first` is the schedule's value at its
    step 0. From step `n` on it is the schedule at `step - n`, with a length of `total_steps - n`.
    Formula: torch `SequentialLR([LinearLR, schedule], milestones=[n])`.

    Args:
        schedule: What follows the warm-up; a number stands for `Constant`.
        steps: Length of the warm-up in updates, >= 1. Give this or `epochs`.
        epochs: Length of the warm-up in epochs, >= 1.
        start_factor: Part of the first value to start from, in [0, 1].
    """

    schedule: Schedule | float
    steps: int | None = None
    epochs: int | None = None
    start_factor: float = 1.0 / 3.0

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, Schedule):
            object.__setattr__(self, "schedule", Constant(self.schedule))
        if (self.steps is None) == (self.epochs is None):
            msg = f"Warmup: expected one of steps and epochs, got steps={self.steps!r}, epochs={self.epochs!r}"
            raise ValueError(msg)
        name = "epochs" if self.steps is None else "steps"
        whole(self.epochs if self.steps is None else self.steps, name, "Warmup")
        check_rate(self.start_factor, "start_factor", "Warmup", most=1.0)

    @property
    def own_length(self) -> bool:
        """Whether the schedule that follows was given its `total_steps`."""
        return isinstance(self.schedule, Schedule) and self.schedule.own_length

    @property
    def monitor(self) -> str | None:
        """Name of the metric the schedule behind the warm-up follows."""
        return self.schedule.monitor if isinstance(self.schedule, Schedule) else None

    def after(self, metrics: Sequence[float]) -> Schedule:
        """Return the warm-up in front of the schedule as these values leave that."""
        schedule = self.schedule
        return self if not isinstance(schedule, Schedule) else replace(self, schedule=schedule.after(metrics))

    def value(self, step: int, total_steps: int | None = None, steps_per_epoch: int | None = None) -> float:
        """Return the rate at `step`.

        Raises:
            ValueError: `epochs` was given and the steps of an epoch are not known, or the schedule that
                follows needs a length that is not known.
        """
        schedule = self.schedule if isinstance(self.schedule, Schedule) else Constant(self.schedule)
        rise = self._rise(steps_per_epoch)
        left = None if total_steps is None else max(total_steps - rise, 1)
        if step >= rise:
            return schedule.value(step - rise, left, steps_per_epoch)
        factor = self.start_factor + (1.0 - self.start_factor) * step / rise
        return schedule.value(0, left, steps_per_epoch) * factor

    def _rise(self, steps_per_epoch: int | None) -> int:
        if self.steps is not None:
            return self.steps
        if steps_per_epoch is None or self.epochs is None:
            msg = "Warmup: the steps of an epoch are known only inside fit, for data with a length; give steps="
            raise ValueError(msg)
        return self.epochs * steps_per_epoch


def _epoch(step: int, steps_per_epoch: int | None) -> int:
    """Whole epochs before a step; every step is one where their length is not known."""
    return step // max(steps_per_epoch or 1, 1)


def _decayed(lr: float, gamma: float, times: int) -> float:
    try:
        return float(lr) * float(gamma) ** times
    except OverflowError:
        return math.inf


def _anneal(start: float, end: float, part: float) -> float:
    """Half a cosine from `start` (part 0) to `end` (part 1)."""
    return end + (start - end) * (1.0 + math.cos(math.pi * part)) / 2.0


def _length(own: int | None, given: int | None, name: str) -> int:
    total = given if own is None else own
    if total is None:
        msg = f"{name}: the length of the run is known only inside fit, for data with a length; give total_steps="
        raise ValueError(msg)
    return max(total, 1)
