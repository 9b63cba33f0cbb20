"""Captures: the outputs of parts of a module as additional outputs of its plans."""

from __future__ import annotations

import difflib
import threading
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnrs import _args
from cnnrs._value import Value
from cnnrs.graph import Trace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnrs.nn.module import Module


class _Open(threading.local):
    """The captures that are open on this thread."""

    def __init__(self) -> None:
        self.captures: list[Capture] = []


_open = _Open()


def wanted(module: Module) -> tuple[str, ...]:
    """Return the names of the parts that open captures of this thread want of a module, each once."""
    if not _open.captures:
        return ()
    return tuple(
        dict.fromkeys(name for capture in _open.captures if capture.module is module for name in capture.names)
    )


class Capture:
    """The context manager that `Module.capture` returns.

    Args:
        module: The module whose calls are looked into.
        patterns: Dotted names or shell patterns of its parts.

    Raises:
        ValueError: a pattern fits no part.
        TypeError: a pattern is not a str.
    """

    def __init__(self, module: Module, patterns: Sequence[Any]) -> None:
        self.module = module
        self.names = resolve(module, patterns)
        self.named = [name for name in self.names if name in patterns]
        self.arrays: dict[str, Any] = {}

    def __enter__(self) -> dict[str, Any]:
        """Begin; returns the dictionary that each call fills anew."""
        _open.captures.append(self)
        return self.arrays

    def __exit__(self, *exc: object) -> None:
        """End; the dictionary stays as the last call left it."""
        _open.captures[:] = [capture for capture in _open.captures if capture is not self]


def resolve(module: Module, patterns: Sequence[Any], op: str = "", shell: bool = True) -> list[str]:
    """Return the names of the parts that patterns fit, in the order of the patterns and each once.

    Args:
        module: The module.
        patterns: Dotted names or shell patterns.
        op: Stands before the error text.
        shell: Whether shell patterns are taken, beside names.

    Raises:
        ValueError: a pattern fits no part; the text shows near names.
        TypeError: a pattern is not a str.
    """
    op = op or f"{type(module).__name__}.capture"
    if not patterns:
        message = f"{op}: expected the name of at least one part, got none"
        raise ValueError(message)
    names = [name for name, _ in module.named_modules(remove_duplicate=False)]
    chosen: dict[str, None] = {}
    for pattern in patterns:
        if not isinstance(pattern, str):
            message = f"{op}: the name of a part must be a str, got {_args.show(pattern)}"
            raise TypeError(message)
        fitting = [pattern] if pattern in names else []
        if shell and not fitting:
            fitting = [name for name in names if name and fnmatchcase(name, pattern)]
        if not fitting:
            near = difflib.get_close_matches(pattern, names, n=5) or names[1:6]
            hint = f"; near names: {', '.join(map(repr, near))}" if near else ""
            message = f"{op}: {pattern!r} fits no part of the model{hint}"
            raise ValueError(message)
        chosen.update(dict.fromkeys(fitting))
    return list(chosen)


class Captures:
    """What one traced program returns beside its outputs: the results of parts, by name and in order of use.

    Args:
        module: The module that is traced.
        names: Dotted names of the parts.
    """

    def __init__(self, module: Module, names: Sequence[str]) -> None:
        self._owner = type(module).__name__
        self._modules = dict(module.named_modules(remove_duplicate=False))
        self._names = list(names)
        self._calls: dict[str, list[Any]] = {}
        self._forms: dict[str, list[int | None]] = {}
        self._own = 0

    def watch(self, trace: Trace) -> None:
        """Let the trace take note of what the parts return."""
        self._calls = {name: trace.watch(self._modules[name]) for name in self._names}

    def extend(self, outputs: list[Value]) -> list[Value]:
        """Return the outputs with what the parts returned behind them.

        Raises:
            TypeError: a part returns something else than a symbolic value or a tuple of them.
        """
        self._own = len(outputs)
        extended = list(outputs)
        for name, results in self._calls.items():
            self._forms[name] = []
            for result in results:
                several = isinstance(result, (tuple, list))
                values = list(result) if several else [result]
                if not all(isinstance(value, Value) for value in values):
                    message = f"{self._owner}.capture: {name} returns {type(result).__name__}, not a symbolic value"
                    raise TypeError(message)
                self._forms[name].append(len(values) if several else None)
                extended += values
        self._modules, self._calls = {}, {}  # they refer to the module, which owns the cache
        return extended

    def require(self, module: Module) -> None:
        """Refuse a call that never calls a part which an open capture names in full.

        Raises:
            ValueError: there is such a part.
        """
        for capture in _open.captures:
            for name in capture.named if capture.module is module else ():
                if not self._forms[name]:
                    message = f"{self._owner}.capture: forward does not call {name!r}"
                    raise ValueError(message)

    def deliver(self, module: Module, outputs: list[Any]) -> list[Any]:
        """Give the open captures of a module what its parts returned; returns the module's outputs."""
        arrays = iter([_frozen(output) for output in outputs[self._own :]])
        found = {
            name: [next(arrays) if count is None else tuple(next(arrays) for _ in range(count)) for count in forms]
            for name, forms in self._forms.items()
        }
        for capture in _open.captures:
            if capture.module is module:
                capture.arrays.clear()
                for name in capture.names:
                    if results := found[name]:
                        capture.arrays[name] = results[0] if len(results) == 1 else list(results)
        return outputs[: self._own]


def _frozen(output: Any) -> Any:
    """Return an output as a read-only array."""
    array = np.asarray(output, np.float32) if isinstance(output, float) else output
    array.flags.writeable = False
    return array
