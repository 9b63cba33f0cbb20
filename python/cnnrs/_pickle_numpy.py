"""What NumPy's names stand for in a pickle: arrays and numbers of plain types, made from bytes that are there.

After reading, an array is a `PickledArray`, whose `array` is read-only; a scalar is a Python number.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cnnrs._pickle import Built

_KINDS = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}
_MOST_DIMENSIONS = 8
_NDARRAY = object()


class PickledType(Built):
    """A `numpy.dtype` of numbers."""

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        """Take what `numpy.dtype` is called with."""
        if not isinstance(code, str) or code not in _KINDS:
            message = f"only types of numbers are read, got {code[:20] if isinstance(code, str) else type(code)!r}"
            raise ValueError(message)
        self.dtype = np.dtype(code)

    def set_state(self, state: Any) -> None:
        """Take the byte order from (version, order, subtype, names, fields, itemsize, alignment, flags)."""
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            message = "a type with fields"
            raise ValueError(message)
        order = state[1]
        if order not in ("<", ">", "=", "|"):
            message = "an unknown byte order"
            raise ValueError(message)
        self.dtype = self.dtype.newbyteorder("<" if order == "=" else order)


class PickledArray(Built):
    """A `numpy.ndarray`; `array` is None until the pickle has given its state."""

    def __init__(self, cls: Any, shape: Any = (0,), code: Any = b"b") -> None:
        """Take what `_reconstruct` is called with."""
        if cls is not _NDARRAY:
            message = "only numpy.ndarray itself is read"
            raise ValueError(message)
        self.array: np.ndarray[Any, Any] | None = None

    def set_state(self, state: Any) -> None:
        """Take (version, shape, type, Fortran order, data); version may be missing."""
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            message = "not the state of an array"
            raise ValueError(message)
        shape, dtype, fortran, data = state[-4:]
        self.array = _array(data, dtype, shape, "F" if fortran is True else "C")


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray[Any, Any]:
    """Make an array over bytes that must be exactly what its shape needs."""
    if isinstance(data, str):  # bytes of Python 2, read with an encoding
        data = data.encode("latin-1")
    if not isinstance(data, bytes) or not isinstance(dtype, PickledType) or order not in ("C", "F"):
        message = "an array needs bytes, a type and an order"
        raise ValueError(message)
    if not isinstance(shape, tuple) or len(shape) > _MOST_DIMENSIONS or not all(_is_size(size) for size in shape):
        message = f"a shape must be a tuple of at most {_MOST_DIMENSIONS} sizes"
        raise ValueError(message)
    if math.prod(shape) * dtype.dtype.itemsize != len(data):
        message = f"{dtype.dtype} {shape} takes {math.prod(shape) * dtype.dtype.itemsize} bytes, got {len(data)}"
        raise ValueError(message)
    return np.frombuffer(data, dtype.dtype).reshape(shape, order=order)


def _is_size(size: Any) -> bool:
    return type(size) is int and 0 <= size < 2**40


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> PickledArray:
    """Make an array as protocol 5 writes it."""
    made = PickledArray(_NDARRAY)
    made.array = _array(data, dtype, shape, order)
    return made


def _scalar(dtype: Any, data: Any) -> Any:
    """Make a number."""
    return _array(data, dtype, (), "C").item()


def encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Make the bytes that protocols below 3 write as `_codecs.encode(text, "latin1")`."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        message = "only latin1 is read"
        raise ValueError(message)
    return text.encode("latin-1")


def no_bytes() -> bytes:
    """Make what protocols below 3 write for no bytes."""
    return b""


NUMPY: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): PickledType,
    ("_codecs", "encode"): encode,
    ("__builtin__", "bytes"): no_bytes,
}
for _package in ("numpy.core", "numpy._core"):
    NUMPY[f"{_package}.multiarray", "_reconstruct"] = PickledArray
    NUMPY[f"{_package}.multiarray", "scalar"] = _scalar
    NUMPY[f"{_package}.numeric", "_frombuffer"] = _from_buffer
