"""safetensors files: a JSON header and the tensors behind it, which tile the rest of the file.

The reader trusts nothing in the file: sizes are compared with the file before anything is allocated, and the header may
hold so many bytes, brackets and commas only that parsing it takes some ten MB.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from cnnrs import _args
from cnnrs._core import WeightsError
from cnnrs._files import atomic_write
from cnnrs.weights.layout import to_torch
from cnnrs.weights.tensors import (
    DTYPES,
    ITEM_SIZES,
    MOST_DIMENSIONS,
    MOST_ELEMENTS,
    MOST_TENSORS,
    Checkpoint,
    Storage,
    Tensor,
    check_name,
    contiguous,
)

if TYPE_CHECKING:
    import os

    from cnnrs.nn.module import Module

MOST_HEADER_BYTES = 8 << 20
MOST_MARKS = 300_000
"""Commas, colons and opening brackets of a header: each may cost a hundred bytes when the header is parsed."""
_OF_KIND = {"f": "F32", "i": "I64"}


class Entry(NamedTuple):
    """One tensor of a safetensors file; offsets count from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def save_model(model: Module, path: str | os.PathLike[str]) -> None:
    """Write a model's parameters and buffers as a safetensors file in torch layout, replacing the file at once.

    Args:
        model: The module.
        path: The file to write.

    Raises:
        OSError: the file cannot be written.
    """
    from cnnrs import __version__

    metadata = {"format": "pt", "cnnrs_version": __version__, "model": type(model).__name__}
    header: dict[str, Any] = {"__metadata__": metadata}
    state = model.state_dict()
    end = 0
    for name, array in state.items():
        shape = list(to_torch(array).shape)
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": _OF_KIND[array.dtype.kind], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_write(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in state.values():
            little = DTYPES[_OF_KIND[array.dtype.kind]]
            file.write(np.ascontiguousarray(to_torch(array), little).data)


def read_safetensors(file: BinaryIO, size: int) -> Checkpoint:
    """Describe the tensors of a safetensors file.

    Args:
        file: The file, seekable and at its start.
        size: Its bytes.

    Raises:
        WeightsError: the header is damaged or does not fit the file.
    """
    entries, start = read_header(file, size)
    tensors = {}
    for name, dtype, shape, begin, end in entries:
        storage = Storage(_args.show(name), start + begin, end - begin)
        tensors[name] = Tensor(dtype, shape, contiguous(shape), 0, storage)
    return Checkpoint(tensors, [])


def read_header(file: BinaryIO, size: int) -> tuple[list[Entry], int]:
    """Read and check the header of a safetensors file of `size` bytes that is open at its start.

    Returns:
        The tensors in the order of their offsets, and the position of the first byte behind the header.

    Raises:
        WeightsError: whatever is wrong with it.
    """
    length = int.from_bytes(file.read(8), "little")
    if size < 10:
        message = f"not a safetensors file: it has {size} bytes"
        raise WeightsError(message)
    if not 2 <= length <= min(MOST_HEADER_BYTES, size - 8):
        message = (
            f"not a safetensors file: header length {length} must be from 2 to {min(MOST_HEADER_BYTES, size - 8)} "
            f"in a file of {size} bytes"
        )
        raise WeightsError(message)
    raw = file.read(length)
    if len(raw) != length or raw[:1] != b"{":
        message = "not a safetensors file: the header must be a JSON object"
        raise WeightsError(message)
    if sum(map(raw.count, (b",", b":", b"[", b"{"))) > MOST_MARKS:
        message = f"header: at most {MOST_MARKS} commas, colons and brackets are read"
        raise WeightsError(message)
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except WeightsError:
        raise
    except RecursionError:
        message = "header: nested too deeply"
        raise WeightsError(message) from None
    except ValueError as error:
        message = f"header: not valid JSON: {error}"
        raise WeightsError(message) from None
    return _entries(header, size - 8 - length), 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dict of a JSON object whose keys must differ."""
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        repeated = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        message = f"header: the name {_args.show(repeated)} stands twice"
        raise WeightsError(message)
    return table


def _entries(header: dict[str, Any], buffer: int) -> list[Entry]:
    """Return the tensors of a header by offset; they must tile the buffer exactly."""
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        message = "header: __metadata__ must map names to texts"
        raise WeightsError(message)
    if len(header) > MOST_TENSORS:
        message = f"header: at most {MOST_TENSORS} tensors are read, got {len(header)}"
        raise WeightsError(message)
    entries = [_entry(name, fields) for name, fields in header.items()]
    entries.sort(key=lambda entry: (entry.begin, entry.end))
    position = 0
    for entry in entries:
        if entry.begin != position:
            message = f"{_args.show(entry.name)}: data must begin at offset {position}, got {entry.begin}"
            raise WeightsError(message)
        position = entry.end
    if position != buffer:
        message = f"the tensors take {position} bytes, the file has {buffer} behind the header"
        raise WeightsError(message)
    return entries


def _entry(name: str, fields: object) -> Entry:
    """Check one tensor of a header."""
    shown = _args.show(name)
    check_name(name)
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        message = f"{shown}: must have exactly dtype, shape and data_offsets"
        raise WeightsError(message)
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        message = f"{shown}: dtype must be one of {', '.join(DTYPES)}, got {_args.show(dtype)}"
        raise WeightsError(message)
    if not _sizes(shape) or len(shape) > MOST_DIMENSIONS:
        message = f"{shown}: shape must be a list of at most {MOST_DIMENSIONS} sizes, got {_args.show(shape)}"
        raise WeightsError(message)
    if not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        message = f"{shown}: data_offsets must be [begin, end], got {_args.show(offsets)}"
        raise WeightsError(message)
    bytes_needed = math.prod(shape) * ITEM_SIZES[dtype]
    if offsets[1] - offsets[0] != bytes_needed:
        message = f"{shown}: {dtype} {shape} takes {bytes_needed} bytes, data_offsets {offsets} give another size"
        raise WeightsError(message)
    # A zero makes the product 0, but NumPy still needs the product of the others to fit, in any dtype.
    if math.prod(max(size, 1) for size in shape) >= MOST_ELEMENTS:
        message = f"{shown}: {dtype} {shape} must have less than 2**60 elements, zeros counted as ones"
        raise WeightsError(message)
    return Entry(name, dtype, tuple(shape), offsets[0], offsets[1])


def _sizes(values: object) -> bool:
    """Tell whether a JSON value is a list of sizes below 2**63."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)
