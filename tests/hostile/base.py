"""What hostile files are made of: a good file for `nn.Linear(3, 2)` in each format, and places to spoil it."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from fuzz import torch_files as files
from fuzz.torch_files import Content, Member, View, integer, name, text

WEIGHT = struct.pack("<6f", *range(6))
BIAS = struct.pack("<2f", 6, 7)
GOOD = Content([("F32", WEIGHT), ("F32", BIAS)], {"weight": View(0, (2, 3), (3, 1), 0), "bias": View(1, (2,), (1,), 0)})


class Case(NamedTuple):
    """A file: its bytes, made when they are needed, and what the refusal must say."""

    make: Callable[[], bytes]
    text: str


Made = dict[str, tuple[Callable[[], bytes], str]]


def of_pickle(pickled: Callable[[], bytes]) -> dict[str, Callable[[], bytes]]:
    """Make a file of each of torch's formats with that pickle for its state dict."""
    return {
        "zip": lambda: files.archive(files.members(GOOD, pickled())),
        "stream": lambda: files.stream(GOOD, {"state": pickled()}),
    }


def members(**changes: Any) -> list[Member]:
    """The members of a good archive, with other fields for the storage of the weight."""
    good = files.members(GOOD)
    return [member._replace(**changes) if member.name == b"archive/data/0" else member for member in good]


def header(tensors: Any, buffer: bytes = WEIGHT + BIAS, length: int | None = None) -> bytes:
    """A safetensors file of a header (bytes as they are, anything else as JSON) and a buffer."""
    text = tensors if isinstance(tensors, bytes) else json.dumps(tensors).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + buffer


def good_header() -> dict[str, Any]:
    """The header of a good safetensors file."""
    return {
        "weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "bias": {"dtype": "F32", "shape": [2], "data_offsets": [24, 32]},
    }


GOOD_FILES: dict[str, Callable[[], bytes]] = {
    "safetensors": lambda: header(good_header()),
    "zip": lambda: files.archive(files.members(GOOD)),
    "stream": lambda: files.stream(GOOD),
}


def flipped(kind: str, mark: bytes, ahead: int = 0) -> bytes:
    """A good file with one bit turned over, at a mark in it."""
    content = bytearray(GOOD_FILES[kind]())
    content[content.index(mark) + ahead] ^= 4
    return bytes(content)


def cut(kind: str, part: int, parts: int) -> bytes:
    """The beginning of a good file."""
    content = GOOD_FILES[kind]()
    return content[: len(content) * part // parts]


# Pickles.


def pickled(body: bytes, protocol: int = 2) -> bytes:
    """A pickle of some opcodes."""
    return b"\x80" + bytes([protocol]) + body + b"."


def ordered() -> bytes:
    return name("collections", "OrderedDict") + b")R"


def storage(key: bytes, count: bytes, kind: bytes = b"ctorch\nFloatStorage\n", tail: bytes = b"") -> bytes:
    """A persistent id of any parts."""
    return b"(" + text("storage") + kind + key + text("cpu") + count + tail + b"tQ"


WEIGHT_ID = storage(text("0"), integer(6))


def tensor(shape: bytes, strides: bytes, offset: bytes = integer(0), of: bytes = WEIGHT_ID) -> bytes:
    """A state dict of one tensor of any parts."""
    made = (
        name("torch._utils", "_rebuild_tensor_v2") + b"(" + of + offset + shape + strides + b"\x89" + ordered() + b"tR"
    )
    return b"}" + text("weight") + made + b"s"
