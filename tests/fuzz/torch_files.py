"""Valid checkpoints in torch's two formats, written by hand from a description, without torch."""

from __future__ import annotations

import math
import random
import struct
import zlib
from typing import Any, NamedTuple

MAGIC = 0x1950A86A20F9469CFC6C
CODES = {"F64": "Double", "F32": "Float", "F16": "Half", "BF16": "BFloat16", "I64": "Long", "I32": "Int", "U8": "Byte"}
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1}


class View(NamedTuple):
    """A tensor: a view of a storage."""

    storage: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int


class Content(NamedTuple):
    """What a checkpoint holds: storages as (dtype, bytes), and tensors by name."""

    storages: list[tuple[str, bytes]]
    tensors: dict[str, View]


def content(rng: random.Random) -> Content:
    """Some tensors, also transposed, overlapping, and of one storage."""
    storages, tensors = [], {}
    for number in range(rng.choice((1, 1, 2, 3))):
        dtype, count = rng.choice(sorted(SIZES)), rng.choice((0, 1, 6, 24, 40))
        storages.append((dtype, rng.randbytes(count * SIZES[dtype])))
        for index in range(rng.choice((1, 1, 2))):
            shape = tuple(rng.choice((1, 2, 3)) for _ in range(rng.choice((0, 1, 2, 2, 3, 4))))
            if math.prod(shape) > count:
                shape = (count,)
            strides, step = [], 1
            order = list(range(len(shape)))
            if rng.randrange(2):
                rng.shuffle(order)
            strides = [0] * len(shape)
            for axis in order:
                strides[axis] = step
                step *= shape[axis]
            offset = rng.randint(0, count - math.prod(shape))
            tensors[f"layer{number}.{'weight' if index else 'bias'}"] = View(number, shape, tuple(strides), offset)
    return Content(storages, tensors)


# Pickle opcodes.


def text(value: str) -> bytes:
    """A text."""
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def integer(value: int) -> bytes:
    """An int, in the shortest form."""
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def numbers(values: tuple[int, ...]) -> bytes:
    """A tuple of ints."""
    return b"(" + b"".join(map(integer, values)) + b"t"


def name(module: str, attribute: str) -> bytes:
    """A global."""
    return f"c{module}\n{attribute}\n".encode()


def storage(key: str, dtype: str, count: int, tail: bytes = b"") -> bytes:
    """A persistent id."""
    return (
        b"("
        + text("storage")
        + name("torch", CODES[dtype] + "Storage")
        + text(key)
        + text("cuda:0")
        + integer(count)
        + tail
        + b"tQ"
    )


def tensor(of: bytes, view: View) -> bytes:
    """A call of `_rebuild_tensor_v2`."""
    arguments = of + integer(view.offset) + numbers(view.shape) + numbers(view.strides)
    hooks = name("collections", "OrderedDict") + b")R"
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"\x89" + hooks + b"tR"


def state(made: Content, tail: bytes = b"") -> bytes:
    """The pickle of a state dict, with an epoch around it."""
    items = b"".join(
        text(key)
        + tensor(
            storage(
                str(view.storage),
                made.storages[view.storage][0],
                len(made.storages[view.storage][1]) // SIZES[made.storages[view.storage][0]],
                tail,
            ),
            view,
        )
        for key, view in made.tensors.items()
    )
    inner = name("collections", "OrderedDict") + b")R(" + items + b"u"
    return b"\x80\x02}(" + text("epoch") + integer(7) + text("state_dict") + inner + b"u."


# Containers.


class Member(NamedTuple):
    """A member of a zip archive; every field can lie."""

    name: bytes
    content: bytes
    crc: int | None = None
    size: int | None = None
    method: int = 0
    flags: int = 0x808
    local_name: bytes | None = None
    offset: int | None = None


def archive(members: list[Member], count: int | None = None, end64: bool = True) -> bytes:
    """A zip archive as torch writes it."""
    body, directory = bytearray(), bytearray()
    for member in members:
        crc = zlib.crc32(member.content) if member.crc is None else member.crc
        size = len(member.content) if member.size is None else member.size
        begin = len(body) if member.offset is None else member.offset
        known = (0, 0, 0) if member.flags & 8 else (crc, size, size)
        local = member.name if member.local_name is None else member.local_name
        body += struct.pack("<4s5H3L2H", b"PK\3\4", 0, member.flags, member.method, 0, 0, *known, len(local), 0) + local
        body += member.content
        if member.flags & 8:
            body += struct.pack("<4s3L", b"PK\7\10", crc, size, size)
        directory += struct.pack(
            "<4s6H3L5H2L",
            *(b"PK\1\2", 0, 0, member.flags, member.method, 0, 0, crc, size, size),
            *(len(member.name), 0, 0, 0, 0, 0, begin),
        )
        directory += member.name
    count = len(members) if count is None else count
    end = bytes(body + directory)
    if end64:
        end += struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 0, 45, 0, 0, count, count, len(directory), len(body))
        end += struct.pack("<4sLQL", b"PK\6\7", 0, len(body) + len(directory), 1)
    return end + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count & 0xFFFF, count & 0xFFFF, len(directory), len(body), 0)


def members(made: Content, pickled: bytes | None = None) -> list[Member]:
    """The members of a checkpoint."""
    found = [Member(b"archive/data.pkl", state(made) if pickled is None else pickled)]
    found += [Member(b"archive/byteorder", b"little")]
    found += [Member(f"archive/data/{key}".encode(), data) for key, (_, data) in enumerate(made.storages)]
    return [*found, Member(b"archive/version", b"3\n")]


def stream(made: Content, parts: dict[str, Any] | None = None) -> bytes:
    """A checkpoint in the stream format; `parts` replaces pieces of it."""
    pieces: dict[str, Any] = {
        "magic": b"\x80\x02" + integer(MAGIC) + b".",
        "protocol": b"\x80\x02M\xe9\x03.",
        "system": b"\x80\x02}(" + text("protocol_version") + b"M\xe9\x03" + text("little_endian") + b"\x88u.",
        "state": state(made, b"N"),
        "keys": b"\x80\x02](" + b"".join(text(str(key)) for key in range(len(made.storages))) + b"e.",
        "storages": b"".join(struct.pack("<Q", len(data) // SIZES[dtype]) + data for dtype, data in made.storages),
    } | (parts or {})
    return b"".join(pieces.values())
