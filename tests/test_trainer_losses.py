"""Trainers with every loss: by name, with options, and any function on symbolic values."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

import cnnrs
import oracle_loss
from cases import real
from cnnrs import Trainer, nn, optim
from cnnrs import functional as F
from cnnrs.callbacks import Callback
from tolerance import UNIT, assert_same_bits

Arrays = dict[str, Any]

FLOAT_LOSSES: dict[str, tuple[Callable[..., Any], Callable[..., oracle_loss.Reference]]] = {
    "mse_loss": (F.mse_loss, oracle_loss.mse),
    "l1_loss": (F.l1_loss, oracle_loss.l1),
    "huber_loss": (F.huber_loss, oracle_loss.huber),
    "binary_cross_entropy_with_logits": (F.binary_cross_entropy_with_logits, oracle_loss.binary),
}
LABELS = np.array([0, 2, 1, 1, 0, 2, 2, 1])


def make_trainer(loss: Any, outputs: int = 3, lr: float = 0.1, **rest: Any) -> Trainer:
    """A linear model with four inputs."""
    cnnrs.manual_seed(3)
    return Trainer(nn.Sequential(nn.Linear(4, outputs)), optim.SGD(lr, momentum=0.9), loss, **rest)


def weights(trainer: Trainer) -> Arrays:
    return dict(trainer.model.state_dict(copy=True))


def chances(*shape: int) -> Any:
    return np.clip(np.abs(real(*shape, seed=9)), 0.0, 1.0)


# Losses by name.


@pytest.mark.parametrize("name", FLOAT_LOSSES)
def test_a_loss_of_numbers(name: str) -> None:
    """Value and gradient follow the oracle; there is a loss and nothing else to report."""
    function, reference = FLOAT_LOSSES[name]
    x, y = real(8, 4), chances(8, 3)
    for loss in (name, function):
        trainer = make_trainer(loss)
        logits = trainer.predict(x)
        expected = reference(logits, y)
        value, grads = trainer.gradients(x, y)
        assert abs(value - expected.value) <= expected.value_bound
        diff = np.abs(expected.grad).sum(axis=0) * 16 * UNIT + expected.grad_bound.sum(axis=0)
        assert (np.abs(grads["0.bias"] - expected.grad.sum(axis=0)) <= diff).all()
        assert trainer.evaluate((x, y)) == {"loss": value}
        assert trainer.step(x, y) == value
        assert trainer.step(x, y) < value
        assert trainer.loss is loss


@pytest.mark.parametrize("name", FLOAT_LOSSES)
def test_fit_without_labels(name: str) -> None:
    seen: list[Mapping[str, float]] = []

    class Watch(Callback):
        def on_batch_end(self, trainer: Trainer, batch: int, metrics: Mapping[str, float]) -> None:
            seen.append(metrics)

    x, y = real(20, 4), chances(20, 3)
    trainer = make_trainer(name)
    history = trainer.fit((x, y), (x, y), epochs=3, batch_size=8, callbacks=[Watch()], verbose=False)
    assert list(history) == ["epoch", "loss", "val_loss"]
    assert history["val_loss"][-1] < history["val_loss"][0]
    assert all(list(metrics) == ["loss"] for metrics in seen)
    assert trainer.predict((x, y)).shape == (20, 3)


@pytest.mark.parametrize("name", FLOAT_LOSSES)
def test_evaluate_does_not_depend_on_the_batch_size(name: str) -> None:
    x, y = real(23, 4), chances(23, 3)
    trainer = make_trainer(name)
    whole = trainer.evaluate((x, y), batch_size=23)["loss"]
    for size in (1, 5, 64):
        assert math.isclose(trainer.evaluate((x, y), batch_size=size)["loss"], whole, rel_tol=64 * UNIT)


def test_targets_of_any_shape() -> None:
    """A small network for pictures of pictures, trained on masks."""
    cnnrs.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1))
    x = real(12, 6, 5, 1)
    y = np.concatenate([x > 0, x < 0.5], axis=3).astype(np.float32)
    trainer = Trainer(model, optim.Adam(0.02), "binary_cross_entropy_with_logits")
    history = trainer.fit((x, y), epochs=15, batch_size=5, verbose=False)
    assert history["loss"][-1] < 0.5 * history["loss"][0]


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4"])
def test_other_floats_are_converted(dtype: Any) -> None:
    x, y = real(8, 4), chances(8, 3).astype(dtype)
    one, other = make_trainer("mse_loss"), make_trainer("mse_loss")
    assert one.step(x, y) == other.step(x, y.astype(np.float32))
    assert_same_bits(weights(one), weights(other))


BAD_TARGETS: list[tuple[Any, Any, type[Exception], str]] = [
    (
        "mse_loss",
        lambda: LABELS,
        TypeError,
        "y must be a NumPy array of float32, float16 or float64, got a int64 array",
    ),
    ("mse_loss", lambda: chances(8, 3).tolist(), TypeError, "y must be a NumPy array"),
    ("mse_loss", lambda: chances(8, 3) > 0, TypeError, r"got a bool array; convert with .astype\(np.float32\)"),
    ("mse_loss", lambda: chances(8, 3)[0, 0], TypeError, "y must be a NumPy array"),
    ("mse_loss", lambda: np.array(1.0), cnnrs.ShapeError, "y must have a batch axis"),
    ("mse_loss", lambda: chances(7, 3), cnnrs.ShapeError, "one target an image, got 7 targets for 8 images"),
    ("mse_loss", lambda: chances(8), cnnrs.ShapeError, r"target must have the shape of x, \(8, 3\), got \(8,\)"),
    ("l1_loss", lambda: chances(8, 1), cnnrs.ShapeError, "target must have the shape of x"),
    ("cross_entropy", lambda: chances(8, 3), TypeError, "y must be a NumPy array of integers"),
    (F.cross_entropy, lambda: chances(8), TypeError, "y must be a NumPy array of integers"),
    (
        lambda z, t: F.mean(z),
        lambda: LABELS > 0,
        TypeError,
        "float32, float16 or float64, or of integer labels, got a bool",
    ),
    (lambda z, t: F.mean(z), lambda: LABELS[:, None], cnnrs.ShapeError, "y must have 1 dimension"),
    (lambda z, t: F.mean(z), lambda: LABELS[:7], cnnrs.ShapeError, "7 labels for 8 images"),
    (
        lambda z, t: F.mse_loss(z, t),
        lambda: LABELS,
        TypeError,
        "mse_loss: target must be float32, got a symbolic value of int64",
    ),
    (lambda z, t: F.cross_entropy(z, t), lambda: chances(8), TypeError, "labels expects integers, received float32"),
    (F.cross_entropy, lambda: LABELS + 1, ValueError, r"labels expects classes in \[0, 3\), received 3"),
]


@pytest.mark.parametrize(("loss", "target", "error", "text"), BAD_TARGETS)
def test_a_bad_target_changes_nothing(loss: Any, target: Any, error: type[Exception], text: str) -> None:
    trainer = make_trainer(loss)
    before = weights(trainer)
    for call in (trainer.step, trainer.gradients, lambda x, y: trainer.fit([(x, y)], verbose=False)):
        with pytest.raises(error, match=text):
            call(real(8, 4), target())
    assert_same_bits(weights(trainer), before)
    assert trainer.updates == 0


# Functions.


def test_cross_entropy_with_options() -> None:
    """Loss and gradient of the options, and an accuracy."""
    weight = np.array([0.5, 2.0, 1.0], np.float32)
    loss = functools.partial(F.cross_entropy, weight=weight, label_smoothing=0.1)
    trainer, x = make_trainer(loss), real(8, 4)
    expected = oracle_loss.cross_entropy(trainer.predict(x), LABELS, weight, 0.1)
    value, grads = trainer.gradients(x, LABELS)
    assert abs(value - expected.loss.value) <= expected.loss.value_bound
    bound = expected.loss.grad_bound.sum(axis=0) + 16 * UNIT * np.abs(expected.loss.grad).sum(axis=0)
    assert (np.abs(grads["0.bias"] - expected.loss.grad.sum(axis=0)) <= bound).all()
    assert trainer.evaluate((x, LABELS)) == {"loss": value, "accuracy": expected.correct / 8}
    history = trainer.fit((x, LABELS), (x, LABELS), batch_size=3, verbose=False)
    assert list(history) == ["epoch", "loss", "accuracy", "val_loss", "val_accuracy"]


def test_the_named_loss_is_its_function() -> None:
    x = real(8, 4)
    trainers = [make_trainer(loss) for loss in ("cross_entropy", F.cross_entropy, lambda z, t: F.cross_entropy(z, t))]
    losses = [[trainer.step(x, LABELS) for _ in range(3)] for trainer in trainers]
    assert losses[0] == losses[1] == losses[2]
    assert_same_bits(weights(trainers[0]), weights(trainers[2]))


def test_ignored_labels_count_for_nothing() -> None:
    """The accuracy is one of the rows that count; a batch without any spoils no mean."""
    loss = functools.partial(F.cross_entropy, ignore_index=-1)
    x, y = real(24, 4), np.tile(LABELS, 3)
    y[::2] = -1
    y[8:16] = -1
    trainer = make_trainer(loss)
    counted = y >= 0
    logits = trainer.predict(x)
    result = trainer.evaluate((x, y), batch_size=8)
    assert result["accuracy"] == (logits.argmax(axis=1) == y)[counted].mean()
    expected = oracle_loss.cross_entropy(logits[counted], y[counted]).loss
    assert math.isclose(result["loss"], expected.value, rel_tol=64 * UNIT)
    assert result == trainer.evaluate((x[counted], y[counted]), batch_size=4)
    assert math.isnan(trainer.step(x[8:16], y[8:16]))
    history = trainer.fit((x, y), batch_size=8, shuffle=False, verbose=False)
    assert np.isfinite(history["loss"][0])
    assert np.isfinite(weights(trainer)["0.weight"]).all()
    empty = trainer.evaluate((x[8:16], y[8:16]))
    assert math.isnan(empty["loss"])
    assert math.isnan(empty["accuracy"])


def test_a_loss_of_several_parts_and_a_captured_array() -> None:
    pull = np.array([1.0, -1.0, 0.5], np.float32)
    trainer, x = make_trainer(lambda z, t: F.cross_entropy(z, t) + 0.1 * F.mean(F.square(z - pull))), real(8, 4)
    logits = trainer.predict(x).astype(np.float64)
    expected = oracle_loss.cross_entropy(logits, LABELS).loss.value + 0.1 * ((logits - pull) ** 2).mean()
    result = trainer.evaluate((x, LABELS))
    assert result["loss"] == pytest.approx(expected, rel=1e-6)
    assert result["accuracy"] == (logits.argmax(axis=1) == LABELS).mean()
    assert trainer.step(x, LABELS) > trainer.step(x, LABELS)


def test_a_loss_that_computes_with_the_batch_size() -> None:
    """It is traced for each batch size; no program meets a batch of another one."""
    calls: list[int] = []

    def loss(logits: Any, target: Any) -> Any:
        count = int(logits.shape[0])
        calls.append(count)
        return F.sum(F.square(logits - target)) * (1.0 / count)

    trainer = make_trainer(loss, lr=0.01)
    for size in (4, 6, 1, 4, 6, 6, 2):
        x, y = real(size, 4, seed=size), real(size, 3, seed=2)
        logits = trainer.predict(x).astype(np.float64)
        expected = ((logits - y) ** 2).sum() / size
        assert trainer.evaluate((x, y))["loss"] == pytest.approx(expected, rel=1e-6)
        assert trainer.gradients(x, y)[0] == pytest.approx(expected, rel=1e-6)
        assert trainer.step(x, y) == pytest.approx(expected, rel=1e-6)
    assert sorted(set(calls)) == [1, 2, 4, 6]
    assert len(calls) == 4 * 3
    x, y = real(10, 4), real(10, 3, seed=1)
    parts = [trainer.evaluate((x[at : at + 4], y[at : at + 4]))["loss"] for at in (0, 4, 8)]
    mean = (4 * parts[0] + 4 * parts[1] + 2 * parts[2]) / 10
    assert trainer.evaluate((x, y), batch_size=4)["loss"] == pytest.approx(mean, rel=1e-12)


def test_a_general_loss_is_traced_once() -> None:
    calls: list[int] = []

    def loss(logits: Any, target: Any) -> Any:
        calls.append(1)
        return F.mean(F.abs(logits - target))

    trainer = make_trainer(loss)
    for size in (4, 6, 1, 7):
        trainer.step(real(size, 4), real(size, 3, seed=1))
    assert len(calls) == 1


def test_a_model_that_computes_with_the_batch_size() -> None:
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Any) -> Any:
            y = self.layer(x)
            return y - F.sum(y, axis=0) * (1.0 / int(y.shape[0]))

    cnnrs.manual_seed(0)
    trainer = Trainer(Centred(), optim.SGD(0.0), "mse_loss")
    layer = trainer.model.layer
    for size in (5, 2, 5, 9):
        x, y = real(size, 4, seed=size), real(size, 3, seed=1)
        z = layer(x).astype(np.float64)
        assert trainer.step(x, y) == pytest.approx((((z - z.mean(axis=0)) - y) ** 2).mean(), rel=1e-5)


BAD_LOSSES: list[tuple[Any, type[Exception], str]] = [
    (lambda z, t: z, cnnrs.ShapeError, r"loss must return a value of shape \(\), such as a mean, got shape \(8, 3\)"),
    (lambda z, t: F.mean(z, axis=0), cnnrs.ShapeError, r"got shape \(3,\)"),
    (lambda z, t: 1.0, TypeError, "loss must return a symbolic value of float32 to train, got float"),
    (lambda z, t: None, TypeError, "got NoneType"),
    (lambda z, t: (F.mean(z), F.mean(z)), TypeError, "got tuple"),
    (lambda z, t: F.mse_loss(z, np.zeros((8, 2), np.float32)), cnnrs.ShapeError, "target must have the shape of x"),
    (lambda z, t: 1.0 if F.mean(z) > 0 else F.mean(z), TypeError, "needs numbers|not supported between"),
    (lambda z: F.mean(z), TypeError, "positional argument"),
]


@pytest.mark.parametrize(("loss", "error", "text"), BAD_LOSSES)
def test_a_bad_loss_changes_nothing(loss: Any, error: type[Exception], text: str) -> None:
    trainer = make_trainer(loss)
    before = weights(trainer)
    for call in (trainer.step, trainer.gradients, lambda x, y: trainer.evaluate((x, y))):
        with pytest.raises(error, match=text):
            call(real(8, 4), real(8, 3))
    assert_same_bits(weights(trainer), before)
    assert trainer.updates == 0


def test_the_loss_of_a_trainer_stays() -> None:
    trainer = make_trainer("mse_loss")
    with pytest.raises(AttributeError):
        trainer.loss = "l1_loss"  # type: ignore[misc]


@pytest.mark.parametrize(
    "loss", ["mse_loss", "binary_cross_entropy_with_logits", functools.partial(F.huber_loss, delta=0.2)], ids=str
)
def test_training_gives_the_same_bits_for_any_number_of_threads(
    loss: Any, assert_deterministic: Callable[[Callable[[], Any]], None]
) -> None:
    x, y = real(70, 30, 30, 2), chances(70, 30, 30, 3)

    def train() -> Arrays:
        cnnrs.manual_seed(1)
        model = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 3, 3, padding=1))
        trainer = Trainer(model, optim.AdamW(0.01), loss, clip_norm=0.5, clip_value=0.1, ema_decay=0.5)
        trainer.fit((x, y), epochs=1, batch_size=32, verbose=False)
        return trainer.ema_state_dict() | weights(trainer)

    assert_deterministic(train)
