"""The members of a zip archive as torch writes it: stored, named once, apart from each other, all under one folder.

Only positions are read, no member's content. The directory at the end and the header before each member must agree,
since readers that believe one or the other would see different files.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, BinaryIO

from cnnrs import _args
from cnnrs._core import WeightsError
from cnnrs.weights.tensors import Storage, check_name

if TYPE_CHECKING:
    from typing import NoReturn

MOST_MEMBERS = 65_000
MOST_DIRECTORY_BYTES = 8 << 20
_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_MEMBER = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_DESCRIPTOR_FOLLOWS = 0x8
_UTF8 = 0x800


def members(file: BinaryIO, size: int) -> dict[str, Storage]:
    """Return the members of an archive by their names below its one folder.

    Args:
        file: The file, seekable.
        size: Its bytes.

    Raises:
        WeightsError: whatever is wrong; the text names the member.
    """
    begin, length, count = _directory(file, size)
    file.seek(begin)
    directory = memoryview(file.read(length))
    found: list[tuple[int, int, str, Storage]] = []
    position = 0
    for _ in range(count):
        name, flags, storage, header, position = _member(directory, position, begin)
        begins = _local(file, header, name, flags, storage, begin)
        found.append((header, begins + storage.size, name, storage._replace(begin=begins)))
    if position != length:
        _refuse(f"the directory has {length - position} bytes behind its {count} members")
    _check_apart(found)
    return _below_folder(found)


def _refuse(text: str) -> NoReturn:
    message = f"zip archive: {text}"
    raise WeightsError(message)


def _directory(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """Return where the directory begins, its bytes and its members."""
    if size < _END.size:
        _refuse(f"it has {size} bytes")
    file.seek(size - _END.size)
    end = _END.unpack(file.read(_END.size))
    if end[0] != b"PK\x05\x06" or end[7] != 0:
        _refuse("it does not end with the record of its directory: it is cut off, or something follows")
    _, disk, first_disk, here, count, length, begin, _ = end
    behind = size - _END.size
    if behind >= _LOCATOR.size:
        file.seek(behind - _LOCATOR.size)
        locator = _LOCATOR.unpack(file.read(_LOCATOR.size))
        if locator[0] == b"PK\x06\x07":
            behind -= _LOCATOR.size + _END64.size
            _check_end64(file, locator, behind, (count, length, begin))
    if disk or first_disk or here != count:
        _refuse("archives in several parts are not read")
    if count > MOST_MEMBERS or length > MOST_DIRECTORY_BYTES:
        _refuse(f"at most {MOST_MEMBERS} members are read, got {count} in a directory of {length} bytes")
    if begin + length != behind or length < count * _MEMBER.size:
        _refuse(f"{count} members in {length} bytes at offset {begin} do not end at the directory's end {behind}")
    return begin, length, count


def _check_end64(file: BinaryIO, locator: tuple[int, ...], begin: int, wanted: tuple[int, int, int]) -> None:
    """The larger record, which torch always writes, must say the same; it lies right before its locator."""
    if begin < 0 or locator[1:] != (0, begin, 1):
        _refuse("the locator of the larger record does not point before itself")
    record = _END64.unpack(_at(file, begin, _END64.size))
    said = tuple(record[7:])
    if record[0] != b"PK\x06\x06" or record[1] != _END64.size - 12 or record[4:6] != (0, 0) or record[6] != record[7]:
        _refuse("the larger record of the directory is damaged")
    if said != wanted:
        _refuse("the two records of the directory differ")


def _at(file: BinaryIO, begin: int, size: int) -> bytes:
    file.seek(begin)
    raw = file.read(size)
    if len(raw) != size:
        _refuse(f"{size} bytes wanted at offset {begin}, {len(raw)} there")
    return raw


def _member(directory: memoryview, position: int, end: int) -> tuple[str, int, Storage, int, int]:
    """Read one member of the directory: name, flags, extent, place of its header, place of the next member."""
    if position + _MEMBER.size > len(directory):
        _refuse(f"the directory ends inside a member at {position}")
    fields = _MEMBER.unpack_from(directory, position)
    signature, _, _, flags, method, _, _, crc, packed, size = fields[:10]
    name_size, extra, comment, disk, _, _, header = fields[10:]
    if signature != b"PK\x01\x02":
        _refuse(f"no member in the directory at {position}")
    position += _MEMBER.size
    raw = bytes(directory[position : position + name_size])
    name = _name(raw)
    position += name_size + extra + comment
    if position > len(directory):
        _refuse(f"{_args.show(name)}: the directory ends inside")
    if flags & ~(_DESCRIPTOR_FOLLOWS | _UTF8):
        _refuse(f"{_args.show(name)}: flags {flags:#x} (encrypted or special) are not read")
    if method != 0:
        _refuse(f"{_args.show(name)}: compressed (method {method}); torch stores members as they are")
    if packed != size:
        _refuse(f"{_args.show(name)}: stored, but {packed} bytes are said to be {size}")
    if disk or header + size > end:
        _refuse(f"{_args.show(name)}: {size} bytes at offset {header} do not lie before the directory at {end}")
    return name, flags, Storage(_args.show(name), 0, size, crc), header, position


def _name(raw: bytes) -> str:
    """Decode and check a member's name."""
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        _refuse(f"a name that is not UTF-8: {_args.show(raw)}")
    check_name(name)
    if "\\" in name or "\0" in name or name.startswith("/") or ":" in name.split("/")[0]:
        _refuse(f"{_args.show(name)} is not a plain name")
    if any(part in ("", ".", "..") for part in name.split("/")):
        _refuse(f"{_args.show(name)}: a path that leads elsewhere")
    return name


def _local(file: BinaryIO, header: int, name: str, flags: int, storage: Storage, end: int) -> int:
    """Compare the header before a member with the directory; return where the content begins."""
    shown = _args.show(name)
    if header + _LOCAL.size > end:
        _refuse(f"{shown}: no room for its header at offset {header}")
    fields = _LOCAL.unpack(_at(file, header, _LOCAL.size))
    signature, _, local_flags, method, _, _, crc, packed, size, name_size, extra = fields
    if signature != b"PK\x03\x04":
        _refuse(f"{shown}: no header at offset {header}")
    raw = name.encode("utf-8")
    begin = header + _LOCAL.size + name_size + extra
    if name_size != len(raw) or _at(file, header + _LOCAL.size, name_size) != raw:
        _refuse(f"{shown}: another name in its header at offset {header}")
    said = (crc, packed, size)
    later = bool(flags & _DESCRIPTOR_FOLLOWS) and said == (0, 0, 0)
    if (local_flags, method) != (flags, 0) or not (later or said == (storage.crc, storage.size, storage.size)):
        _refuse(f"{shown}: its header at offset {header} and the directory differ")
    if begin + storage.size > end:
        _refuse(f"{shown}: {storage.size} bytes at offset {begin} do not lie before the directory at {end}")
    return begin


def _check_apart(found: list[tuple[int, int, str, Storage]]) -> None:
    """Refuse members that share bytes."""
    found.sort(key=lambda member: member[:2])
    end = 0
    for header, behind, name, _ in found:
        if header < end:
            _refuse(f"{_args.show(name)}: begins at offset {header}, inside the member before it, which ends at {end}")
        end = behind


def _below_folder(found: list[tuple[int, int, str, Storage]]) -> dict[str, Storage]:
    """Take the folder, which must be the same, from all names, which must differ."""
    below: dict[str, Storage] = {}
    folders = {name.partition("/")[0] for _, _, name, _ in found}
    if len(folders) > 1:
        _refuse(f"members in {len(folders)} folders; torch writes one")
    for _, _, name, storage in found:
        rest = name.partition("/")[2]
        if not rest:
            _refuse(f"{_args.show(name)}: stands in no folder")
        if rest in below:
            _refuse(f"{_args.show(name)} stands twice")
        below[rest] = storage
    return below
