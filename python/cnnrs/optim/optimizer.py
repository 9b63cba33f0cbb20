"""What all optimizers share: checked hyperparameters, groups of parameters, and the row of numbers an update reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, ClassVar

from cnnrs.optim._checks import check_flag
from cnnrs.optim.group import OVERRIDES, Group, check_number
from cnnrs.optim.schedules import Schedule

__all__ = ["Groups", "Optimizer"]

Groups = Iterable[Group | Mapping[str, Any]]


class Optimizer(ABC):
    """Base class of the optimizers; the set of them is closed, since their updates run in Rust.

    Holds hyperparameters only; what an optimizer remembers of each parameter lives in the trainer. Attributes may
    be assigned between steps and are checked like the arguments. Pickles and copies.
    """

    lr: float | Schedule
    groups: tuple[Group, ...]
    version: int  # grows with every assignment, so that a table made from older values is known to be old

    _op: ClassVar[str]
    """Name of the update in the extension; optimizers of one name share their states."""
    _arguments: ClassVar[tuple[str, ...]]
    """Names of the hyperparameters, in the order of the arguments."""
    _flags: ClassVar[tuple[str, ...]] = ()
    """Those that are True or False; they are part of the program."""
    _columns: ClassVar[int]
    """Numbers in a row of the table an update reads."""

    def __init__(self, **arguments: Any) -> None:
        checked = {name: self._checked(name, value) for name, value in arguments.items()}
        self._check_all(checked)
        object.__setattr__(self, "version", 0)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        """Check and set one hyperparameter."""
        owner = type(self).__name__
        if name not in self._arguments:
            msg = f"{owner} has no hyperparameter {name!r}, it has {', '.join(self._arguments)}"
            raise AttributeError(msg)
        checked = self._checked(name, value)
        self._check_all({other: getattr(self, other) for other in self._arguments} | {name: checked})
        object.__setattr__(self, name, checked)
        object.__setattr__(self, "version", self.version + 1)

    def __repr__(self) -> str:
        """Return the call that makes an equal optimizer."""
        shown = [f"{name}={getattr(self, name)!r}" for name in self._arguments if name != "groups"]
        if self.groups:
            shown.append(f"groups={list(self.groups)!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

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
                    known, owner = ", ".join(names), type(self).__name__
                    msg = f"{owner}: pattern {pattern!r} of groups matches no parameter of the model, which has {known}"
                    raise ValueError(msg)
        base = {name: getattr(self, name) for name in self._overrides() if name != "lr_scale"} | {"lr_scale": 1.0}
        rows = []
        for name in names:
            row = dict(base)
            for group in self.groups:
                if group.matches(name):
                    row.update(group.overrides())
            rows.append(row)
        return rows

    # What the trainer asks for.

    @property
    def _attributes(self) -> dict[str, Any]:
        """The attributes of the update in the graph."""
        return {"optimizer": self._op} | {name: getattr(self, name) for name in self._flags}

    @property
    @abstractmethod
    def _states(self) -> dict[str, float]:
        """Names of the states of a parameter in the order the update takes them, and what they are filled with."""

    @property
    def _counts(self) -> bool:
        """Whether a row depends on the number of updates the parameter has had."""
        return False

    @abstractmethod
    def _row(self, values: Mapping[str, Any], rate: float, update: int) -> tuple[float, ...]:
        """Return the numbers that one update of a parameter reads, computed in double precision.

        Args:
            values: Hyperparameters of the parameter.
            rate: Its learning rate, schedule and scale applied.
            update: Number of this update among those of the parameter, from 1.
        """

    # Checks.

    @classmethod
    def _overrides(cls) -> tuple[str, ...]:
        """Names of the hyperparameters that groups can set."""
        return tuple(name for name in OVERRIDES if name == "lr_scale" or name in cls._arguments)

    def _checked(self, name: str, value: Any) -> Any:
        """Return the value one hyperparameter is stored as."""
        owner = type(self).__name__
        if name == "groups":
            return self._read_groups(value)
        if name in self._flags:
            return check_flag(value, name, owner)
        return check_number(name, value, owner)

    def _check_all(self, values: Mapping[str, Any]) -> None:  # noqa: B027 - most have nothing to refuse
        """Refuse values that do not go together."""

    def _read_groups(self, groups: Groups | None) -> tuple[Group, ...]:
        if isinstance(groups, str | Mapping):
            msg = f"{type(self).__name__}: groups must be a sequence of groups, got {groups!r}"
            raise TypeError(msg)
        return tuple(self._read_group(group) for group in groups or ())

    def _read_group(self, group: Group | Mapping[str, Any]) -> Group:
        owner, allowed = type(self).__name__, self._overrides()
        if not isinstance(group, Group | Mapping):
            msg = f"{owner}: groups must hold Group objects or dictionaries, got {group!r}"
            raise TypeError(msg)
        keys = list(group.overrides()) if isinstance(group, Group) else [key for key in group if key != "params"]
        unknown = [str(key) for key in keys if key not in allowed]
        if unknown or (isinstance(group, Mapping) and "params" not in group):
            problem = f"unknown key {unknown[0]!r}" if unknown else "no key 'params'"
            msg = f"{owner}: a group has {problem}; expected params and any of {', '.join(allowed)}"
            raise ValueError(msg)
        return group if isinstance(group, Group) else Group(**group)
