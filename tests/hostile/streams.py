"""Streams of torch's older format that lie about what is where, and files of other kinds."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile

from fuzz import torch_files as files
from fuzz.torch_files import integer, stream, text
from hostile.base import BIAS, GOOD, GOOD_FILES, WEIGHT, Made


def tar() -> bytes:
    """A tar archive, as torch wrote its first checkpoints."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as target:
        for name in ("storages", "tensors", "pickle"):
            target.addfile(tarfile.TarInfo(name))
    return file.getvalue()


STREAMS: Made = {
    "another magic number": (
        lambda: stream(GOOD, {"magic": b"\x80\x02" + integer(files.MAGIC + 1) + b"."}),
        "must begin with torch's magic",
    ),
    "a pickle of Python": (lambda: pickle.dumps({"weight": [1.0] * 6}, 2), "must begin with torch's magic number"),
    "protocol 1002": (
        lambda: stream(GOOD, {"protocol": b"\x80\x02M\xea\x03."}),
        "protocol: only 1001 is read, got 1002",
    ),
    "protocol of a list": (lambda: stream(GOOD, {"protocol": b"\x80\x02]."}), "protocol: only 1001 is read, got"),
    "big-endian": (
        lambda: stream(GOOD, {"system": b"\x80\x02}" + text("little_endian") + b"\x89s."}),
        "only little-endian",
    ),
    "no system": (lambda: stream(GOOD, {"system": b"\x80\x02N."}), "only little-endian"),
    "a call in the system": (
        lambda: stream(GOOD, {"system": b"\x80\x02cos\nsystem\n)R."}),
        r"system: .* os\.system is not",
    ),
    "a call in the magic number": (lambda: stream(GOOD, {"magic": b"\x80\x02cos\nsystem\n)R."}), r"os\.system is not"),
    "a call in the keys": (
        lambda: stream(GOOD, {"keys": b"\x80\x02cos\nsystem\n)R."}),
        r"storage keys: .* os\.system is",
    ),
    "keys of numbers": (lambda: stream(GOOD, {"keys": b"\x80\x02](K\0K\1e."}), "must be a list of texts"),
    "no keys": (lambda: stream(GOOD, {"keys": b"\x80\x02]."}), "a tensor needs it, the file does not have it"),
    "a key twice": (
        lambda: stream(GOOD, {"keys": b"\x80\x02](" + text("0") + text("0") + b"e."}),
        "stands twice|elements declared",
    ),
    "a key too many": (
        lambda: stream(GOOD, {"keys": b"\x80\x02](" + text("0") + text("1") + text("2") + b"e."}),
        "without a tensor",
    ),
    "another count": (
        lambda: stream(GOOD, {"storages": struct.pack("<Q", 7) + WEIGHT + struct.pack("<Q", 2) + BIAS}),
        "storage '0': 6 elements declared, 7 at offset",
    ),
    "a count of 2^63": (
        lambda: stream(GOOD, {"storages": struct.pack("<Q", 2**63) + WEIGHT + struct.pack("<Q", 2) + BIAS}),
        "storage '0': 6 elements declared, 9223372036854775808",
    ),
    "storages exchanged": (
        lambda: stream(GOOD, {"storages": struct.pack("<Q", 2) + BIAS + struct.pack("<Q", 6) + WEIGHT}),
        "declared, 2 at",
    ),
    "no storages": (lambda: stream(GOOD, {"storages": b""}), "storage '0': 6 elements declared"),
    "bytes behind": (lambda: stream(GOOD) + b"\0", "the storages end at"),
    "a stream twice": (lambda: stream(GOOD) * 2, "the storages end at"),
    "pickles without end": (lambda: stream(GOOD)[:200] + b"N0" * 200_000, "0x|opcodes|offset|end inside its pickles"),
}


OTHERS: Made = {
    "nothing": (lambda: b"", "not a safetensors file: it has 0 bytes"),
    "one byte": (lambda: b"\x80", "bytes end inside its pickles|not a safetensors file"),
    "zeros": (lambda: bytes(4096), "not a safetensors file"),
    "text": (lambda: b"<!DOCTYPE html><html>Not Found</html>", "not a safetensors file"),
    "gzip": (lambda: gzip.compress(GOOD_FILES["stream"]()), "not a safetensors file"),
    "tar": (tar, "a tar archive: the format torch wrote before"),
    "HDF5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(500), "not a safetensors file"),
    "ONNX": (lambda: b"\x08\x07\x12\x07pytorch" + bytes(100), "not a safetensors file"),
    "PNG": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(100), "not a safetensors file"),
    "program": (lambda: b"\x7fELF\2\1\1" + bytes(200), "not a safetensors file"),
}
