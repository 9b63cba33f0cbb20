"""Writes `torch_vectors.npz`: what torch makes of known gradients, schedules and losses, computed in float64.

Run with torch 2.13 and NumPy: `python tests/data/make_torch_vectors.py`. The tests only read the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

STEPS = 20
KEPT = (1, 7, 20)
"""Steps after which the parameters are kept."""

RATE = 0.05
OPTIMIZERS: dict[str, Callable[[Any], optim.Optimizer]] = {
    "sgd": lambda p: optim.SGD(p, RATE),
    "sgd_momentum": lambda p: optim.SGD(p, RATE, momentum=0.9, weight_decay=0.02),
    "sgd_nesterov": lambda p: optim.SGD(p, RATE, momentum=0.8, weight_decay=0.02, nesterov=True),
    "rmsprop": lambda p: optim.RMSprop(p, RATE),
    "rmsprop_momentum": lambda p: optim.RMSprop(p, RATE, alpha=0.9, eps=1e-3, weight_decay=0.02, momentum=0.8),
    "rmsprop_centered": lambda p: optim.RMSprop(p, RATE, alpha=0.95, eps=1e-2, centered=True),
    "rmsprop_all": lambda p: optim.RMSprop(p, RATE, 0.9, 1e-2, weight_decay=0.02, momentum=0.7, centered=True),
    "adam": lambda p: optim.Adam(p, RATE),
    "adam_decay": lambda p: optim.Adam(p, RATE, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.02),
    "adam_amsgrad": lambda p: optim.Adam(p, RATE, betas=(0.9, 0.9), amsgrad=True),
    "adamw": lambda p: optim.AdamW(p, RATE),
    "adamw_amsgrad": lambda p: optim.AdamW(p, RATE, betas=(0.7, 0.9), eps=1e-4, weight_decay=0.2, amsgrad=True),
    "adagrad": lambda p: optim.Adagrad(p, RATE),
    "adagrad_all": lambda p: optim.Adagrad(
        p, RATE, lr_decay=0.1, weight_decay=0.02, initial_accumulator_value=0.3, eps=1e-3
    ),
}


def warmup(optimizer: optim.Optimizer) -> lr_scheduler.LRScheduler:
    """Five steps of warm-up, then a cosine over the rest."""
    rise = lr_scheduler.LinearLR(optimizer, 0.2, 1.0, 5)
    fall = lr_scheduler.CosineAnnealingLR(optimizer, STEPS - 5)
    return lr_scheduler.SequentialLR(optimizer, [rise, fall], [5])


SCHEDULES: dict[str, Callable[[optim.Optimizer], Any]] = {
    "constant": lambda o: lr_scheduler.ConstantLR(o, 1.0),
    "step": lambda o: lr_scheduler.StepLR(o, 6, 0.3),
    "multistep": lambda o: lr_scheduler.MultiStepLR(o, [3, 9, 9, 15], 0.5),
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS, 0.01),
    "onecycle": lambda o: lr_scheduler.OneCycleLR(o, RATE, STEPS, pct_start=0.4, div_factor=10, cycle_momentum=False),
    "warmup": warmup,
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, "min", 0.5, 2, threshold=0.05, cooldown=2, min_lr=0.01),
}
PLATEAUS: dict[str, Callable[[optim.Optimizer], Any]] = {
    "min": SCHEDULES["plateau"],
    "max": lambda o: lr_scheduler.ReduceLROnPlateau(o, "max", 0.1, 1, threshold=0.1),
    "impatient": lambda o: lr_scheduler.ReduceLROnPlateau(o, "min", 0.9, 0, threshold=0.0, cooldown=1),
}


def trajectory(
    optimizer: Callable[[Any], optim.Optimizer],
    schedule: Callable[[optim.Optimizer], Any],
    start: torch.Tensor,
    grads: torch.Tensor,
    metrics: list[float],
) -> Iterator[tuple[float, torch.Tensor]]:
    """Yield the rate of every update and the parameters after it."""
    w = start.clone().requires_grad_()
    rule = optimizer([w])
    scheduler = schedule(rule)
    for grad, metric in zip(grads, metrics, strict=True):
        rate = rule.param_groups[0]["lr"]
        w.grad = grad.clone()
        rule.step()
        scheduler.step(metric) if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else scheduler.step()
        yield rate, w.detach().clone()


def optimizers(vectors: dict[str, Any]) -> None:
    """Every optimizer with every schedule, and the rates of every schedule."""
    rng = np.random.default_rng(1)
    vectors["start"] = rng.standard_normal(6).astype(np.float32)
    vectors["grads"] = rng.standard_normal((STEPS, 6)).astype(np.float32)
    vectors["metrics"] = np.round(0.5 + 1.5 / (1.0 + np.arange(STEPS)) ** 2 + 0.2 * rng.random(STEPS), 3).astype(
        np.float32
    )
    start, grads = (torch.tensor(vectors[name], dtype=torch.float64) for name in ("start", "grads"))
    metrics = [float(metric) for metric in vectors["metrics"]]
    vectors["optimizer_names"], vectors["schedule_names"] = list(OPTIMIZERS), list(SCHEDULES)
    vectors["plateau_names"], vectors["kept"] = list(PLATEAUS), KEPT
    runs = [
        [list(trajectory(optimizer, schedule, start, grads, metrics)) for schedule in SCHEDULES.values()]
        for optimizer in OPTIMIZERS.values()
    ]
    vectors["parameters"] = [[torch.stack([run[step - 1][1] for step in KEPT]) for run in of] for of in runs]
    vectors["rates"] = [[rate for rate, _ in run] for run in runs[0]]
    sgd = OPTIMIZERS["sgd"]
    vectors["plateau_rates"] = [
        [rate for rate, _ in trajectory(sgd, schedule, start, grads, metrics)] for schedule in PLATEAUS.values()
    ]


def clipping(vectors: dict[str, Any]) -> None:
    """One gradient below the norm and one above, by norm, by value, and by both."""
    for index in (0, 1):
        grads = torch.tensor(vectors["grads"][index], dtype=torch.float64) * (0.2, 3.0)[index]
        for name, by_value, by_norm in (("norm", False, True), ("value", True, False), ("both", True, True)):
            parts = [nn.Parameter(part) for part in (torch.zeros(4), torch.zeros(2))]
            for part, grad in zip(parts, grads.split([4, 2]), strict=True):
                part.data, part.grad = part.data.double(), grad.clone()
            if by_value:
                nn.utils.clip_grad_value_(parts, 0.7)
            if by_norm:
                nn.utils.clip_grad_norm_(parts, 1.5)
            vectors[f"clip/{name}/{index}"] = torch.cat([part.grad for part in parts])


def averages(vectors: dict[str, Any]) -> None:
    """The exponential moving average over twenty steps of plain descent."""
    model = nn.Linear(2, 2).double()
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    with torch.no_grad():
        model.weight.copy_(torch.tensor(vectors["start"][:4]).view(2, 2))
        model.bias.copy_(torch.tensor(vectors["start"][4:]))
    rule = optim.SGD(model.parameters(), RATE)
    kept = []
    for step, grad in enumerate(vectors["grads"], start=1):
        model.weight.grad = torch.tensor(grad[:4], dtype=torch.float64).view(2, 2)
        model.bias.grad = torch.tensor(grad[4:], dtype=torch.float64)
        rule.step()
        averaged.update_parameters(model)
        if step in KEPT:
            kept.append(torch.cat([averaged.module.weight.flatten(), averaged.module.bias]).detach().clone())
    vectors["ema"] = torch.stack(kept)


def losses(vectors: dict[str, Any]) -> None:
    """Values and gradients of the losses, with equal numbers, zeros and bounds among the operands."""
    rng = np.random.default_rng(2)
    vectors["logits"] = (2.0 * rng.standard_normal((6, 4))).astype(np.float32)
    vectors["labels"] = np.array([3, 0, 2, 2, 1, 3])
    vectors["weight"] = np.array([0.5, 2.0, 1.0, 0.25], np.float32)
    for weighted in (False, True):
        for smoothing in (0.0, 0.1, 1.0):
            for ignore in (None, 2):
                weight = torch.tensor(vectors["weight"], dtype=torch.float64) if weighted else None
                given = {} if ignore is None else {"ignore_index": ignore}
                keep(
                    vectors,
                    f"cross_entropy/{int(weighted)}/{smoothing}/{ignore}",
                    lambda x, weight=weight, given=given, smoothing=smoothing: F.cross_entropy(
                        x, torch.tensor(vectors["labels"]), weight, label_smoothing=smoothing, **given
                    ),
                )
    target = rng.standard_normal((6, 4)).astype(np.float32)
    target[0] = vectors["logits"][0]
    target[1, 0] = vectors["logits"][1, 0] + 0.5
    vectors["target"] = target
    y = torch.tensor(target, dtype=torch.float64)
    keep(vectors, "mse_loss", lambda x: F.mse_loss(x, y))
    keep(vectors, "l1_loss", lambda x: F.l1_loss(x, y))
    keep(vectors, "huber_loss/1.0", lambda x: F.huber_loss(x, y))
    keep(vectors, "huber_loss/0.5", lambda x: F.huber_loss(x, y, delta=0.5))
    chance = np.round(rng.random((6, 4)), 2).astype(np.float32)
    chance[0], chance[1] = 0.0, 1.0
    vectors["chance"] = chance
    p = torch.tensor(chance, dtype=torch.float64)
    positive = torch.tensor(vectors["weight"], dtype=torch.float64)
    binary = F.binary_cross_entropy_with_logits
    for scale in (1.0, 0.0, 40.0):
        keep(vectors, f"binary/none/{scale}", lambda x: binary(x, p), scale)
        keep(vectors, f"binary/array/{scale}", lambda x: binary(x, p, pos_weight=positive), scale)


def keep(vectors: dict[str, Any], name: str, loss: Callable[[torch.Tensor], torch.Tensor], scale: float = 1.0) -> None:
    """Keep the value of a loss at `scale` times the logits, and its gradient."""
    x = (torch.tensor(vectors["logits"], dtype=torch.float64) * scale).requires_grad_()
    value = loss(x)
    value.backward()
    vectors[f"loss/{name}"] = torch.cat([value.detach().view(1), x.grad.flatten()])


def main() -> None:
    """Make all vectors."""
    vectors: dict[str, Any] = {}
    for part in (optimizers, clipping, averages, losses):
        part(vectors)
    arrays = {name: np.asarray(value) for name, value in vectors.items()}
    rates = ("rates", "plateau_rates")
    small = {
        name: array.astype(np.float32) if array.dtype == np.float64 and name not in rates else array
        for name, array in arrays.items()
    }
    np.savez_compressed(Path(__file__).with_name("torch_vectors.npz"), **small)


if __name__ == "__main__":
    main()
