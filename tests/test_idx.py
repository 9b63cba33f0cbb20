"""The reader of idx files: round trips, and files made to hurt it."""

from __future__ import annotations

import gzip
import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cnnrs import DataError
from cnnrs.datasets import read_idx
from cnnrs.datasets.idx import parse_idx
from idx_files import CODES, compress, encode_idx

Write = Callable[[bytes], Path]

SMALL = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
LABELS = np.arange(10, dtype=np.uint8)


@pytest.fixture(params=["plain", "gzip"])
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Write:
    """Write an idx file, plain or compressed, always under a name that tells nothing."""

    def write_file(content: bytes) -> Path:
        path = tmp_path / "file.bin"
        path.write_bytes(compress(content) if request.param == "gzip" else content)
        return path

    return write_file


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (0,), (3, 0, 2), (1, 1, 1, 1, 1, 1, 1, 2)])
def test_round_trip_of_all_types(write: Write, dtype: str, shape: tuple[int, ...]) -> None:
    array = (np.arange(np.prod(shape)).reshape(shape) - 3).astype(dtype)
    read = read_idx(write(encode_idx(array)))
    assert read.dtype == array.dtype
    assert read.dtype.isnative
    assert not read.flags.writeable
    np.testing.assert_array_equal(read, array, strict=True)


@given(
    array=st.sampled_from(sorted(CODES)).flatmap(
        lambda name: hnp.arrays(np.dtype(name), hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=6))
    ),
    packed=st.booleans(),
)
def test_round_trip_of_any_array(tmp_path: Path, array: np.ndarray, packed: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(compress(encode_idx(array)) if packed else encode_idx(array))
    read = read_idx(path)
    assert read.dtype == array.dtype
    assert read.shape == array.shape
    assert read.tobytes() == array.tobytes()  # bits, as floats may be nan


def header(code: int, *shape: int, magic: bytes = b"\0\0", rank: int | None = None) -> bytes:
    """Give a header that may lie."""
    return magic + bytes([code, len(shape) if rank is None else rank]) + struct.pack(f">{len(shape)}I", *shape)


HOSTILE = {
    "empty": (b"", "magic number at offset 0: expected 4 bytes, found 0 (truncated)"),
    "three bytes": (b"\0\0\x08", "magic number at offset 0: expected 4 bytes, found 3 (truncated)"),
    "not zero": (
        header(8, 4, magic=b"\x89P") + bytes(4),
        "magic number at offset 0: expected two zero bytes, found 89 50",
    ),
    "unknown type": (
        header(0x0A, 4) + bytes(4),
        "type at offset 2: expected one of 0x08, 0x09, 0x0b, 0x0c, 0x0d, 0x0e, found 0x0a",
    ),
    "rank 0": (header(8) + b"\1", "rank at offset 3: expected 1 to 8, found 0"),
    "rank 255": (header(8, 1, rank=255) + bytes(3000), "rank at offset 3: expected 1 to 8, found 255"),
    "header cut": (header(8, 1, 1, rank=3), "dimensions at offset 4: expected 12 bytes, found 8 (truncated)"),
    "elements cut": (
        encode_idx(SMALL)[:-1],
        "elements at offset 16: expected 24 bytes for (2, 3, 4) of uint8, found 23 (truncated)",
    ),
    "no elements": (header(8, 7), "elements at offset 8: expected 7 bytes for (7,) of uint8, found 0 (truncated)"),
    "trailing": (
        encode_idx(SMALL) + b"\0",
        "elements at offset 16: expected 24 bytes for (2, 3, 4) of uint8, found 25 (trailing",
    ),
    "two files": (encode_idx(SMALL) * 9, "elements at offset 16: expected 24 bytes"),
    "half an element": (encode_idx(LABELS.astype(np.int16))[:-1], "found 19 (truncated)"),
    "product 2**64": (
        header(8, 1 << 31, 1 << 31, 4) + bytes(8),
        "dimensions at offset 4: expected a product below 2**63 bytes",
    ),
    "product wraps to 4": (
        header(8, (1 << 32) - 1, (1 << 32) - 1, (1 << 32) - 1, 4),
        "expected a product below 2**63 bytes",
    ),
    "bytes overflow": (header(0x0E, 1 << 31, 1 << 29, 1), "expected a product below 2**63 bytes"),
    "zero hides overflow": (header(8, 0, *[(1 << 32) - 1] * 3), "expected a product below 2**63 bytes"),
    "4 GiB claimed": (
        header(8, (1 << 32) - 1) + bytes(100),
        "dimensions at offset 4: expected at most 1073741824 bytes in all",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_file_is_a_data_error(write: Write, case: str) -> None:
    content, text = HOSTILE[case]
    path = write(content)
    with pytest.raises(DataError) as caught:
        read_idx(path)
    assert str(caught.value).startswith(f"{path}: ")
    if not (case == "empty" and path.read_bytes()):
        assert text in str(caught.value)


def test_size_limit_holds_before_memory_is_taken(write: Write) -> None:
    path = write(encode_idx(SMALL))
    assert read_idx(path, max_bytes=40).shape == SMALL.shape
    with pytest.raises(DataError, match=r"expected at most 39 bytes in all, found 40 for \(2, 3, 4\) of uint8"):
        read_idx(path, max_bytes=39)


def test_bomb_is_read_no_further_than_its_header_claims(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(compress(encode_idx(LABELS) + bytes(200 << 20)))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="trailing"):
            read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("cut", [2, 5, 12, -9, -8, -5, -1])
def test_cut_gzip_stream(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "cut.gz"
    path.write_bytes(compress(encode_idx(SMALL))[:cut])
    with pytest.raises(DataError, match=r"damaged gzip data at or after uncompressed offset (0|36):"):
        read_idx(path)


@pytest.mark.parametrize("place", [-1, -5])
def test_wrong_checksum_or_length_of_gzip(tmp_path: Path, place: int) -> None:
    content = bytearray(compress(encode_idx(np.zeros((100, 100), np.uint8))))
    content[place] ^= 1
    path = tmp_path / "damaged.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged gzip data .*(crc|length)"):
        read_idx(path)


def test_garbage_after_gzip_stream(tmp_path: Path) -> None:
    path = tmp_path / "tail.gz"
    path.write_bytes(compress(encode_idx(SMALL)) + b"garbage")
    with pytest.raises(DataError, match="damaged gzip data"):
        read_idx(path)


def test_gzip_in_several_members(tmp_path: Path) -> None:
    content = encode_idx(SMALL)
    path = tmp_path / "members.gz"
    path.write_bytes(compress(content[:7]) + compress(b"") + compress(content[7:]))
    np.testing.assert_array_equal(read_idx(path), SMALL)


@pytest.mark.parametrize("packed", [False, True])
def test_mutated_files_give_an_array_or_a_data_error(tmp_path: Path, packed: bool) -> None:
    rng = random.Random(20250101)
    original = encode_idx(SMALL)
    original = compress(original) if packed else original
    path = tmp_path / "file"
    arrays = errors = 0
    for _ in range(1500):
        content = bytearray(original)
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(content))
            action = rng.randrange(4)
            if action == 0:
                content[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            elif action == 1:
                del content[place : place + rng.randint(1, 6)]
            elif action == 2:
                content[place:place] = rng.randbytes(rng.randint(1, 6))
            else:
                content[place] ^= 1 << rng.randrange(8)
            content = content or bytearray(1)
        path.write_bytes(content)
        try:
            array = read_idx(path, max_bytes=1 << 16)
        except DataError as error:
            errors += 1
            assert str(error).startswith(str(path))  # noqa: PT017  any other exception fails the test
        else:
            arrays += 1
            assert array.nbytes <= 1 << 16
    assert errors > 500
    assert arrays > 0


def test_missing_file_and_folder_are_os_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_idx(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        read_idx(tmp_path)


def test_device_is_refused() -> None:
    with pytest.raises(DataError, match="expected a regular file"):
        read_idx("/dev/zero")


def test_parsing_bytes_copies_nothing_that_needs_no_swap() -> None:
    content = encode_idx(SMALL)
    array = parse_idx(content, "memory")
    assert np.shares_memory(array, np.frombuffer(content, np.uint8))
    assert gzip.decompress(compress(content)) == content
