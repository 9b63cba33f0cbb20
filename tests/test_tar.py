"""The reader of tar archives: what `tarfile` writes it reads, and whatever is not plain files it refuses by name."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnrs import DataError
from cnnrs.datasets._tar import Member, read_members

FILES = {"a/one.bin": b"1" * 700, "a/b/two.txt": b"", "three": b"x" * 512, "n" * 90 + "/" + "m" * 90: b"long"}
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gz": gzip.compress,
    "xz": lzma.compress,
    "bz2": bz2.compress,
}


def archive(files: dict[str, bytes], layout: int = tarfile.GNU_FORMAT) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=layout) as tar:
        folder = tarfile.TarInfo("a")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return target.getvalue()


def with_member(kind: bytes, name: str = "bad", link: str = "", size: int = 0) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


def read(content: bytes, max_bytes: int = 1 << 20, max_member: int = 1 << 20, max_count: int = 100) -> list[Member]:
    file = io.BytesIO(content)
    return list(read_members(file, "t.tar", max_bytes=max_bytes, max_member=max_member, max_count=max_count))


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_reads_what_tarfile_writes(layout: int, packer: str) -> None:
    assert {m.name: m.content for m in read(PACKERS[packer](archive(FILES, layout)))} == FILES


@pytest.mark.parametrize("layout", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names(layout: int) -> None:
    files = {"d/" * 150 + "deep": b"1", "Käse/чай": b"2", "./here": b"3"}
    expected = {name.removeprefix("./"): content for name, content in files.items()}
    assert {m.name: m.content for m in read(archive(files, layout))} == expected


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (tarfile.SYMTYPE, "b'2'"),
        (tarfile.LNKTYPE, "b'1'"),
        (tarfile.CHRTYPE, "b'3'"),
        (tarfile.BLKTYPE, "b'4'"),
        (tarfile.FIFOTYPE, "b'6'"),
        (tarfile.GNUTYPE_SPARSE, "b'S'"),
        (tarfile.GNUTYPE_LONGLINK, "b'K'"),
    ],
)
def test_other_kinds_are_refused(kind: bytes, text: str) -> None:
    with pytest.raises(DataError, match=rf"t\.tar: 'bad': expected a plain file or .* of type {text}"):
        read(with_member(kind, link="/etc/passwd"))


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc/passwd", "a//b", "a/./b", "a\\b", "..", "."])
def test_names_that_lead_out_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="expected a name inside of the archive"):
        read(with_member(tarfile.REGTYPE, name))


def test_limits() -> None:
    content = archive(FILES)
    for limit, text in [
        ({"max_bytes": 2000}, "expected at most 2000 bytes once it is unpacked"),
        ({"max_member": 699}, r"'a/one\.bin': expected at most 699 bytes, got 700"),
        ({"max_count": 3}, "expected at most 3 members"),
    ]:
        with pytest.raises(DataError, match=text):
            read(content, **limit)
    claimed = with_member(tarfile.REGTYPE, "huge", size=8**11 - 1)
    with pytest.raises(DataError, match="'huge': expected at most"):
        read(claimed)
    for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
        with pytest.raises(DataError, match="expected a name of at most 4096 bytes"):
            read(with_member(kind, size=4097))


@pytest.mark.parametrize("packer", ["gz", "xz", "bz2"])
def test_a_bomb_is_not_unpacked(packer: str) -> None:
    header = with_member(tarfile.REGTYPE, "zeros", size=1 << 28)[:512]
    bomb = PACKERS[packer](header + bytes(1 << 25))
    with pytest.raises(DataError, match="'zeros': expected at most"):
        read(bomb)
    with pytest.raises(DataError, match="expected at most 1048576 bytes once it is unpacked"):
        read(bomb, max_member=1 << 30)


@pytest.mark.parametrize("packer", PACKERS)
@given(data=st.data())
def test_damage_is_a_data_error_or_harmless(packer: str, data: st.DataObject) -> None:
    content = bytearray(PACKERS[packer](archive(FILES)))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
            content[place] ^= data.draw(st.integers(1, 255))
    try:
        members = read(bytes(content))
    except DataError:
        return
    assert len(members) <= len(FILES)


def test_truncated_archives() -> None:
    whole = archive(FILES)
    for length in range(0, len(whole) - 10240, 512):
        with pytest.raises(DataError, match="truncated"):
            read(whole[:length])
    with pytest.raises(DataError, match="damaged compressed data at or after unpacked offset"):
        read(gzip.compress(archive({"noise": np.random.default_rng(0).bytes(4000)}))[:3000])


def test_records_of_pax() -> None:
    def pax(records: bytes) -> bytes:
        header = with_member(tarfile.XHDTYPE, "x", size=len(records))[:512]
        return header + records + bytes(-len(records) % 512) + with_member(tarfile.REGTYPE, "plain")

    assert read(pax(b"12 path=abc\n"))[0].name == "abc"
    assert read(pax(b"12 path=abc\n20 mtime=123456789.\n"))[0].name == "abc"
    for wrong in (b"99 path=abc\n", b"0 path=abc\n", b"path", b"2 \n", b"12 path=abcd", b"99999999999999 p=\n"):
        with pytest.raises(DataError, match="expected pax records"):
            read(pax(wrong))
    for wrong in (b"14 size=12345\n", b"24 GNU.sparse.size=1234\n"):
        with pytest.raises(DataError, match="expected a plain file, got one with"):
            read(pax(wrong))
    with pytest.raises(DataError, match="expected a name inside of the archive"):
        read(pax(b"15 path=../abc\n"))


def test_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    read(archive(FILES))
    assert list(tmp_path.iterdir()) == []
