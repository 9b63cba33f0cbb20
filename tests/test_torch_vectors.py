"""Optimizers, schedules, clipping, averages and losses equal torch's; the vectors are made by `tests/data`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnrs import Trainer, nn, optim, vjp
from cnnrs import functional as F
from cnnrs.optim import Optimizer, Schedule

VECTORS: dict[str, Any] = dict(np.load(Path(__file__).parent / "data" / "torch_vectors.npz"))
STEPS = len(VECTORS["grads"])
LIMIT = 1e-5
RATE = 0.05

OPTIMIZERS: dict[str, Callable[[float | Schedule], Optimizer]] = {
    "sgd": optim.SGD,
    "sgd_momentum": lambda lr: optim.SGD(lr, momentum=0.9, weight_decay=0.02),
    "sgd_nesterov": lambda lr: optim.SGD(lr, momentum=0.8, weight_decay=0.02, nesterov=True),
    "rmsprop": optim.RMSProp,
    "rmsprop_momentum": lambda lr: optim.RMSProp(lr, alpha=0.9, eps=1e-3, weight_decay=0.02, momentum=0.8),
    "rmsprop_centered": lambda lr: optim.RMSProp(lr, alpha=0.95, eps=1e-2, centered=True),
    "rmsprop_all": lambda lr: optim.RMSProp(lr, 0.9, 1e-2, weight_decay=0.02, momentum=0.7, centered=True),
    "adam": optim.Adam,
    "adam_decay": lambda lr: optim.Adam(lr, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.02),
    "adam_amsgrad": lambda lr: optim.Adam(lr, betas=(0.9, 0.9), amsgrad=True),
    "adamw": optim.AdamW,
    "adamw_amsgrad": lambda lr: optim.AdamW(lr, betas=(0.7, 0.9), eps=1e-4, weight_decay=0.2, amsgrad=True),
    "adagrad": optim.Adagrad,
    "adagrad_all": lambda lr: optim.Adagrad(
        lr, lr_decay=0.1, weight_decay=0.02, initial_accumulator_value=0.3, eps=1e-3
    ),
}
SCHEDULES: dict[str, float | Schedule] = {
    "constant": RATE,
    "step": optim.Step(RATE, 6, 0.3),
    "multistep": optim.MultiStep(RATE, [3, 9, 15, 9], 0.5),
    "exponential": optim.Exponential(RATE, 0.9),
    "cosine": optim.Cosine(RATE, 0.01, total_steps=STEPS),
    "onecycle": optim.OneCycle(RATE, pct_start=0.4, div_factor=10, total_steps=STEPS),
    "warmup": optim.Warmup(optim.Cosine(RATE, total_steps=STEPS - 5), steps=5, start_factor=0.2),
    "plateau": optim.ReduceOnPlateau(RATE, 0.5, 2, threshold=0.05, cooldown=2, min_lr=0.01),
}
PLATEAUS = {
    "min": SCHEDULES["plateau"],
    "max": optim.ReduceOnPlateau(RATE, 0.1, 1, threshold=0.1, monitor="val_accuracy"),
    "impatient": optim.ReduceOnPlateau(RATE, 0.9, 0, threshold=0.0, cooldown=1, mode="min", monitor="score"),
}


def split(numbers: Any) -> dict[str, Any]:
    """Six numbers as the parameters of a layer with two inputs and two outputs."""
    return {"weight": numbers[:4].reshape(2, 2).astype(np.float32), "bias": numbers[4:].astype(np.float32)}


def make_trainer(optimizer: Optimizer, **rest: Any) -> Trainer:
    """A layer that starts where torch's parameters started."""
    model = nn.Linear(2, 2)
    model.load_state_dict(split(VECTORS["start"]))
    return Trainer(model, optimizer, **rest)


def flat(arrays: Any) -> Any:
    return np.concatenate([arrays["weight"].ravel(), arrays["bias"]])


def trajectory(trainer: Trainer) -> Any:
    """Make an update an epoch and return the parameters after each."""
    parameters = []
    for grad, metric in zip(VECTORS["grads"], VECTORS["metrics"], strict=True):
        trainer.apply(split(grad))
        trainer.epoch += 1
        trainer.history.append(trainer.epoch, {"val_loss": float(metric)})
        parameters.append(flat(trainer.model.state_dict()))
    return np.array(parameters)


def test_the_file_has_what_is_tested() -> None:
    assert list(OPTIMIZERS) == VECTORS["optimizer_names"].tolist()
    assert list(SCHEDULES) == VECTORS["schedule_names"].tolist()
    assert list(PLATEAUS) == VECTORS["plateau_names"].tolist()
    assert STEPS == 20


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_twenty_steps(optimizer: str, schedule: str) -> None:
    """Every optimizer with every schedule, each step with a gradient of its own."""
    expected = VECTORS["parameters"][list(OPTIMIZERS).index(optimizer), list(SCHEDULES).index(schedule)]
    found = trajectory(make_trainer(OPTIMIZERS[optimizer](SCHEDULES[schedule])))
    np.testing.assert_allclose(found[VECTORS["kept"] - 1], expected, rtol=LIMIT, atol=LIMIT)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_twenty_steps_on_every_level(optimizer: str) -> None:
    found = trajectory(make_trainer(OPTIMIZERS[optimizer](RATE)))
    expected = VECTORS["parameters"][list(OPTIMIZERS).index(optimizer), 0]
    np.testing.assert_allclose(found[VECTORS["kept"] - 1], expected, rtol=LIMIT, atol=LIMIT)


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name not in ("constant", "plateau")])
def test_rates(name: str) -> None:
    schedule = SCHEDULES[name]
    assert isinstance(schedule, Schedule)
    rates = [schedule.value(step) for step in range(STEPS)]
    np.testing.assert_allclose(rates, VECTORS["rates"][list(SCHEDULES).index(name)], rtol=1e-12)


@pytest.mark.parametrize("name", PLATEAUS)
def test_rates_that_follow_a_metric(name: str) -> None:
    schedule, metrics = PLATEAUS[name], VECTORS["metrics"].tolist()
    assert isinstance(schedule, optim.ReduceOnPlateau)
    rates = [schedule.after(metrics[:epoch]).value(0) for epoch in range(STEPS)]
    expected = VECTORS["plateau_rates"][list(PLATEAUS).index(name)]
    np.testing.assert_allclose(rates, expected, rtol=1e-12)
    assert len(set(expected.tolist())) > 2


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("kind", ["norm", "value", "both"])
def test_clipped_gradients(kind: str, index: int) -> None:
    """Plain descent with a rate of 1 from zero shows the gradients that the update was given."""
    bounds = {"norm": {"clip_norm": 1.5}, "value": {"clip_value": 0.7}}
    arguments = bounds["norm"] | bounds["value"] if kind == "both" else bounds[kind]
    trainer = make_trainer(optim.SGD(1.0), **arguments)
    trainer.model.load_state_dict(split(np.zeros(6)))
    trainer.apply(split(VECTORS["grads"][index] * np.float32((0.2, 3.0)[index])))
    found = -flat(trainer.model.state_dict())
    np.testing.assert_allclose(found, VECTORS[f"clip/{kind}/{index}"], rtol=LIMIT, atol=LIMIT)


def test_averages() -> None:
    trainer = make_trainer(optim.SGD(RATE), ema_decay=0.9)
    averages = []
    for grad in VECTORS["grads"]:
        trainer.apply(split(grad))
        averages.append(flat(trainer.ema_state_dict()))
    np.testing.assert_allclose(np.array(averages)[VECTORS["kept"] - 1], VECTORS["ema"], rtol=LIMIT, atol=LIMIT)


LOGITS, LABELS, WEIGHT = VECTORS["logits"], VECTORS["labels"], VECTORS["weight"]
TARGET, CHANCE = VECTORS["target"], VECTORS["chance"]
LOSSES: dict[str, Callable[[Any], Any]] = {
    **{
        f"cross_entropy/{int(weighted)}/{smoothing}/{ignore}": lambda x, w=weighted, s=smoothing, i=ignore: (
            F.cross_entropy(x, LABELS, WEIGHT if w else None, label_smoothing=s, ignore_index=i)
        )
        for weighted in (False, True)
        for smoothing in (0.0, 0.1, 1.0)
        for ignore in (None, 2)
    },
    "mse_loss": lambda x: F.mse_loss(x, TARGET),
    "l1_loss": lambda x: F.l1_loss(x, TARGET),
    "huber_loss/1.0": lambda x: F.huber_loss(x, TARGET),
    "huber_loss/0.5": lambda x: F.huber_loss(x, TARGET, delta=0.5),
    "binary/none/1.0": lambda x: F.binary_cross_entropy_with_logits(x, CHANCE),
    "binary/array/1.0": lambda x: F.binary_cross_entropy_with_logits(x, CHANCE, pos_weight=WEIGHT),
    "binary/none/0.0": lambda x: F.binary_cross_entropy_with_logits(x, CHANCE),
    "binary/array/0.0": lambda x: F.binary_cross_entropy_with_logits(x, CHANCE, pos_weight=WEIGHT),
    "binary/none/40.0": lambda x: F.binary_cross_entropy_with_logits(x, CHANCE),
    "binary/array/40.0": lambda x: F.binary_cross_entropy_with_logits(x, CHANCE, pos_weight=WEIGHT),
}


def test_every_loss_of_the_file_is_tested() -> None:
    assert {f"loss/{name}" for name in LOSSES} == {name for name in VECTORS if name.startswith("loss/")}


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_their_gradients(name: str) -> None:
    scale = float(name.split("/")[-1]) if name.startswith("binary") else 1.0
    x = LOGITS * np.float32(scale)
    loss, pull = vjp(LOSSES[name], x)
    expected = VECTORS[f"loss/{name}"]
    np.testing.assert_allclose(loss, expected[0], rtol=LIMIT, atol=LIMIT)
    np.testing.assert_allclose(LOSSES[name](x), expected[0], rtol=LIMIT, atol=LIMIT)
    gradient = pull(np.ones((), np.float32))
    np.testing.assert_allclose(gradient.ravel(), expected[1:], rtol=LIMIT, atol=LIMIT)
