"""Cases for the pickle reader: opcodes written one by one, in an order that mostly makes sense."""

from __future__ import annotations

import codecs
import io
import pickle
import random
import struct
from collections import OrderedDict
from typing import Any

import numpy as np

from cnnrs import WeightsError, _pickle
from cnnrs._pickle_numpy import NUMPY, PickledArray, PickledType
from fuzz.campaign import Case, Target
from fuzz.mutations import edge, mutate

TEXTS = ("", "a", "state_dict", "\u00e9", "\ud800", "x" * 300, "\0", "\U0001f600")
GLOBALS = (
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("os", "system"),
    ("builtins", "eval"),
    ("builtins", "getattr"),
    ("torch._utils", "_rebuild_tensor_v2"),
)


def _ordered(items: Any = ()) -> _pickle.Table:
    if isinstance(items, dict):
        return _pickle.Table(items)
    if items != ():
        message = "a dict is made of a dict"
        raise ValueError(message)
    return _pickle.Table()


ALLOWED: dict[tuple[str, str], Any] = {**NUMPY, ("collections", "OrderedDict"): _ordered}


def value(rng: random.Random, depth: int = 0) -> Any:
    """Plain data, as people keep beside their weights."""
    kind = rng.randrange(13 if depth < 4 else 7)
    if kind == 0:
        return rng.choice((None, True, False))
    if kind in (1, 2):
        return rng.choice((rng.randint(-300, 300), edge(rng), -edge(rng), rng.getrandbits(100)))
    if kind == 3:
        return rng.choice((0.0, -1.5, 1e300, float("inf")))
    if kind in (4, 5):
        return rng.choice(TEXTS)
    if kind == 6:
        return rng.randbytes(rng.choice((0, 1, 10, 300)))
    parts = [value(rng, depth + 1) for _ in range(rng.choice((0, 1, 2, 3, 5)))]
    if kind == 7:
        return tuple(parts)
    if kind in (8, 9):
        return parts + parts[:1]
    if kind == 10:
        return {rng.choice(TEXTS[:6]) + str(index): part for index, part in enumerate(parts)}
    if kind == 11:
        return OrderedDict((str(index), part) for index, part in enumerate(parts))
    return {part for part in parts if isinstance(part, (str, bytes)) or type(part) is bool}


def operation(rng: random.Random) -> bytes:
    """One opcode with its argument."""
    kind = rng.randrange(14)
    if kind < 3:
        return bytes([rng.choice(b"(.012N)]}\x8f\x88\x89")])
    if kind < 5:
        return bytes([rng.choice(b"tldaesuRbQ\x81\x85\x86\x87\x90\x91\x93\x94")])
    if kind == 5:
        return rng.choice((b"q", b"h")) + bytes([rng.choice((0, 1, 2, 5, 255))])
    if kind == 6:
        return rng.choice((b"r", b"j", b"J", b"T", b"X", b"B", b"\x8b")) + struct.pack("<I", edge(rng) % 2**32)
    if kind == 7:
        return rng.choice((b"K", b"M\0", b"U", b"C", b"\x8a", b"\x8c", b"\x80")) + bytes([rng.choice((0, 1, 2, 17))])
    if kind == 8:
        return rng.choice((b"\x8d", b"\x8e", b"\x95", b"\x96", b"G")) + struct.pack("<Q", edge(rng))
    if kind == 9:
        module, name = rng.choice(GLOBALS)
        return f"c{module}\n{name}\n".encode()
    if kind == 10:
        line = rng.choice((b"0", b"01", b"00", b"-5", b"9" * 41, b"1L", b"1e5", b"nan", b"'a'", b"'\\x41'", b"\\u0041"))
        return rng.choice((b"I", b"L", b"F", b"S", b"V", b"p", b"g", b"P")) + line + b"\n"
    if kind == 11:
        return bytes([rng.choice(b"io\x82\x83\x84\x92\x97\x98")]) + rng.randbytes(4)
    if kind == 12:
        text = rng.choice(TEXTS).encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", len(text)) + text
    return bytes([rng.randrange(256)])


def program(rng: random.Random) -> bytes:
    """Opcodes at random; every second time with a bomb's repetition."""
    body = b"".join(operation(rng) for _ in range(rng.choice((3, 10, 30, 100))))
    if rng.randrange(2):
        once = b"".join(operation(rng) for _ in range(rng.choice((1, 2, 4))))
        body += once * rng.choice((10, 70, 1000, 5000))
    return b"\x80\x02" + body + b"."


def make(rng: random.Random) -> Case:
    """One case: data that pickle wrote, whole or mutated, or opcodes at random."""
    form = rng.randrange(10)
    if form < 4:
        return Case(program(rng), "opcodes", None)
    content: Any = value(rng)
    story = "plain data"
    if rng.randrange(3) == 0:
        content = [
            content,
            np.arange(rng.choice((0, 1, 6))).astype(rng.choice(("i4", ">u2", "f8", "?"))),
            np.float32(2),
        ]
        story = "arrays"
    protocol = rng.choice((2, 2, 3, 4, 5))
    whole = pickle.dumps(content, protocol)
    if form < 6:
        return Case(whole, story, True if protocol > 3 else None)  # sets have no opcodes in the older protocols
    if form == 6:
        at = rng.randrange(2, len(whole))
        return Case(whole[:at] + operation(rng) + whole[at:], f"{story}, an opcode more", None)
    changed, how = mutate(rng, whole, (program(rng),))
    return Case(changed, f"{story}, {how}", None)


def check(content: bytes) -> bool:
    """Read a case; what is accepted must be what an unpickler restricted to the same names makes of it."""
    try:
        result = _pickle.load(content, ALLOWED, where="case")
    except WeightsError as error:
        text = str(error)
        assert text.startswith("case: "), text
        assert text.isprintable(), ascii(text)
        assert len(text) < 2000, len(text)
        return False
    compare(result, _Judge(io.BytesIO(content), encoding="utf-8", errors="strict").load())
    return True


class _Type:
    """Stands for `numpy.dtype`, which a damaged state can crash."""

    def __init__(self, code: Any, *others: Any) -> None:
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands for `numpy.ndarray`."""

    array: Any = None

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        shape, made, fortran, data = state[-4:]
        data = data.encode("latin-1") if isinstance(data, str) else data
        self.array = np.frombuffer(data, made.dtype).reshape(shape, order="F" if fortran else "C")


def _from_buffer(data: Any, made: _Type, shape: Any, order: str) -> _Array:
    array = _Array()
    array.array = np.frombuffer(data, made.dtype).reshape(shape, order=order)  # type: ignore[call-overload]
    return array


class _Judge(pickle.Unpickler):
    """Python's own unpickler, which may build the same few things."""

    def find_class(self, module: str, name: str) -> Any:
        assert (module, name) in ALLOWED, (module, name)
        known = {
            "OrderedDict": OrderedDict,
            "encode": codecs.encode,
            "bytes": bytes,
            "dtype": _Type,
            "ndarray": _Array,
            "_reconstruct": _Array,
            "_frombuffer": _from_buffer,
            "scalar": lambda made, data: np.frombuffer(data, made.dtype)[0].item(),
        }
        return known[name]


def compare(ours: Any, theirs: Any) -> None:
    """The values are equal."""
    if isinstance(ours, PickledArray):
        assert (ours.array is None) == (theirs.array is None)
        if ours.array is not None:
            assert ours.array.dtype == theirs.array.dtype
            np.testing.assert_array_equal(ours.array, theirs.array)
    elif isinstance(ours, PickledType):
        assert ours.dtype == theirs.dtype
    elif isinstance(ours, dict):
        assert list(ours) == list(theirs)
        for key in ours:
            compare(ours[key], theirs[key])
    elif isinstance(ours, (list, tuple)) and not isinstance(ours, _pickle.Global):
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            compare(mine, other)
    elif isinstance(ours, (int, float, str, bytes, set, frozenset)) or ours is None:
        assert type(ours) is type(theirs) or (isinstance(ours, bytes) and isinstance(theirs, bytearray)), (ours, theirs)
        assert ours == theirs or ours != ours, (ours, theirs)
    else:
        assert callable(theirs), (ours, theirs)  # a global that nothing called


TARGET = Target(make, check)
