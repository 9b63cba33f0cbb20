"""What may happen while `Trainer.fit` runs: early stopping, log files, checkpoints, and your own."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnrs._args import integer
from cnnrs.optim._checks import check_rate

if TYPE_CHECKING:
    from cnnrs.trainer import Trainer

__all__ = ["CSVLogger", "Callback", "EarlyStopping", "ModelCheckpoint"]


class Callback:
    """Base class: every method does nothing. An exception raised in one ends `fit` and reaches its caller."""

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Run before the first epoch of a `fit` call."""

    def on_epoch_begin(self, trainer: Trainer, epoch: int) -> None:
        """Run before an epoch, numbered from 1 over all `fit` calls."""

    def on_batch_end(self, trainer: Trainer, batch: int, metrics: Mapping[str, float]) -> None:
        """Run after the update of batch number `batch` of the epoch (from 1), with its metrics.

        They are its "loss" and, where the loss has labels, its "accuracy".
        """

    def on_epoch_end(self, trainer: Trainer, epoch: int, metrics: Mapping[str, float]) -> None:
        """Run after an epoch and its validation; `trainer.stop()` makes it the last one."""

    def on_fit_end(self, trainer: Trainer) -> None:
        """Run after the last epoch, not after an exception."""


class EarlyStopping(Callback):
    """Stop when a metric has not improved for some epochs.

    Starts afresh with every `fit` call. A metric that is NaN has not improved.

    Args:
        monitor: Name of the metric, such as "val_loss", "val_accuracy", "loss".
        patience: Epochs without improvement after which training stops, >= 0; 0 stops at the first.
        min_delta: Smallest change that counts as improvement, finite and >= 0.
        mode: "min", "max", or "auto": "max" if the name ends in "accuracy", else "min".
        restore_best: Whether the model gets back the parameters of its best epoch when `fit` ends, stopped
            early or not. What the optimizer remembers is left as it is.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An argument out of range, or at the end of an epoch: the metric is not measured.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 0,
        min_delta: float = 0.0,
        mode: str = "auto",
        restore_best: bool = False,
    ) -> None:
        self.monitor = monitor
        self.patience = integer(patience, "patience", "EarlyStopping", 0, 2**31 - 1)
        self.min_delta = check_rate(min_delta, "min_delta", "EarlyStopping")
        self.restore_best = restore_best
        self.best_epoch: int | None = None
        self._best = _Best(monitor, mode, self.min_delta, "EarlyStopping")
        self._waited = 0
        self._state: dict[str, Any] | None = None

    @property
    def best(self) -> float | None:
        """Best value of the metric so far; None before the first."""
        return self._best.value

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Forget earlier calls."""
        self._best.value = self.best_epoch = self._state = None
        self._waited = 0

    def on_epoch_end(self, trainer: Trainer, epoch: int, metrics: Mapping[str, float]) -> None:
        """Compare the metric with the best one.

        Raises:
            ValueError: The metric is not measured.
        """
        if self._best.improved(metrics):
            self.best_epoch = epoch
            self._waited = 0
            if self.restore_best:
                self._state = trainer.model.state_dict(copy=True)
            return
        self._waited += 1
        if self._waited >= max(self.patience, 1):
            trainer.stop()

    def on_fit_end(self, trainer: Trainer) -> None:
        """Give the model its best parameters back, if asked to."""
        if self._state is not None:
            trainer.model.load_state_dict(self._state)
            self._state = None


class CSVLogger(Callback):
    """Write one row an epoch to a CSV file; each row is on disk when the epoch ends.

    The columns are "epoch" and the metrics of the first epoch written.

    Args:
        path: The file.
        append: Whether a `fit` call adds rows to an existing file; otherwise it starts a new one.

    Raises:
        OSError: The file cannot be written.
        ValueError: At the end of an epoch: the metrics are not those of the file's columns.
    """

    def __init__(self, path: str | os.PathLike[str], append: bool = False) -> None:
        self.path = Path(path)
        self.append = append

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Start an empty file unless rows are appended; find out early that it cannot be written."""
        with self.path.open("a" if self.append else "w", encoding="utf-8"):
            pass

    def on_epoch_end(self, trainer: Trainer, epoch: int, metrics: Mapping[str, float]) -> None:
        """Write the row of the epoch, after a header if the file is empty.

        Raises:
            ValueError: The file has other columns.
        """
        columns = ["epoch", *metrics]
        with self.path.open("r+", encoding="utf-8", newline="") as file:
            header = next(csv.reader(file), [])
            if header and header != columns:
                found, expected = ", ".join(header), ", ".join(columns)
                msg = f"CSVLogger: expected the columns {expected} in {self.path}, got {found}"
                raise ValueError(msg)
            file.seek(0, os.SEEK_END)
            writer = csv.writer(file, lineterminator="\n")
            if not header:
                writer.writerow(columns)
            writer.writerow([epoch, *metrics.values()])
            file.flush()
            os.fsync(file.fileno())


class ModelCheckpoint(Callback):
    """Save the model's weights after epochs, with `model.save`; a file is replaced whole or not at all.

    Args:
        path: The file; may hold format fields of the epoch and its metrics, such as
            "lenet-{epoch:03d}-{val_loss:.2f}.safetensors".
        monitor: Metric that decides what is best.
        save_best_only: Whether only epochs that improve `monitor` on all before them are saved, over all `fit`
            calls that use this object.
        mode: "min", "max", or "auto": "max" if the name ends in "accuracy", else "min".

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An unknown mode, or at the end of an epoch: a metric is not measured, or the path is no format.
        OSError: At the end of an epoch: the file cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        monitor: str = "val_loss",
        save_best_only: bool = False,
        mode: str = "auto",
    ) -> None:
        self.path = os.fspath(path)
        self.monitor = monitor
        self.save_best_only = save_best_only
        self.last_path: str | None = None
        self._best = _Best(monitor, mode, 0.0, "ModelCheckpoint")

    @property
    def best(self) -> float | None:
        """Best value of the metric so far; None before the first, or if every epoch is saved."""
        return self._best.value

    def on_epoch_end(self, trainer: Trainer, epoch: int, metrics: Mapping[str, float]) -> None:
        """Save the model if the epoch is to be saved.

        Raises:
            ValueError: A metric is not measured, or the path is no format.
        """
        if self.save_best_only and not self._best.improved(metrics):
            return
        try:
            path = self.path.format(epoch=epoch, **metrics)
        except (KeyError, IndexError, AttributeError, ValueError) as error:
            known = ", ".join(("epoch", *metrics))
            msg = f"ModelCheckpoint: path {self.path!r} cannot be filled in, its fields may be {known} ({error!r})"
            raise ValueError(msg) from None
        trainer.model.save(path)
        self.last_path = path


class _Best:
    """The best value of a metric and the rule that finds it."""

    def __init__(self, monitor: str, mode: str, min_delta: float, owner: str) -> None:
        if not isinstance(monitor, str):
            msg = f"{owner}: monitor must be the name of a metric, got {monitor!r}"
            raise TypeError(msg)
        if mode not in ("auto", "min", "max"):
            msg = f"{owner}: mode must be 'auto', 'min' or 'max', got {mode!r}"
            raise ValueError(msg)
        self.monitor = monitor
        self.owner = owner
        self.min_delta = min_delta
        self.sign = -1.0 if mode == "max" or (mode == "auto" and monitor.endswith("accuracy")) else 1.0
        self.value: float | None = None

    def improved(self, metrics: Mapping[str, float]) -> bool:
        """Take the metric of an epoch in; return whether it is the best so far."""
        if self.monitor not in metrics:
            hint = "; val_ metrics need validation data" if self.monitor.startswith("val_") else ""
            msg = f"{self.owner}: monitor {self.monitor!r} is not measured, there are {', '.join(metrics)}{hint}"
            raise ValueError(msg)
        value = float(metrics[self.monitor])
        if math.isnan(value):
            return False
        if self.value is None or self.sign * value < self.sign * self.value - self.min_delta:
            self.value = value
            return True
        return False
