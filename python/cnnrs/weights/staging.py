"""Reading storages into memory once, checked: from then on the file may change without any harm."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from cnnrs._core import WeightsError
from cnnrs.weights.tensors import DTYPES, ITEM_SIZES, Storage, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

_PIECE = 1 << 19
"""Bytes read at once: their checksum is computed while they are in the cache."""


def read_storage(file: BinaryIO, storage: Storage) -> Bytes:
    """Read a storage and check its checksum.

    Raises:
        WeightsError: the file ends before it, or its bytes are not those that were written.
    """
    content: Bytes = np.empty(storage.size, np.uint8)
    _fill(file, storage, content)
    return content


def check_storages(file: BinaryIO, storages: Iterable[Storage]) -> None:
    """Compare checksums of storages that are not needed.

    Raises:
        WeightsError: as `read_storage`.
    """
    piece: Bytes = np.empty(_PIECE, np.uint8)
    for storage in storages:
        _fill(file, storage, piece)


def _fill(file: BinaryIO, storage: Storage, content: Bytes) -> None:
    """Read a storage into an array, over and over again where that is smaller, with the checksum on the way."""
    file.seek(storage.begin)
    crc = 0
    for position in range(0, storage.size, _PIECE):
        at = position if len(content) >= storage.size else 0
        piece = content[at : at + min(_PIECE, storage.size - position)]
        if file.readinto(piece.data) != len(piece):  # type: ignore[attr-defined]
            message = f"{storage.label}: the file ends before its data"
            raise WeightsError(message)
        if storage.crc is not None:
            crc = zlib.crc32(piece.data, crc)
    if storage.crc is not None and crc != storage.crc:
        message = f"{storage.label}: the checksum is {crc:08x}, not {storage.crc:08x}: the file is damaged"
        raise WeightsError(message)


def view(content: Bytes, tensor: Tensor) -> npt.NDArray[Any]:
    """Return a tensor as a view of its storage's content, BF16 as bits."""
    size = ITEM_SIZES[tensor.dtype]
    strides = [size * stride for stride in tensor.strides]
    if 0 in tensor.shape:
        return np.empty(tensor.shape, DTYPES[tensor.dtype])
    return np.ndarray(tensor.shape, DTYPES[tensor.dtype], content.data, size * tensor.offset, strides)
