"""RMSProp.

For every parameter `w` with gradient `grad` one update is, in this order,

    g      = grad + weight_decay * w
    w      = w - lr * decoupled_weight_decay * w
    square = alpha * square + (1 - alpha) * g**2        (square starts at 0)
    mean   = alpha * mean + (1 - alpha) * g             (only if centered; mean starts at 0)
    buf    = momentum * buf + g / (sqrt(square - mean**2  if centered else  square) + eps)
    w      = w - lr * buf

Formula: torch `RMSprop`. Where rounding makes `square - mean**2` negative, it is taken as 0 (NaN in torch).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cnnrs.optim.optimizer import Groups, Optimizer
from cnnrs.optim.schedules import Schedule

__all__ = ["RMSProp"]


class RMSProp(Optimizer):
    """Steps divided by the root of a running mean of squared gradients.

    Holds hyperparameters only; the running means live in the trainer. Attributes may be assigned between steps and
    are checked like the arguments. Pickles and copies.

    Args:
        lr: Learning rate, finite and >= 0, or a schedule (`cnnrs.optim.OneCycle` and others).
        alpha: Weight of the old mean, in [0, 1].
        eps: Added to the root, finite and >= 0.
        weight_decay: L2 term added to the gradient, finite and >= 0.
        momentum: In [0, 1).
        centered: Whether the variance takes the place of the mean square.
        decoupled_weight_decay: Decay applied to the weights themselves, times `lr`, finite and >= 0.
        groups: `Group` objects or dictionaries of their arguments, as in `SGD`.

    Raises:
        TypeError: A value of the wrong type.
        ValueError: A value outside its interval, or an unknown key in a group. A pattern that matches no
            parameter is found when the trainer is made.
    """

    alpha: float
    eps: float
    weight_decay: float
    momentum: float
    centered: bool
    decoupled_weight_decay: float

    _op = "rmsprop"
    _arguments = ("lr", "alpha", "eps", "weight_decay", "momentum", "centered", "decoupled_weight_decay", "groups")
    _flags = ("centered",)
    _columns = 6

    def __init__(
        self,
        lr: float | Schedule = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        decoupled_weight_decay: float = 0.0,
        groups: Groups | None = None,
    ) -> None:
        super().__init__(
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
            decoupled_weight_decay=decoupled_weight_decay,
            groups=groups,
        )

    @property
    def _states(self) -> dict[str, float]:
        return {"square": 0.0, "momentum": 0.0} | ({"mean": 0.0} if self.centered else {})

    def _row(self, values: Mapping[str, Any], rate: float, update: int) -> tuple[float, ...]:
        decays = values["weight_decay"], values["decoupled_weight_decay"]
        return rate, 1.0 - values["alpha"], values["eps"], values["momentum"], *decays
