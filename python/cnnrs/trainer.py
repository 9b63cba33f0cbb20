"""Training: fit, step, gradients and apply, evaluate, predict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnrs._args import integer, whole
from cnnrs._batches import Batches, check_batch, images_of, read_data, require_images
from cnnrs._core import UnsupportedError
from cnnrs._programs import Call, Programs
from cnnrs._progress import Progress
from cnnrs.callbacks import Callback
from cnnrs.history import History
from cnnrs.nn.module import Module
from cnnrs.optim.sgd import SGD, HyperTable

__all__ = ["Trainer"]

_SEED_MAX = 2**64 - 1
_LATER_LOSSES = ("mse_loss", "binary_cross_entropy_with_logits")


class Trainer:
    """Trains a model: one native call a step runs forward, loss, backward and the optimizer's update.

    Every part of the model trains, except those on which `eval()` or `freeze()` was called; freezing may change
    between steps, a frozen parameter keeps its momentum. `evaluate` and `predict` run in evaluation mode and
    change nothing.

    Images are (N, ...) arrays: uint8 (scaled with the model's `input_mean` and `input_std`), float32 (taken as
    they are), float16 or float64 (converted once). Labels are (N,) arrays of any integer dtype. The loss is the
    mean of `-log softmax(logits)[label]` over the images of the batch.

    A step is atomic: input that does not fit raises before anything is written, and so does Ctrl-C.

    Other threads may call the model meanwhile; they see it between two steps. A call inside a running step of the
    same thread (from a signal handler) cannot wait for its end and raises RuntimeError. A child that is forked while
    another thread is inside a step does not wait either: its copy of the parameters is free at once, and where the
    step was writing, some of them are updated and some are not. Load weights there, or fork between steps.

    Args:
        model: The model. It may not gain or lose parameters afterwards.
        optimizer: Hyperparameters; later changes of its attributes hold from the next step on.
        loss: "cross_entropy".
        seed: Seed of the shuffling, 0 to 2**64 - 1.

    Raises:
        TypeError: `model`, `optimizer` or `seed` is of another type.
        ValueError: An unknown loss, or a group of the optimizer that matches no parameter.
        UnsupportedError: A loss that this version does not have.
    """

    model: Module
    """The model that is trained."""
    optimizer: SGD
    """The hyperparameters."""
    epoch: int
    """Epochs finished, over all `fit` calls."""
    updates: int
    """Updates made, by `fit`, `step` and `apply`."""
    history: History
    """Metrics of all epochs so far, over all `fit` calls."""

    def __init__(
        self,
        model: Module,
        optimizer: SGD,
        loss: str | Callable[..., Any] = "cross_entropy",
        seed: int = 0,
    ) -> None:
        if not isinstance(model, Module):
            msg = f"Trainer: model must be an nn.Module, got {type(model).__name__}"
            raise TypeError(msg)
        if not isinstance(optimizer, SGD):
            msg = f"Trainer: optimizer must be an optim.SGD, got {type(optimizer).__name__}"
            raise TypeError(msg)
        self.model = model
        self.optimizer = optimizer
        self.loss = _check_loss(loss)
        self.seed = integer(seed, "seed", "Trainer", 0, _SEED_MAX)
        self.epoch = 0
        self.updates = 0
        self.history = History()
        self._programs = Programs(model)
        self._table_key: tuple[Any, ...] = ()
        self._stop = False
        self._table = self._refresh()

    def fit(
        self,
        train: Any,
        validation: Any = None,
        epochs: int = 1,
        batch_size: int = 64,
        callbacks: Iterable[Callback] = (),
        shuffle: bool = True,
        verbose: bool | None = None,
    ) -> History:
        """Train for some epochs and return what they measured.

        A repeated call goes on with the epoch counter and the momentum; schedules without a length of their own
        start again. Training loss and accuracy are means over the images of the epoch, taken while it runs.
        Interrupted by Ctrl-C or any other exception, the model keeps the state after the last whole step, and
        `history` of the trainer the epochs that were finished.

        Args:
            train: Dataset, (x, y) pair of arrays, or re-iterable of (x, y) batches.
            validation: The same, evaluated after every epoch; None for no validation.
            epochs: Number of epochs, >= 1.
            batch_size: Images in a batch, >= 1; the last batch of an epoch may be smaller. Batches that come
                from an iterable keep their own sizes.
            callbacks: Called in the order given.
            shuffle: Whether arrays get a new order in each epoch, fixed by the seed and the epoch's number.
            verbose: False for silence; otherwise a bar if standard error is a terminal, a line an epoch if not.

        Returns:
            One entry for each epoch of this call: "epoch", "loss", "accuracy", and with validation data
            "val_loss" and "val_accuracy".

        Raises:
            TypeError: Data of another type or dtype.
            ShapeError: Images that do not fit the model, or labels that do not fit the images.
            ValueError: No images, labels out of range, or a number out of range.
        """
        epochs = whole(epochs, "epochs", "Trainer.fit")
        batch_size = whole(batch_size, "batch_size", "Trainer.fit")
        observers = _check_callbacks(callbacks)
        data = read_data(train, "Trainer.fit, train", again=True)
        held_out = None if validation is None else read_data(validation, "Trainer.fit, validation", again=True)
        history = History()
        progress = Progress(self.epoch + epochs, verbose)
        self._stop = False
        steps = data.steps(batch_size)
        run = _Run(None if steps is None else steps * epochs, steps)
        try:
            for observer in observers:
                observer.on_fit_begin(self)
            for _ in range(epochs):
                number = self.epoch + 1
                for observer in observers:
                    observer.on_epoch_begin(self, number)
                progress.begin_epoch(number, steps)
                batches = data.batches(batch_size, (self.seed, number) if shuffle else None)
                metrics = self._train_epoch(batches, run, progress, observers)
                self.epoch = number
                if held_out is not None:
                    measured = self._evaluate(held_out, batch_size, "Trainer.fit, validation")
                    metrics |= {f"val_{name}": value for name, value in measured.items()}
                history.append(number, metrics)
                self.history.append(number, metrics)
                progress.end_epoch(metrics)
                for observer in observers:
                    observer.on_epoch_end(self, number, dict(metrics))
                if self._stop:
                    break
            for observer in observers:
                observer.on_fit_end(self)
        finally:
            progress.close()
        return history

    def stop(self) -> None:
        """End the running `fit` call, after the batch if called from `on_batch_end`, else after the epoch.

        The epoch is finished with what it has measured: validation and the callbacks still run.
        """
        self._stop = True

    def step(self, x: NDArray[Any], y: NDArray[Any]) -> float:
        """Make one update from one batch.

        Args:
            x: Images (N, ...), N >= 1.
            y: Labels (N,).

        Returns:
            The loss before the update.

        Raises:
            TypeError: Arrays of a wrong dtype.
            ShapeError: Images that do not fit the model, or labels that do not fit the images.
            ValueError: An empty batch, labels out of range, a schedule without a length (give its
                `total_steps=`), all parameters frozen, or a model whose parameters changed.
        """
        images, labels = check_batch(x, y, "Trainer.step")
        return self._update(images, labels, None)[0]

    def gradients(self, x: NDArray[Any], y: NDArray[Any]) -> tuple[float, dict[str, NDArray[np.float32]]]:
        """Return the loss of one batch and its gradients, in training mode, without an update.

        Args:
            x: Images (N, ...), N >= 1.
            y: Labels (N,).

        Returns:
            The loss, and a float32 array of the parameter's shape for the name of every parameter that is not
            frozen. A parameter that the loss does not depend on has a gradient of zeros.

        Raises:
            TypeError: Arrays of a wrong dtype.
            ShapeError: Images that do not fit the model, or labels that do not fit the images.
            ValueError: An empty batch, labels out of range, all parameters frozen, or a model whose parameters
                changed.
        """
        images, labels = check_batch(x, y, "Trainer.gradients")
        require_images(len(images), "Trainer.gradients")
        self._refresh()
        self._programs.require_trainable()
        loss, *arrays = self._programs.gradients(images)(images, labels)
        return loss, dict(zip(self._programs.trainable, arrays, strict=True))

    def apply(self, grads: Mapping[str, NDArray[np.float32]]) -> None:
        """Make one update from gradients, such as those of `gradients`, clipped or summed.

        Args:
            grads: A float32 array of the parameter's shape for the name of every parameter that is not frozen.

        Raises:
            TypeError: Not a mapping, or a gradient that is not a float32 array.
            ShapeError: A gradient of another shape than its parameter.
            ValueError: A name too many or too few, all parameters frozen, or a schedule without a length.
        """
        table = self._refresh()
        arrays = self._programs.check_gradients(grads)
        hyper = table.at(self.updates, None, None, None)
        self._run(self._programs.apply(self.optimizer.nesterov), hyper, *arrays)

    def evaluate(self, data: Any, batch_size: int = 64) -> dict[str, float]:
        """Measure loss and accuracy in evaluation mode.

        Args:
            data: Dataset, (x, y) pair of arrays, or iterable of (x, y) batches.
            batch_size: Images in a batch cut from arrays, >= 1.

        Returns:
            "loss" and "accuracy" (in [0, 1]), means over all images.

        Raises:
            TypeError: Data of another type or dtype.
            ShapeError: Images that do not fit the model, or labels that do not fit the images.
            ValueError: No images, or labels out of range.
        """
        batch_size = whole(batch_size, "batch_size", "Trainer.evaluate")
        return self._evaluate(read_data(data, "Trainer.evaluate"), batch_size, "Trainer.evaluate")

    def predict(self, x: Any, batch_size: int = 64) -> NDArray[np.float32]:
        """Return the logits of images, in evaluation mode.

        Args:
            x: Images (N, ...), a Dataset, an (x, y) pair, or an iterable of (x, y) batches; labels are not used.
            batch_size: Images in a batch cut from an array, >= 1.

        Returns:
            Logits (N, classes).

        Raises:
            TypeError: Data of another type or dtype.
            ShapeError: Images that do not fit the model.
            ValueError: An iterable without batches.
        """
        batch_size = whole(batch_size, "batch_size", "Trainer.predict")
        self._refresh()
        logits = [self.model(images) for images in images_of(x, batch_size, "Trainer.predict")]
        if not logits:
            msg = "Trainer.predict: x must hold at least one batch, got none"
            raise ValueError(msg)
        return logits[0] if len(logits) == 1 else np.concatenate(logits)

    def _refresh(self) -> HyperTable:
        """Follow changes of the model's structure and of the optimizer; return the table for the next update."""
        programs, optimizer = self._programs, self.optimizer
        programs.sync()
        key = (programs.epoch, optimizer, optimizer.version)
        if key != self._table_key:
            self._table = HyperTable(optimizer, programs.names, list(programs.trainable))
            self._table_key = key
        return self._table

    def _update(self, x: NDArray[Any], y: NDArray[np.int64], run: _Run | None) -> tuple[float, float]:
        """Make one update from a checked batch; return its loss and the number of images that were right."""
        require_images(len(x), "Trainer.step")
        table = self._refresh()
        self._programs.require_trainable()
        if run is None:
            hyper = table.at(self.updates, None, None, None)
        else:
            hyper = table.at(self.updates, run.step, run.total_steps, run.steps_per_epoch)
        loss, correct = self._run(self._programs.step(x, self.optimizer.nesterov), x, y, hyper)
        return loss, correct

    def _run(self, program: Call, *arrays: NDArray[Any]) -> list[Any]:
        """Run an update and count it, also where Ctrl-C arrived while it was writing: it was finished then."""
        written = self._programs.written()
        before = written.version
        try:
            return program(*arrays)
        finally:
            self.updates += written.version != before  # no call in this line: an interrupt cannot split it

    def _train_epoch(
        self, batches: Iterable[Any], run: _Run, progress: Progress, observers: list[Callback]
    ) -> dict[str, float]:
        """Make the updates of one epoch; return its means."""
        seen = 0
        total_loss = total_correct = 0.0
        for done, (x, y) in enumerate(batches, start=1):
            loss, correct = self._update(x, y, run)
            run.step += 1
            seen += len(x)
            total_loss += loss * len(x)
            total_correct += correct
            progress.update(done, total_loss / seen)
            for observer in observers:
                observer.on_batch_end(self, done, {"loss": loss, "accuracy": correct / len(x)})
            if self._stop:
                break
        require_images(seen, "Trainer.fit, train")
        return {"loss": total_loss / seen, "accuracy": total_correct / seen}

    def _evaluate(self, data: Batches, batch_size: int, op: str) -> dict[str, float]:
        self._refresh()
        seen = 0
        total_loss = total_correct = 0.0
        for x, y in data.batches(batch_size):
            if len(x):
                loss, correct = self._programs.evaluate(x)(x, y)
                seen += len(x)
                total_loss += loss * len(x)
                total_correct += correct
        require_images(seen, op)
        return {"loss": total_loss / seen, "accuracy": total_correct / seen}


class _Run:
    """Where a `fit` call stands, for schedules."""

    __slots__ = ("step", "steps_per_epoch", "total_steps")

    def __init__(self, total_steps: int | None, steps_per_epoch: int | None) -> None:
        self.step = 0
        self.total_steps = total_steps
        self.steps_per_epoch = steps_per_epoch


def _check_loss(loss: object) -> str:
    if loss == "cross_entropy":
        return "cross_entropy"
    if callable(loss) or loss in _LATER_LOSSES:
        msg = f"Trainer: loss {loss!r} is not supported in this version, use 'cross_entropy'"
        raise UnsupportedError(msg)
    if not isinstance(loss, str):
        msg = f"Trainer: loss must be a name, got {type(loss).__name__}"
        raise TypeError(msg)
    msg = f"Trainer: loss must be 'cross_entropy', got {loss!r}"
    raise ValueError(msg)


def _check_callbacks(callbacks: Iterable[Callback]) -> list[Callback]:
    observers = list(callbacks)
    for observer in observers:
        if not isinstance(observer, Callback):
            msg = f"Trainer.fit: callbacks must be objects of classes derived from Callback, got {observer!r}"
            raise TypeError(msg)
    return observers
