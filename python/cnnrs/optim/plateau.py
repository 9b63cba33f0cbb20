"""The schedule that follows a metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cnnrs._args import integer
from cnnrs.optim._checks import check_rate
from cnnrs.optim.schedules import Schedule

__all__ = ["ReduceOnPlateau"]

_LEAST_CHANGE = 1e-8  # a decay smaller than this is not made, as in torch


@dataclass(frozen=True)
class ReduceOnPlateau(Schedule):
    """Multiply the rate by `factor` when a metric has not improved for more than `patience` epochs.

    After every epoch of `Trainer.fit`, in this order: a metric better than the best so far by more than `threshold`
    of it becomes the best, any other one (also NaN) makes the epoch a bad one; during `cooldown` epochs after a decay
    no epoch is a bad one; more than `patience` bad epochs in a row decay the rate, not below `min_lr`. Epochs are
    counted over all `fit` calls, from the first that the trainer makes with this schedule. Formula: torch
    `ReduceLROnPlateau` (relative threshold).

    Args:
        lr: First learning rate, finite and >= 0.
        factor: Factor of each decay, in [0, 1).
        patience: Bad epochs in a row that are let pass, >= 0.
        threshold: Part of the best value that counts as an improvement, finite and >= 0.
        cooldown: Epochs after a decay in which none is bad, >= 0.
        min_lr: Lowest rate, finite and >= 0.
        mode: "min", "max", or "auto": "max" if the name of the metric ends in "accuracy", else "min".
        monitor: Name of the metric, such as "val_loss", "val_accuracy", "loss". One that is not measured is a
            ValueError of `fit`.
    """

    lr: float
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    cooldown: int = 0
    min_lr: float = 0.0
    mode: str = "auto"
    monitor: str = "val_loss"

    def __post_init__(self) -> None:
        owner = "ReduceOnPlateau"
        for name in ("lr", "threshold", "min_lr"):
            check_rate(getattr(self, name), name, owner)
        check_rate(self.factor, "factor", owner, below=1.0)
        for name in ("patience", "cooldown"):
            integer(getattr(self, name), name, owner, 0, 2**31 - 1)
        if self.mode not in ("auto", "min", "max"):
            msg = f"{owner}: mode must be 'auto', 'min' or 'max', got {self.mode!r}"
            raise ValueError(msg)
        if not isinstance(self.monitor, str):
            msg = f"{owner}: monitor must be the name of a metric, got {self.monitor!r}"
            raise TypeError(msg)

    def value(self, step: int, total_steps: int | None = None, steps_per_epoch: int | None = None) -> float:
        """Return `lr`; the decays are in what `after` returns."""
        return float(self.lr)

    def after(self, metrics: Sequence[float]) -> ReduceOnPlateau:
        """Return the schedule with the rate after epochs that measured these values."""
        rate = float(self.lr)
        highest = self.mode == "max" or (self.mode == "auto" and self.monitor.endswith("accuracy"))
        best = -math.inf if highest else math.inf
        bad = resting = 0
        for metric in map(float, metrics):
            bad += 1
            if metric > best * (1.0 + self.threshold) if highest else metric < best * (1.0 - self.threshold):
                best, bad = metric, 0
            if resting:
                resting, bad = resting - 1, 0
            if bad > self.patience:
                lower = max(rate * self.factor, float(self.min_lr))
                rate = lower if rate - lower > _LEAST_CHANGE else rate
                resting, bad = self.cooldown, 0
        return replace(self, lr=rate)
