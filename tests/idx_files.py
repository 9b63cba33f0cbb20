"""Writer of idx files for tests, independent of the reader."""

from __future__ import annotations

import gzip
import struct
from typing import Any

from numpy.typing import NDArray

CODES = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D, "float64": 0x0E}


def encode_idx(array: NDArray[Any]) -> bytes:
    """Give the idx file that holds `array`."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, CODES[array.dtype.name], array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def compress(content: bytes) -> bytes:
    """Give `content` as gzip, the same bytes at each call."""
    return gzip.compress(content, 6, mtime=0)
