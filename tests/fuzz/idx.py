"""Cases for the reader of idx files, plain and compressed."""

from __future__ import annotations

import io
import math
import random
import struct
import zlib

import numpy as np

from cnnrs import DataError
from cnnrs.datasets.idx import parse_idx, unpack
from fuzz.campaign import Case, Target
from fuzz.mutations import edge, mutate
from idx_files import CODES, compress

LIMIT = 1 << 20
"""Most bytes that the reader is told to accept."""
TYPES = {code: np.dtype(name).newbyteorder(">") for name, code in CODES.items()}


def encode(code: int, shape: tuple[int, ...], elements: bytes, rank: int | None = None) -> bytes:
    """A file whose header may lie."""
    return struct.pack(f">HBB{len(shape)}I", 0, code, len(shape) if rank is None else rank, *shape) + elements


def whole(rng: random.Random) -> bytes:
    """A valid file."""
    code = rng.choice(sorted(TYPES))
    shape = tuple(rng.choice((0, 1, 1, 2, 3, 5, 28)) for _ in range(rng.choice((1, 1, 2, 3, 3, 4, 8))))
    while math.prod(shape) > 5000:
        shape = shape[1:]
    return encode(code, shape, rng.randbytes(math.prod(shape) * TYPES[code].itemsize))


def lying(rng: random.Random) -> bytes:
    """A file of well-formed fields that may contradict each other."""
    code = rng.choice((*TYPES, rng.randrange(256)))
    shape = tuple(edge(rng, 2**32 - 1) if rng.random() < 0.5 else rng.randint(0, 6) for _ in range(rng.randint(0, 10)))
    rank = rng.choice((None, None, None, 0, len(shape) + 1, 255, rng.randrange(256)))
    claimed = math.prod(shape) * (TYPES[code].itemsize if code in TYPES else 1)
    size = claimed if claimed < 4096 and rng.random() < 0.7 else rng.choice((0, 1, 7, 64, 1000))
    return encode(code, shape, rng.randbytes(size), rank)


def packed(rng: random.Random, content: bytes) -> bytes:
    """The content as gzip: in one stream, in several, raw blocks, or with more behind than the header claims."""
    form = rng.randrange(8)
    if form == 0:
        cut = rng.randrange(len(content) + 1)
        return compress(content[:cut]) + compress(content[cut:])
    if form == 1:
        return compress(content) + rng.choice((b"\0" * 9, b"garbage", compress(b"")))
    if form == 2:
        return compress(content + bytes(rng.choice((1, 1000, 1 << 20))))
    if form == 3:
        flags = rng.randrange(256)
        return b"\x1f\x8b\x08" + bytes([flags]) + rng.randbytes(6 + rng.randrange(40)) + zlib.compress(content)[2:-4]
    return compress(content)


def make(rng: random.Random) -> Case:
    """One case: whole, lying or mutated, plain or compressed, mutated before or after it was compressed."""
    form = rng.randrange(16)
    if form == 0:
        return Case(whole(rng), "whole", True)
    if form == 1:
        return Case(compress(whole(rng)), "whole, gzip", True)
    if form < 5:
        return Case(lying(rng), "lying", None)
    if form < 7:
        return Case(packed(rng, lying(rng)), "lying, gzip", None)
    if form < 9:
        content, story = mutate(rng, packed(rng, whole(rng)))
        return Case(content, f"gzip, then {story}", None)
    content, story = mutate(rng, whole(rng), (whole(rng),))
    if form == 9:
        return Case(packed(rng, content), f"{story}, then gzip", None)
    return Case(content, story, None)


def check(content: bytes) -> bool:
    """Read a case; an array must be what a reading of the header by hand says."""
    try:
        unpacked = unpack(io.BytesIO(content), "case", max_bytes=LIMIT)
        array = parse_idx(unpacked, "case")
    except DataError as error:
        return refused(str(error))
    assert len(unpacked) <= LIMIT
    if content[:2] != b"\x1f\x8b":
        assert bytes(unpacked) == content
    zero, code, rank = struct.unpack(">HBB", unpacked[:4])
    shape = struct.unpack(f">{rank}I", unpacked[4 : 4 + 4 * rank])
    elements = bytes(unpacked[4 + 4 * rank :])
    assert (zero, array.shape, array.dtype.newbyteorder(">")) == (0, shape, TYPES[code])
    assert math.prod(shape) * TYPES[code].itemsize == len(elements)
    assert array.astype(TYPES[code]).tobytes() == elements
    assert not array.flags.writeable
    return True


def refused(text: str) -> bool:
    """A refusal is a text for people that begins with the file's name."""
    assert text.startswith("case: "), text
    assert text.isprintable(), ascii(text)
    return False


TARGET = Target(make, check)
