"""Cases for the readers of torch's checkpoints: zip archives and the older streams."""

from __future__ import annotations

import io
import random
import struct
from typing import Any

import numpy as np

from cnnrs import WeightsError
from cnnrs.weights import read_tensors
from fuzz import judge
from fuzz import torch_files as files
from fuzz.campaign import Case, Target
from fuzz.mutations import edge, mutate
from fuzz.safetensors import Everything, refused

NAMES = (b"archive/data.pkl", b"archive/data/0", b"other/data/0", b"archive/data/0/", b"archive", b"archive/", b"")
NAMES += (
    b"/etc/passwd",
    b"archive/../../x",
    b"archive\\data",
    b"C:/data.pkl",
    b"archive/\xff",
    b"archive/" + b"n" * 1100,
)


def lying_view(rng: random.Random, made: files.Content) -> files.Content:
    """Describe a tensor that may not lie in its storage."""
    key = rng.choice(sorted(made.tensors))
    view = made.tensors[key]
    changes: dict[str, Any] = {}
    for field in rng.sample(("shape", "strides", "offset", "storage"), rng.choice((1, 1, 2))):
        if field == "offset":
            changes[field] = rng.choice((edge(rng), -edge(rng), rng.randint(-3, 50)))
        elif field == "storage":
            changes[field] = rng.randrange(len(made.storages))
        else:
            numbers = list(getattr(view, field))
            numbers.insert(rng.randrange(len(numbers) + 1), rng.choice((0, 1, 2, 7, edge(rng), -1)))
            if rng.randrange(2):
                del numbers[rng.randrange(len(numbers))]
            changes[field] = tuple(numbers)
    return made._replace(tensors=made.tensors | {key: view._replace(**changes)})


def lying_member(rng: random.Random, members: list[files.Member]) -> str:
    """Change what the archive says of one member."""
    place = rng.randrange(len(members))
    member = members[place]
    changes: dict[str, Any] = {
        "name": rng.choice(NAMES),
        "local_name": rng.choice(NAMES),
        "crc": edge(rng) % 2**32,
        "size": edge(rng) % 2**32,
        "method": rng.choice((8, 1, 99)),
        "flags": rng.choice((0, 1, 8, 0x808, 0x8000)),
        "offset": edge(rng) % 2**32,
        "content": rng.choice((b"", b"big", member.content[:-1], member.content + b"\0")),
    }
    field = rng.choice(sorted(changes))
    members[place] = member._replace(**{field: changes[field]})
    if rng.randrange(8) == 0:
        members.insert(rng.randrange(len(members) + 1), rng.choice(members))
        return f"member {field}, one twice"
    return f"member {field}"


def make_zip(rng: random.Random) -> Case:
    """One zip archive."""
    made = files.content(rng)
    form = rng.randrange(12)
    if form < 2:
        return Case(files.archive(files.members(made), end64=form == 0), "whole", True)
    if form < 4:
        return Case(files.archive(files.members(lying_view(rng, made))), "lying view", None)
    if form < 7:
        pickled, story = mutate(rng, files.state(made))
        return Case(files.archive(files.members(made, pickled)), f"data.pkl {story}, checksums right", None)
    members = files.members(made)
    if form < 10:
        story = "+".join(lying_member(rng, members) for _ in range(rng.choice((1, 1, 2))))
        count = edge(rng) % 2**16 if rng.randrange(10) == 0 else None
        return Case(files.archive(members, count, rng.random() < 0.8), story, None)
    changed, story = mutate(rng, files.archive(members), (files.archive(files.members(files.content(rng))),))
    return Case(changed, story, None)


def make_stream(rng: random.Random) -> Case:
    """One stream."""
    made = files.content(rng)
    form = rng.randrange(10)
    if form < 2:
        return Case(files.stream(made), "whole", True)
    if form < 4:
        return Case(files.stream(lying_view(rng, made)), "lying view", None)
    if form < 6:
        part = rng.choice(("magic", "protocol", "system", "state", "state", "state", "keys", "storages"))
        pieces: dict[str, Any] = {
            "state": files.state(made, rng.choice((b"N", b"N", b"", b")"))),
            "keys": b"\x80\x02](" + b"".join(map(files.text, ("0", "1", "1")[: rng.randrange(4)])) + b"e.",
            "storages": b"".join(
                struct.pack("<Q", rng.choice((edge(rng), len(data)))) + data for _, data in made.storages
            ),
            "magic": b"\x80\x02" + files.integer(files.MAGIC + rng.randint(-1, 1)) + b".",
            "protocol": b"\x80\x02" + rng.choice((b"M\xe9\x03", b"M\xea\x03", b"K\1", b"]")) + b".",
            "system": b"\x80\x02}(" + files.text("little_endian") + rng.choice((b"\x88", b"\x89", b"K\1")) + b"u.",
        }
        piece, story = pieces[part], "other"
        if rng.randrange(3):
            piece, story = mutate(rng, piece)
        return Case(files.stream(made, {part: piece}), f"{part} {story}", None)
    changed, story = mutate(rng, files.stream(made), (files.stream(files.content(rng)),))
    return Case(changed, story, None)


def check(content: bytes) -> bool:
    """Read a case; the tensors must be what Python's own modules make of the file."""
    try:
        with np.errstate(invalid="ignore"):
            state = read_tensors(io.BytesIO(content), len(content), Everything())
    except WeightsError as error:
        return refused(str(error))
    expected = judge.read(content)
    assert set(state) == set(expected)
    for name, array in state.items():
        assert array.dtype == expected[name].dtype
        np.testing.assert_array_equal(array, expected[name])
    return True


ZIP = Target(make_zip, check)
STREAM = Target(make_stream, check)
