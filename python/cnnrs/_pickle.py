"""A pickle reader that can build plain data and nothing else.

It never imports, never looks up an attribute and never calls what the file names: a global is an entry of a table that
the caller gives, and only the functions of that table are called, with arguments that this interpreter made. What is
left is a stack machine whose every step is checked: it ends with a value or with one error that says where. Values are
None, bools, ints, floats, texts, bytes, tuples, lists, dicts, sets and what the table's functions return.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cnnrs._core import WeightsError
from cnnrs._pickle_machine import MOST_BYTES, MOST_MEMORY, Built, Global, NeedMoreError, Table
from cnnrs._pickle_steps import Interpreter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["MOST_BYTES", "MOST_MEMORY", "Built", "Global", "NeedMoreError", "Table", "load", "load_at"]


def load(
    data: bytes | memoryview,
    table: Mapping[tuple[str, str], Any],
    persistent: Callable[[Any], Any] | None = None,
    *,
    error: type[Exception] = WeightsError,
    where: str = "pickle",
    encoding: str | None = "utf-8",
    most_memory: int = MOST_MEMORY,
) -> Any:
    """Read a pickle that is all of `data`.

    Args:
        data: The pickle, of protocol 0 to 5.
        table: What globals stand for, by (module, name): functions, which REDUCE calls with the pickled arguments, and
            other objects, which are values. A function says that it cannot use its arguments with ValueError,
            TypeError or `error`.
        persistent: Takes what a persistent id says and returns the object; None if there must be none.
        error: The exception for whatever is wrong.
        where: What the data are, to stand before the error's text.
        encoding: Of Python 2's texts, "utf-8" or "latin-1"; None gives bytes.
        most_memory: Bytes that the values may take, about.

    Raises:
        error: the pickle is damaged, too large, or asks for anything but data; the text names opcode and offset.
    """
    value, end = load_at(
        data, 0, table, persistent, error=error, where=where, encoding=encoding, most_memory=most_memory
    )
    if end != len(data):
        message = f"{where}: {len(data) - end} bytes follow the end of the pickle at offset {end}"
        raise error(message)
    return value


def load_at(
    data: bytes | memoryview,
    start: int,
    table: Mapping[tuple[str, str], Any],
    persistent: Callable[[Any], Any] | None = None,
    *,
    error: type[Exception] = WeightsError,
    where: str = "pickle",
    encoding: str | None = "utf-8",
    most_memory: int = MOST_MEMORY,
    partial: bool = False,
) -> tuple[Any, int]:
    """Read the pickle that begins at `start`; see `load`.

    Returns:
        The value, and the position behind the pickle.

    Raises:
        error: as `load`; offsets count from the beginning of `data`.
        NeedMoreError: with `partial`, the data end inside of the pickle.
    """
    machine = Interpreter(data, start, table, persistent, error, where, encoding, most_memory)
    machine.partial = partial
    return machine.run(), machine.position
