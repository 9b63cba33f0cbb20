"""torch's checkpoints since 1.6: a zip archive with a pickle and one member per storage."""

from __future__ import annotations

from typing import Any, BinaryIO

from cnnrs import _args, _pickle
from cnnrs._core import WeightsError
from cnnrs.weights.archive import members
from cnnrs.weights.staging import read_storage
from cnnrs.weights.state import state_of
from cnnrs.weights.tensors import Checkpoint, Storage
from cnnrs.weights.torch_pickle import StorageBook

MOST_PICKLE_BYTES = 32 << 20


def read_zip(file: BinaryIO, size: int) -> Checkpoint:
    """Describe the state dict of a zip checkpoint.

    Args:
        file: The file, seekable.
        size: Its bytes.

    Raises:
        WeightsError: it is damaged, or holds no state dict, or asks for anything but data.
    """
    found = members(file, size)
    root, _ = read_pickle(file, size, found)
    return Checkpoint(state_of(root), list(found.values()))


def read_pickle(file: BinaryIO, size: int, found: dict[str, Storage]) -> tuple[Any, StorageBook]:
    """Read `data.pkl` of an archive; return its value and the storages it names."""
    pickled = found.get("data.pkl")
    if pickled is None:
        message = "zip archive: has no data.pkl, so it is not a checkpoint of torch"
        raise WeightsError(message)
    if pickled.size > MOST_PICKLE_BYTES:
        message = f"data.pkl: at most {MOST_PICKLE_BYTES} bytes are read, got {pickled.size}"
        raise WeightsError(message)
    order = found.get("byteorder")
    if order is not None and (order.size != 6 or read_storage(file, order).tobytes() != b"little"):
        message = "byteorder: only little-endian checkpoints are read"
        raise WeightsError(message)

    def locate(key: str, bytes_needed: int) -> Storage:
        storage = found.get(f"data/{key}")
        if storage is None:
            message = f"storage {_args.show(key)}: the archive has no member data/{key[:80]!a}"
            raise WeightsError(message)
        if storage.size != bytes_needed:
            message = f"storage {_args.show(key)}: {bytes_needed} bytes declared, its member has {storage.size}"
            raise WeightsError(message)
        return storage

    book = StorageBook(locate, size)
    root = _pickle.load(read_storage(file, pickled).data, book.table(), book.persistent, where="data.pkl")
    return root, book
