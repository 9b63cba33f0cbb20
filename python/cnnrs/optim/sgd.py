"""Stochastic gradient descent: the hyperparameters, their groups, and the table of them a step reads.

For every parameter `w` with gradient `grad` one update is, in this order,

    g   = grad + weight_decay * w
    w   = w - lr * decoupled_weight_decay * w
    buf = momentum * buf + g                            (buf starts at 0)
    w   = w - lr * (g + momentum * buf  if nesterov else  buf)

Formula: torch `SGD` with dampening 0; the decoupled decay is that of torch `AdamW`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnrs.optim._checks import check_rate
from cnnrs.optim.schedules import Schedule

__all__ = ["SGD", "Group", "HyperTable"]


@dataclass(frozen=True)
class Group:
    """Hyperparameters for some of the parameters, in place of the optimizer's.

    Args:
        params: Pattern for dotted parameter names (`*`, `?`, `[...]` as in `fnmatch`, `*` crosses dots), or a
            sequence of names or patterns.
        lr: Learning rate or schedule; None keeps the optimizer's.
        lr_scale: Factor on the learning rate, finite and >= 0; None keeps 1.
        momentum: In [0, 1); None keeps the optimizer's.
        weight_decay: L2 term in the gradient, finite and >= 0; None keeps the optimizer's.
        decoupled_weight_decay: Finite and >= 0; None keeps the optimizer's.

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

    def __post_init__(self) -> None:
        patterns = (self.params,) if isinstance(self.params, str) else self.params
        if not isinstance(patterns, Sequence) or not all(isinstance(item, str) for item in patterns):
            msg = f"Group: params must be a name pattern or a sequence of them, got {self.params!r}"
            raise TypeError(msg)
        if not patterns:
            msg = "Group: params must name at least one parameter, got an empty sequence"
            raise ValueError(msg)
        object.__setattr__(self, "params", tuple(patterns))
        for name in _OVERRIDES:
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _check(name, value, "Group"))

    def matches(self, name: str) -> bool:
        """Return whether a parameter belongs to the group."""
        return any(fnmatchcase(name, pattern) for pattern in self.params)

    def overrides(self) -> dict[str, Any]:
        """Return the hyperparameters the group sets, by name."""
        return {name: getattr(self, name) for name in _OVERRIDES if getattr(self, name) is not None}


_OVERRIDES = tuple(field.name for field in fields(Group) if field.name != "params")


class SGD:
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

    lr: float | Schedule
    momentum: float
    weight_decay: float
    nesterov: bool
    decoupled_weight_decay: float
    groups: tuple[Group, ...]
    version: int  # grows with every assignment, so that a table made from older values is known to be old

    def __init__(
        self,
        lr: float | Schedule,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        decoupled_weight_decay: float = 0.0,
        groups: Iterable[Group | Mapping[str, Any]] | None = None,
    ) -> None:
        object.__setattr__(self, "version", 0)
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.nesterov = nesterov
        self.decoupled_weight_decay = decoupled_weight_decay
        object.__setattr__(self, "groups", _read_groups(groups))

    def __setattr__(self, name: str, value: Any) -> None:
        """Check and set one hyperparameter."""
        if name not in _ARGUMENTS:
            msg = f"SGD has no hyperparameter {name!r}, it has {', '.join(_ARGUMENTS)}"
            raise AttributeError(msg)
        checked = _read_groups(value) if name == "groups" else _check(name, value, "SGD")
        nesterov = checked if name == "nesterov" else getattr(self, "nesterov", False)
        momentum = checked if name == "momentum" else self.momentum if name == "nesterov" else 1.0
        if nesterov and not momentum:
            msg = f"SGD: nesterov=True needs momentum > 0, got momentum={momentum!r}"
            raise ValueError(msg)
        object.__setattr__(self, name, checked)
        object.__setattr__(self, "version", self.version + 1)

    def __repr__(self) -> str:
        """Return the call that makes an equal optimizer."""
        shown = [f"{name}={getattr(self, name)!r}" for name in _ARGUMENTS if name != "groups"]
        if self.groups:
            shown.append(f"groups={list(self.groups)!r}")
        return f"SGD({', '.join(shown)})"

    def resolve(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Return the hyperparameters of each parameter, groups applied.

        Args:
            names: Dotted names of all parameters of the model.

        Raises:
            ValueError: A pattern of a group matches none of the names.
        """
        for group in self.groups:
            for pattern in group.params:
                if not any(fnmatchcase(name, pattern) for name in names):
                    known = ", ".join(names)
                    msg = f"SGD: pattern {pattern!r} of groups matches no parameter of the model, which has {known}"
                    raise ValueError(msg)
        base = {name: getattr(self, name) for name in _OVERRIDES if name != "lr_scale"} | {"lr_scale": 1.0}
        rows = []
        for name in names:
            row = dict(base)
            for group in self.groups:
                if group.matches(name):
                    row.update(group.overrides())
            rows.append(row)
        return rows


_ARGUMENTS = ("lr", "momentum", "weight_decay", "nesterov", "decoupled_weight_decay", "groups")


class HyperTable:
    """The run-time scalars of a step: one row `[lr, momentum, weight_decay, decoupled_weight_decay]` a parameter.

    Args:
        optimizer: Where the values come from; a later change of it is not seen.
        names: All parameter names of the model, which groups are matched against.
        rows: The names the table has rows for, in order.
    """

    def __init__(self, optimizer: SGD, names: Sequence[str], rows: Sequence[str]) -> None:
        resolved = dict(zip(names, optimizer.resolve(names), strict=True))
        self._array = np.zeros((len(rows), 4), np.float32)
        self._schedules: list[Schedule] = []
        self._scheduled: list[tuple[int, int, float]] = []  # (row, which schedule, scale)
        self._rates: list[float] = []
        known: dict[int, int] = {}
        for index, name in enumerate(rows):
            row = resolved[name]
            rate, scale = row["lr"], row["lr_scale"]
            if isinstance(rate, Schedule):
                if id(rate) not in known:
                    known[id(rate)] = len(self._schedules)
                    self._schedules.append(rate)
                self._scheduled.append((index, known[id(rate)], scale))
                rate = 0.0
            self._array[index] = (
                _scaled(rate, scale),
                row["momentum"],
                row["weight_decay"],
                row["decoupled_weight_decay"],
            )

    def at(self, updates: int, step: int | None, total: int | None, steps_per_epoch: int | None) -> NDArray[np.float32]:
        """Return the (P, 4) table for one update; the array is not written again once returned.

        Args:
            updates: Updates the trainer made before this one.
            step: Steps the running `fit` call made before this one; None outside `fit`.
            total: Steps of the running `fit` call; None if not known.
            steps_per_epoch: Steps of one of its epochs; None if not known.

        Raises:
            ValueError: A schedule needs a length that is not known, or gave a rate that is not finite and >= 0.
        """
        if not self._schedules:
            return self._array
        rates = []
        for schedule in self._schedules:
            position = updates if step is None or schedule.own_length else step
            rates.append(check_rate(schedule.value(position, total, steps_per_epoch), "learning rate", repr(schedule)))
        if rates != self._rates:
            array = self._array.copy()
            for index, which, scale in self._scheduled:
                array[index, 0] = _scaled(rates[which], scale)
            self._array, self._rates = array, rates
        return self._array


def _scaled(rate: float, scale: float) -> float:
    return check_rate(rate * scale, "lr times lr_scale", "SGD")


def _check(name: str, value: Any, owner: str) -> Any:
    """Return the value one hyperparameter is stored as."""
    if name == "nesterov":
        if not isinstance(value, bool):
            msg = f"{owner}: nesterov must be True or False, got {value!r}"
            raise TypeError(msg)
        return value
    if name == "lr" and isinstance(value, Schedule):
        return value
    return check_rate(value, name, owner, below=1.0 if name == "momentum" else None)


def _read_groups(groups: Iterable[Group | Mapping[str, Any]] | None) -> tuple[Group, ...]:
    if isinstance(groups, str | Mapping):
        msg = f"SGD: groups must be a sequence of groups, got {groups!r}"
        raise TypeError(msg)
    return tuple(_read_group(group) for group in groups or ())


def _read_group(group: Group | Mapping[str, Any]) -> Group:
    if isinstance(group, Group):
        return group
    if not isinstance(group, Mapping):
        msg = f"SGD: groups must hold Group objects or dictionaries, got {group!r}"
        raise TypeError(msg)
    unknown = [str(key) for key in group if key != "params" and key not in _OVERRIDES]
    if unknown or "params" not in group:
        problem = f"unknown key {unknown[0]!r}" if unknown else "no key 'params'"
        msg = f"SGD: a group has {problem}; expected params and any of {', '.join(_OVERRIDES)}"
        raise ValueError(msg)
    return Group(**group)
