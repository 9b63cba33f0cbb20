"""Mutations of bytes that know nothing of a format."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

EDGES = (0, 1, 2, 7, 8, 63, 64, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32)
HUGE = (2**33, 2**47, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
Mutation = Callable[[random.Random, bytearray], None]


def edge(rng: random.Random, most: int = 2**64 - 1) -> int:
    """A number at which readers err, or one near it."""
    number = rng.choice(EDGES + HUGE) + rng.choice((0, 0, 0, -1, 1, 2, -2))
    return max(0, min(number, most))


def place(rng: random.Random, content: bytearray) -> int:
    """A position, early ones more often: headers are short."""
    return min(int(rng.random() ** 2 * (len(content) + 1)), max(len(content) - 1, 0))


def flip(rng: random.Random, content: bytearray) -> None:
    """Turn some bits over."""
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        if content:
            content[place(rng, content)] ^= 1 << rng.randrange(8)


def overwrite(rng: random.Random, content: bytearray) -> None:
    """Write some bytes over others."""
    at = place(rng, content)
    new = rng.choice((rng.randbytes(rng.randint(1, 8)), b"\0" * rng.randint(1, 8), b"\xff" * rng.randint(1, 8)))
    content[at : at + len(new)] = new


def number(rng: random.Random, content: bytearray) -> None:
    """Write a number of two, four or eight bytes over others, in either order."""
    at, size = place(rng, content), rng.choice((2, 4, 8))
    content[at : at + size] = (edge(rng) % 256**size).to_bytes(size, rng.choice(("little", "big")))


def insert(rng: random.Random, content: bytearray) -> None:
    """Put bytes between others."""
    at = place(rng, content)
    content[at:at] = rng.randbytes(rng.choice((1, 2, 4, 8, 100)))


def delete(rng: random.Random, content: bytearray) -> None:
    """Take bytes out."""
    at = place(rng, content)
    del content[at : at + rng.choice((1, 1, 2, 4, 8, 100))]


def truncate(rng: random.Random, content: bytearray) -> None:
    """Cut the end off."""
    del content[rng.randrange(len(content) + 1) :]


def extend(rng: random.Random, content: bytearray) -> None:
    """Go on after the end."""
    content += rng.choice((b"\0", b" ", bytes(8), bytes(200), rng.randbytes(rng.randint(1, 64)), bytes(content)))


def repeat(rng: random.Random, content: bytearray) -> None:
    """Say something twice, or somewhere else."""
    begin = place(rng, content)
    piece = content[begin : begin + rng.choice((1, 4, 16, 64))]
    at = place(rng, content)
    content[at : at + rng.choice((0, len(piece)))] = piece


MUTATIONS: Sequence[Mutation] = (flip, flip, overwrite, number, insert, delete, truncate, extend, repeat)


def mutate(rng: random.Random, content: bytes, others: Sequence[bytes] = ()) -> tuple[bytes, str]:
    """Apply one to four mutations; the second result names them. With `others`, ends may be exchanged with theirs."""
    changed, names = bytearray(content), []
    for _ in range(rng.choice((1, 1, 2, 3, 4))):
        if others and rng.randrange(10) == 0:
            other = rng.choice(others)
            changed[rng.randrange(len(changed) + 1) :] = other[rng.randrange(len(other) + 1) :]
            names.append("splice")
            continue
        mutation = rng.choice(MUTATIONS)
        mutation(rng, changed)
        names.append(mutation.__name__)
    return bytes(changed), "+".join(names)
