"""Adam and AdamW.

For every parameter `w` with gradient `grad` update number `t` of the parameter is, in this order,

    g = grad + weight_decay * w                         (Adam only)
    w = w - lr * decoupled_weight_decay * w             (AdamW: its weight_decay)
    m = beta1 * m + (1 - beta1) * g                     (m starts at 0)
    v = beta2 * v + (1 - beta2) * g**2                  (v starts at 0)
    u = max(u, v)  if amsgrad else  v                   (u starts at 0)
    w = w - lr / (1 - beta1**t) * m / (sqrt(u) / sqrt(1 - beta2**t) + eps)

Formulas: torch `Adam` and `AdamW`. `t` counts the updates the parameter has had: while it is frozen it stands still.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cnnrs.optim.optimizer import Groups, Optimizer
from cnnrs.optim.schedules import Schedule

__all__ = ["Adam", "AdamW"]


class _Moments(Optimizer):
    """What both have in common."""

    betas: tuple[float, float]
    eps: float
    weight_decay: float
    amsgrad: bool

    _op = "adam"
    _flags = ("amsgrad",)
    _columns = 8

    @property
    def _states(self) -> dict[str, float]:
        return {"first": 0.0, "second": 0.0} | ({"largest": 0.0} if self.amsgrad else {})

    @property
    def _counts(self) -> bool:
        return True

    def _numbers(
        self, values: Mapping[str, Any], rate: float, update: int, decays: tuple[float, float]
    ) -> tuple[float, ...]:
        first, second = values["betas"]
        corrections = 1.0 - first**update, 1.0 - second**update
        return rate, 1.0 - first, 1.0 - second, values["eps"], *decays, *corrections


class Adam(_Moments):
    """Steps along a running mean of gradients, divided by the root of a running mean of their squares.

    Holds hyperparameters only; the running means live in the trainer. Attributes may be assigned between steps and
    are checked like the arguments. Pickles and copies.

    Args:
        lr: Learning rate, finite and >= 0, or a schedule (`cnnrs.optim.OneCycle` and others).
        betas: Weights of the old means of gradients and of squares, each in [0, 1).
        eps: Added to the root, finite and >= 0.
        weight_decay: L2 term added to the gradient, finite and >= 0.
        amsgrad: Whether the largest mean square so far takes the place of the present one.
        decoupled_weight_decay: Decay applied to the weights themselves, times `lr`, finite and >= 0.
        groups: `Group` objects or dictionaries of their arguments, as in `SGD`.

    Raises:
        TypeError: A value of the wrong type.
        ValueError: A value outside its interval, or an unknown key in a group. A pattern that matches no
            parameter is found when the trainer is made.
    """

    decoupled_weight_decay: float

    _arguments = ("lr", "betas", "eps", "weight_decay", "amsgrad", "decoupled_weight_decay", "groups")

    def __init__(
        self,
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        decoupled_weight_decay: float = 0.0,
        groups: Groups | None = None,
    ) -> None:
        super().__init__(
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            decoupled_weight_decay=decoupled_weight_decay,
            groups=groups,
        )

    def _row(self, values: Mapping[str, Any], rate: float, update: int) -> tuple[float, ...]:
        return self._numbers(values, rate, update, (values["weight_decay"], values["decoupled_weight_decay"]))


class AdamW(_Moments):
    """Adam with the weight decay applied to the weights themselves.

    Holds hyperparameters only; the running means live in the trainer. Attributes may be assigned between steps and
    are checked like the arguments. Pickles and copies.

    Args:
        lr: Learning rate, finite and >= 0, or a schedule (`cnnrs.optim.OneCycle` and others).
        betas: Weights of the old means of gradients and of squares, each in [0, 1).
        eps: Added to the root, finite and >= 0.
        weight_decay: Decay applied to the weights themselves, times `lr`, finite and >= 0.
        amsgrad: Whether the largest mean square so far takes the place of the present one.
        groups: `Group` objects or dictionaries of their arguments, as in `SGD`.

    Raises:
        TypeError: A value of the wrong type.
        ValueError: A value outside its interval, or an unknown key in a group. A pattern that matches no
            parameter is found when the trainer is made.
    """

    _arguments = ("lr", "betas", "eps", "weight_decay", "amsgrad", "groups")

    def __init__(
        self,
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        groups: Groups | None = None,
    ) -> None:
        super().__init__(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, groups=groups)

    def _row(self, values: Mapping[str, Any], rate: float, update: int) -> tuple[float, ...]:
        return self._numbers(values, rate, update, (0.0, values["weight_decay"]))
