"""Hyperparameters for some of the parameters of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any

from cnnrs.optim._checks import check_pair, check_rate
from cnnrs.optim.schedules import Schedule

__all__ = ["OVERRIDES", "Group", "check_number"]


def check_number(name: str, value: Any, owner: str) -> Any:
    """Return the value that a numeric hyperparameter of any optimizer is stored as.

    Raises:
        TypeError: The value is of a wrong type.
        ValueError: The value is outside its interval.
    """
    if name == "lr" and isinstance(value, Schedule):
        return value
    if name == "betas":
        return check_pair(value, name, owner)
    if name == "alpha":
        return check_rate(value, name, owner, most=1.0)
    return check_rate(value, name, owner, below=1.0 if name == "momentum" else None)


@dataclass(frozen=True)
class Group:
    """Hyperparameters for some of the parameters, in place of the optimizer's.

    An optimizer takes only groups of hyperparameters that it has itself; all have `lr`, `lr_scale` and
    `weight_decay`.

    Args:
        params: Pattern for dotted parameter names (`*`, `?`, `[...]` as in `fnmatch`, `*` crosses dots), or a
            sequence of names or patterns.
        lr: Learning rate or schedule; None keeps the optimizer's.
        lr_scale: Factor on the learning rate, finite and >= 0; None keeps 1.
        momentum: In [0, 1); None keeps the optimizer's.
        weight_decay: Finite and >= 0; None keeps the optimizer's.
        decoupled_weight_decay: Finite and >= 0; None keeps the optimizer's.
        alpha: In [0, 1]; None keeps the optimizer's.
        eps: Finite and >= 0; None keeps the optimizer's.
        betas: Two numbers in [0, 1); None keeps the optimizer's.
        lr_decay: Finite and >= 0; None keeps the optimizer's.

    Raises:
        TypeError: A value of the wrong type.
        ValueError: A value outside its interval, or no pattern.
    """

    params: str | Sequence[str]
    lr: float | Schedule | None = None
    lr_scale: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    decoupled_weight_decay: float | None = None
    alpha: float | None = None
    eps: float | None = None
    betas: tuple[float, float] | None = None
    lr_decay: float | None = None

    def __post_init__(self) -> None:
        patterns = (self.params,) if isinstance(self.params, str) else self.params
        if not isinstance(patterns, Sequence) or not all(isinstance(item, str) for item in patterns):
            msg = f"Group: params must be a name pattern or a sequence of them, got {self.params!r}"
            raise TypeError(msg)
        if not patterns:
            msg = "Group: params must name at least one parameter, got an empty sequence"
            raise ValueError(msg)
        object.__setattr__(self, "params", tuple(patterns))
        for name in OVERRIDES:
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, check_number(name, value, "Group"))

    def matches(self, name: str) -> bool:
        """Return whether a parameter belongs to the group."""
        return any(fnmatchcase(name, pattern) for pattern in self.params)

    def overrides(self) -> dict[str, Any]:
        """Return the hyperparameters the group sets, by name."""
        return {name: getattr(self, name) for name in OVERRIDES if getattr(self, name) is not None}


OVERRIDES = tuple(field.name for field in fields(Group) if field.name != "params")
