"""The trainer: steps, gradients, fit, evaluation, and what it refuses."""

from __future__ import annotations

import itertools
import math
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest

import cnnrs
from cnnrs import Trainer, datasets, nn, optim
from cnnrs import functional as F
from cnnrs.callbacks import Callback
from tolerance import UNIT, assert_same_bits, assert_within, cross_entropy, reduction, softmax

CLASSES = 3
Arrays = dict[str, np.ndarray[Any, Any]]


def make_model(seed: int = 1) -> nn.Module:
    """A small convolutional network for (N, 6, 6, 2)."""
    cnnrs.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, CLASSES)
    )


def make_trainer(model: nn.Module | None = None, lr: float = 0.1, momentum: float = 0.9, **rest: Any) -> Trainer:
    """A trainer with momentum and decay."""
    return Trainer(model or make_model(), optim.SGD(lr=lr, momentum=momentum, weight_decay=1e-3), **rest)


def make_data(count: int = 50, seed: int = 0, dtype: Any = np.float32) -> tuple[Any, Any]:
    """Noise with one bright band per class, which the network can learn."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, count)
    x = rng.standard_normal((count, 6, 6, 2)) * 0.2
    for index, label in enumerate(y):
        x[index, 2 * label : 2 * label + 2] += 1.0
    if dtype is np.uint8:
        return np.clip(x * 80 + 60, 0, 255).astype(np.uint8), y
    return x.astype(dtype), y


def weights(model: nn.Module) -> Arrays:
    """A snapshot of all parameters."""
    return dict(model.state_dict(copy=True))


# Gradients and steps.


def test_gradients_of_a_linear_model() -> None:
    """Softmax minus one-hot, times the input: the textbook formula in float64, with a computed bound."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((7, 5)).astype(np.float32)
    y = rng.integers(0, CLASSES, 7)
    model = nn.Sequential(nn.Linear(5, CLASSES))
    state = weights(model)
    loss, grads = make_trainer(model).gradients(x, y)
    inputs, w, b = (array.astype(np.float64) for array in (x, state["0.weight"], state["0.bias"]))
    logits = inputs @ w + b
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    logit_error = reduction(5, np.abs(inputs) @ np.abs(w) + np.abs(b)).max()
    expected_loss = -np.log(probabilities[np.arange(7), y]).mean()
    assert isinstance(loss, float)
    assert abs(loss - expected_loss) <= cross_entropy(logits, y, probabilities) + 2 * logit_error
    diff = (probabilities - np.eye(CLASSES)[y]) / 7
    diff_error = (softmax(logits, probabilities) + 2 * logit_error) / 7 + 3 * UNIT * np.abs(diff)
    assert list(grads) == ["0.weight", "0.bias"]
    spread = np.abs(inputs.T) @ diff_error
    assert_within(grads["0.weight"], inputs.T @ diff, spread + reduction(7, np.abs(inputs.T) @ np.abs(diff)))
    assert_within(grads["0.bias"], diff.sum(axis=0), diff_error.sum(axis=0) + reduction(7, np.abs(diff).sum(axis=0)))


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_step_is_gradients_and_apply(dtype: Any, nesterov: bool) -> None:
    x, y = make_data(16, dtype=dtype)
    one, other = make_trainer(), make_trainer()
    for trainer in (one, other):
        trainer.optimizer.nesterov = nesterov
    for _ in range(4):
        loss, grads = other.gradients(x, y)
        before = weights(other.model)
        assert_same_bits(before, weights(one.model))
        other.apply(grads)
        assert one.step(x, y) == loss
    assert_same_bits(weights(one.model), weights(other.model))
    assert one.updates == other.updates == 4


def test_gradients_change_nothing() -> None:
    trainer = make_trainer()
    before = weights(trainer.model)
    x, y = make_data(8)
    first, again = trainer.gradients(x, y), trainer.gradients(x, y)
    assert_same_bits(weights(trainer.model), before)
    assert_same_bits(again[1], first[1])
    assert trainer.updates == 0
    assert {name: grad.shape for name, grad in first[1].items()} == {
        name: value.shape for name, value in before.items()
    }


def test_steps_reduce_the_loss() -> None:
    trainer = make_trainer()
    x, y = make_data(32)
    losses = [trainer.step(x, y) for _ in range(15)]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4"])
def test_other_floats_are_converted(dtype: Any) -> None:
    x, y = make_data(8, dtype=dtype)
    one, other = make_trainer(), make_trainer()
    assert one.step(x, y) == other.step(x.astype(np.float32), y)
    assert_same_bits(weights(one.model), weights(other.model))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.uint64, ">i4"])
def test_any_integer_is_a_label(dtype: Any) -> None:
    x, y = make_data(8)
    assert make_trainer().step(x, y.astype(dtype)) == make_trainer().step(x, y)


def test_uint8_is_scaled_by_the_model() -> None:
    x, y = make_data(8, dtype=np.uint8)
    model = make_model()
    model.input_mean, model.input_std = (0.5, 0.25), (0.25, 0.5)
    scaled = (x.astype(np.float64) / 255 - (0.5, 0.25)) / (0.25, 0.5)
    logits = make_trainer(model).predict(x)
    rounded = make_trainer(make_model()).predict(scaled.astype(np.float32))
    assert np.abs(logits - rounded).max() < 1e3 * UNIT * np.abs(rounded).max()
    assert make_trainer(model).evaluate((x, y))["loss"] != make_trainer(make_model()).evaluate((x, y))["loss"]


BAD_BATCHES = [
    (lambda x, y: (x, y + 1), ValueError, "label"),
    (lambda x, y: (x, y - 1), ValueError, "label"),
    (lambda x, y: (x, y[:-1]), cnnrs.ShapeError, "7 labels for 8 images"),
    (lambda x, y: (x, y[:, None]), cnnrs.ShapeError, "y must have 1 dimension"),
    (lambda x, y: (x, y.astype(np.float32)), TypeError, "y must be a NumPy array of integers"),
    (lambda x, y: (x, y > 0), TypeError, "y must be a NumPy array of integers"),
    (lambda x, y: (x, list(y)), TypeError, "y must be a NumPy array of integers"),
    (lambda x, y: (x > 0, y), TypeError, "got a bool array"),
    (lambda x, y: (x.astype(np.int32), y), TypeError, "got a int32 array"),
    (lambda x, y: (x.astype(np.complex64), y), TypeError, "got a complex64 array"),
    (lambda x, y: (x.tolist(), y), TypeError, "x must be a NumPy array"),
    (lambda x, y: (x[0, 0, 0, 0], y), TypeError, "x must be a NumPy array"),
    (lambda x, y: (x[..., :1], y), cnnrs.ShapeError, "0: conv2d.*channels"),
    (lambda x, y: (x[:, :4], y), cnnrs.ShapeError, "4: linear"),
    (lambda x, y: (x[0], y[:6]), cnnrs.ShapeError, "x must have 4 dimensions"),
    (lambda x, y: (x[:0], y[:0]), ValueError, "at least one image"),
]


@pytest.mark.parametrize("call", ["step", "gradients"])
@pytest.mark.parametrize(("spoil", "error", "text"), BAD_BATCHES)
def test_a_bad_batch_changes_nothing(call: str, spoil: Any, error: type[Exception], text: str) -> None:
    """Weights, momentum and the count of updates are as before, bit for bit: the next steps show it."""
    x, y = make_data(8)
    y[:2] = 0, CLASSES - 1
    trainer, untouched = make_trainer(), make_trainer()
    trainer.step(x, y)
    untouched.step(x, y)
    with pytest.raises(error, match=text):
        getattr(trainer, call)(*spoil(x, y))
    assert_same_bits(weights(trainer.model), weights(untouched.model))
    assert trainer.updates == 1
    assert trainer.step(x, y) == untouched.step(x, y)
    assert_same_bits(weights(trainer.model), weights(untouched.model))


BAD_GRADIENTS = [
    (lambda grads: grads.pop("4.bias"), ValueError, "none for '4.bias'"),
    (lambda grads: grads.update(extra=grads["4.bias"]), ValueError, "'extra', which is not in the model"),
    (lambda grads: grads.update({"4.bias": grads["4.bias"][:2]}), cnnrs.ShapeError, r"4.bias must have the shape"),
    (lambda grads: grads.update({"4.bias": grads["4.bias"].astype(float)}), TypeError, "4.bias must be a float32"),
    (lambda grads: grads.update({"4.bias": [1.0, 2.0, 3.0]}), TypeError, "4.bias must be a float32"),
]


@pytest.mark.parametrize(("spoil", "error", "text"), BAD_GRADIENTS)
def test_bad_gradients_change_nothing(spoil: Any, error: type[Exception], text: str) -> None:
    trainer = make_trainer()
    _, grads = trainer.gradients(*make_data(8))
    before = weights(trainer.model)
    spoil(grads)
    with pytest.raises(error, match=text):
        trainer.apply(grads)
    assert_same_bits(weights(trainer.model), before)
    assert trainer.updates == 0


def test_apply_wants_a_mapping() -> None:
    with pytest.raises(TypeError, match="expected a dictionary of arrays"):
        make_trainer().apply([1, 2])  # type: ignore[arg-type]


# Structure of the model.


def test_frozen_parts_stay_and_keep_their_momentum() -> None:
    x, y = make_data(16)
    trainer = make_trainer()
    trainer.step(x, y)
    trainer.model.freeze("0")
    frozen = weights(trainer.model)
    for _ in range(2):
        trainer.step(x, y)
    _, grads = trainer.gradients(x, y)
    assert list(grads) == ["4.weight", "4.bias"]
    trainer.apply(grads)
    now = weights(trainer.model)
    for name, value in now.items():
        assert np.array_equal(value, frozen[name]) == name.startswith("0.")
    with pytest.raises(ValueError, match=r"'0\.weight', which is frozen"):
        trainer.apply({**grads, "0.weight": np.zeros((3, 3, 2, 4), np.float32)})
    trainer.model.unfreeze()
    zeros = {name: np.zeros_like(value) for name, value in now.items()}
    trainer.optimizer.weight_decay = 0.0
    trainer.apply(zeros)
    assert not np.array_equal(weights(trainer.model)["0.weight"], frozen["0.weight"])  # moved by momentum alone


def test_nothing_to_train() -> None:
    trainer = make_trainer()
    trainer.model.freeze()
    for call in (trainer.step, trainer.gradients):
        with pytest.raises(ValueError, match="expected a trainable parameter, all 4 are frozen"):
            call(*make_data(4))
    assert trainer.evaluate(make_data(4))["accuracy"] >= 0.0


def test_parameters_that_come_and_go_are_noticed() -> None:
    x, y = make_data(8)

    class Net(nn.Module):
        extra: nn.Module

        def __init__(self) -> None:
            super().__init__()
            self.body = make_model()
            self.scale = nn.Linear(CLASSES, CLASSES)

        def forward(self, value: Any) -> Any:
            return self.scale(self.body(value))

    model = Net()
    trainer = make_trainer(model)
    trainer.step(x, y)
    model.extra = nn.Linear(2, 2)
    for call in (trainer.step, trainer.gradients):
        with pytest.raises(ValueError, match=r"gained extra\.weight, extra\.bias.*new Trainer"):
            call(x, y)
    with pytest.raises(ValueError, match="gained"):
        trainer.evaluate((x, y))
    del model.extra
    trainer.step(x, y)
    model.scale = nn.Linear(CLASSES, CLASSES, bias=False)
    with pytest.raises(ValueError, match=r"lost scale\.bias"):
        trainer.step(x, y)
    model.scale = nn.Linear(CLASSES, CLASSES + 1)
    with pytest.raises(ValueError, match=r"another shape scale\.weight \(3, 3\) -> \(3, 4\)"):
        trainer.step(x, y)
    model.scale = nn.Linear(CLASSES, CLASSES)
    new = weights(model.scale)
    trainer.step(x, y)
    assert not np.array_equal(weights(model.scale)["weight"], new["weight"])


def test_a_shared_layer_is_updated_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = self.second = nn.Linear(4, 4)

        def forward(self, value: Any) -> Any:
            return self.second(F.tanh(self.first(value)))

    model = Twice()
    before = weights(model)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((6, 4)).astype(np.float32), rng.integers(0, 4, 6)
    trainer = Trainer(model, optim.SGD(lr=0.5))
    _, grads = trainer.gradients(x, y)
    assert list(grads) == ["first.weight", "first.bias"]
    trainer.step(x, y)
    after = weights(model)
    assert_same_bits(after["first.weight"], after["second.weight"])
    moved = before["first.weight"] - np.float32(0.5) * grads["first.weight"]
    assert_within(after["first.weight"], moved.astype(np.float64), 2 * UNIT * (np.abs(moved) + 1.0))


def test_a_parameter_without_effect_has_a_gradient_of_zeros() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = nn.Linear(4, 3)
            self.idle = nn.Linear(4, 3)

        def forward(self, value: Any) -> Any:
            return self.used(value)

    model = Unused()
    before = weights(model)
    x, y = np.ones((2, 4), np.float32), np.array([0, 1])
    trainer = Trainer(model, optim.SGD(lr=0.5))
    _, grads = trainer.gradients(x, y)
    assert not grads["idle.weight"].any()
    trainer.step(x, y)
    assert_same_bits(weights(model)["idle.weight"], before["idle.weight"])
    assert not np.array_equal(weights(model)["used.weight"], before["used.weight"])


def test_hyperparameters_may_change_between_steps() -> None:
    x, y = make_data(8)
    trainer = make_trainer()
    trainer.step(x, y)
    trainer.optimizer.lr = 0.0
    before = weights(trainer.model)
    trainer.step(x, y)
    assert_same_bits(weights(trainer.model), before)
    trainer.optimizer = optim.SGD(lr=0.1)
    trainer.step(x, y)
    assert not np.array_equal(weights(trainer.model)["4.weight"], before["4.weight"])


# fit.


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_fit_learns(dtype: Any) -> None:
    trainer = make_trainer(lr=0.05)
    history = trainer.fit(make_data(60, 0, dtype), make_data(30, 1, dtype), epochs=8, batch_size=16, verbose=False)
    assert list(history) == ["epoch", "loss", "accuracy", "val_loss", "val_accuracy"]
    assert history.epochs == list(range(1, 9))
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert history["val_accuracy"][-1] > 0.9
    assert trainer.evaluate(make_data(30, 1, dtype), batch_size=16) == {
        "loss": history["val_loss"][-1],
        "accuracy": history["val_accuracy"][-1],
    }
    assert all(0.0 <= value <= 1.0 for name in ("accuracy", "val_accuracy") for value in history[name])


def test_fit_is_its_steps() -> None:
    """Unshuffled, fit makes the updates of a hand-written loop; its loss is weighted by the batch size."""
    x, y = make_data(10)
    fitted, stepped = make_trainer(), make_trainer()
    history = fitted.fit((x, y), batch_size=4, shuffle=False, verbose=False)
    losses = [stepped.step(x[start : start + 4], y[start : start + 4]) for start in (0, 4, 8)]
    assert_same_bits(weights(fitted.model), weights(stepped.model))
    assert history["loss"] == [(losses[0] * 4 + losses[1] * 4 + losses[2] * 2) / 10]
    assert fitted.updates == 3


def test_every_image_once_an_epoch_in_a_new_order() -> None:
    """A recorder in the place of the native step sees the images that are gathered, also from strided arrays."""
    numbers = np.arange(1, 22, dtype=np.float32)
    x = np.zeros((21, 6, 6, 2), np.float32) + numbers[:, None, None, None]
    y = np.arange(21) % CLASSES
    orders = []
    for images in (x, np.asfortranarray(x), x):
        trainer = make_trainer(lr=0.0)
        seen: list[float] = []
        update = trainer._update

        def spy(
            batch: Any, labels: Any, run: Any, update: Any = update, seen: list[float] = seen
        ) -> tuple[float, float]:
            assert np.array_equal((batch[:, 0, 0, 0] - 1) % CLASSES, labels)
            seen.extend(batch[:, 0, 0, 0].tolist())
            result: tuple[float, float] = update(batch, labels, run)
            return result

        trainer._update = spy  # type: ignore[method-assign,assignment]
        trainer.fit((images, y), epochs=2, batch_size=8, verbose=False)
        orders.append((seen[:21], seen[21:]))
    assert orders[0] == orders[1] == orders[2]
    first, second = orders[0]
    assert sorted(first) == sorted(second) == numbers.tolist()
    assert len({tuple(first), tuple(second), tuple(numbers.tolist())}) == 3


def fitted_weights(seed: int = 0, **arguments: Any) -> tuple[Arrays, dict[str, Any]]:
    """Weights and history after a short training run."""
    trainer = make_trainer(seed=seed)
    history = trainer.fit(make_data(50), make_data(9, 1), epochs=2, batch_size=16, verbose=False, **arguments)
    return weights(trainer.model), {name: np.array(values) for name, values in history.items()}


def test_training_gives_the_same_bits_for_any_number_of_threads(
    assert_deterministic: Callable[[Callable[[], Any]], None],
) -> None:
    assert_deterministic(lambda: list(fitted_weights()))


def test_the_seed_decides_the_order() -> None:
    assert not np.array_equal(fitted_weights(seed=1)[0]["4.weight"], fitted_weights(seed=2)[0]["4.weight"])
    same = fitted_weights(seed=1, shuffle=False), fitted_weights(seed=2, shuffle=False)
    assert_same_bits(same[0][0], same[1][0])


def test_repeated_fit_goes_on() -> None:
    once, twice = make_trainer(), make_trainer()
    data = make_data(30)
    full = once.fit(data, epochs=3, batch_size=8, verbose=False)
    parts = [twice.fit(data, epochs=epochs, batch_size=8, verbose=False) for epochs in (1, 2)]
    assert_same_bits(weights(once.model), weights(twice.model))
    assert [part.epochs for part in parts] == [[1], [2, 3]]
    assert twice.history == full == once.history
    assert (twice.epoch, twice.updates) == (3, 12)


class Batches:
    """A re-iterable of batches, with or without a length."""

    def __init__(self, x: Any, y: Any, size: int) -> None:
        self.parts = [(x[start : start + size], y[start : start + size]) for start in range(0, len(x), size)]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.parts)


def test_every_form_of_data() -> None:
    x, y = make_data(20)
    forms = [(x, y), [x, y], datasets.Dataset(x, y), Batches(x, y, 8), Batches(x, y, 8).parts]
    results = []
    for data in forms:
        trainer = make_trainer()
        trainer.fit(data, data, epochs=2, batch_size=8, shuffle=False, verbose=False)
        results.append(
            (weights(trainer.model), trainer.evaluate(data, batch_size=8), trainer.predict(data, batch_size=8))
        )
    for result in results[1:]:
        assert result[1] == results[0][1]
        assert_same_bits(result[0], results[0][0])
        assert_same_bits(result[2], results[0][2])


def test_schedules_run_over_the_fit_call() -> None:
    """Rates written into the native step: those of the schedule at each of the 2 * 3 steps, in both calls."""
    rates: list[float] = []

    class Spy(optim.Schedule):
        def value(self, step: int, total_steps: int | None = None, steps_per_epoch: int | None = None) -> float:
            rates.append(optim.OneCycle(0.1).value(step, total_steps, steps_per_epoch))
            assert (total_steps, steps_per_epoch) == (6, 3)
            return rates[-1]

    data = make_data(12)
    scheduled = Trainer(make_model(), optim.SGD(lr=Spy()))
    for _ in range(2):
        scheduled.fit(data, epochs=2, batch_size=5, shuffle=False, verbose=False)
    assert rates == [optim.OneCycle(0.1).value(step, 6) for step in range(6)] * 2
    manual = Trainer(make_model(), optim.SGD(lr=0.0))
    for rate, (x, y) in zip(rates, itertools.cycle(Batches(*data, 5)), strict=False):
        manual.optimizer.lr = rate
        manual.step(x, y)
    assert_same_bits(weights(scheduled.model), weights(manual.model))


def test_schedules_and_data_of_unknown_length() -> None:
    data = Batches(*make_data(12), 4)
    trainer = Trainer(make_model(), optim.SGD(lr=optim.Cosine(0.1)))
    with pytest.raises(ValueError, match="for data with a length; give total_steps="):
        trainer.fit(data, verbose=False)
    trainer.optimizer.lr = optim.Cosine(0.1, total_steps=6)
    trainer.fit(data, epochs=2, verbose=False)
    stopped = weights(trainer.model)
    trainer.fit(data, epochs=1, verbose=False)  # the schedule has ended at a rate of 0
    assert_same_bits(weights(trainer.model), stopped)


def plateau(**rest: Any) -> optim.ReduceOnPlateau:
    """A schedule that asks for a tenth of the loss after every epoch, and so decays soon."""
    return optim.ReduceOnPlateau(0.1, 0.5, patience=0, threshold=0.9, **rest)


@pytest.mark.parametrize("monitor", ["val_loss", "loss", "val_accuracy"])
def test_a_schedule_follows_the_metrics_of_the_epochs(monitor: str) -> None:
    """Over all `fit` calls; each epoch trains with the rate that the epochs before it leave."""
    schedule = plateau(monitor=monitor)
    data, held_out = make_data(40), make_data(20, 1)
    scheduled, manual = (Trainer(make_model(), optim.SGD(schedule, 0.9)) for _ in range(2))
    for epochs in (1, 4, 2):
        scheduled.fit(data, held_out, epochs=epochs, batch_size=16, verbose=False)
    scheduled.step(*data)
    rates = []
    for _ in range(8):
        rates.append(schedule.after(manual.history.get(monitor, [])).value(0))
        manual.optimizer.lr = rates[-1]
        if len(rates) == 8:
            manual.step(*data)
        else:
            manual.fit(data, held_out, batch_size=16, verbose=False)
    assert len(set(rates)) > 2
    assert_same_bits(weights(scheduled.model), weights(manual.model))
    assert scheduled.history == manual.history


def test_a_new_schedule_starts_with_the_epoch_it_comes_in() -> None:
    data = make_data(40)
    trainer = Trainer(make_model(), optim.SGD(plateau(monitor="loss"), 0.9))
    trainer.fit(data, epochs=4, batch_size=16, verbose=False)
    assert trainer._refresh().at(_moment(trainer), ())[0, 0] < 0.1
    trainer.optimizer.lr = plateau(monitor="loss")
    assert trainer._refresh().at(_moment(trainer), ())[0, 0] == np.float32(0.1)
    trainer.optimizer.momentum = 0.8
    trainer.model.freeze("0")
    trainer.fit(data, epochs=3, batch_size=16, verbose=False)
    metrics = trainer.history["loss"][4:]
    expected = plateau(monitor="loss").after(metrics).value(0)
    assert trainer._refresh().at(_moment(trainer), ())[0, 0] == np.float32(expected)


def _moment(trainer: Trainer) -> Any:
    from cnnrs.optim.table import Moment

    return Moment(trainer.updates)


def test_a_schedule_that_follows_what_is_not_measured() -> None:
    trainer = Trainer(make_model(), optim.SGD(0.1, groups=[{"params": "*.bias", "lr": plateau()}]))
    with pytest.raises(ValueError, match="monitor 'val_loss' is not measured, there are loss, accuracy; val_ metrics"):
        trainer.fit(make_data(8), epochs=3, verbose=False)
    assert (trainer.epoch, trainer.updates, len(trainer.history["loss"])) == (1, 1, 1)
    trainer.fit(make_data(8), make_data(4), epochs=2, verbose=False)
    assert trainer.history["val_loss"][0] is None


class Interrupt(Callback):
    """Raises KeyboardInterrupt after some updates."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_batch_end(self, trainer: Trainer, batch: int, metrics: Mapping[str, float]) -> None:
        if trainer.updates == self.after:
            raise KeyboardInterrupt


def test_interrupted_fit_keeps_whole_steps_and_whole_epochs() -> None:
    data = make_data(30)
    trainer, reference = make_trainer(), make_trainer()
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(data, epochs=5, batch_size=10, callbacks=[Interrupt(after=7)], verbose=False)
    full = reference.fit(data, epochs=2, batch_size=10, verbose=False)
    assert trainer.history == full
    assert (trainer.epoch, trainer.updates) == (2, 7)
    with pytest.raises(KeyboardInterrupt):
        reference.fit(data, epochs=1, batch_size=10, callbacks=[Interrupt(after=7)], verbose=False)
    assert_same_bits(weights(trainer.model), weights(reference.model))
    assert trainer.fit(data, epochs=1, batch_size=10, verbose=False).epochs == [3]


@pytest.mark.parametrize("seconds", [0.02, 0.035, 0.05])
def test_a_signal_never_splits_a_step(seconds: float) -> None:
    """Wherever the signal hits, the weights are those after `updates` whole steps."""

    class Replay(Callback):
        def on_batch_end(self, trainer: Trainer, batch: int, metrics: Mapping[str, float]) -> None:
            if trainer.updates == interrupted.updates:
                trainer.stop()

    class Alarm(Callback):
        def on_batch_end(self, trainer: Trainer, batch: int, metrics: Mapping[str, float]) -> None:
            if trainer.updates == 3:
                signal.setitimer(signal.ITIMER_REAL, seconds)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    data = make_data(2000)
    interrupted, replayed = make_trainer(lr=0.01), make_trainer(lr=0.01)
    for trainer in (interrupted, replayed):
        trainer.step(*make_data(4))
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted.fit(data, epochs=10**6, batch_size=500, callbacks=[Alarm()], verbose=False)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted.updates > 1
    replayed.fit(data, epochs=10**6, batch_size=500, callbacks=[Replay()], verbose=False)
    assert_same_bits(weights(interrupted.model), weights(replayed.model))


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"train": make_data(0)}, ValueError, "train: expected at least one image, got none"),
        ({"train": []}, ValueError, "train: expected at least one image, got none"),
        ({"train": 3}, TypeError, "train: expected a Dataset.*got int"),
        ({"train": make_data(4)[0]}, TypeError, "train: expected a Dataset.*got ndarray"),
        ({"train": iter([make_data(4)])}, TypeError, "one-shot list_iterator"),
        ({"train": [make_data(4)[0], 5]}, TypeError, "y must be a NumPy array of integers"),
        ({"train": [1, 2]}, TypeError, r"expected \(x, y\) batches, got int"),
        ({"train": (make_data(4)[0], make_data(5)[1])}, cnnrs.ShapeError, "5 labels for 4 images"),
        ({"validation": make_data(0)}, ValueError, "validation: expected at least one image"),
        ({"validation": iter(())}, TypeError, "one-shot tuple_iterator"),
        ({"epochs": 0}, ValueError, "epochs must be an int from 1"),
        ({"batch_size": 0}, ValueError, "batch_size must be an int from 1"),
        ({"batch_size": 2**70}, ValueError, "batch_size must be an int from 1"),
    ],
)
def test_fit_refuses(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    trainer = make_trainer()
    with pytest.raises(error, match=text):
        trainer.fit(**{"train": make_data(4), "verbose": False, **arguments})


def test_bad_label_in_a_later_batch_keeps_the_whole_steps() -> None:
    x, y = make_data(12)
    y[9] = CLASSES
    trainer, reference = make_trainer(), make_trainer()
    with pytest.raises(ValueError, match="label"):
        trainer.fit((x, y), batch_size=4, shuffle=False, verbose=False)
    for start in (0, 4):
        reference.step(x[start : start + 4], y[start : start + 4])
    assert_same_bits(weights(trainer.model), weights(reference.model))
    assert (trainer.updates, trainer.epoch, trainer.history) == (2, 0, {})


# evaluate and predict.


def test_evaluate_is_the_mean_over_images() -> None:
    trainer = make_trainer()
    x, y = make_data(23)
    logits = trainer.predict(x).astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(23), y]
    before = weights(trainer.model)
    for batch_size in (1, 5, 23, 64):
        result = trainer.evaluate((x, y), batch_size=batch_size)
        assert result["accuracy"] == (logits.argmax(axis=1) == y).sum() / 23
        assert math.isclose(result["loss"], losses.mean(), rel_tol=1e3 * UNIT)
    assert_same_bits(weights(trainer.model), before)


def test_predict_gives_logits_of_every_image() -> None:
    trainer = make_trainer()
    x, y = make_data(11)
    expected = trainer.model(x)
    assert expected.shape == (11, CLASSES)
    for data in (x, (x, y), datasets.Dataset(x, y), [(x[:6], y[:6]), (x[6:], y[6:])], iter([(x, y)])):
        assert_same_bits(trainer.predict(data, batch_size=4 if data is x else 64), expected)
    assert trainer.predict(x[:0]).shape == (0, CLASSES)


def test_evaluate_and_predict_refuse() -> None:
    trainer = make_trainer()
    for empty in (make_data(0), [], [make_data(0)]):
        with pytest.raises(ValueError, match="at least one image"):
            trainer.evaluate(empty)
    with pytest.raises(ValueError, match="at least one batch"):
        trainer.predict([])
    with pytest.raises(TypeError, match="bool"):
        trainer.predict(np.zeros((2, 6, 6, 2), bool))
    with pytest.raises(ValueError, match="label"):
        trainer.evaluate((make_data(4)[0], np.array([0, 1, 2, CLASSES])))
    with pytest.raises(ValueError, match="batch_size"):
        trainer.predict(make_data(4)[0], batch_size=-1)


# Construction.


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"model": 3}, TypeError, "model must be an nn.Module"),
        ({"optimizer": 0.1}, TypeError, "optimizer must be an optimizer of cnnrs.optim, got float"),
        ({"loss": "hinge"}, ValueError, "loss must be a callable or one of cross_entropy, .*, got 'hinge'"),
        ({"loss": 3}, TypeError, "loss must be a name or a callable, got 3"),
        ({"clip_norm": 0.0}, ValueError, "Trainer: clip_norm must be finite and > 0, got 0.0"),
        ({"clip_value": math.inf}, ValueError, "Trainer: clip_value must be finite and > 0, got inf"),
        ({"clip_norm": "1"}, TypeError, "clip_norm must be a number"),
        ({"ema_decay": 1.0}, ValueError, r"Trainer: ema_decay must be in \[0, 1\), got 1.0"),
        ({"seed": -1}, ValueError, "seed must be from 0"),
        ({"seed": 2**64}, ValueError, "seed must be from 0"),
        ({"seed": 0.5}, TypeError, "seed must be an int"),
    ],
)
def test_trainer_refuses(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Trainer(**{"model": make_model(), "optimizer": optim.SGD(lr=0.1), **arguments})


def test_a_model_without_logits_is_refused() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, value: Any) -> Any:
            return self.layer(value), value

    x, y = np.ones((2, 4), np.float32), np.array([0, 1])
    with pytest.raises(TypeError, match=r"Pair: forward must return logits \(N, classes\) to train, got tuple"):
        make_trainer(Pair()).step(x, y)
    with pytest.raises(cnnrs.ShapeError, match="cross_entropy"):
        make_trainer(nn.Sequential(nn.Conv2d(2, 3, 3))).step(*make_data(2))
