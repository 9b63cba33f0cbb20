"""All containers, and good files that are cut off or have a bit turned over."""

from __future__ import annotations

from hostile.archives import ARCHIVES
from hostile.base import GOOD_FILES, WEIGHT, Case, cut, flipped
from hostile.headers import HEADERS
from hostile.streams import OTHERS, STREAMS


def cases() -> dict[str, Case]:
    """All of them, and good files that are cut off or have a bit turned over."""
    groups = {"zip": ARCHIVES, "stream": STREAMS, "safetensors": HEADERS, "other": OTHERS}
    found = {f"{kind}: {title}": Case(*made) for kind, group in groups.items() for title, made in group.items()}
    for kind in GOOD_FILES:
        for part in range(1, 20):
            found[f"{kind}: cut at {part}/20"] = Case(lambda kind=kind, part=part: cut(kind, part, 20), "")  # type: ignore[misc]
    for mark in (b"weight", b"ollections", b"orch\n", b"FloatStorage", b"_rebuild", b"state_dict", b"little"):
        found[f"zip: a bit at {mark.decode()!a}"] = Case(lambda mark=mark: flipped("zip", mark), "checksum")  # type: ignore[misc]
    for ahead in range(0, 24, 5):
        found[f"zip: a bit of number {ahead}"] = Case(
            lambda ahead=ahead: flipped("zip", WEIGHT, ahead), "'archive/data/0': the checksum"
        )  # type: ignore[misc]
    for mark in (b"weight", b"F32", b"shape", b"data_offsets", b"{", b"[2, 3]"):
        found[f"safetensors: a bit at {mark.decode()!a}"] = Case(lambda mark=mark: flipped("safetensors", mark), "")  # type: ignore[misc]
    for mark in (b"weight", b"ollections", b"orch\n", b"FloatStorage", b"_rebuild", b"little_endian", b"\x8a\x0a"):
        found[f"stream: a bit at {mark.decode('latin-1')!a}"] = Case(lambda mark=mark: flipped("stream", mark), "")  # type: ignore[misc]
    return found
