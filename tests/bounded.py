"""Running error analysis: float64 numbers that carry a bound of the error of the same calculation in float32.

Every operation adds one rounding of its result to what it makes of its operands' errors (Higham, Accuracy and Stability
of Numerical Algorithms, section 3.3). Kernels may fuse and reorder products and sums of an expression: `SAFETY` covers
that.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tolerance import TINY, UNIT

Array = npt.NDArray[np.float64]

SAFETY = 4.0
"""How many times the bound of one order of the operations another order may be off."""


class Bounded:
    """Numbers with the bounds of their errors, which are rounding errors of float32 unless given."""

    def __init__(self, value: Any, error: Any = None) -> None:
        self.value: Array = np.asarray(value, np.float64)
        self.error: Array = UNIT * np.abs(self.value) if error is None else np.asarray(error, np.float64)

    @classmethod
    def exact(cls, value: Any) -> Bounded:
        """Numbers that float32 has exactly."""
        return cls(value, 0.0)

    def _rounded(self) -> Bounded:
        return Bounded(self.value, self.error + UNIT * (np.abs(self.value) + self.error) + TINY)

    def __add__(self, other: Any) -> Bounded:
        other = _bounded(other)
        return Bounded(self.value + other.value, self.error + other.error)._rounded()

    def __sub__(self, other: Any) -> Bounded:
        other = _bounded(other)
        return Bounded(self.value - other.value, self.error + other.error)._rounded()

    def __rsub__(self, other: Any) -> Bounded:
        return _bounded(other) - self

    def __mul__(self, other: Any) -> Bounded:
        other = _bounded(other)
        error = np.abs(self.value) * other.error + np.abs(other.value) * self.error + self.error * other.error
        return Bounded(self.value * other.value, error)._rounded()

    __radd__, __rmul__ = __add__, __mul__

    def __truediv__(self, other: Any) -> Bounded:
        other = _bounded(other)
        nearest = np.abs(other.value) - other.error
        with np.errstate(all="ignore"):
            quotient = self.value / other.value
            error = (self.error + np.abs(quotient) * other.error) / np.maximum(nearest, 0.0)
        return Bounded(quotient, error)._rounded()

    def sqrt(self) -> Bounded:
        """The square root; numbers that may be negative count as zero there."""
        low, high = np.maximum(self.value - self.error, 0.0), self.value + self.error
        root = np.sqrt(np.maximum(self.value, 0.0))
        return Bounded(root, np.sqrt(high) - np.sqrt(low))._rounded()

    def maximum(self, other: Any) -> Bounded:
        """The larger number of each pair."""
        other = _bounded(other)
        return Bounded(np.maximum(self.value, other.value), np.maximum(self.error, other.error))

    @property
    def bound(self) -> Array:
        """How far a kernel's result may be from the value."""
        return SAFETY * self.error


def _bounded(operand: Any) -> Bounded:
    return operand if isinstance(operand, Bounded) else Bounded(operand)
