"""What training measured, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["History"]


class History(dict[str, list[Any]]):
    """A dictionary of equally long lists, one entry an epoch.

    Keys are `epoch` (numbers from 1), `loss` and `accuracy` (training, means over the images of the epoch),
    `val_loss` and `val_accuracy` where validation data was given; the accuracies where the loss has labels. An epoch
    that lacks a metric holds None there. Being a dictionary of lists of numbers it goes through `json` and `pickle`.
    """

    @property
    def epochs(self) -> list[int]:
        """Numbers of the epochs, from 1, as counted by the trainer over all its `fit` calls."""
        return list(self.get("epoch", []))

    def append(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Add one epoch.

        Args:
            epoch: Number of the epoch.
            metrics: Value of each metric.
        """
        before = len(self.get("epoch", []))
        row: dict[str, Any] = {"epoch": epoch, **metrics}
        for name in (*self, *(name for name in row if name not in self)):
            self.setdefault(name, [None] * before).append(row.get(name))

    def __repr__(self) -> str:
        """Return the last epoch in one line."""
        if not self.epochs:
            return "History(no epochs)"
        last = ", ".join(f"{name}={values[-1]!r}" for name, values in self.items())
        return f"History({len(self.epochs)} epochs, last: {last})"
