"""Pickles that call, import, expand, recurse or lie, in a zip archive and in a stream."""

from __future__ import annotations

import struct
from collections.abc import Callable

from fuzz.torch_files import integer, name, text
from hostile import tensors
from hostile.base import WEIGHT_ID, Case, of_pickle, ordered, pickled

CALLS = (
    "os.system",
    "posix.system",
    "nt.system",
    "builtins.eval",
    "builtins.exec",
    "builtins.getattr",
    "builtins.__import__",
    "builtins.open",
    "builtins.compile",
    "__builtin__.apply",
    "__builtin__.eval",
    "subprocess.Popen",
    "subprocess.check_output",
    "importlib.import_module",
    "pickle.loads",
    "_pickle.Unpickler",
    "marshal.loads",
    "types.FunctionType",
    "types.CodeType",
    "runpy._run_code",
    "operator.attrgetter",
    "operator.methodcaller",
    "functools.partial",
    "functools.reduce",
    "shutil.rmtree",
    "webbrowser.open",
    "ctypes.CDLL",
    "socket.socket",
    "code.interact",
    "pdb.run",
    "timeit.timeit",
    "pip.main",
    "numpy.load",
    "numpy.testing._private.utils.runstring",
    "torch.load",
    "torch.hub.load",
    "torch.jit.load",
    "torch.storage._load_from_bytes",
    "torch._utils._rebuild_sparse_tensor",
    "torch._utils._rebuild_qtensor",
    "torch._utils._import_dotted_name",
    "torch.nn.modules.linear.Linear",
    "cnnrs._core.Parameter",
    "collections.OrderedDict.update",
)


def call(path: str) -> bytes:
    """A call with a text that a shell would take."""
    module, _, attribute = path.rpartition(".")
    return name(module, attribute) + b"(" + text("true") + b"tR"


def stacked(path: str) -> bytes:
    """The same with names from the stack."""
    module, _, attribute = path.rpartition(".")
    return text(module) + text(attribute) + b"\x93(" + text("true") + b"tR"


def laughs(opening: bytes, closing: bytes, levels: int, width: int) -> bytes:
    """Collections of references to the level below."""
    body = opening + text("ha") * width + closing + b"q\0"
    for level in range(1, levels):
        body += b"0" + opening + b"h" + bytes([level - 1])
        body += (b"h" + bytes([level - 1])) * (width - 1) + closing + b"q" + bytes([level])
    return body


PLAIN: dict[str, tuple[Callable[[], bytes], str]] = {
    # Calls in disguise.
    "call of a call's result": (lambda: pickled(ordered() + b")R"), "REDUCE .* only a known global can be called, got"),
    "call of a text": (lambda: pickled(text("os.system") + b")R"), "only a known global can be called, got a str"),
    "arguments in a list": (lambda: pickled(name("collections", "OrderedDict") + b"]R"), "arguments must be a tuple"),
    "new object": (
        lambda: pickled(name("os", "system") + b"(" + text("true") + b"t\x81"),
        r"os\.system is not allowed",
    ),
    "new object with words": (lambda: pickled(name("collections", "OrderedDict") + b")}\x92"), "NEWOBJ_EX at offset"),
    "instance": (lambda: pickled(b"(" + text("true") + b"ios\nsystem\n"), "INST at offset"),
    "object": (lambda: pickled(b"(" + name("os", "system")[:0] + text("a") + b"o"), "OBJ at offset"),
    "extension 1": (lambda: pickled(b"\x82\x01"), "EXT1 at offset"),
    "extension 2": (lambda: pickled(b"\x83\x01\0"), "EXT2 at offset"),
    "extension 4": (lambda: pickled(b"\x84\x01\0\0\0"), "EXT4 at offset"),
    "persistent text": (lambda: pickled(b"P0\n"), "PERSID at offset"),
    "buffer": (lambda: pickled(b"\x97", 5), "NEXT_BUFFER at offset"),
    "read-only buffer": (lambda: pickled(b"N\x98", 5), "READONLY_BUFFER at offset"),
    "state for a list": (lambda: pickled(b"]}b"), "BUILD .* a list takes no state"),
    "state for a storage": (lambda: pickled(WEIGHT_ID + b"}b"), "a StorageRef takes no state"),
    "state for a global": (lambda: pickled(name("collections", "OrderedDict") + b"}b"), "a Global takes no state"),
    "global of numbers": (lambda: pickled(b"K\1K\2\x93"), "the names of a global must be texts"),
    "set of code": (lambda: pickled(name("builtins", "set") + b"K\1\x85R"), r"builtins\.set: a set is made of a list"),
    "dict of code": (lambda: pickled(name("collections", "OrderedDict") + b"K\1\x85R"), "a dict is made of a dict"),
    # Items put where they do not belong.
    "item of a tensor": (
        lambda: pickled(WEIGHT_ID + b"K\0K\0s"),
        "SETITEM .* only a dict takes items, got a StorageRef",
    ),
    "item of a list": (lambda: pickled(b"]K\0K\0s"), "only a dict takes items, got a list"),
    "items of a tuple": (lambda: pickled(b")(K\0K\0u"), "only a dict takes items, got a tuple"),
    "an item without a value": (lambda: pickled(b"}(K\0u"), "a key without a value"),
    "append to a dict": (lambda: pickled(b"}K\0a"), "only a list takes values, got a dict"),
    "append to a tuple": (lambda: pickled(b")(K\0e"), "only a list takes values, got a tuple"),
    "elements of a list": (lambda: pickled(b"](K\0\x90", 4), "only a set takes elements, got a list"),
    "a list as a key": (lambda: pickled(b"}]Ns"), "a key must be a text or a number, got a list"),
    "a tuple as a key": (lambda: pickled(b"})Ns"), "a key must be a text or a number, got a tuple"),
    "a long int as a key": (
        lambda: pickled(b"}" + integer(2**61 - 1) + b"Ns"),
        "a key must be an int of less than 61 bits",
    ),
    "a storage as an element": (lambda: pickled(b"\x8f(" + WEIGHT_ID + b"\x90", 4), "a key must be a text or a number"),
    # Depth and breadth.
    "open marks": (lambda: pickled(b"(" * 100_000), "more than 64 open marks"),
    "nested lists": (lambda: pickled(b"]" * 65 + b"a" * 64), "nested more than 64 deep"),
    "deeply nested lists": (lambda: pickled(b"]" * 100_000 + b"a" * 99_999), "nested more than 64 deep"),
    "nested tuples": (lambda: pickled(b")" + b"\x85" * 100_000), "nested more than 64 deep"),
    "nested dicts": (lambda: pickled(b"}N" * 65 + b"}" + b"s" * 65), "nested more than 64 deep"),
    "laughing lists": (lambda: pickled(laughs(b"](", b"e", 30, 10)), "more than 10000000 elements"),
    "laughing tuples": (lambda: pickled(laughs(b"(", b"t", 60, 2)), "more than 10000000 elements"),
    "a list in itself": (lambda: pickled(b"]q\0h\0a"), "contains itself"),
    "a dict in itself": (lambda: pickled(b"}q\0Nh\0s"), "contains itself"),
    "a tuple in its list": (lambda: pickled(b"]q\0h\0\x85a"), "contains itself"),
    # Numbers and lengths.
    "an int of 300 bytes": (lambda: pickled(b"\x8b\x2c\1\0\0" + b"\1" * 300), "at most 16 bytes, got 300"),
    "an int of 2^32 - 1 bytes": (lambda: pickled(b"\x8b\xff\xff\xff\xff"), "at most 16 bytes, got 4294967295"),
    "an int of 5000 digits": (lambda: pickled(b"I" + b"9" * 5000 + b"\n"), "INT at offset"),
    "a long of 100 digits": (lambda: pickled(b"L" + b"9" * 100 + b"L\n"), "not a number of at most 39 digits"),
    "a float of letters": (lambda: pickled(b"Fone\n"), "FLOAT at offset"),
    "a text of 4 GB": (lambda: pickled(b"X\xff\xff\xff\xffa"), "4294967295 bytes|ends? inside its pickles"),
    "a text of 2^63 bytes": (
        lambda: pickled(b"\x8d" + struct.pack("<Q", 2**63), 4),
        "bytes wanted|end inside its pickles",
    ),
    "bytes of 2^64 - 1": (lambda: pickled(b"\x8e" + b"\xff" * 8, 4), "bytes wanted|end inside its pickles"),
    "an array of 2^64 - 1": (lambda: pickled(b"\x96" + b"\xff" * 8, 5), "bytes wanted|end inside its pickles"),
    "a frame of 2^64 - 1": (lambda: pickled(b"\x95" + b"\xff" * 8, 4), "a frame of|end inside its pickles"),
    "a text that is not UTF-8": (lambda: pickled(b"X\2\0\0\0\xff\xfe"), "a text that is not utf-8"),
    "a text of protocol 0 with a wrong escape": (lambda: pickled(b"S'\\q'\n"), "a text with a wrong escape"),
    "protocol 99": (lambda: pickled(b"N", 99), "protocol 99 is not known|must be"),
    "an unknown opcode": (lambda: pickled(b"\xfe"), "0xfe at offset"),
    # The machine.
    "nothing on the stack": (lambda: pickled(b"0"), "POP at offset .* nothing on the stack"),
    "two values": (lambda: pickled(b"NN"), "more than one value is left"),
    "an open mark": (lambda: pickled(b"(N"), "nothing on the stack|more than one value"),
    "no mark": (lambda: pickled(b"Nt"), "TUPLE at offset .* no mark"),
    "below a mark": (lambda: pickled(b"}(s"), "nothing on the stack"),
    "nothing remembered": (lambda: pickled(b"h\7"), "nothing was stored under 7"),
    "a place of 2^31": (lambda: pickled(b"Nr\0\0\0\x80"), "place 2147483648 of at most"),
    "a place of 39 digits": (lambda: pickled(b"Np" + b"9" * 39 + b"\n"), "place 9+ of at most"),
    "a negative place": (lambda: pickled(b"Np-1\n"), "a negative place"),
    "a million lists": (lambda: pickled(b"]" * 1_000_000), "take too much memory"),
    "a million sets": (lambda: pickled(b"\x8f" * 1_000_000, 4), "take too much memory"),
    "a million dicts": (lambda: pickled(b"}" * 1_000_000), "take too much memory"),
    "a million tuples": (lambda: pickled(b"N\x85" * 500_000), "take too much memory"),
    "a million floats": (lambda: pickled((b"G" + bytes(8)) * 1_000_000), "take too much memory"),
    "a million names": (
        lambda: pickled(b"N" + b"".join(b"r" + struct.pack("<I", i) for i in range(400_000))),
        "too much memory",
    ),
    "two million opcodes": (lambda: pickled(b"N0" * 1_000_000), "more than 1000000 opcodes"),
    "a copy of a copy": (
        lambda: pickled(
            b"}("
            + b"".join(b"K" + bytes([i]) + b"N" for i in range(200))
            + b"uq\0"
            + (name("collections", "OrderedDict") + b"h\0\x85R0") * 20_000
        ),
        "take too much memory",
    ),
}


def cases() -> dict[str, Case]:
    """All of them, each in both formats."""
    found = {}
    for path in CALLS:
        escaped = rf"{path} is not allowed".replace(".", r"\.")
        found |= _both(f"call of {path}", lambda path=path: pickled(b"}" + text("weight") + call(path) + b"s"), escaped)
    for path in CALLS[:6]:
        escaped = rf"STACK_GLOBAL at offset \d+: {path} is not allowed".replace(f"{path}", path.replace(".", r"\."))
        found |= _both(f"stacked call of {path}", lambda path=path: pickled(stacked(path), 4), escaped)
    for title, (make, refusal) in (PLAIN | tensors.PLAIN).items():
        found |= _both(title, make, refusal)
    return found


def _both(title: str, make: Callable[[], bytes], refusal: str) -> dict[str, Case]:
    kinds = of_pickle(make)
    if "million" in title:  # these take their time
        del kinds["stream"]
    return {f"{kind}: {title}": Case(build, refusal) for kind, build in kinds.items()}
