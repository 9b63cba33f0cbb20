"""The checks of hyperparameters."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

from cnnrs._args import show

__all__ = ["OptionalRate", "check_flag", "check_pair", "check_rate"]

_FLOAT32_MAX = 3.4028234663852886e38


def check_rate(
    value: object,
    name: str,
    owner: str,
    *,
    most: float = _FLOAT32_MAX,
    below: float | None = None,
    positive: bool = False,
) -> float:
    """Return a hyperparameter as a float, once it is a finite number in its interval.

    Args:
        value: What the caller gave.
        name: Argument name, for the error.
        owner: Class the argument belongs to, for the error.
        most: Highest legal value; by default the largest finite float32.
        below: Exclusive upper bound, instead of `most`.
        positive: Whether 0 is refused as well.

    Raises:
        TypeError: The value is not a real number.
        ValueError: The value is not finite or outside its interval.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        msg = f"{owner}: {name} must be a number, got {show(value)}"
        raise TypeError(msg)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if below is not None:
        legal, text = 0.0 <= number < below, f"in [0, {below:g})"
    elif positive:
        legal, text = 0.0 < number <= most, "finite and > 0"
    elif most == _FLOAT32_MAX:
        legal, text = 0.0 <= number <= most, "finite and >= 0"
    else:
        legal, text = 0.0 <= number <= most, f"in [0, {most:g}]"
    if not legal:
        msg = f"{owner}: {name} must be {text}, got {show(value)}"
        raise ValueError(msg)
    return number


def check_pair(value: object, name: str, owner: str) -> tuple[float, float]:
    """Return a pair of hyperparameters in [0, 1), as floats.

    Raises:
        TypeError: The value is not a pair of real numbers.
        ValueError: A number outside its interval.
    """
    if not isinstance(value, tuple | list) or len(value) != 2:
        msg = f"{owner}: {name} must be a pair of numbers, got {show(value)}"
        raise TypeError(msg)
    first, second = (check_rate(item, f"{name}[{index}]", owner, below=1.0) for index, item in enumerate(value))
    return first, second


def check_flag(value: object, name: str, owner: str) -> bool:
    """Return a hyperparameter that is True or False.

    Raises:
        TypeError: The value is not a bool.
    """
    if not isinstance(value, bool):
        msg = f"{owner}: {name} must be True or False, got {value!r}"
        raise TypeError(msg)
    return value


class OptionalRate:
    """An attribute that is None or a number in an interval, checked when it is assigned.

    Args:
        text: What the attribute is.
        **interval: The interval, as for `check_rate`.
    """

    def __init__(self, text: str, **interval: Any) -> None:
        self.__doc__ = text
        self._interval = interval
        self._name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Return the number or None; of the class, the attribute itself."""
        return self if instance is None else vars(instance)[self._name]

    def __set__(self, instance: Any, value: float | None) -> None:
        """Check and set the number."""
        checked = None if value is None else check_rate(value, self._name, type(instance).__name__, **self._interval)
        vars(instance)[self._name] = checked
