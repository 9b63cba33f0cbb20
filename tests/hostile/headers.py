"""safetensors files whose headers lie."""

from __future__ import annotations

import struct
from typing import Any

from hostile.base import BIAS, WEIGHT, Made, good_header, header


def changed(name: str = "weight", **changes: Any) -> dict[str, Any]:
    """A good header with other fields for one tensor."""
    tensors = good_header()
    tensors[name] |= changes
    return tensors


HEADERS: Made = {
    "header beyond the file": (lambda: header(good_header(), length=10_000), "header length 10000 must be from 2 to"),
    "header of 2^64 - 1": (lambda: header(good_header(), length=2**64 - 1), "header length 18446744073709551615"),
    "header of 2^63": (lambda: header(good_header(), length=2**63), "header length"),
    "header of 100 MB": (lambda: header(b"{" + b" " * (9 << 20)), "header length .* must be from 2 to 8388608"),
    "many marks": (lambda: header(b"{" + b'"":[],' * 100_000 + b"}"), "at most 300000 commas"),
    "names by the thousand": (
        lambda: header({f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(20_001)}, b""),
        "at most 20000 tensors|at most 300000 commas",
    ),
    "deep JSON": (lambda: header(b'{"weight":' + b"[" * 100_000), "nested too deeply"),
    "deep objects": (lambda: header(b'{"a":' * 50_000), "nested too deeply"),
    "name twice": (lambda: header(b'{"weight":{},"weight":{}}'), "the name 'weight' stands twice"),
    "field twice": (lambda: header(b'{"weight":{"dtype":"F32","dtype":"F64"}}'), "the name 'dtype' stands twice"),
    "name that is not UTF-8": (lambda: header(b'{"\xff":{}}'), "not valid JSON"),
    "number of 5000 digits": (lambda: header(b'{"a":' + b"1" * 5000 + b"}"), "header"),
    "overlap": (lambda: header(changed("bias", data_offsets=[20, 28])), "'bias': data must begin at offset 24, got 20"),
    "the same bytes": (lambda: header(changed("bias", data_offsets=[0, 8])), "must begin at offset"),
    "a hole": (lambda: header(changed("bias", data_offsets=[28, 36])), "must begin at offset 24, got 28"),
    "beyond the file": (
        lambda: header(changed("bias", shape=[4], data_offsets=[24, 40])),
        "take 40 bytes, the file has 32",
    ),
    "less than the file": (lambda: header(good_header(), WEIGHT + BIAS + BIAS), "take 32 bytes, the file has 40"),
    "offsets of 2^63": (lambda: header(changed("bias", data_offsets=[2**63, 2**63 + 8])), "data_offsets must be"),
    "offsets reversed": (lambda: header(changed("bias", data_offsets=[32, 24])), "data_offsets must be"),
    "negative offset": (lambda: header(changed("bias", data_offsets=[-8, 0])), "data_offsets must be"),
    "product that wraps": (lambda: header(changed(shape=[2**62, 4, 6])), "data_offsets .* give another size"),
    "zero times 2^62": (lambda: header(changed(shape=[0, 2**62, 2**62], data_offsets=[0, 0])), "less than 2\\*\\*60"),
    "negative size": (lambda: header(changed(shape=[-2, -3])), "shape must be a list"),
    "unknown type": (lambda: header(changed(dtype="F8_E4M3")), "dtype must be one of"),
    "type of another size": (lambda: header(changed(dtype="F64")), "takes 48 bytes"),
    "nine dimensions": (lambda: header(changed(shape=[1] * 7 + [2, 3])), "at most 8 sizes"),
    "a field more": (lambda: header(changed(script="import os")), "must have exactly dtype, shape and data_offsets"),
    "metadata of numbers": (lambda: header({"__metadata__": {"a": 1}} | good_header()), "__metadata__ must map"),
    "not finite": (
        lambda: header(good_header(), WEIGHT + struct.pack("<2f", 1, float("nan"))),
        "NaN or infinity in bias",
    ),
    "integers": (lambda: header(changed("bias", dtype="I32")), "bias must be of floats, got I32"),
    "wrong shape": (lambda: header(changed(shape=[3, 2])), r"weight must have shape \(3, 2\), got \(2, 3\)"),
    "unexpected name": (
        lambda: header(good_header() | {"x": {"dtype": "U8", "shape": [0], "data_offsets": [32, 32]}}),
        "unexpected x",
    ),
}
