"""The batches of CIFAR-10's python version: pickles of plain data, read without executing anything in them."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnrs import _pickle
from cnnrs._core import DataError

_PIXELS = 3072
_MOST_MEMORY = 160 << 20  # the pixels of a batch take 31 MB, twice that where they are written as text
_NDARRAY = object()
"""What `numpy.ndarray` stands for: nothing but itself."""


def parse_batch(content: bytes, name: str, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Give images and labels of a batch.

    Args:
        content: The pickle, of Python 2 or 3: a dict with `data` (count, 3072), uint8, and `labels`.
        name: What to call it in errors.
        count: Images that must be in it.

    Returns:
        (count, 32, 32, 3), uint8, and (count,), int64.

    Raises:
        DataError: The pickle is damaged, asks for anything but data, or holds something else.
    """
    batch = _pickle.load(content, _TABLE, error=DataError, where=name, encoding=None, most_memory=_MOST_MEMORY)
    if not isinstance(batch, dict):
        msg = f"{name}: expected a dict, got {type(batch).__name__}"
        raise DataError(msg)
    data, labels = _entry(batch, "data", name), _entry(batch, "labels", name)
    pixels = data.array() if isinstance(data, _Array) else None
    if pixels is None or pixels.shape != (count, _PIXELS):
        found = type(data).__name__ if pixels is None else f"shape {pixels.shape}"
        msg = f"{name}: data: expected an array of shape {(count, _PIXELS)}, got {found}"
        raise DataError(msg)
    if not isinstance(labels, list) or len(labels) != count:
        found = f"{len(labels)}" if isinstance(labels, list) else type(labels).__name__
        msg = f"{name}: labels: expected a list of {count} ints, got {found}"
        raise DataError(msg)
    for place, label in enumerate(labels):
        if type(label) is not int or not 0 <= label <= 9:
            shown = label if type(label) is int and abs(label) < 1 << 64 else type(label).__name__
            msg = f"{name}: labels: expected each from 0 to 9, got {shown} at place {place}"
            raise DataError(msg)
    return planes(pixels), np.array(labels, np.int64)


def planes(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Give images (N, 32, 32, 3) from rows of a red, a green and a blue plane."""
    return np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _entry(batch: dict[Any, Any], key: str, name: str) -> Any:
    """Give an entry whose key Python 2 wrote as bytes and Python 3 as text."""
    for form in (key.encode(), key):
        if form in batch:
            return batch[form]
    msg = f"{name}: expected an entry {key!r}, there is none"
    raise DataError(msg)


class _DType(_pickle.Built):
    """A dtype that can only be uint8, for which byte order and all the rest of a state mean nothing."""

    def set_state(self, state: Any) -> None:
        """Take the state, a tuple."""
        if not isinstance(state, tuple):
            msg = f"expected a tuple, got {type(state).__name__}"
            raise ValueError(msg)


class _Array(_pickle.Built):
    """An array of bytes, once it has its state."""

    def __init__(self) -> None:
        self.state: tuple[tuple[int, ...], bool, bytes] = ((0,), False, b"")

    def set_state(self, state: Any) -> None:
        """Take version, shape, dtype, whether columns come first, and the elements."""
        if not isinstance(state, tuple) or len(state) != 5:
            msg = "expected version, shape, dtype, order and elements"
            raise ValueError(msg)
        _, shape, dtype, by_columns, content = state
        sizes = shape if isinstance(shape, tuple) else (shape,)
        if len(sizes) > 4 or not all(type(size) is int and 0 <= size < 1 << 31 for size in sizes):
            msg = f"expected a shape of up to 4 sizes, got {type(shape).__name__}"
            raise ValueError(msg)
        if not isinstance(dtype, _DType) or not isinstance(content, bytes) or prod(sizes) != len(content):
            msg = f"expected {prod(sizes)} uint8 elements as bytes"
            raise ValueError(msg)
        self.state = (sizes, bool(by_columns), content)

    def array(self) -> NDArray[np.uint8]:
        """Give the array, a read-only view."""
        shape, by_columns, content = self.state
        return np.frombuffer(content, np.uint8).reshape(shape, order="F" if by_columns else "C")


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    """Give what numpy's function gives for an array: an empty one that takes a state."""
    if kind is not _NDARRAY or shape != (0,) or code not in (b"b", "b"):
        msg = "expected numpy.ndarray, (0,) and b"
        raise ValueError(msg)
    return _Array()


def _dtype(code: Any, align: Any = False, copy: Any = True) -> _DType:
    """Give uint8."""
    if code not in (b"u1", "u1") or align not in (0, False) or copy not in (0, 1):
        msg = "expected u1"
        raise ValueError(msg)
    return _DType()


def _encode(text: Any, encoding: Any) -> bytes:
    """Give the bytes that Python 3 wrote as text under a protocol that has none."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", b"latin1", b"latin-1"):
        msg = "expected a text in latin1"
        raise ValueError(msg)
    return text.encode("latin-1")


_TABLE = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
}
