"""A pickle reader that can build plain data and nothing else.

It never imports, never looks up an attribute and never calls what the file names: a global is an entry of a table that
the caller gives, and only the functions of that table are called, with arguments that this interpreter made. What is
left is a stack machine whose every step is checked: it ends with a value or with one error that says where. Values are
None, bools, ints, floats, texts, bytes, tuples, lists, dicts, sets and what the table's functions return.
"""

from __future__ import annotations

import codecs
import re
import struct
import sys
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from cnnrs import _pickle_bounds as bounds
from cnnrs._core import WeightsError
from cnnrs._pickle_opcodes import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MOST_BYTES = 64 << 20
MOST_OPCODES = 1_000_000
MOST_MEMORY = 16 << 20
"""Bytes that the values may take, by an estimate that is rather too high."""
MOST_INT_BYTES = 16
MOST_LINE = 4096
_NUMBER = 40
_CONTAINER = 96
_ITEM = 16
_DICT_ITEM = 120
_SET = 240
_ESCAPED = re.compile(rb"""(?:[^\\]|\\(?:[\\'"abfnrtv]|x[0-9a-fA-F]{2}|[0-3][0-7]{2}|[0-7]{1,2}(?![0-7])))*""")


class NeedMoreError(Exception):
    """The data end inside of the pickle, and the caller said that there may be more."""


class Global(NamedTuple):
    """A function of the caller's table on the stack: good for REDUCE and NEWOBJ, or as an argument, and inert."""

    module: str
    name: str
    builder: Callable[..., Any]


class Built:
    """Base of what the table's functions return where the pickle may give it a state (BUILD)."""

    def set_state(self, state: Any) -> None:
        """Take the state.

        Raises:
            ValueError: it is not what such an object has.
        """
        message = f"a {type(self).__name__} takes no state"
        raise ValueError(message)


class Table(dict[Any, Any], Built):
    """A dict for the names whose instances are dicts (OrderedDict); attributes given to it are dropped."""

    def set_state(self, state: Any) -> None:
        """Drop attributes, such as the versions that torch keeps in `_metadata`."""


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
    machine = _Machine(data, start, table, persistent, error, where, encoding, most_memory)
    machine.partial = partial
    return machine.run(), machine.position


class _Machine:
    """The stack machine of one pickle."""

    def __init__(
        self,
        data: bytes | memoryview,
        start: int,
        table: Mapping[tuple[str, str], Any],
        persistent: Callable[[Any], Any] | None,
        error: type[Exception],
        where: str,
        encoding: str | None,
        most_memory: int,
    ) -> None:
        self.data = memoryview(data)
        self.position = start
        self.end = min(len(data), start + MOST_BYTES)
        self.table = table
        self.persistent = persistent
        self.error = error
        self.where = where
        self.encoding = encoding
        self.memory = most_memory
        self.stack: list[Any] = []
        self.marks: list[int] = []
        """Heights of the stack at the open marks; nothing below the last one may be taken."""
        self.memo: dict[int, Any] = {}
        self.opcode = 0
        self.at = start
        self.frame_end = start
        self.partial = False

    # Refusing.

    def refuse(self, text: str) -> NoReturn:
        """Raise the caller's error for the present opcode."""
        name = NAMES.get(self.opcode, f"0x{self.opcode:02x}")
        message = f"{self.where}: {name} at offset {self.at}: {text}"
        raise self.error(message) from None

    def spend(self, size: int) -> None:
        """Count memory before it is taken."""
        self.memory -= size
        if self.memory < 0:
            self.refuse("the values take too much memory")

    # Bytes.

    def ends(self) -> None:
        """Ask for more data, if there may be more."""
        if self.partial and self.end == len(self.data):
            raise NeedMoreError

    def take(self, count: int) -> memoryview:
        """Return the next bytes."""
        left = self.end - self.position
        if count > left:
            if self.end < len(self.data):
                self.refuse(f"at most {MOST_BYTES} bytes are read")
            self.ends()
            self.refuse(f"{count} bytes wanted, {left} left")
        self.advance(count)
        return self.data[self.position - count : self.position]

    def advance(self, count: int) -> None:
        """Go on by so many bytes, which do not cross the end of a frame."""
        if self.position < self.frame_end < self.position + count:
            self.refuse(f"{count} bytes wanted, the frame ends at offset {self.frame_end}")
        self.position += count

    def uint(self, size: int) -> int:
        """Return the next bytes as an unsigned number."""
        return int.from_bytes(self.take(size), "little")

    def line(self) -> bytes:
        """Return the next bytes up to a newline."""
        piece = bytes(self.data[self.position : min(self.end, self.position + MOST_LINE)])
        length = piece.find(b"\n")
        if length < 0:
            if len(piece) < MOST_LINE:
                self.ends()
            self.refuse(f"no end of the line within {len(piece)} bytes")
        self.advance(length + 1)
        return piece[:length]

    def text(self, raw: bytes | memoryview, encoding: str = "utf-8", errors: str = "surrogatepass") -> str:
        """Decode bytes; Python writes lone surrogates, too."""
        self.spend(64 + len(raw))
        try:
            decoded = str(raw, encoding, errors)
        except UnicodeError:
            self.refuse(f"a text that is not {encoding}")
        self.spend(sys.getsizeof(decoded) - len(raw))
        return decoded

    def binary(self, size: int) -> bytes:
        """Return the next bytes as a value."""
        piece = self.take(size)
        self.spend(64 + size)
        return bytes(piece)

    def old_text(self, raw: bytes | memoryview) -> str | bytes:
        """Return a text of Python 2."""
        if self.encoding is None:
            self.spend(64 + len(raw))
            return bytes(raw)
        return self.text(raw, self.encoding, "strict")

    # Stack.

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        """Return the topmost value above the last mark."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            self.refuse("nothing on the stack")
        return self.stack.pop()

    def top(self) -> Any:
        """Look at the topmost value above the last mark."""
        value = self.pop()
        self.stack.append(value)
        return value

    def marked(self) -> list[Any]:
        """Return what stands above the last mark and close it."""
        if not self.marks:
            self.refuse("no mark")
        height = self.marks.pop()
        items = self.stack[height:]
        del self.stack[height:]
        return items

    def key(self, value: Any) -> Any:
        """Check a key of a dict or an element of a set: hashing it must be cheap and spread."""
        if isinstance(value, int) and not -(2**60) < value < 2**60:
            self.refuse("a key must be an int of less than 61 bits")
        if value is not None and not isinstance(value, (str, bytes, int, float)):
            self.refuse(f"a key must be a text or a number, got a {type(value).__name__}")
        return value

    def fill(self, target: Any, items: list[Any]) -> None:
        """Put keys and values into a dict of ours."""
        if type(target) is not dict and type(target) is not Table:
            self.refuse(f"only a dict takes items, got a {type(target).__name__}")
        if len(items) % 2:
            self.refuse("a key without a value")
        self.spend(_DICT_ITEM // 2 * len(items))
        for key, value in zip(items[::2], items[1::2], strict=True):
            if self.key(key) in target:
                self.refuse(f"the key {bounds.key_text(key)} stands twice")
            target[key] = value

    def extend(self, target: Any, items: list[Any]) -> None:
        """Put values into a list of ours."""
        if type(target) is not list:
            self.refuse(f"only a list takes values, got a {type(target).__name__}")
        self.spend(_ITEM * len(items))
        target.extend(items)

    def collection(self, items: list[Any]) -> Any:
        self.spend(_CONTAINER + _ITEM * len(items))
        return items

    def tuple_of(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(self.collection(items))))

    def elements(self, items: list[Any]) -> set[Any]:
        self.spend(_SET + _DICT_ITEM * len(items))
        return {self.key(item) for item in items}

    # Memo.

    def remember(self, index: int) -> None:
        if index >= MOST_OPCODES:
            self.refuse(f"place {bounds.number_text(index)} of at most {MOST_OPCODES}")
        self.spend(_DICT_ITEM)
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        if index not in self.memo:
            self.refuse(f"nothing was stored under {bounds.number_text(index)}")
        self.push(self.memo[index])

    # Numbers as text.

    def decimal(self, raw: bytes) -> int:
        """Return a number of at most 16 bytes that stands there in digits."""
        digits = raw[1:] if raw[:1] in (b"-", b"+") else raw
        if not digits.isdigit() or len(digits) > 39 or (digits[:1] == b"0" and len(digits) > 1):
            self.refuse("not a number of at most 39 digits, the first of them not 0")
        return int(raw)

    def index(self) -> int:
        """Return a place of the memo that stands there in digits."""
        number = self.decimal(self.line())
        if number < 0:
            self.refuse("a negative place")
        return number

    def integer(self, size: int) -> int:
        if size > MOST_INT_BYTES:
            self.refuse(f"an int has at most {MOST_INT_BYTES} bytes, got {size}")
        return int.from_bytes(self.take(size), "little", signed=True)

    def number(self, value: float) -> None:
        self.spend(_NUMBER)
        self.push(value)

    # Globals.

    def find(self, module: Any, name: Any) -> None:
        """Push what the caller's table has under a name."""
        if type(module) is not str or type(name) is not str:
            self.refuse("the names of a global must be texts")
        if (module, name) not in self.table:
            self.refuse(f"{bounds.name_text(f'{module}.{name}')} is not allowed: only plain data are read")
        found = self.table[module, name]
        self.spend(_CONTAINER)
        self.push(Global(module, name, found) if callable(found) else found)

    def call(self) -> None:
        """Call a function of the caller's table."""
        arguments, function = self.pop(), self.pop()
        if type(function) is not Global:
            self.refuse(f"only a known global can be called, got a {type(function).__name__}")
        if type(arguments) is not tuple:
            self.refuse(f"arguments must be a tuple, got a {type(arguments).__name__}")
        self.spend(4 * _CONTAINER + (_DICT_ITEM * len(arguments[0]) if _has_items(arguments) else 0))
        title = bounds.name_text(f"{function.module}.{function.name}")
        try:
            result = function.builder(*arguments)
        except self.error as error:
            self.refuse(f"{title}: {error}")
        except (TypeError, ValueError, OverflowError) as error:
            self.refuse(f"{title} does not take these arguments: {error}")
        self.push(result)

    def build(self) -> None:
        """Give a state to an object of the caller's."""
        state, target = self.pop(), self.top()
        if not isinstance(target, Built):
            self.refuse(f"a {type(target).__name__} takes no state")
        self.spend(_CONTAINER)
        try:
            target.set_state(state)
        except self.error as error:
            self.refuse(f"state of a {type(target).__name__}: {error}")
        except (TypeError, ValueError, OverflowError) as error:
            self.refuse(f"not the state of a {type(target).__name__}: {error}")

    def persist(self) -> None:
        """Let the caller find the object of a persistent id."""
        if self.persistent is None:
            self.refuse("persistent ids are not allowed here")
        identifier = self.pop()
        self.spend(_CONTAINER)
        try:
            found = self.persistent(identifier)
        except self.error as error:
            self.refuse(str(error))
        self.push(found)

    # The loop.

    def run(self) -> Any:
        """Read opcodes up to STOP; return the one value that is left."""
        count = 0
        while True:
            self.at = self.position
            if self.position >= self.end:
                self.ends()
                message = f"{self.where}: the pickle ends at offset {self.position} without STOP"
                raise self.error(message)
            self.opcode = self.data[self.position]
            self.position += 1
            if self.opcode == 0x2E:  # STOP
                return self.result()
            step = _STEPS.get(self.opcode)
            if step is None:
                self.refuse("this opcode is not allowed: only plain data are read")
            if (count := count + 1) > MOST_OPCODES:
                self.refuse(f"more than {MOST_OPCODES} opcodes")
            step(self)

    def result(self) -> Any:
        """Return the value, once it is known to be a small tree."""
        value = self.pop()
        if self.stack or self.marks:
            self.refuse("more than one value is left on the stack")
        if problem := bounds.complaint(value):
            self.refuse(problem)
        return value

    # Opcodes with more than one action.

    def proto(self) -> None:
        if (version := self.uint(1)) > 5:
            self.refuse(f"protocol {version} is not known")

    def frame(self) -> None:
        """Check the length of a frame; frames follow each other and hold whole opcodes."""
        if self.at < self.frame_end:
            self.refuse(f"inside of the frame that ends at offset {self.frame_end}")
        if (length := self.uint(8)) > self.end - self.position:
            self.ends()
            self.refuse(f"a frame of {length} bytes, {self.end - self.position} left")
        self.frame_end = self.position + length

    def mark(self) -> None:
        if len(self.marks) >= bounds.MOST_NESTING:
            self.refuse(f"more than {bounds.MOST_NESTING} open marks")
        self.marks.append(len(self.stack))

    def int_line(self) -> None:
        line = self.line()
        if line in (b"00", b"01"):
            self.push(line == b"01")
        else:
            self.number(self.decimal(line))

    def long_line(self) -> None:
        self.number(self.decimal(self.line().removesuffix(b"L")))

    def float_line(self) -> None:
        try:
            value = float(self.line())
        except ValueError:
            self.refuse("not a number")
        self.number(value)

    def string_line(self) -> None:
        raw = self.line()
        if len(raw) < 2 or raw[:1] != raw[-1:] or raw[:1] not in (b"'", b'"'):
            self.refuse("a text without quotes")
        if not _ESCAPED.fullmatch(raw, 1, len(raw) - 1):
            self.refuse("a text with a wrong escape")
        self.push(self.old_text(codecs.escape_decode(raw[1:-1])[0]))

    def unicode_line(self) -> None:
        self.push(self.text(self.line(), "raw-unicode-escape"))

    def global_line(self) -> None:
        module, name = (self.text(self.line()) for _ in range(2))
        self.find(module, name)

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        self.find(module, name)

    def byte_array(self) -> None:
        self.push(self.binary(self.uint(8)))

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.fill(self.top(), [key, value])

    def set_items(self) -> None:
        items = self.marked()
        self.fill(self.top(), items)

    def append(self) -> None:
        value = self.pop()
        self.extend(self.top(), [value])

    def append_all(self) -> None:
        items = self.marked()
        self.extend(self.top(), items)

    def add_items(self) -> None:
        items = self.marked()
        target = self.top()
        if type(target) is not set:
            self.refuse(f"only a set takes elements, got a {type(target).__name__}")
        target |= self.elements(items)

    def new_dict(self) -> None:
        items = self.marked()
        self.push({})
        self.fill(self.top(), items)

    def empty(self, make: Callable[[], Any], size: int) -> None:
        self.spend(size)
        self.push(make())


def _has_items(arguments: tuple[Any, ...]) -> bool:
    """Whether the first argument is a collection that the function may copy."""
    return bool(arguments) and isinstance(arguments[0], (dict, list, tuple, set))


def _double(machine: _Machine) -> None:
    machine.number(struct.unpack(">d", machine.take(8))[0])


_STEPS: dict[int, Callable[[_Machine], Any]] = {
    0x80: _Machine.proto,
    0x95: _Machine.frame,
    ord("("): _Machine.mark,
    ord("0"): lambda m: m.marked() if m.marks and len(m.stack) == m.marks[-1] else m.pop(),
    ord("1"): _Machine.marked,
    ord("2"): lambda m: m.push(m.top()),
    # Constants and numbers.
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("I"): _Machine.int_line,
    ord("L"): _Machine.long_line,
    ord("F"): _Machine.float_line,
    ord("J"): lambda m: m.number(m.integer(4)),
    ord("K"): lambda m: m.number(m.uint(1)),
    ord("M"): lambda m: m.number(m.uint(2)),
    0x8A: lambda m: m.number(m.integer(m.uint(1))),
    0x8B: lambda m: m.number(m.integer(m.uint(4))),
    ord("G"): _double,
    # Texts and bytes.
    ord("S"): _Machine.string_line,
    ord("T"): lambda m: m.push(m.old_text(m.take(m.uint(4)))),
    ord("U"): lambda m: m.push(m.old_text(m.take(m.uint(1)))),
    ord("V"): _Machine.unicode_line,
    ord("X"): lambda m: m.push(m.text(m.take(m.uint(4)))),
    0x8C: lambda m: m.push(m.text(m.take(m.uint(1)))),
    0x8D: lambda m: m.push(m.text(m.take(m.uint(8)))),
    ord("B"): lambda m: m.push(m.binary(m.uint(4))),
    ord("C"): lambda m: m.push(m.binary(m.uint(1))),
    0x8E: lambda m: m.push(m.binary(m.uint(8))),
    0x96: _Machine.byte_array,
    # Collections.
    ord(")"): lambda m: m.push(()),
    0x85: lambda m: m.tuple_of(1),
    0x86: lambda m: m.tuple_of(2),
    0x87: lambda m: m.tuple_of(3),
    ord("t"): lambda m: m.push(tuple(m.collection(m.marked()))),
    ord("]"): lambda m: m.empty(list, _CONTAINER),
    ord("l"): lambda m: m.push(m.collection(m.marked())),
    ord("a"): _Machine.append,
    ord("e"): _Machine.append_all,
    ord("}"): lambda m: m.empty(dict, _CONTAINER),
    ord("d"): _Machine.new_dict,
    ord("s"): _Machine.set_item,
    ord("u"): _Machine.set_items,
    0x8F: lambda m: m.empty(set, _SET),
    0x90: _Machine.add_items,
    0x91: lambda m: m.push(frozenset(m.elements(m.marked()))),
    # Memo.
    ord("p"): lambda m: m.remember(m.index()),
    ord("q"): lambda m: m.remember(m.uint(1)),
    ord("r"): lambda m: m.remember(m.uint(4)),
    0x94: lambda m: m.remember(len(m.memo)),
    ord("g"): lambda m: m.recall(m.index()),
    ord("h"): lambda m: m.recall(m.uint(1)),
    ord("j"): lambda m: m.recall(m.uint(4)),
    # Objects of the caller's table.
    ord("c"): _Machine.global_line,
    0x93: _Machine.stack_global,
    ord("R"): _Machine.call,
    0x81: _Machine.call,
    ord("b"): _Machine.build,
    ord("Q"): _Machine.persist,
}
