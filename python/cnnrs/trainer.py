"""Training: fit, step, gradients and apply, evaluate, predict."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cnnrs._args import integer, whole
from cnnrs._batches import Batches, check_batch, images_of, read_data, require_images
from cnnrs._fit import Run, check_callbacks, train_epoch
from cnnrs._losses import Loss
from cnnrs._metrics import Means, Measured
from cnnrs._programs import Call, Programs, Recipe
from cnnrs._progress import Progress
from cnnrs._states import exchanged
from cnnrs.callbacks import Callback
from cnnrs.history import History
from cnnrs.nn.module import Module
from cnnrs.optim._checks import OptionalRate
from cnnrs.optim.following import Following, check_measured
from cnnrs.optim.optimizer import Optimizer
from cnnrs.optim.table import HyperTable, Moment

if TYPE_CHECKING:
    from cnnrs.profile import Profile

__all__ = ["Trainer"]

_SEED_MAX = 2**64 - 1


class Trainer:
    """Trains a model: one native call a step runs forward, loss, backward and the optimizer's update.

    Every part of the model trains, except those on which `eval()` or `freeze()` was called; freezing may change
    between steps, a frozen parameter keeps what the optimizer remembers of it. `evaluate` and `predict` run in
    evaluation mode and change nothing.

    In training mode batch normalization takes the statistics of the batch, and its running values and counters are
    written by the same native call. Dropout draws from Philox4x32-10: the key is `seed`, the counter holds the
    unit's number (its quarter), the number of updates made before, and a hash of the layer's path and of how many
    draws were made there before in the same pass. So a run repeats to the bit, on any number of threads.

    Images are (N, ...) arrays: uint8 (scaled with the model's `input_mean` and `input_std`), float32 (taken as
    they are), float16 or float64 (converted once). Targets are what the loss takes: (N,) arrays of any integer dtype
    for "cross_entropy", float arrays of the shape of the model's output for the other losses, either for a callable.

    A step is atomic: input that does not fit raises before anything is written, and so does Ctrl-C. The accuracy is
    measured where the loss takes a `cross_entropy` with the targets as labels.

    Other threads may call the model meanwhile; they see it between two steps. A call inside a running step of the
    same thread (from a signal handler) cannot wait for its end and raises RuntimeError. A child that is forked while
    another thread is inside a step does not wait either: its copy of the parameters is free at once, and where the
    step was writing, some of them are updated and some are not. Load weights there, or fork between steps.

    Args:
        model: The model. It may not gain or lose parameters afterwards.
        optimizer: Hyperparameters; later changes of its attributes hold from the next step on. Another optimizer may
            be assigned; one of another kind starts with nothing remembered.
        loss: "cross_entropy", "mse_loss", "l1_loss", "huber_loss", "binary_cross_entropy_with_logits", or a callable
            that takes the model's output and the targets as symbolic values and returns a value of shape (), such as
            `functools.partial(F.cross_entropy, label_smoothing=0.1)` or a function of your own. It is called once for
            each shape of a batch, not at every step.
        seed: Seed of the shuffling and of dropout, 0 to 2**64 - 1.
        clip_norm: Gradients are scaled down to this norm, all of them taken as one vector (torch's
            `clip_grad_norm_`), in `step`, `fit` and `apply`; `gradients` returns them as they are. Finite and > 0,
            None for no clipping. May be assigned between steps.
        clip_value: Every number of the gradients is brought into [-clip_value, clip_value], before their norm is
            taken. Finite and > 0, None for no clipping. May be assigned between steps.
        ema_decay: Keeps exponential moving averages of all parameters and running statistics: after the first update
            they are the values, after every later one `ema_decay * average + (1 - ema_decay) * value` (torch's
            `get_ema_multi_avg_fn`). In [0, 1), None for no averages. May be assigned between steps.

    Raises:
        TypeError: `model`, `optimizer`, `loss` or a number is of another type.
        ValueError: An unknown loss, a number out of range, or a group of the optimizer that matches no parameter.
    """

    model: Module
    """The model that is trained."""
    epoch: int
    """Epochs finished, over all `fit` calls."""
    updates: int
    """Updates made, by `fit`, `step` and `apply`."""
    history: History
    """Metrics of all epochs so far, over all `fit` calls."""
    clip_norm = OptionalRate("Norm that gradients are scaled down to.", positive=True)
    clip_value = OptionalRate("Largest absolute value that gradients keep.", positive=True)
    ema_decay = OptionalRate("Weight of the old values in the averages of the parameters.", below=1.0)

    def __init__(
        self,
        model: Module,
        optimizer: Optimizer,
        loss: str | Callable[..., Any] = "cross_entropy",
        seed: int = 0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        ema_decay: float | None = None,
    ) -> None:
        if not isinstance(model, Module):
            msg = f"Trainer: model must be an nn.Module, got {type(model).__name__}"
            raise TypeError(msg)
        self.model = model
        self.optimizer = optimizer
        self.seed = integer(seed, "seed", "Trainer", 0, _SEED_MAX)
        self.epoch = 0
        self.updates = 0
        self.history = History()
        self._loss = Loss(loss)
        self._programs = Programs(model, self._loss)
        self.clip_norm = clip_norm
        self.clip_value = clip_value
        self.ema_decay = ema_decay
        self._table_key: tuple[Any, ...] = ()
        self._following = Following(self.history)
        self._swapped = False
        self._stop = False
        self._table = self._refresh()

    @property
    def optimizer(self) -> Optimizer:
        """The hyperparameters."""
        return self._optimizer

    @optimizer.setter
    def optimizer(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            msg = f"Trainer: optimizer must be an optimizer of cnnrs.optim, got {type(optimizer).__name__}"
            raise TypeError(msg)
        self._optimizer = optimizer

    @property
    def loss(self) -> str | Callable[..., Any]:
        """What is minimised, as it was given."""
        return self._loss.given

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

        A repeated call goes on with the epoch counter and what the optimizer remembers; schedules without a length
        of their own start again. Training loss and accuracy are means over the images of the epoch, taken while it
        runs.
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
            "val_loss" and "val_accuracy"; the accuracies where they are measured.

        Raises:
            TypeError: Data of another type or dtype.
            ShapeError: Images that do not fit the model, or targets that do not fit the images.
            ValueError: No images, labels out of range, a number out of range, or a schedule that follows a metric
                which is not measured.
        """
        epochs = whole(epochs, "epochs", "Trainer.fit")
        batch_size = whole(batch_size, "batch_size", "Trainer.fit")
        observers = check_callbacks(callbacks)
        check = self._loss.check
        data = read_data(train, "Trainer.fit, train", check, again=True)
        held_out = None if validation is None else read_data(validation, "Trainer.fit, validation", check, again=True)
        history = History()
        progress = Progress(self.epoch + epochs, verbose)
        self._stop = False
        steps = data.steps(batch_size)
        run = Run(None if steps is None else steps * epochs, steps)
        try:
            for observer in observers:
                observer.on_fit_begin(self)
            for _ in range(epochs):
                number = self.epoch + 1
                for observer in observers:
                    observer.on_epoch_begin(self, number)
                progress.begin_epoch(number, steps)
                batches = data.batches(batch_size, (self.seed, number) if shuffle else None)
                metrics = train_epoch(self, batches, run, progress, observers)
                self.epoch = number
                if held_out is not None:
                    measured = self._evaluate(held_out, batch_size, "Trainer.fit, validation")
                    metrics |= {f"val_{name}": value for name, value in measured.items()}
                history.append(number, metrics)
                self.history.append(number, metrics)
                progress.end_epoch(metrics)
                check_measured(self._table.schedules, metrics)
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
            y: Targets (N, ...).

        Returns:
            The loss before the update.

        Raises:
            TypeError: Arrays of a wrong dtype.
            ShapeError: Images that do not fit the model, or targets that do not fit the images.
            ValueError: An empty batch, labels out of range, a schedule without a length (give its
                `total_steps=`), all parameters frozen, averages in the place of the weights, or a model whose
                parameters changed.
        """
        images, targets = check_batch(x, y, "Trainer.step", self._loss.check)
        return self._update(images, targets, None).loss

    def gradients(self, x: NDArray[Any], y: NDArray[Any]) -> tuple[float, dict[str, NDArray[np.float32]]]:
        """Return the loss of one batch and its gradients, in training mode, without an update.

        Running statistics of batch normalization follow the batch all the same. Dropout draws what the next `step`
        would draw, so that `apply` of these gradients is that step.

        Args:
            x: Images (N, ...), N >= 1.
            y: Targets (N, ...).

        Returns:
            The loss, and a float32 array of the parameter's shape for the name of every parameter that is not
            frozen. A parameter that the loss does not depend on has a gradient of zeros.

        Raises:
            TypeError: Arrays of a wrong dtype.
            ShapeError: Images that do not fit the model, or targets that do not fit the images.
            ValueError: An empty batch, labels out of range, all parameters frozen, or a model whose parameters
                changed.
        """
        images, targets = check_batch(x, y, "Trainer.gradients", self._loss.check)
        require_images(len(images), "Trainer.gradients")
        self._programs.sync()
        self._programs.require_trainable()
        loss, *arrays = self._programs.gradients(images, targets)(images, targets, key=self._key())
        return loss, dict(zip(self._programs.trainable, arrays, strict=True))

    def apply(self, grads: Mapping[str, NDArray[np.float32]]) -> None:
        """Make one update from gradients, such as those of `gradients`, summed or changed.

        Args:
            grads: A float32 array of the parameter's shape for the name of every parameter that is not frozen.

        Raises:
            TypeError: Not a mapping, or a gradient that is not a float32 array.
            ShapeError: A gradient of another shape than its parameter.
            ValueError: A name too many or too few, all parameters frozen, averages in the place of the weights, or
                a schedule without a length.
        """
        self._require_weights("Trainer.apply")
        self._refresh()
        arrays = self._programs.check_gradients(grads)
        recipe = self._recipe()
        self._run(self._programs.apply(recipe), recipe, *arrays, *self._numbers(Moment(self.updates)))

    def evaluate(self, data: Any, batch_size: int = 64) -> dict[str, float]:
        """Measure loss and, where the targets are labels, accuracy in evaluation mode.

        Args:
            data: Dataset, (x, y) pair of arrays, or iterable of (x, y) batches.
            batch_size: Images in a batch cut from arrays, >= 1.

        Returns:
            "loss" and "accuracy" (in [0, 1]), means over all images; of batches with class weights or ignored
            labels each mean counts as often as the batch has labels that are not ignored.

        Raises:
            TypeError: Data of another type or dtype.
            ShapeError: Images that do not fit the model, or targets that do not fit the images.
            ValueError: No images, or labels out of range.
        """
        batch_size = whole(batch_size, "batch_size", "Trainer.evaluate")
        return self._evaluate(read_data(data, "Trainer.evaluate", self._loss.check), batch_size, "Trainer.evaluate")

    def predict(self, x: Any, batch_size: int = 64) -> NDArray[np.float32]:
        """Return the logits of images, in evaluation mode.

        Args:
            x: Images (N, ...), a Dataset, an (x, y) pair, or an iterable of (x, y) batches; targets are not used.
            batch_size: Images in a batch cut from an array, >= 1.

        Returns:
            Logits (N, classes).

        Raises:
            TypeError: Data of another type or dtype.
            ShapeError: Images that do not fit the model.
            ValueError: An iterable without batches.
        """
        batch_size = whole(batch_size, "batch_size", "Trainer.predict")
        self._programs.sync()
        logits = [self.model(images) for images in images_of(x, batch_size, "Trainer.predict")]
        if not logits:
            msg = "Trainer.predict: x must hold at least one batch, got none"
            raise ValueError(msg)
        return logits[0] if len(logits) == 1 else np.concatenate(logits)

    def profile(self, x: NDArray[Any], y: NDArray[Any], repeats: int = 10) -> Profile:
        """Measure where the time of a step goes; print the result.

        The steps are made on a copy of the model, with fresh states of the optimizer: nothing of this trainer changes.

        Args:
            x: Images (N, ...), N >= 1.
            y: Targets (N, ...).
            repeats: Steps to measure, >= 1, after a first one.

        Returns:
            A table as that of `Module.profile`; a layer's gradients stand under the layer's name.

        Raises:
            TypeError: Arrays of a wrong dtype.
            ShapeError: Images that do not fit the model, or targets that do not fit the images.
            ValueError: As for `step`, or a number out of range.
        """
        from cnnrs.profile import measure

        repeats = whole(repeats, "repeats", "Trainer.profile")
        images, targets = check_batch(x, y, "Trainer.profile", self._loss.check)
        options = (self.seed, self.clip_norm, self.clip_value, self.ema_decay)
        other = Trainer(copy.deepcopy(self.model), self.optimizer, self.loss, *options)
        return measure(lambda: other._update(images, targets, Run(1, 1)), repeats)

    def ema_state_dict(self) -> dict[str, NDArray[Any]]:
        """Return a snapshot of the model's state with the averages in the place of parameters and running statistics.

        Before the first update it is the model's own state. `model.load_state_dict` takes it.

        Raises:
            ValueError: The trainer keeps no averages, or the model's parameters changed.
        """
        self._require_averages("Trainer.ema_state_dict")
        self._programs.sync()
        state: dict[str, NDArray[Any]] = dict(self.model.state_dict(copy=True))
        averaged = {id(tensor) for tensor in self._programs.averaged}
        for name, tensor in self.model._named_tensors(remove_duplicate=False):
            if id(tensor) in averaged:
                state[name] = self._programs.averages.array(tensor)
        return state

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the model hold the averages inside a `with` block, and its own weights again after it, come what may.

        Inside, evaluate, predict or save the model; an update is a ValueError.

        Raises:
            ValueError: The trainer keeps no averages, they are in the model already, or its parameters changed.

        Examples:
            >>> import numpy as np
            >>> from cnnrs import Trainer, nn, optim
            >>> x, y = np.ones((2, 3), np.float32), np.array([0, 1])
            >>> trainer = Trainer(nn.Linear(3, 2), optim.SGD(lr=0.1), ema_decay=0.999)
            >>> loss = trainer.step(x, y)
            >>> with trainer.averaged():
            ...     result = trainer.evaluate((x, y))
        """
        self._require_averages("Trainer.averaged")
        self._require_weights("Trainer.averaged")
        self._programs.sync()
        tensors, averages = self._programs.averaged, self._programs.averages
        with exchanged(tensors, [averages.array(tensor) for tensor in tensors]):
            self._swapped = True
            try:
                yield
            finally:
                self._swapped = False

    def _refresh(self) -> HyperTable:
        """Follow changes of the model's structure and of the optimizer; return the table for the next update."""
        programs, optimizer = self._programs, self.optimizer
        programs.sync()
        key = (programs.epoch, optimizer, optimizer.version, self.epoch)
        if key != self._table_key:
            programs.follow(optimizer)
            self._table = HyperTable(optimizer, programs.names, list(programs.trainable), self._following.seen)
            self._following.keep(self._table.schedules)
            self._plain = Recipe.of(optimizer)
            self._table_key = key
        return self._table

    def _recipe(self) -> Recipe:
        return self._plain.including(self.clip_value, self.clip_norm, self.ema_decay)

    def _numbers(self, moment: Moment) -> list[NDArray[np.float32]]:
        """Return the inputs that a recipe names."""
        table, programs = self._table, self._programs
        numbers = [table.at(moment, programs.counts() if table.counts else ())]
        numbers += [np.array(bound, np.float32) for bound in (self.clip_value, self.clip_norm) if bound is not None]
        return numbers + programs.average_weight(self.ema_decay)

    def _update(self, x: NDArray[Any], y: NDArray[Any], run: Run | None) -> Measured:
        """Make one update from a checked batch; return what it measured before the update."""
        require_images(len(x), "Trainer.step")
        self._require_weights("Trainer.step")
        self._refresh()
        self._programs.require_trainable()
        moment = Moment(self.updates)
        if run is not None:
            moment = Moment(self.updates, run.step, run.total_steps, run.steps_per_epoch)
        recipe = self._recipe()
        numbers = self._numbers(moment)
        return Measured.of(self._run(self._programs.step(x, y, recipe), recipe, x, y, *numbers), len(x))

    def _run(self, program: Call, recipe: Recipe, *arrays: NDArray[Any]) -> list[Any]:
        """Run an update and count it, also where Ctrl-C arrived while it was writing: it was finished then."""
        written = self._programs.written(recipe)
        before = written.version
        try:
            return program(*arrays, key=self._key())
        finally:
            self.updates += written.version != before  # no call in this line: an interrupt cannot split it

    def _key(self) -> NDArray[np.int64]:
        """Return what the draws of dropout depend on in the next step: the seed and the number of updates."""
        return np.array([self.seed, self.updates], np.uint64).view(np.int64)

    def _evaluate(self, data: Batches, batch_size: int, op: str) -> dict[str, float]:
        self._programs.sync()
        means = Means()
        for x, y in data.batches(batch_size):
            if len(x):
                means.add(Measured.of(self._programs.evaluate(x, y)(x, y), len(x)), len(x))
        require_images(means.images, op)
        return means.metrics()

    def _require_averages(self, op: str) -> None:
        if self.ema_decay is None:
            msg = f"{op}: the trainer keeps no averages, expected ema_decay to be a number, got None"
            raise ValueError(msg)

    def _require_weights(self, op: str) -> None:
        if self._swapped:
            msg = f"{op}: the model holds the averages, expected the `with trainer.averaged()` block to have ended"
            raise ValueError(msg)
