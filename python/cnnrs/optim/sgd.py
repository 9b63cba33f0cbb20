"""Stochastic gradient descent.

For every parameter `w` with gradient `grad` one update is, in this order,

    g   = grad + weight_decay * w
    w   = w - lr * decoupled_weight_decay * w
    buf = momentum * buf + g                            (buf starts at 0)
    w   = w - lr * (g + momentum * buf  if nesterov else  buf)

Formula: torch `SGD` with dampening 0; the decoupled decay is that of torch `AdamW`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cnnrs.optim.optimizer import Groups, Optimizer
from cnnrs.optim.schedules import Schedule

__all__ = ["SGD"]


class SGD(Optimizer):
    """Stochastic gradient descent with momentum, Nesterov momentum and two kinds of weight decay.

    Holds hyperparameters only; momentum lives in the trainer. Attributes may be assigned between steps and
    are checked like the arguments. Pickles and copies.

    Args:
        lr: Learning rate, finite and >= 0, or a schedule (`cnnrs.optim.OneCycle` and others).
        momentum: In [0, 1).
        weight_decay: L2 term added to the gradient, finite and >= 0.
        nesterov: Nesterov's form of the momentum step; needs `momentum` > 0.
        decoupled_weight_decay: Decay applied to the weights themselves, times `lr`, finite and >= 0.
        groups: `Group` objects or dictionaries of their arguments. Each value of a parameter comes from the
            last group that matches its name and sets that value, otherwise from the optimizer. A shared
            parameter goes by its first name.

    Raises:
        TypeError: A value of the wrong type.
        ValueError: A value outside its interval, or an unknown key in a group. A pattern that matches no
            parameter is found when the trainer is made.
    """

    momentum: float
    weight_decay: float
    nesterov: bool
    decoupled_weight_decay: float

    _op = "sgd"
    _arguments = ("lr", "momentum", "weight_decay", "nesterov", "decoupled_weight_decay", "groups")
    _flags = ("nesterov",)
    _columns = 4

    def __init__(
        self,
        lr: float | Schedule,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        decoupled_weight_decay: float = 0.0,
        groups: Groups | None = None,
    ) -> None:
        super().__init__(
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            nesterov=nesterov,
            decoupled_weight_decay=decoupled_weight_decay,
            groups=groups,
        )

    @property
    def _states(self) -> dict[str, float]:
        return {"momentum": 0.0}

    def _row(self, values: Mapping[str, Any], rate: float, update: int) -> tuple[float, ...]:
        return rate, values["momentum"], values["weight_decay"], values["decoupled_weight_decay"]

    def _check_all(self, values: Mapping[str, Any]) -> None:
        if values["nesterov"] and not values["momentum"]:
            msg = f"SGD: nesterov=True needs momentum > 0, got momentum={values['momentum']!r}"
            raise ValueError(msg)
