"""torch's checkpoints before 1.6: five pickles and the storages behind them, in one stream without checksums."""

from __future__ import annotations

from typing import Any, BinaryIO

from cnnrs import _args, _pickle
from cnnrs._core import WeightsError
from cnnrs.weights.state import state_of
from cnnrs.weights.tensors import ITEM_SIZES, Checkpoint, Storage
from cnnrs.weights.torch_pickle import StorageBook

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_FIRST_PIECE = 256 << 10
_MOST_PIECE = 40 << 20


def read_legacy(file: BinaryIO, size: int) -> Checkpoint:
    """Describe the state dict of a checkpoint in the stream format.

    Args:
        file: The file, seekable.
        size: Its bytes.

    Raises:
        WeightsError: it is damaged, or holds no state dict, or asks for anything but data.
    """
    root, book, keys, position = _pickles(file, size)
    extents = _extents(file, size, book, keys, position)
    placed = {reference.storage: extents[key] for key, reference in book.known.items()}
    tensors = {name: tensor._replace(storage=placed[tensor.storage]) for name, tensor in state_of(root).items()}
    return Checkpoint(tensors, [])


def _pickles(file: BinaryIO, size: int) -> tuple[Any, StorageBook, Any, int]:
    """Read the pickles from as little of the file as holds them."""
    piece = _FIRST_PIECE
    while True:
        file.seek(0)
        data = file.read(min(piece, size))
        try:
            return _parse(memoryview(data), size)
        except _pickle.NeedMoreError:
            if piece >= min(size, _MOST_PIECE):
                message = f"{len(data)} of {size} bytes end inside its pickles; at most {_MOST_PIECE} are read"
                raise WeightsError(message) from None
            piece = min(2 * piece, _MOST_PIECE)


def _parse(data: memoryview, size: int) -> tuple[Any, StorageBook, Any, int]:
    """Read the five pickles of the stream; return the value, its storages, their order, and where they begin."""
    magic, end = _plain(data, 0, "magic number")
    if magic != _MAGIC or type(magic) is not int:
        message = "a pickle that torch did not write: it must begin with torch's magic number"
        raise WeightsError(message)
    protocol, end = _plain(data, end, "protocol")
    if protocol != _PROTOCOL or type(protocol) is not int:
        message = f"protocol: only {_PROTOCOL} is read, got {_args.show(protocol)[:80] if _short(protocol) else 'more'}"
        raise WeightsError(message)
    system, end = _plain(data, end, "system")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        message = "system: only little-endian checkpoints are read"
        raise WeightsError(message)
    # Positions are not known yet: a storage has its number there, so that no two are equal.
    book = StorageBook(lambda key, bytes_needed: Storage(_args.show(key), len(book.known), bytes_needed), size)
    root, end = _pickle.load_at(data, end, book.table(), book.persistent, where="pickle", partial=True)
    keys, end = _plain(data, end, "storage keys")
    return root, book, keys, end


def _plain(data: memoryview, start: int, where: str) -> tuple[Any, int]:
    """Read a pickle that may hold no tensors."""
    return _pickle.load_at(data, start, {}, where=where, partial=True)


def _short(value: Any) -> bool:
    return isinstance(value, (int, float, str, bytes, bool)) or value is None


def _extents(file: BinaryIO, size: int, book: StorageBook, keys: Any, position: int) -> dict[str, Storage]:
    """Return where the storages are: each has its number of elements before it, and they fill the file."""
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        message = "storage keys: must be a list of texts"
        raise WeightsError(message)
    extents: dict[str, Storage] = {}
    for key in keys:
        shown = _args.show(key)
        reference = book.known.get(key)
        if reference is None or key in extents:
            message = f"storage {shown}: stands {'twice' if key in extents else 'there without a tensor'}"
            raise WeightsError(message)
        file.seek(position)
        raw = file.read(8)
        count = int.from_bytes(raw, "little")
        if len(raw) < 8 or count != reference.count:
            message = f"storage {shown}: {reference.count} elements declared, {count} at offset {position}"
            raise WeightsError(message)
        position += 8
        bytes_needed = count * (1 if reference.dtype is None else ITEM_SIZES[reference.dtype])
        extents[key] = Storage(f"storage {shown}", position, bytes_needed)
        position += bytes_needed
        if position > size:
            message = f"storage {shown}: needs bytes up to {position}, the file has {size}"
            raise WeightsError(message)
    if len(extents) < len(book.known):
        lost = next(key for key in book.known if key not in extents)
        message = f"storage {_args.show(lost)}: a tensor needs it, the file does not have it"
        raise WeightsError(message)
    if position != size:
        message = f"the storages end at {position}, the file has {size} bytes"
        raise WeightsError(message)
    return extents
