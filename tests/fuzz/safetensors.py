"""Cases for the reader of safetensors files."""

from __future__ import annotations

import copy
import io
import itertools
import json
import math
import random
import struct
from typing import Any

import numpy as np

from cnnrs import WeightsError
from cnnrs.weights import read_tensors
from fuzz.campaign import Case, Target
from fuzz.mutations import edge, mutate

SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1}
SIZES |= {"U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1}
FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
NAMES = (
    "weight",
    "bias",
    "features.0.weight",
    "",
    "a" * 1024,
    "a" * 1025,
    "__metadata__",
    "\u00e9",
    "\ud800",
    "\0",
    "[",
)
WRONG = (None, True, -1, 0.5, 1e400, "", "F32", "F8_E5M2", [], {}, [[]], [None], [1.0], [-1], [2**64], 2**70, {"a": 1})


def wrong(rng: random.Random) -> Any:
    """A value that is out of place; a fresh one, as it may be edited further."""
    return copy.deepcopy(rng.choice(WRONG))


class Everything:
    """Contains any name."""

    def __contains__(self, name: object) -> bool:
        return True


def parts(rng: random.Random) -> tuple[dict[str, Any], bytes]:
    """Header and buffer of a valid file."""
    header: dict[str, Any] = {}
    if rng.randrange(3) == 0:
        header["__metadata__"] = {"format": "pt", "note": rng.choice(("", "{[,:]}", "\u00e9"))}
    buffer = b""
    for index in range(rng.choice((0, 1, 1, 2, 3, 6))):
        dtype = rng.choice(sorted(SIZES))
        shape = [rng.choice((0, 1, 1, 2, 3, 5)) for _ in range(rng.choice((0, 1, 1, 2, 2, 4, 4, 8)))]
        size = math.prod(shape) * SIZES[dtype]
        if size > 4096:
            continue
        name = rng.choice(NAMES[:5]) + (str(index) if index else "")
        name = name[-1024:]
        if name in header:
            continue
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(buffer), len(buffer) + size]}
        buffer += rng.randbytes(size)
    return header, buffer


def text_of(rng: random.Random, header: Any) -> bytes:
    """The header as JSON, in any of its valid spellings."""
    text = json.dumps(
        header,
        ensure_ascii=rng.random() < 0.5,
        separators=rng.choice(((",", ":"), (", ", ": "), (" ,\n", "\t:\r\n"))),
        sort_keys=rng.random() < 0.3,
    )
    return text.encode("utf-8", "surrogatepass") + b" " * rng.choice((0, 0, 3, 8))


def encode(text: bytes, buffer: bytes, length: int | None = None) -> bytes:
    """A file whose header length may lie."""
    return struct.pack("<Q", len(text) if length is None else length) + text + buffer


def edit(rng: random.Random, header: dict[str, Any]) -> str:
    """Change one value of a header."""
    tensors = [name for name in header if name != "__metadata__"]
    if not tensors or rng.randrange(8) == 0:
        header[rng.choice(("__metadata__", rng.choice(NAMES)))] = wrong(rng)
        return "strange entry"
    name = rng.choice(tensors)
    fields = header[name]
    if not isinstance(fields, dict) or rng.randrange(8) == 0:
        header[name] = wrong(rng)
        return "no tensor"
    if rng.randrange(6) == 0:
        header[rng.choice(NAMES)] = header.pop(name)
        return "name"
    field = rng.choice(("dtype", "shape", "data_offsets"))
    how = rng.randrange(5)
    if how == 0:
        fields[field] = wrong(rng)
    elif how == 1:
        fields.pop(field, None)
    elif how == 2:
        fields[rng.choice(("extra", "offset"))] = 1
    elif field == "dtype" or not isinstance(fields.get(field), list) or not fields[field]:
        fields["dtype"] = rng.choice(sorted(SIZES))
    else:
        numbers = fields[field]
        numbers[rng.randrange(len(numbers))] = rng.choice((edge(rng), edge(rng), rng.randint(-2, 9), wrong(rng)))
        if rng.randrange(4) == 0:
            numbers.insert(rng.randrange(len(numbers) + 1), rng.choice((0, 1, 2, edge(rng))))
    return f"edit {field}"


def spoiled(rng: random.Random, text: bytes) -> tuple[bytes, str]:
    """Change the JSON text where a dictionary cannot say it: repeated keys, depth, long numbers, encodings."""
    how = rng.randrange(9)
    at = rng.choice([index for index, byte in enumerate(text) if byte in b"{[:,"])
    if how == 0:
        return text[:1] + text[1:-1].strip() + b"," + text[1:], "repeated keys"
    if how == 1:
        depth = rng.choice((10, 300, rng.randint(900, 1010), rng.randint(900, 1010), 5000, 50000))
        opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
        inner = opening * depth + b"1" + (closing * depth if rng.random() < 0.8 else b"")
        key = rng.choice((b'"t":', b'"t":{"dtype":', b'"t":{"dtype":"F32","data_offsets":[0,0],"shape":'))
        return b"{" + key + inner + b"}" * key.count(b"{") + b"}", "deep"
    if how == 2:
        digits = rng.choice(
            (b"1" * 400, b"9" * 4300, b"9" * 4301, b"-0", b"1e999", b"NaN", b"-Infinity", b"0x10", b"01")
        )
        return text[: at + 1] + digits + text[at + 1 :], "number"
    if how == 3:
        return text.decode("utf-8", "surrogatepass").encode(
            rng.choice(("utf-16", "utf-32", "utf-8-sig")), "surrogatepass"
        ), "encoding"
    if how == 4:
        return text[: at + 1] + rng.choice(
            (b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\0", b'"\\ud800"', b"/**/")
        ) + text[at + 1 :], "bytes"
    if how == 5:
        return text + rng.choice((b"{}", b"}", b"\0" * 8, b"\n", b"null")), "after the end"
    if how == 6:
        return b"{" + b",".join(
            b'"%d":%s' % (i, rng.choice((b"[]", b"{}", b"0"))) for i in range(rng.randrange(3000))
        ) + b"}", "many"
    if how == 7:
        return rng.choice((b"", b"{", b"[]", b'"', b"{}", b" {}", b"null", b'{"":', b"{" * 3)), "stub"
    return mutate(rng, text)


def make(rng: random.Random) -> Case:
    """One case."""
    header, buffer = parts(rng)
    text = text_of(rng, header)
    form = rng.randrange(16)
    if form == 0:
        return Case(encode(text, buffer), "whole", True)
    if form < 6:
        story = "+".join(edit(rng, header) for _ in range(rng.choice((1, 1, 2, 3))))
        return Case(encode(text_of(rng, header), buffer), story, None)
    if form < 11:
        text, story = spoiled(rng, text)
        return Case(encode(text, buffer), story, None)
    if form == 11:
        length = rng.choice((edge(rng), len(text) + rng.randint(-9, 9), len(text) + len(buffer)))
        return Case(encode(text, buffer, max(0, length)), "header length", None)
    if form == 12:
        changed, story = mutate(rng, buffer or b"\0")
        return Case(encode(text, changed), f"buffer {story}", None)
    other, data = parts(rng)
    content, story = mutate(rng, encode(text, buffer), (encode(text_of(rng, other), data),))
    return Case(content, story, None)


def check(content: bytes) -> bool:
    """Read a case; the tensors must be what the format's description says."""
    try:
        with np.errstate(invalid="ignore"):  # signalling NaNs among random floats
            state = read_tensors(io.BytesIO(content), len(content), Everything())
    except WeightsError as error:
        return refused(str(error))
    (length,) = struct.unpack("<Q", content[:8])
    pairs: list[tuple[str, Any]] = json.loads(content[8 : 8 + length], object_pairs_hook=list)
    buffer = content[8 + length :]
    tensors = [(name, dict(fields)) for name, fields in pairs if name != "__metadata__"]
    assert len(dict(tensors)) == len(tensors)
    assert set(state) == set(dict(tensors))
    covered = 0
    for name, fields in tensors:
        begin, end = fields["data_offsets"]
        assert 0 <= begin <= end <= len(buffer)
        covered += end - begin
        compare(state[name], fields["dtype"], tuple(fields["shape"]), buffer[begin:end])
    assert covered == len(buffer)
    spans = sorted(fields["data_offsets"] for _, fields in tensors)
    assert all(left[1] <= right[0] for left, right in itertools.pairwise(spans))
    return True


def refused(text: str) -> bool:
    """A refusal is a text for people, whatever stands in the file."""
    assert text.isprintable(), ascii(text)
    assert len(text) < 2000, len(text)
    return False


def compare(array: np.ndarray[Any, Any], dtype: str, shape: tuple[int, ...], data: bytes) -> None:
    """The array holds these data, converted to float32 if they are floats, its axes in this package's order."""
    order = {4: (2, 3, 1, 0), 3: (2, 1, 0), 2: (1, 0)}.get(len(shape), tuple(range(len(shape))))
    assert array.shape == tuple(shape[axis] for axis in order)
    assert math.prod(shape) * SIZES[dtype] == len(data)
    if dtype in FLOATS:
        with np.errstate(over="ignore", invalid="ignore"):
            expected = np.frombuffer(data, FLOATS[dtype]).astype(np.float32)
    elif dtype == "BF16":
        expected = np.frombuffer(
            bytes(byte for two in zip(data[::2], data[1::2], strict=True) for byte in (0, 0, *two)), "<f4"
        )
    else:
        expected = np.frombuffer(data, f"<{dtype[0].lower()}{SIZES[dtype]}" if dtype != "BOOL" else "?")
    assert array.dtype == expected.dtype
    assert array.tobytes() == expected.reshape(shape).transpose(order).tobytes()


TARGET = Target(make, check)
