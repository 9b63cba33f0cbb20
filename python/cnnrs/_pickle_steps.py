"""What each opcode of a pickle does to the stack machine; opcodes that are not here are refused."""

from __future__ import annotations

import codecs
import re
import struct
from typing import TYPE_CHECKING, Any

from cnnrs import _pickle_bounds as bounds
from cnnrs._pickle_machine import CONTAINER, MOST_OPCODES, SET, Machine

if TYPE_CHECKING:
    from collections.abc import Callable

_ESCAPED = re.compile(rb"""(?:[^\\]|\\(?:[\\'"abfnrtv]|x[0-9a-fA-F]{2}|[0-3][0-7]{2}|[0-7]{1,2}(?![0-7])))*""")


class Interpreter(Machine):
    """Reads one pickle."""

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


def _double(machine: Machine) -> None:
    machine.number(struct.unpack(">d", machine.take(8))[0])


_STEPS: dict[int, Callable[[Interpreter], Any]] = {
    0x80: Interpreter.proto,
    0x95: Interpreter.frame,
    ord("("): Interpreter.mark,
    ord("0"): lambda m: m.marked() if m.marks and len(m.stack) == m.marks[-1] else m.pop(),
    ord("1"): Interpreter.marked,
    ord("2"): lambda m: m.push(m.top()),
    # Constants and numbers.
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("I"): Interpreter.int_line,
    ord("L"): Interpreter.long_line,
    ord("F"): Interpreter.float_line,
    ord("J"): lambda m: m.number(m.integer(4)),
    ord("K"): lambda m: m.number(m.uint(1)),
    ord("M"): lambda m: m.number(m.uint(2)),
    0x8A: lambda m: m.number(m.integer(m.uint(1))),
    0x8B: lambda m: m.number(m.integer(m.uint(4))),
    ord("G"): _double,
    # Texts and bytes.
    ord("S"): Interpreter.string_line,
    ord("T"): lambda m: m.push(m.old_text(m.take(m.uint(4)))),
    ord("U"): lambda m: m.push(m.old_text(m.take(m.uint(1)))),
    ord("V"): Interpreter.unicode_line,
    ord("X"): lambda m: m.push(m.text(m.take(m.uint(4)))),
    0x8C: lambda m: m.push(m.text(m.take(m.uint(1)))),
    0x8D: lambda m: m.push(m.text(m.take(m.uint(8)))),
    ord("B"): lambda m: m.push(m.binary(m.uint(4))),
    ord("C"): lambda m: m.push(m.binary(m.uint(1))),
    0x8E: lambda m: m.push(m.binary(m.uint(8))),
    0x96: Interpreter.byte_array,
    # Collections.
    ord(")"): lambda m: m.push(()),
    0x85: lambda m: m.tuple_of(1),
    0x86: lambda m: m.tuple_of(2),
    0x87: lambda m: m.tuple_of(3),
    ord("t"): lambda m: m.push(tuple(m.collection(m.marked()))),
    ord("]"): lambda m: m.empty(list, CONTAINER),
    ord("l"): lambda m: m.push(m.collection(m.marked())),
    ord("a"): Interpreter.append,
    ord("e"): Interpreter.append_all,
    ord("}"): lambda m: m.empty(dict, CONTAINER),
    ord("d"): Interpreter.new_dict,
    ord("s"): Interpreter.set_item,
    ord("u"): Interpreter.set_items,
    0x8F: lambda m: m.empty(set, SET),
    0x90: Interpreter.add_items,
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
    ord("c"): Interpreter.global_line,
    0x93: Interpreter.stack_global,
    ord("R"): Interpreter.call,
    0x81: Interpreter.call,
    ord("b"): Interpreter.build,
    ord("Q"): Interpreter.persist,
}
