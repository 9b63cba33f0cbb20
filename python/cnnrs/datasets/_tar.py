"""The files in a tar archive, one after the other, from memory: nothing is ever written to the disk.

Only plain files are read. Links, devices, sparse files and names that lead out of the archive are refused by name, and
whatever the archive claims, no more is unpacked than the caller allows.
"""

from __future__ import annotations

import gzip
from typing import IO, TYPE_CHECKING, NamedTuple

from cnnrs._core import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK = 512
_FILE, _FOLDER, _LONG_NAME, _PAX, _PAX_OF_ALL = (b"0", b"\0"), b"5", b"L", b"x", b"g"
_MOST_NAME = 4096  # bytes of a long name, or of a pax header


class Member(NamedTuple):
    """A plain file: its name, the parts of which are neither empty nor "." nor "..", and its content."""

    name: str
    content: bytes


def read_members(file: IO[bytes], name: str, *, max_bytes: int, max_member: int, max_count: int) -> Iterator[Member]:
    """Yield the plain files of an archive in their order.

    Args:
        file: A seekable binary file at its start: a tar, plain or compressed with gzip, xz or bzip2.
        name: What to call it in errors.
        max_bytes: Most bytes that are unpacked in all.
        max_member: Most bytes of one file.
        max_count: Most members, folders included.

    Raises:
        DataError: The archive is damaged, truncated or too large, or a member is neither file nor folder or has a name
            that is not allowed; the text names archive and member.
        OSError: The file cannot be read.
    """
    stream = _Stream(_open(file), name, max_bytes)
    title: str | None = None
    count = 0
    while (header := stream.read(_BLOCK)) and header.strip(b"\0"):
        at = stream.position - _BLOCK
        if len(header) < _BLOCK or not _checksum_fits(header):
            msg = f"{name}: header at unpacked offset {at}: expected that of a tar archive"
            raise DataError(msg)
        size, kind = _number(header[124:136], name, at), header[156:157]
        if kind in (_LONG_NAME, _PAX, _PAX_OF_ALL):
            if size > _MOST_NAME:
                msg = f"{name}: header at unpacked offset {at}: expected a name of at most {_MOST_NAME} bytes"
                raise DataError(msg)
            extra = stream.content(size)
            if kind == _LONG_NAME:
                title = _text(extra.rstrip(b"\0"))
            elif kind == _PAX:
                title = _pax_name(extra, name, at) or title
            continue
        if (count := count + 1) > max_count:
            msg = f"{name}: expected at most {max_count} members, there are more"
            raise DataError(msg)
        member, title = title or _short_name(header), None
        shown = f"{name}: {member!r}"
        if kind == _FOLDER and size == 0:
            continue
        if kind not in _FILE:
            msg = f"{shown}: expected a plain file or a folder, got a member of type {kind!r}"
            raise DataError(msg)
        path = member.removeprefix("./")
        if "\0" in path or "\\" in path or any(part in ("", ".", "..") for part in path.split("/")):
            msg = f"{shown}: expected a name inside of the archive"
            raise DataError(msg)
        if size > max_member:
            msg = f"{shown}: expected at most {max_member} bytes, got {size}"
            raise DataError(msg)
        content = stream.content(size)
        if len(content) != size:
            msg = f"{shown}: expected {size} bytes, got {len(content)} (truncated)"
            raise DataError(msg)
        yield Member(path, content)
    if not header:
        msg = f"{name}: expected the end of the archive at unpacked offset {stream.position}, the file ends (truncated)"
        raise DataError(msg)


def _open(file: IO[bytes]) -> IO[bytes]:
    """Return the unpacked stream; which compression it is is told by the first bytes."""
    magic = file.read(6)
    file.seek(0)
    if magic[:2] == b"\x1f\x8b":
        return gzip.GzipFile(fileobj=file, mode="rb")  # type: ignore[return-value]
    if magic == b"\xfd7zXZ\0":
        import lzma  # not wanted by most programs

        return lzma.LZMAFile(file)
    if magic[:3] == b"BZh":
        import bz2

        return bz2.BZ2File(file)
    return file


class _Stream:
    """Reads on, with a limit and one kind of error."""

    def __init__(self, stream: IO[bytes], name: str, limit: int) -> None:
        self.stream = stream
        self.name = name
        self.limit = limit
        self.position = 0

    def read(self, count: int) -> bytes:
        """Return the next bytes; fewer only at the end."""
        if self.position + count > self.limit:
            msg = f"{self.name}: expected at most {self.limit} bytes once it is unpacked, there are more"
            raise DataError(msg)
        try:
            piece = self.stream.read(count)
            while len(piece) < count and (more := self.stream.read(count - len(piece))):
                piece += more
        except Exception as error:
            # Each compression has an error of its own, or an OSError without a number.
            if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None):
                raise
            raise self._damaged(error) from error
        self.position += len(piece)
        return piece

    def content(self, size: int) -> bytes:
        """Return the content of a member and go to the next header."""
        padded = self.read(-(-size // _BLOCK) * _BLOCK)
        return padded[:size]

    def _damaged(self, error: Exception) -> DataError:
        what = f"damaged compressed data at or after unpacked offset {self.position}"
        return DataError(f"{self.name}: {what}: {str(error).lower()}")


def _checksum_fits(header: bytes) -> bool:
    """Tell whether the sum of a header's bytes is what it says; its own field counts as blanks."""
    try:
        stored = int(header[148:156].strip(b" \0") or b"-1", 8)
    except ValueError:
        return False
    return stored == sum(header) - sum(header[148:156]) + 8 * 32


def _number(field: bytes, name: str, at: int) -> int:
    """Return an octal number; the form for more than 8 GiB is none that is read here."""
    digits = field.strip(b" \0")
    if digits.isdigit() and b"8" not in digits and b"9" not in digits:
        return int(digits, 8)
    if not digits:
        return 0
    msg = f"{name}: size at unpacked offset {at + 124}: expected octal digits, got {field!r}"
    raise DataError(msg)


def _short_name(header: bytes) -> str:
    """Return the name in a header."""
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return _text(prefix + b"/" + name if prefix else name)


def _pax_name(records: bytes, name: str, at: int) -> str | None:
    """Return the name in a pax header, if it holds one; a size of its own is refused."""
    found = None
    while records:
        length, _, rest = records.partition(b" ")
        size = int(length) if length.isdigit() and len(length) < 6 else 0
        record = records[len(length) + 1 : size]
        if not rest or size <= len(length) + 1 or size > len(records) or not record.endswith(b"\n"):
            msg = f"{name}: header at unpacked offset {at}: expected pax records"
            raise DataError(msg)
        key, _, value = record[:-1].partition(b"=")
        if key == b"size" or key.startswith(b"GNU.sparse"):
            msg = f"{name}: header at unpacked offset {at}: expected a plain file, got one with {_text(key)!r}"
            raise DataError(msg)
        if key == b"path":
            found = _text(value)
        records = records[size:]
    return found


def _text(raw: bytes) -> str:
    """Return a name as text; bytes that are not UTF-8 are shown as such."""
    return raw.decode("utf-8", "backslashreplace")
