"""Whether a value of a pickle is a tree of reasonable depth and size, and texts about values that may be neither.

A pickle of some bytes can describe a list that contains itself, or one of 2**64 elements where few lists refer to each
other. Nothing here walks along such a value more than once per object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_NESTING = 64
MOST_UNFOLDED = 10_000_000
"""Elements that the value has when everything that is shared counts as often as it is met."""
_OPEN = (-1, -1)


def complaint(value: Any) -> str | None:
    """Return what is wrong with a value, or None: a cycle, or too many levels or elements."""
    measures: dict[int, tuple[int, int]] = {}  # levels and elements of finished containers; _OPEN on the path
    path: list[tuple[Any, Iterator[Any]]] = []
    children = iter((value,))
    while True:
        child = next(children, measures)
        if child is not measures:
            if not isinstance(child, (tuple, list, dict)):
                continue
            known = measures.get(id(child))
            if known == _OPEN:
                return "a value that contains itself"
            if known is None:
                if len(path) >= MOST_NESTING:
                    return f"values are nested more than {MOST_NESTING} deep"
                measures[id(child)] = _OPEN
                path.append((child, children))
                children = _parts(child)
            continue
        if not path:
            return None
        finished, children = path.pop()
        depth, elements = _measure(finished, measures)
        if depth + len(path) > MOST_NESTING:
            return f"values are nested more than {MOST_NESTING} deep"
        if elements > MOST_UNFOLDED:
            return f"values have more than {MOST_UNFOLDED} elements, what is shared counted each time"
        measures[id(finished)] = depth, elements


def _parts(container: Any) -> Iterator[Any]:
    return iter(container.values() if isinstance(container, dict) else container)


def _measure(container: Any, measures: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Return the levels and elements of a container whose parts are measured."""
    depth, elements = 0, len(container)
    for part in _parts(container):
        if isinstance(part, (tuple, list, dict)):
            below, inside = measures[id(part)]
            depth, elements = max(depth, below), elements + inside
    return depth + 1, elements


def name_text(name: str) -> str:
    """Return a name from a file as a short printable text."""
    shown = name if len(name) <= 200 else name[:200] + "..."
    return shown if shown.isprintable() else ascii(shown)


def number_text(number: int) -> str:
    """Return a number from a file as a text."""
    return str(number) if number.bit_length() <= 256 else f"an int of {number.bit_length()} bits"


def key_text(key: str | bytes | float | None) -> str:
    """Return a key from a file as a short printable text."""
    return ascii(key[:200] if isinstance(key, (str, bytes)) else key)
