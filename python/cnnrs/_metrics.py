"""What a step measures, and the means of it over an epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Means", "Measured"]


class Measured(NamedTuple):
    """Measures of one batch.

    Attributes:
        loss: Its loss.
        correct: Rows guessed right; None if the loss has no labels.
        counted: Rows the loss is a mean of: all images, but for labels that are ignored.
    """

    loss: float
    correct: float | None
    counted: float

    @classmethod
    def of(cls, outputs: Sequence[float], images: int) -> Measured:
        """Read the outputs of a program on so many images: the loss, or loss, correct and counted rows."""
        return cls(outputs[0], outputs[1], outputs[2]) if len(outputs) > 1 else cls(outputs[0], None, float(images))

    def metrics(self) -> dict[str, float]:
        """Return "loss", and "accuracy" if there is one (NaN if no row counted)."""
        metrics = {"loss": self.loss}
        if self.correct is not None:
            metrics["accuracy"] = self.correct / self.counted if self.counted else math.nan
        return metrics


class Means:
    """Means over batches, each with the weight of its counted rows; a batch without any counts for nothing."""

    def __init__(self) -> None:
        self.images = 0
        self._loss = self._correct = self._counted = 0.0
        self._accurate = False

    def add(self, measured: Measured, images: int) -> None:
        """Take the measures of a batch in."""
        self.images += images
        if measured.counted:
            self._loss += measured.loss * measured.counted
            self._counted += measured.counted
        if measured.correct is not None:
            self._accurate = True
            self._correct += measured.correct

    def metrics(self) -> dict[str, float]:
        """Return "loss", and "accuracy" if it was measured; NaN if no row counted."""
        return Measured(self.loss, self._correct if self._accurate else None, self._counted).metrics()

    @property
    def loss(self) -> float:
        """The mean loss; NaN if no row counted."""
        return self._loss / self._counted if self._counted else math.nan
