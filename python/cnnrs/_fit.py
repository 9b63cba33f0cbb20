"""The epochs of a `fit` call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from cnnrs._batches import require_images
from cnnrs._metrics import Means
from cnnrs._progress import Progress
from cnnrs.callbacks import Callback

if TYPE_CHECKING:
    from cnnrs.trainer import Trainer

__all__ = ["Run", "check_callbacks", "train_epoch"]


class Run:
    """Where a `fit` call stands, for schedules.

    Args:
        total_steps: Steps of the call; None if not known.
        steps_per_epoch: Steps of one of its epochs; None if not known.
    """

    __slots__ = ("step", "steps_per_epoch", "total_steps")

    def __init__(self, total_steps: int | None, steps_per_epoch: int | None) -> None:
        self.step = 0
        self.total_steps = total_steps
        self.steps_per_epoch = steps_per_epoch


def check_callbacks(callbacks: Iterable[Callback]) -> list[Callback]:
    """Return the callbacks as a list.

    Raises:
        TypeError: One is no `Callback`.
    """
    observers = list(callbacks)
    for observer in observers:
        if not isinstance(observer, Callback):
            msg = f"Trainer.fit: callbacks must be objects of classes derived from Callback, got {observer!r}"
            raise TypeError(msg)
    return observers


def train_epoch(
    trainer: Trainer, batches: Iterable[Any], run: Run, progress: Progress, observers: list[Callback]
) -> dict[str, float]:
    """Make the updates of one epoch; return its means."""
    means = Means()
    for done, (x, y) in enumerate(batches, start=1):
        measured = trainer._update(x, y, run)
        run.step += 1
        means.add(measured, len(x))
        progress.update(done, means.loss)
        for observer in observers:
            observer.on_batch_end(trainer, done, measured.metrics())
        if trainer._stop:
            break
    require_images(means.images, "Trainer.fit, train")
    return means.metrics()
