"""The stack machine behind `cnnrs._pickle`: bytes, stack, memo and calls, each step checked before it is taken."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from cnnrs import _pickle_bounds as bounds
from cnnrs._pickle_opcodes import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MOST_BYTES = 64 << 20
MOST_OPCODES = 1_000_000
MOST_MEMORY = 16 << 20
"""Bytes that the values may take, by an estimate that is rather too high."""
MOST_INT_BYTES = 16
MOST_LINE = 4096
NUMBER = 40
CONTAINER = 96
ITEM = 16
DICT_ITEM = 120
SET = 240


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
        parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)  # the second part: slots
        if any(part is not None and not isinstance(part, dict) for part in parts):
            message = "attributes are no dict"
            raise ValueError(message)


class Machine:
    """The state of one pickle being read, and the checked steps that opcodes are made of."""

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
        self.spend(DICT_ITEM // 2 * len(items))
        for key, value in zip(items[::2], items[1::2], strict=True):
            if self.key(key) in target:
                self.refuse(f"the key {bounds.key_text(key)} stands twice")
            target[key] = value

    def extend(self, target: Any, items: list[Any]) -> None:
        """Put values into a list of ours."""
        if type(target) is not list:
            self.refuse(f"only a list takes values, got a {type(target).__name__}")
        self.spend(ITEM * len(items))
        target.extend(items)

    def collection(self, items: list[Any]) -> Any:
        self.spend(CONTAINER + ITEM * len(items))
        return items

    def tuple_of(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(self.collection(items))))

    def elements(self, items: list[Any]) -> set[Any]:
        self.spend(SET + DICT_ITEM * len(items))
        return {self.key(item) for item in items}

    # Memo.

    def remember(self, index: int) -> None:
        if index >= MOST_OPCODES:
            self.refuse(f"place {bounds.number_text(index)} of at most {MOST_OPCODES}")
        self.spend(DICT_ITEM)
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
        self.spend(NUMBER)
        self.push(value)

    # Globals.

    def find(self, module: Any, name: Any) -> None:
        """Push what the caller's table has under a name."""
        if type(module) is not str or type(name) is not str:
            self.refuse("the names of a global must be texts")
        if (module, name) not in self.table:
            self.refuse(f"{bounds.name_text(f'{module}.{name}')} is not allowed: only plain data are read")
        found = self.table[module, name]
        self.spend(CONTAINER)
        self.push(Global(module, name, found) if callable(found) else found)

    def call(self) -> None:
        """Call a function of the caller's table."""
        arguments, function = self.pop(), self.pop()
        if type(function) is not Global:
            self.refuse(f"only a known global can be called, got a {type(function).__name__}")
        if type(arguments) is not tuple:
            self.refuse(f"arguments must be a tuple, got a {type(arguments).__name__}")
        self.spend(4 * CONTAINER + (DICT_ITEM * len(arguments[0]) if _has_items(arguments) else 0))
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
        self.spend(CONTAINER)
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
        self.spend(CONTAINER)
        try:
            found = self.persistent(identifier)
        except self.error as error:
            self.refuse(str(error))
        self.push(found)


def _has_items(arguments: tuple[Any, ...]) -> bool:
    """Whether the first argument is a collection that the function may copy."""
    return bool(arguments) and isinstance(arguments[0], (dict, list, tuple, set))
