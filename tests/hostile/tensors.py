"""Pickles whose storages and tensors are not what the file holds, and values that are no state dict."""

from __future__ import annotations

from collections.abc import Callable

from fuzz.torch_files import integer, name, numbers, text
from hostile.base import WEIGHT_ID, pickled, storage, tensor

PLAIN: dict[str, tuple[Callable[[], bytes], str]] = {
    # Storages.
    "a storage that is a text": (lambda: pickled(text("storage") + b"Q"), "a persistent id must be"),
    "a module": (lambda: pickled(b"(" + text("module") + text("a") * 4 + b"tQ"), "a persistent id must be"),
    "a storage of no type": (lambda: pickled(storage(text("0"), integer(6), text("Float"))), "must be one of torch's"),
    "a storage of an unknown type": (
        lambda: pickled(storage(text("0"), integer(6), b"ctorch\nQInt8Storage\n")),
        r"torch\.QInt8Storage is not allowed",
    ),
    "a key that is a number": (lambda: pickled(storage(integer(0), integer(6))), "the key of a storage must be a text"),
    "-1 elements": (lambda: pickled(storage(text("0"), integer(-1))), "the key of a storage must be a text"),
    "2^62 elements": (lambda: pickled(storage(text("0"), integer(2**62))), "elements in a file of"),
    "two sizes of a storage": (
        lambda: pickled(WEIGHT_ID + storage(text("0"), integer(2))),
        "of another type or size|bytes declared",
    ),
    "two types of a storage": (
        lambda: pickled(WEIGHT_ID + storage(text("0"), integer(6), b"ctorch\nIntStorage\n")),
        "of another type or size",
    ),
    "a view of a storage": (
        lambda: pickled(storage(text("0"), integer(6), tail=b"(" + text("v") + integer(0) + integer(1) + b"t")),
        "views of others",
    ),
    # Tensors that do not lie in their storage.
    "one row too many": (lambda: pickled(tensor(numbers((3, 3)), numbers((3, 1)))), "leave storage .* of 6 elements"),
    "a stride too far": (lambda: pickled(tensor(numbers((2, 3)), numbers((4, 1)))), "leave storage .* of 6 elements"),
    "an offset too far": (lambda: pickled(tensor(numbers((2, 3)), numbers((3, 1)), integer(1))), "leave storage"),
    "an offset of 2^62": (lambda: pickled(tensor(numbers((2, 3)), numbers((3, 1)), integer(2**62))), "leave storage"),
    "a negative offset": (
        lambda: pickled(tensor(numbers((2, 3)), numbers((3, 1)), integer(-1))),
        "size and stride must be",
    ),
    "a negative stride": (lambda: pickled(tensor(numbers((2, 3)), numbers((-3, 1)))), "size and stride must be tuples"),
    "a negative size": (lambda: pickled(tensor(numbers((-2, -3)), numbers((3, 1)))), "size and stride must be tuples"),
    "sizes whose product wraps": (
        lambda: pickled(tensor(numbers((2**32, 2**32)), numbers((0, 0)))),
        "a tensor of size",
    ),
    "strides whose sum wraps": (
        lambda: pickled(tensor(numbers((2, 3)), numbers((2**62 + 1, 2**62)))),
        "leave storage .* of 6 elements",
    ),
    "a zero that hides a product": (
        lambda: pickled(tensor(numbers((0, 2**62, 2**62)), numbers((1, 1, 1)))),
        "a tensor of",
    ),
    "one number 2^40 times": (lambda: pickled(tensor(numbers((2**40,)), numbers((0,)))), "a tensor of size"),
    "a size of 2^100": (lambda: pickled(tensor(numbers((2**100,)), numbers((1,)))), "size and stride must be tuples"),
    "sizes in a list": (lambda: pickled(tensor(b"](K\2K\3e", numbers((3, 1)))), "size and stride must be tuples"),
    "a size of True": (lambda: pickled(tensor(b"\x88K\3\x86", numbers((3, 1)))), "size and stride must be tuples"),
    "more sizes than strides": (
        lambda: pickled(tensor(numbers((2, 3)), numbers((1,)))),
        "size and stride must be tuples",
    ),
    "nine dimensions": (lambda: pickled(tensor(numbers((1,) * 9), numbers((1,) * 9))), "at most 8 numbers"),
    "a tensor of a list": (
        lambda: pickled(tensor(numbers((2, 3)), numbers((3, 1)), of=b"]")),
        "a tensor needs a storage",
    ),
    "a tensor with one argument": (
        lambda: pickled(name("torch._utils", "_rebuild_tensor_v2") + b"K\0\x85R"),
        "does not take these arguments",
    ),
    "a parameter of a text": (
        lambda: pickled(name("torch._utils", "_rebuild_parameter") + text("a") + b"\x88}\x87R"),
        "a parameter needs a tensor",
    ),
    # Values that are no state dict.
    "a number": (lambda: pickled(b"K\1"), "no state dict: the file holds a int|without a tensor"),
    "a list of nothing": (lambda: pickled(b"]"), "no state dict: the file holds a list|without a tensor"),
    "numbers by name": (
        lambda: pickled(b"}" + text("weight") + b"K\1s"),
        "no state dict: a dict with weight|without a tensor",
    ),
    "a name of 5000 letters": (
        lambda: pickled(tensor(numbers((2, 3)), numbers((3, 1))).replace(text("weight"), text("n" * 5000))),
        "a name has at most 1024 bytes|without a tensor",
    ),
    "a wrong shape": (
        lambda: pickled(tensor(numbers((3, 2)), numbers((2, 1)))),
        r"weight must have shape \(3, 2\)|without a tensor",
    ),
    "a name twice": (
        lambda: pickled(b"}(" + (text("weight") + b"N") * 2 + b"u"),
        "the key 'weight' stands twice",
    ),
    "a missing name": (
        lambda: pickled(tensor(numbers((2, 3)), numbers((3, 1)))),
        "missing bias|needs it|without a tensor",
    ),
}
