"""Weights on disk: safetensors files with torch's names and layout.

Every tensor converts by its rank alone: OIHW and HWIO, (out, in, kernel) and (kernel, in, out), (out, in) and (in, out)
by permutations, all others stay.
The reader trusts nothing in the file: sizes are compared with the file before anything is allocated, the header may
hold so many brackets and commas only that parsing it stays within some hundred MB, and the tensors must tile the rest
of the file exactly.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from cnnrs import _args
from cnnrs._core import UnsupportedError, WeightsError
from cnnrs._files import atomic_write
from cnnrs.nn.module import Module, assign_all, listed

if TYPE_CHECKING:
    from collections.abc import Container

    import numpy.typing as npt

MOST_HEADER_BYTES = 100_000_000
MOST_TENSORS = 100_000
MOST_MARKS = 2_000_000
"""Commas, colons and opening brackets of a header: each may cost some tens of bytes when the header is parsed."""
MOST_NAME_BYTES = 1024
MOST_DIMENSIONS = 8
MOST_ELEMENTS = 2**60
_BFLOAT16 = "BF16"
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    _BFLOAT16: "<u2",  # read as bits; float32 has them on top
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
_FLOATS = ("F64", "F32", "F16", _BFLOAT16)
_OF_KIND = {"f": "F32", "i": "I64"}
_FROM_TORCH = {4: (2, 3, 1, 0), 3: (2, 1, 0), 2: (1, 0)}
_TO_TORCH = {4: (3, 2, 0, 1), 3: (2, 1, 0), 2: (1, 0)}
_TORCH_SUFFIXES = (".pth", ".pt", ".th")


class LoadReport(NamedTuple):
    """What `load_weights` left alone."""

    missing: list[str]
    unexpected: list[str]


class Entry(NamedTuple):
    """One tensor of a safetensors file; offsets count from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def load_weights(
    model: Module, path: str | os.PathLike[str], strict: bool = True, allow_nonfinite: bool = False
) -> LoadReport:
    """Read weights in torch layout from a safetensors file into a model: all of them or none.

    Args:
        model: A module whose parameters and buffers have the names of the file.
        path: A safetensors file with tensors of F32, F16, BF16 or F64, counters of integers.
        strict: Refuse missing and unexpected names; otherwise they are left alone and reported. A missing
            `num_batches_tracked` is neither refused nor reported.
        allow_nonfinite: Take NaN and infinity as well.

    Returns:
        The names that the file lacks and the names that the model lacks.

    Raises:
        WeightsError: the file is damaged or does not fit the model; the text says where. A tensor of a wrong
            shape is refused with `strict=False`, too.
        FileNotFoundError: there is no such file.
        UnsupportedError: a torch checkpoint (`.pth`), which cannot be read yet.
        TypeError: `model` is not a module.

    Examples:
        >>> import os, tempfile
        >>> import cnnrs
        >>> from cnnrs import nn
        >>> path = os.path.join(tempfile.mkdtemp(), "linear.safetensors")
        >>> nn.Linear(3, 2).save(path)
        >>> cnnrs.load_weights(nn.Linear(3, 2), path)
        LoadReport(missing=[], unexpected=[])
    """
    if not isinstance(model, Module):
        message = f"load_weights: model must be an nn.Module, got {_args.show(model)}"
        raise TypeError(message)
    strict = _args.flag(strict, "strict", "load_weights")
    allow_nonfinite = _args.flag(allow_nonfinite, "allow_nonfinite", "load_weights")
    wanted = set(model.state_dict())
    with Path(path).open("rb") as file:
        _refuse_torch(file, os.fspath(path))
        try:
            state = read_tensors(file, os.fstat(file.fileno()).st_size, wanted)
            if not allow_nonfinite:
                _refuse_nonfinite({name: array for name, array in state.items() if name in wanted})
            return LoadReport(*assign_all(model, state, strict))
        except WeightsError as error:
            message = f"{os.fspath(path)}: {error}"
            raise WeightsError(message) from None


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
        shape = [array.shape[axis] for axis in _TO_TORCH.get(array.ndim, range(array.ndim))]
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": _OF_KIND[array.dtype.kind], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_write(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in state.values():
            little = _DTYPES[_OF_KIND[array.dtype.kind]]
            file.write(np.ascontiguousarray(_permuted(array, _TO_TORCH), little).data)


def read_tensors(file: BinaryIO, size: int, wanted: Container[str]) -> dict[str, Any]:
    """Read tensors of a safetensors file in cnnrs layout.

    Args:
        file: The file, seekable and at its start.
        size: Its bytes.
        wanted: The names of the tensors to read.

    Returns:
        An array for every wanted name, floats as float32, and None for every other one.

    Raises:
        WeightsError: the file is damaged, whether in tensors that are wanted or in others.
    """
    entries, start = read_header(file, size)
    state: dict[str, Any] = dict.fromkeys(entry.name for entry in entries)
    for entry in entries:
        if entry.name in wanted:
            state[entry.name] = _from_torch(_read_tensor(file, entry, start), entry)
    return state


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
    if length > MOST_MARKS and sum(map(raw.count, (b",", b":", b"[", b"{"))) > MOST_MARKS:
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
    if len(name.encode("utf-8", "surrogatepass")) > MOST_NAME_BYTES:
        message = f"{shown}: a name has at most {MOST_NAME_BYTES} bytes"
        raise WeightsError(message)
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        message = f"{shown}: must have exactly dtype, shape and data_offsets"
        raise WeightsError(message)
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        message = f"{shown}: dtype must be one of {', '.join(_DTYPES)}, got {_args.show(dtype)}"
        raise WeightsError(message)
    if not _sizes(shape) or len(shape) > MOST_DIMENSIONS:
        message = f"{shown}: shape must be a list of at most {MOST_DIMENSIONS} sizes, got {_args.show(shape)}"
        raise WeightsError(message)
    if not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        message = f"{shown}: data_offsets must be [begin, end], got {_args.show(offsets)}"
        raise WeightsError(message)
    itemsize = np.dtype(_DTYPES[dtype]).itemsize
    bytes_needed = math.prod(shape) * itemsize
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


def _read_tensor(file: BinaryIO, entry: Entry, start: int) -> npt.NDArray[Any]:
    """Read one tensor whose extent was checked against the size of the file."""
    array: npt.NDArray[Any] = np.empty(entry.shape, _DTYPES[entry.dtype])
    file.seek(start + entry.begin)
    if array.nbytes and file.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:  # type: ignore[attr-defined]
        message = f"{_args.show(entry.name)}: the file ends before its data"
        raise WeightsError(message)
    return array


def _from_torch(array: npt.NDArray[Any], entry: Entry) -> npt.NDArray[Any]:
    """Return a tensor in cnnrs layout, floats as float32; other types stay and are refused by the model."""
    if entry.dtype == _BFLOAT16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    elif entry.dtype in _FLOATS:
        with np.errstate(over="ignore"):  # infinity is refused by name later
            array = array.astype(np.float32, copy=False)
    return _permuted(array, _FROM_TORCH)


def _permuted(array: npt.NDArray[Any], by_rank: dict[int, tuple[int, ...]]) -> npt.NDArray[Any]:
    """Return the tensor in the other layout."""
    return array.transpose(by_rank.get(array.ndim, range(array.ndim)))


def _refuse_nonfinite(state: dict[str, npt.NDArray[Any]]) -> None:
    names = [name for name, array in state.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
    if names:
        message = f"NaN or infinity in {listed(names)}; allow_nonfinite=True takes them"
        raise WeightsError(message)


def _refuse_torch(file: BinaryIO, path: str) -> None:
    """Raise for a torch checkpoint: a zip archive or a pickle; rewind otherwise."""
    start = file.read(8)
    file.seek(0)
    # A safetensors file begins with a length below 2**32, so its bytes 4 to 8 are zero.
    archive = start[:4] == b"PK\x03\x04" and start[4:] != bytes(4)
    if archive or (start[:2] == b"\x80\x02" and start[4:] != bytes(4)) or path.lower().endswith(_TORCH_SUFFIXES):
        message = f"{path}: torch checkpoints cannot be read yet; save the weights as safetensors"
        raise UnsupportedError(message)
