"""Descriptions of tensors in files: where their numbers are, before any are read.

Every reader checks what it describes: a storage lies in the file, a tensor lies in its storage, and names are
different. The rest of the package relies on it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cnnrs import _args
from cnnrs._core import WeightsError

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_FILE_BYTES = 4 << 30
MOST_TENSORS = 20_000
MOST_NAME_BYTES = 1024
MOST_DIMENSIONS = 8
MOST_ELEMENTS = 2**60
BFLOAT16 = "BF16"
DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    BFLOAT16: "<u2",  # as bits; float32 has them on top
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "<u1",
    "BOOL": "?",
}
FLOATS = ("F64", "F32", "F16", BFLOAT16)
ITEM_SIZES = {name: np.dtype(code).itemsize for name, code in DTYPES.items()}


class Storage(NamedTuple):
    """A stretch of a file that holds numbers.

    Attributes:
        label: What the file calls it, printable.
        begin: Its first byte.
        size: Its bytes.
        crc: Its CRC-32, where the file has one.
    """

    label: str
    begin: int
    size: int
    crc: int | None = None


class Tensor(NamedTuple):
    """A tensor in torch's layout: a view of a storage; strides and offset count elements."""

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    storage: Storage


class Checkpoint(NamedTuple):
    """What a file holds.

    Attributes:
        tensors: Those of the state dict, by name.
        storages: All storages that the file has a CRC of, whether a tensor uses them or not.
    """

    tensors: dict[str, Tensor]
    storages: list[Storage]


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of a tensor whose elements lie one after another, the last axis fastest."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def check_name(name: str) -> None:
    """Refuse a name that is too long.

    Raises:
        WeightsError: it is.
    """
    if len(name) > MOST_NAME_BYTES or len(name.encode("utf-8", "surrogatepass")) > MOST_NAME_BYTES:
        message = f"{_args.show(name)}: a name has at most {MOST_NAME_BYTES} bytes"
        raise WeightsError(message)


def check_file_size(size: int) -> None:
    """Refuse a file that is too large.

    Raises:
        WeightsError: it is.
    """
    if size > MOST_FILE_BYTES:
        message = f"files of at most {MOST_FILE_BYTES} bytes are read, got {size}"
        raise WeightsError(message)


def last_element(shape: Sequence[int], strides: Sequence[int], offset: int) -> int:
    """Return the place of the last element in the storage; the place before the offset if there are no elements."""
    if 0 in shape:
        return offset - 1
    return offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def elements(shape: Sequence[int]) -> int:
    """Return the number of elements."""
    return math.prod(shape)
