"""The size of an axis that follows the batch: it knows when it is computed with.

A traced program runs for any batch size, so a number that was computed from the batch size of the trace must not
become a part of it. Handing the size on (as a size of `reshape`, or comparing it with itself) keeps a trace general;
everything that reads the number marks the trace, and its program serves that batch size only.
"""

from __future__ import annotations

import math
import numbers
import operator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from cnnrs.graph import Trace


def _plain(operand: Any) -> Any:
    """Return the number of a batch size, which marks its trace; anything else as it is."""
    return operand.read() if isinstance(operand, BatchSize) else operand


def _unary(function: Callable[[Any], Any]) -> Callable[[BatchSize], Any]:
    return lambda self: function(self.read())


def _binary(function: Callable[[Any, Any], Any]) -> Callable[[BatchSize, Any], Any]:
    return lambda self, other: function(self.read(), _plain(other))


def _reflected(function: Callable[[Any, Any], Any]) -> Callable[[BatchSize, Any], Any]:
    return lambda self, other: function(_plain(other), self.read())


class BatchSize:
    """An integer that marks its trace as specific to the batch size when it is read.

    It is no `int`, because NumPy and the interpreter read those without asking.

    Args:
        trace: The trace to mark.
        size: The size for the batch that is traced.
        others: The sizes for two other batch sizes; axes that agree in all three always agree.
    """

    __slots__ = ("_others", "_size", "_trace")

    def __init__(self, trace: Trace, size: int, others: tuple[int, ...]) -> None:
        self._trace, self._size, self._others = trace, size, others

    def read(self) -> int:
        """Return the number and mark the trace."""
        self._trace.mark_batch_specific()
        return self._size

    def peek(self) -> int:
        """Return the number for the batch that is traced and mark nothing: for checks and texts alone."""
        return self._size

    def follows(self, other: object) -> bool:
        """Tell whether the other size is the same for every batch; marks nothing."""
        if self is other:
            return True
        if not isinstance(other, BatchSize) or self._trace is not other._trace:
            return False
        return (self._size, self._others) == (other._size, other._others)

    def __eq__(self, other: object) -> Any:
        return True if self.follows(other) else self.read() == _plain(other)

    def __ne__(self, other: object) -> Any:
        return False if self.follows(other) else self.read() != _plain(other)

    def __hash__(self) -> int:
        return hash(self.read())

    def __repr__(self) -> str:
        return repr(self._size)

    def __format__(self, spec: str) -> str:
        return format(self._size, spec)

    def __reduce__(self) -> tuple[Any, ...]:
        return int, (self.read(),)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.read(), name)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        import numpy as np

        return np.asarray(self.read(), dtype)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return getattr(ufunc, method)(*map(_plain, inputs), **kwargs)

    __index__ = _unary(int)
    __int__ = _unary(int)
    __float__ = _unary(float)
    __complex__ = _unary(complex)
    __bool__ = _unary(bool)
    __neg__ = _unary(operator.neg)
    __pos__ = _unary(operator.pos)
    __abs__ = _unary(operator.abs)
    __invert__ = _unary(operator.invert)
    __trunc__ = _unary(math.trunc)
    __floor__ = _unary(math.floor)
    __ceil__ = _unary(math.ceil)

    def __round__(self, digits: int | None = None) -> int:
        return round(self.read(), digits) if digits is not None else self.read()

    __lt__ = _binary(operator.lt)
    __le__ = _binary(operator.le)
    __gt__ = _binary(operator.gt)
    __ge__ = _binary(operator.ge)
    __add__, __radd__ = _binary(operator.add), _reflected(operator.add)
    __sub__, __rsub__ = _binary(operator.sub), _reflected(operator.sub)
    __mul__, __rmul__ = _binary(operator.mul), _reflected(operator.mul)
    __truediv__, __rtruediv__ = _binary(operator.truediv), _reflected(operator.truediv)
    __floordiv__, __rfloordiv__ = _binary(operator.floordiv), _reflected(operator.floordiv)
    __mod__, __rmod__ = _binary(operator.mod), _reflected(operator.mod)
    __divmod__, __rdivmod__ = _binary(divmod), _reflected(divmod)
    __pow__, __rpow__ = _binary(operator.pow), _reflected(operator.pow)
    __lshift__, __rlshift__ = _binary(operator.lshift), _reflected(operator.lshift)
    __rshift__, __rrshift__ = _binary(operator.rshift), _reflected(operator.rshift)
    __and__, __rand__ = _binary(operator.and_), _reflected(operator.and_)
    __or__, __ror__ = _binary(operator.or_), _reflected(operator.or_)
    __xor__, __rxor__ = _binary(operator.xor), _reflected(operator.xor)


numbers.Integral.register(BatchSize)
