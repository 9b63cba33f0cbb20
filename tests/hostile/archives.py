"""Zip archives that lie about what is where."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

from fuzz import torch_files as files
from fuzz.torch_files import Member, archive
from hostile.base import BIAS, GOOD, GOOD_FILES, WEIGHT, Made, flipped, members


def renamed(name: bytes) -> bytes:
    """An archive with one member more, of that name."""
    return archive([*members(), Member(name, b"x")])


def deflated(size: int) -> bytes:
    """An archive whose storage is compressed: so many zeros in a few kilobytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("archive/data.pkl", files.state(GOOD))
        with target.open("archive/data/0", "w") as member:
            for _ in range(size >> 20):
                member.write(bytes(1 << 20))
    return file.getvalue()


def overlapping(count: int) -> bytes:
    """An archive whose members are all the same bytes."""
    file = archive([Member(b"archive/data.pkl", files.state(GOOD))])
    body = file[: file.index(b"PK\1\2")]
    begin = len(body)
    body += struct.pack("<4s5H3L2H", b"PK\3\4", 0, 0, 0, 0, 0, zlib.crc32(bytes(1000)), 1000, 1000, 14, 0)
    body += b"archive/data/0" + bytes(1000)
    entry = struct.pack(
        "<4s6H3L5H2L", b"PK\1\2", 0, 0, 0, 0, 0, 0, zlib.crc32(bytes(1000)), 1000, 1000, 14, 0, 0, 0, 0, 0, begin
    )
    directory = (entry + b"archive/data/0") * count
    return body + directory + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(directory), len(body), 0)


def end(**changes: int) -> bytes:
    """A good archive with other numbers in the record at its end."""
    good = archive(files.members(GOOD), end64=False)
    fields = dict(zip(("disk", "first", "here", "count", "length", "begin", "comment"),
                      struct.unpack("<4H2LH", good[-18:]), strict=True)) | changes  # fmt: skip
    return good[:-18] + struct.pack("<4H2LH", *fields.values())


def end64(**changes: int) -> bytes:
    """A good archive with other numbers in its larger record."""
    good = bytearray(archive(files.members(GOOD)))
    at = good.index(b"PK\6\6")
    places = {"count": (at + 32, "<Q"), "length": (at + 40, "<Q"), "begin": (at + 48, "<Q"), "locator": (at + 64, "<Q")}
    for field, number in changes.items():
        struct.pack_into(places[field][1], good, places[field][0], number)
    return bytes(good)


def _npz() -> bytes:
    import numpy as np

    file = io.BytesIO()
    np.savez(file, weight=np.zeros((2, 3), np.float32))
    return file.getvalue()


ARCHIVES: Made = {
    "path upwards": (lambda: renamed(b"archive/../../etc/passwd"), "a path that leads elsewhere"),
    "path upwards only": (lambda: renamed(b"../x"), "a path that leads elsewhere"),
    "absolute path": (lambda: renamed(b"/etc/passwd"), "is not a plain name"),
    "drive": (lambda: renamed(b"C:/windows"), "is not a plain name"),
    "backslashes": (lambda: renamed(b"archive\\..\\x"), "is not a plain name"),
    "NUL in a name": (lambda: renamed(b"archive/data\0.pkl"), "is not a plain name"),
    "dot in a path": (lambda: renamed(b"archive/./x"), "a path that leads elsewhere"),
    "doubled slash": (lambda: renamed(b"archive//x"), "a path that leads elsewhere"),
    "folder entry": (lambda: renamed(b"archive/x/"), "a path that leads elsewhere"),
    "no name": (lambda: renamed(b""), "a path that leads elsewhere"),
    "no folder": (lambda: archive([Member(b"data.pkl", b"N.")]), "stands in no folder"),
    "two folders": (lambda: renamed(b"other/data.pkl"), "members in 2 folders"),
    "name that is not UTF-8": (lambda: renamed(b"archive/\xff\xfe"), "a name that is not UTF-8"),
    "long name": (lambda: renamed(b"archive/" + b"n" * 2000), "a name has at most 1024 bytes"),
    "name twice": (lambda: renamed(b"archive/data/0"), "'archive/data/0' stands twice"),
    "data.pkl twice": (lambda: renamed(b"archive/data.pkl"), "'archive/data.pkl' stands twice"),
    "other name in the header": (lambda: archive(members(local_name=b"archive/data/1")), "another name in its header"),
    "longer name in the header": (
        lambda: archive(members(local_name=b"archive/data/00")),
        "another name in its header",
    ),
    "wrong checksum": (lambda: archive(members(crc=1)), "'archive/data/0': the checksum is .*, not 00000001"),
    "wrong checksum of what is not needed": (
        lambda: archive([*members(), Member(b"archive/data/7", b"abc", crc=5)]),
        "'archive/data/7': the checksum is",
    ),
    "wrong checksum of the pickle": (
        lambda: archive([files.members(GOOD)[0]._replace(crc=9), *files.members(GOOD)[1:]]),
        "data.pkl': the checksum is",
    ),
    "storage too short": (
        lambda: archive(members(content=WEIGHT[:20])),
        "storage '0': 24 bytes declared, its member has 20",
    ),
    "storage too long": (
        lambda: archive(members(content=WEIGHT + BIAS)),
        "storage '0': 24 bytes declared, its member has 32",
    ),
    "storage empty": (lambda: archive(members(content=b"")), "storage '0': 24 bytes declared, its member has 0"),
    "storage missing": (lambda: archive([*files.members(GOOD)[:2], *files.members(GOOD)[3:]]), "no member data/'?0"),
    "declared size of 4 GB": (lambda: archive(members(size=2**32 - 1)), "do not lie before the directory"),
    "declared size beyond": (lambda: archive(members(size=5000)), "do not lie before the directory"),
    "sizes differ in the header": (lambda: archive(members(flags=0, size=20)), "declared, its member has 20|checksum"),
    "begins in another": (lambda: archive(members(offset=0)), "another name in its header"),
    "begins behind": (lambda: archive(members(offset=2**31)), "do not lie before the directory"),
    "begins at no header": (lambda: archive(members(offset=3)), "no header at offset 3"),
    "encrypted": (lambda: archive(members(flags=0x809)), "are not read"),
    "method 8": (lambda: archive(members(method=8)), "compressed \\(method 8\\)"),
    "method 99": (lambda: archive(members(method=99)), "compressed \\(method 99\\)"),
    "method in the header only": (lambda: flipped("zip", b"archive/data/0", -22), "and the directory differ"),
    "deflated bomb": (lambda: deflated(64 << 20), "compressed \\(method 8\\)"),
    "overlapping bomb": (lambda: overlapping(1000), "inside the member before it|stands twice"),
    "two members on the same bytes": (lambda: overlapping(2), "inside the member before it|stands twice"),
    "a million members": (lambda: end64(count=1_000_000), "the larger record of the directory is damaged"),
    "sixty thousand members": (
        lambda: archive([Member(b"a/%d" % i, b"", flags=0) for i in range(60_000)]),
        "has no data.pkl",
    ),
    "65,500 members": (
        lambda: archive([Member(b"a/%d" % i, b"", flags=0) for i in range(65_500)], end64=False),
        "at most 65000 members",
    ),
    "65,535 members": (lambda: end(here=65_535, count=65_535), "at most 65000 members"),
    "too many in the record": (lambda: end(here=9, count=9), "the directory ends inside|do not end"),
    "too few in the record": (lambda: end(here=2, count=2), "the directory has \\d+ bytes behind"),
    "here and in all": (lambda: end(here=2), "archives in several parts"),
    "disk 1": (lambda: end(disk=1), "archives in several parts"),
    "directory at 2^32 - 1": (lambda: end(begin=2**32 - 1), "do not end at the directory's end"),
    "directory of 2^32 - 1": (lambda: end(length=2**32 - 1), "at most 65000 members are read, got"),
    "directory of nothing": (lambda: end(length=0), "do not end at the directory's end"),
    "a comment": (lambda: end(comment=5) + b"hello", "does not end with the record"),
    "a comment that is missing": (lambda: end(comment=5), "does not end with the record"),
    "bytes behind": (lambda: archive(files.members(GOOD)) + b"\0", "does not end with the record"),
    "larger record: length": (lambda: end64(length=1), "the two records of the directory differ"),
    "larger record: begin": (lambda: end64(begin=2**63), "the two records of the directory differ"),
    "larger record: locator": (lambda: end64(locator=2**64 - 1), "does not point before itself"),
    "no members": (lambda: archive([]), "it has no data.pkl|has no data.pkl"),
    "no pickle": (lambda: archive(files.members(GOOD)[1:]), "has no data.pkl"),
    "the end only": (lambda: b"PK\5\6" + bytes(18), "has no data.pkl"),
    "the beginning only": (lambda: b"PK\3\4" + bytes(60), "does not end with the record"),
    "big-endian": (
        lambda: archive(
            [
                member._replace(content=b"big") if member.content == b"little" else member
                for member in files.members(GOOD)
            ]
        ),
        "only little-endian",
    ),
    "an archive in an archive": (
        lambda: archive([Member(b"archive/data.pkl", GOOD_FILES["zip"]())]),
        "data.pkl: 0x50 at offset 0|is not allowed",
    ),
    "an empty pickle": (lambda: archive([Member(b"archive/data.pkl", b"")]), "ends at offset 0 without STOP"),
    "more than the pickle": (
        lambda: archive(files.members(GOOD, files.state(GOOD) + b"N.")),
        "bytes follow the end of the pickle",
    ),
    "a pickle of 33 MB": (
        lambda: archive(files.members(GOOD, b"\x80\2" + b"N0" * (17 << 20))),
        "at most 33554432 bytes are read",
    ),
    "NumPy's archive": (lambda: _npz(), "and the directory differ|compressed"),
}
