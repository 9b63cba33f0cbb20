"""Reader of idx files, the format of MNIST and its relatives, plain or compressed with gzip.

An idx file is, in big-endian order: two zero bytes, one byte for the type, one byte for the rank, `rank` dimensions of
four bytes each, then the elements with the last dimension varying fastest. A file is never trusted: what its header
claims is checked against a limit before memory is taken, and the elements must fill the rest of the file exactly.
"""

import gzip
import os
import stat
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from cnnrs._core import DataError

# type byte -> dtype as stored
DTYPES: dict[int, np.dtype[Any]] = {
    0x08: np.dtype(np.uint8),
    0x09: np.dtype(np.int8),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
MAX_RANK = 8
MAX_BYTES = 1 << 30
_GZIP_MAGIC = b"\x1f\x8b"
_LONGEST_HEADER = 4 + 4 * MAX_RANK
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Header:
    """What the first bytes of an idx file say.

    Attributes:
        dtype: Type of the elements as stored, big-endian.
        shape: The dimensions, 1 to `MAX_RANK` of them.
        offset: Where the elements begin.
        total: Bytes of the whole uncompressed file, header included.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    total: int


def read_idx(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> NDArray[Any]:
    """Read an idx file into a read-only array in native byte order.

    Whether the file is compressed is told by its content, not by its name. A compressed file is read up to the size its
    header claims and no further, and its checksum is verified.

    Args:
        path: The file.
        max_bytes: The largest uncompressed file that is accepted, header included.

    Returns:
        The elements, of the shape and type that the file states (unsigned or signed byte, int16, int32, float32,
        float64).

    Raises:
        DataError: The file is not an idx file, is cut short, goes on after its last element, is damaged, or is larger
            than `max_bytes`; the text names the file, the field, its offset, and what was expected and found.
        OSError: The file cannot be read (FileNotFoundError if there is none).
    """
    return parse_idx(read_content(path, max_bytes=max_bytes), str(path))


def parse_idx(content: bytes | bytearray, name: str) -> NDArray[Any]:
    """Give the array of a whole uncompressed idx file.

    Args:
        content: The file, header included.
        name: What to call it in errors.

    Returns:
        The elements in native byte order, read-only; a view of `content` where no byte swap is needed.

    Raises:
        DataError: The content is not exactly one idx file.
    """
    header = parse_header(content, name)
    if len(content) != header.total:
        kind = "truncated" if len(content) < header.total else "trailing bytes"
        expected = f"{header.total - header.offset} bytes for {header.shape} of {header.dtype.name}"
        raise _error(name, "elements", header.offset, expected, f"{len(content) - header.offset} ({kind})")
    array = np.frombuffer(content, header.dtype, offset=header.offset).reshape(header.shape)
    if not header.dtype.isnative:
        array = array.astype(header.dtype.newbyteorder("="))
    array.flags.writeable = False
    return array


def parse_header(content: bytes | bytearray, name: str) -> Header:
    """Give the header at the start of `content`, which may go on after it.

    Args:
        content: The first bytes of an uncompressed idx file, at least the whole header if the file has it.
        name: What to call the file in errors.

    Raises:
        DataError: The content does not start with a whole idx header, or its dimensions do not fit 63 bits.
    """
    if len(content) < 4:
        raise _error(name, "magic number", 0, "4 bytes", f"{len(content)} (truncated)")
    if content[:2] != b"\0\0":
        raise _error(name, "magic number", 0, "two zero bytes", content[:2].hex(" "))
    if content[2] not in DTYPES:
        known = ", ".join(f"0x{code:02x}" for code in DTYPES)
        raise _error(name, "type", 2, f"one of {known}", f"0x{content[2]:02x}")
    rank = content[3]
    if not 1 <= rank <= MAX_RANK:
        raise _error(name, "rank", 3, f"1 to {MAX_RANK}", str(rank))
    offset = 4 + 4 * rank
    if len(content) < offset:
        raise _error(name, "dimensions", 4, f"{4 * rank} bytes", f"{len(content) - 4} (truncated)")
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, offset, 4))
    dtype = DTYPES[content[2]]
    # a zero dimension makes the product 0 but NumPy still needs the product of the others to fit
    if prod(max(size, 1) for size in shape) * dtype.itemsize >= 1 << 63:
        raise _error(name, "dimensions", 4, "a product below 2**63 bytes", str(shape))
    return Header(dtype, shape, offset, offset + prod(shape) * dtype.itemsize)


def read_content(path: str | os.PathLike[str], *, max_bytes: int) -> bytearray:
    """Give the uncompressed bytes of an idx file on disk; see `unpack`.

    Args:
        path: The file, plain or compressed with gzip.
        max_bytes: The largest uncompressed file that is accepted.

    Raises:
        DataError: The path is no regular file, or as in `unpack`.
        OSError: The file cannot be read.
    """
    name = str(path)
    with Path(path).open("rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            msg = f"{name}: expected a regular file"
            raise DataError(msg)
        return unpack(file, name, max_bytes=max_bytes)


def unpack(file: IO[bytes], name: str, *, max_bytes: int) -> bytearray:
    """Give the uncompressed bytes of an idx file, at most one more than its header claims.

    The header is checked, and the size it claims compared with `max_bytes`, before the elements are read.

    Args:
        file: A seekable binary file at its start, plain or compressed with gzip.
        name: What to call it in errors.
        max_bytes: The largest uncompressed file that is accepted.

    Raises:
        DataError: The header is wrong, claims more than `max_bytes`, or the compressed data are damaged.
    """
    compressed = file.read(2) == _GZIP_MAGIC
    file.seek(0)
    if not compressed:
        return _read(file, name, max_bytes)
    with gzip.GzipFile(fileobj=file, mode="rb") as stream:
        return _read(stream, name, max_bytes)


def _read(stream: IO[bytes] | gzip.GzipFile, name: str, max_bytes: int) -> bytearray:
    """Read header, then elements in chunks, up to one byte past the claimed end; `max_bytes` bounds what is read."""
    content = bytearray()
    goal = _LONGEST_HEADER
    header = None
    while len(content) < goal:
        try:
            chunk = stream.read(min(goal - len(content), _CHUNK))
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            what = f"damaged gzip data at or after uncompressed offset {len(content)}"
            msg = f"{name}: {what}: expected an intact stream, found: {str(error).lower()}"
            raise DataError(msg) from error
        content += chunk
        if header is None:
            header = parse_header(content, name)
            if header.total > max_bytes:
                found = f"{header.total} for {header.shape} of {header.dtype.name}"
                raise _error(name, "dimensions", 4, f"at most {max_bytes} bytes in all", found)
            goal = header.total + 1
        elif not chunk:
            break
    return content


def _error(name: str, field: str, offset: int, expected: str, found: str) -> DataError:
    """Make the one form of error of this reader."""
    return DataError(f"{name}: {field} at offset {offset}: expected {expected}, found {found}")
