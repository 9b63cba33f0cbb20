"""Symbolic values: what a forward computes with while a model is traced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, cast

import numpy as np

from cnnrs import _core
from cnnrs._batch_size import BatchSize

if TYPE_CHECKING:
    from cnnrs.graph import Trace


def is_parameter(operand: object) -> bool:
    """Tell whether the operand is an `nn.Parameter` (this module stands below `cnnrs.nn`)."""
    return isinstance(getattr(operand, "_storage", None), _core.Parameter)


def is_buffer(operand: object) -> bool:
    """Tell whether the operand is an `nn.Buffer`."""
    return is_parameter(operand) and hasattr(operand, "frozen")


def _is_operand(operand: object) -> bool:
    """Tell whether an operator of a symbolic value takes the operand."""
    if isinstance(operand, (Value, np.ndarray, np.number)) or is_parameter(operand):
        return True
    return isinstance(operand, (int, float)) and not isinstance(operand, bool)


_UFUNCS: dict[Any, str] = {
    np.add: "add",
    np.subtract: "sub",
    np.multiply: "mul",
    np.divide: "div",
    np.matmul: "matmul",
    np.negative: "neg",
}
"""What NumPy makes of an operator whose left side is an array."""


class Value:
    """A tensor that exists only as a symbol while a model is traced.

    It has a shape, a number of dimensions, a dtype, the operators `+ - * / @` with values, arrays, parameters and
    numbers, and takes an index of ints and slices; everything that needs numbers is a `TypeError` that names the
    layer and the way out. Sizes that follow the batch are `BatchSize`s: a forward may compute with them, and is then
    traced anew for every batch size.
    """

    __slots__ = ("_origin", "_trace", "dtype", "id", "shape")

    def __init__(self, trace: Trace, value: int, origin: str) -> None:
        """Wrap the graph's value with that id; `origin` says which layer and op made it."""
        shape, dtype = trace.graph.info(value)
        others = trace.graph.batch_sizes(value)
        self._trace = trace
        self._origin = origin
        self.id = value
        self.shape: tuple[int, ...] = shape
        if others is not None:
            pairs = zip(shape, others, strict=True)
            sizes = [size if more is None else BatchSize(trace, size, tuple(more)) for size, more in pairs]
            self.shape = cast("tuple[int, ...]", tuple(sizes))
        self.dtype: np.dtype[Any] = np.dtype(dtype)

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def trace(self) -> Trace:
        """The trace that this value belongs to."""
        return self._trace

    def __add__(self, other: Any) -> Any:
        """Record a + b, broadcast as in NumPy; so the other operations."""
        return self._operation("add", self, other)

    def __radd__(self, other: Any) -> Any:
        """Record a + b with this value as b; so the other operations."""
        return self._operation("add", other, self)

    def __sub__(self, other: Any) -> Any:
        """Record a - b."""
        return self._operation("sub", self, other)

    def __rsub__(self, other: Any) -> Any:
        """Record a - b."""
        return self._operation("sub", other, self)

    def __mul__(self, other: Any) -> Any:
        """Record a * b."""
        return self._operation("mul", self, other)

    def __rmul__(self, other: Any) -> Any:
        """Record a * b."""
        return self._operation("mul", other, self)

    def __truediv__(self, other: Any) -> Any:
        """Record a / b."""
        return self._operation("div", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        """Record a / b."""
        return self._operation("div", other, self)

    def __matmul__(self, other: Any) -> Any:
        """Record a product of matrices."""
        return self._operation("matmul", self, other)

    def __rmatmul__(self, other: Any) -> Any:
        """Record a product of matrices."""
        return self._operation("matmul", other, self)

    def __neg__(self) -> Any:
        """Record -a."""
        return self._operation("neg", self)

    @staticmethod
    def _operation(name: str, *operands: Any) -> Any:
        from cnnrs import functional

        if all(_is_operand(operand) for operand in operands):
            return getattr(functional, name)(*operands)
        return NotImplemented

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """Take the operations between an array and a value; refuse every other NumPy function."""
        name = _UFUNCS.get(ufunc)
        if name is not None and method == "__call__" and not kwargs:
            return self._operation(name, *inputs)
        return self._refuse(f"np.{ufunc.__name__}")

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: there are no numbers yet."""
        self._refuse("np.asarray()")

    def __bool__(self) -> NoReturn:
        """Refuse: there are no numbers yet."""
        self._refuse("bool()")

    def __float__(self) -> NoReturn:
        """Refuse: there are no numbers yet."""
        self._refuse("float()")

    def __int__(self) -> NoReturn:
        """Refuse: there are no numbers yet."""
        self._refuse("int()")

    def __len__(self) -> NoReturn:
        """Refuse: use `shape`."""
        self._refuse("len()")

    def __iter__(self) -> NoReturn:
        """Refuse: there are no numbers yet."""
        self._refuse("iteration")

    def __getitem__(self, index: Any) -> Any:
        """Record a slice: ints, slices with any step, `...` and None, as in NumPy; see `functional.slice`."""
        from cnnrs import functional

        return functional.slice(self, index)

    def reshape(self, *shape: Any) -> Any:
        """Record another shape, given as sizes or as one tuple; see `functional.reshape`."""
        from cnnrs import functional

        return functional.reshape(self, shape[0] if len(shape) == 1 else shape)

    def transpose(self, *axes: Any) -> Any:
        """Record another order of the axes, given as ints or as one tuple; see `functional.transpose`."""
        from cnnrs import functional

        single = len(axes) == 1 and (axes[0] is None or isinstance(axes[0], (tuple, list)))
        return functional.transpose(self, axes[0] if single else axes or None)

    def _refuse(self, what: str) -> NoReturn:
        layer = self._trace.path or "the model"
        message = (
            f"{layer}: {what} needs numbers, but the value of shape {self.shape} made by {self._origin} is a symbol "
            "while the model is traced; use functions of cnnrs.functional inside forward, shape for sizes, "
            "or work on the array that the model returns"
        )
        raise TypeError(message)

    def __repr__(self) -> str:
        """Show shape, dtype and origin."""
        return f"Value(shape={self.shape}, dtype={self.dtype}, from {self._origin})"
