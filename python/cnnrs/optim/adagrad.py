"""Adagrad.

For every parameter `w` with gradient `grad` update number `t` of the parameter is, in this order,

    g    = grad + weight_decay * w
    rate = lr / (1 + (t - 1) * lr_decay)
    w    = w - rate * decoupled_weight_decay * w
    sum  = sum + g**2                                   (sum starts at initial_accumulator_value)
    w    = w - rate * g / (sqrt(sum) + eps)

Formula: torch `Adagrad`. `t` counts the updates the parameter has had: while it is frozen it stands still.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cnnrs.optim.optimizer import Groups, Optimizer
from cnnrs.optim.schedules import Schedule

__all__ = ["Adagrad"]


class Adagrad(Optimizer):
    """Steps divided by the root of the sum of all squared gradients so far.

    Holds hyperparameters only; the sums live in the trainer. Attributes may be assigned between steps and are
    checked like the arguments. Pickles and copies.

    Args:
        lr: Learning rate, finite and >= 0, or a schedule (`cnnrs.optim.OneCycle` and others).
        lr_decay: Decay of the learning rate with the updates of the parameter, finite and >= 0.
        weight_decay: L2 term added to the gradient, finite and >= 0.
        initial_accumulator_value: What the sums start at, finite and >= 0; a later change is for parameters that
            have not been updated yet.
        eps: Added to the root, finite and >= 0.
        decoupled_weight_decay: Decay applied to the weights themselves, times the rate, finite and >= 0.
        groups: `Group` objects or dictionaries of their arguments, as in `SGD`.

    Raises:
        TypeError: A value of the wrong type.
        ValueError: A value outside its interval, or an unknown key in a group. A pattern that matches no
            parameter is found when the trainer is made.
    """

    lr_decay: float
    weight_decay: float
    initial_accumulator_value: float
    eps: float
    decoupled_weight_decay: float

    _op = "adagrad"
    _arguments = (
        "lr",
        "lr_decay",
        "weight_decay",
        "initial_accumulator_value",
        "eps",
        "decoupled_weight_decay",
        "groups",
    )
    _columns = 4

    def __init__(
        self,
        lr: float | Schedule = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        decoupled_weight_decay: float = 0.0,
        groups: Groups | None = None,
    ) -> None:
        super().__init__(
            lr=lr,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            decoupled_weight_decay=decoupled_weight_decay,
            groups=groups,
        )

    @property
    def _states(self) -> dict[str, float]:
        return {"sum": self.initial_accumulator_value}

    @property
    def _counts(self) -> bool:
        return True

    def _row(self, values: Mapping[str, Any], rate: float, update: int) -> tuple[float, ...]:
        rate /= 1.0 + (update - 1) * values["lr_decay"]
        return rate, values["eps"], values["weight_decay"], values["decoupled_weight_decay"]
