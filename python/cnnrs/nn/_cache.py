"""Traced programs and a small cache of them, for modules and for compiled functions."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

from cnnrs import _core, functional
from cnnrs._core import ShapeError
from cnnrs._value import Value
from cnnrs.graph import Trace
from cnnrs.nn._capture import Captures

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from cnnrs.nn.module import Module

CAPACITY = 32


class Compiled(NamedTuple):
    """A trace ready to run on arrays."""

    program: _core.Program
    met: list[npt.NDArray[Any]]  # arrays met while tracing that are inputs behind those given
    several: int | None  # values in the tuple that was returned; None for one value by itself
    batch_specific: bool
    captures: Captures | None = None

    def run(self, arrays: Sequence[npt.NDArray[Any]], module: Module | None = None, out: Any = None) -> Any:
        """Run on arrays; returns an array, or a tuple of them if several values were returned.

        Captures that are open on the module get their arrays; `out` takes the place of the results.
        """
        given = None if out is None else self._targets(out)
        if self.captures is None or module is None:
            outputs = self.program.run([*arrays, *self.met], given)
        else:
            self.captures.require(module)
            outputs = self.captures.deliver(module, self.program.run([*arrays, *self.met], given))
        return outputs[0] if self.several is None else tuple(outputs)

    def _targets(self, out: Any) -> list[Any]:
        """Return the arrays that take the results; the extension checks each."""
        if self.several is None:
            return [out]
        if isinstance(out, (tuple, list)) and len(out) == self.several:
            return list(out)
        got = f"{len(out)} arrays" if isinstance(out, (tuple, list)) else type(out).__name__
        message = f"out must be a tuple of {self.several} arrays, as many as forward returns, got {got}"
        raise ValueError(message)


class Key(NamedTuple):
    """What decides whether a traced program fits a call; the extension plans per batch size below it."""

    arguments: tuple[Any, ...]
    """Shape (of a sample where the batch may differ) and dtype of each array."""
    epoch: int
    head: str = ""
    captures: tuple[str, ...] = ()
    batch: int | None = None
    """Set for programs that are good for one batch size only."""


class ProgramCache:
    """The programs of one module or function, least recently used first; never copied.

    Attributes:
        plans: The plans of all programs together.
        recent: What the owner last looked up, in its own terms, and what it found: a pair that is replaced whole, so
            that threads need no lock for it.
    """

    def __init__(self) -> None:
        """Make an empty cache."""
        self.plans = _core.PlanCache()
        self.recent: tuple[object, Compiled | None] = (None, None)
        # A key without a batch size leads to None where the program depends on the batch size.
        self._programs: OrderedDict[Key, Compiled | None] = OrderedDict()
        with _guard.lock:
            _caches.add(self)

    def get(self, key: Key, batch: int) -> Compiled | None:
        """Return the program for a key and a batch size and mark it as used."""
        with _guard.lock:
            if key not in self._programs:
                return None
            self._programs.move_to_end(key)
            program = self._programs[key]
            if program is None:
                specific = key._replace(batch=batch)
                program = self._programs.get(specific)
                if program is not None:
                    self._programs.move_to_end(specific)
            return program

    def put(self, key: Key, batch: int, program: Compiled) -> None:
        """Keep a program; programs of older structures and beyond the capacity go."""
        with _guard.lock:
            for old in [old for old in self._programs if old.epoch != key.epoch]:
                del self._programs[old]
            if program.batch_specific:
                self._programs[key] = None
                self._programs.move_to_end(key)
                key = key._replace(batch=batch)
            self._programs[key] = program
            while len(self._programs) > CAPACITY:
                self._programs.popitem(last=False)

    def clear(self) -> None:
        """Forget every program."""
        with _guard.lock:
            self.recent = (None, None)
            self._programs.clear()

    def __len__(self) -> int:
        """Return the number of programs kept."""
        return sum(program is not None for program in self._programs.values())


class _Guard:
    """The lock of all caches of the process; held for dictionary operations only."""

    def __init__(self) -> None:
        self.lock = threading.RLock()

    def renew(self) -> None:
        """Make the lock fresh in a forked child, where its holder may not exist."""
        self.lock = threading.RLock()


_guard = _Guard()
_caches: weakref.WeakSet[ProgramCache] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_guard.renew)


def clear_all() -> None:
    """Forget the programs of every module and function."""
    with _guard.lock:
        for cache in list(_caches):
            cache.clear()


def compile_module(module: Module, key: Key, batch: int) -> Compiled:
    """Trace a module in evaluation mode; `key.head` "softmax" puts a softmax behind it.

    Raises:
        ShapeError: a layer does not fit its input, or probabilities are asked of something else than (N, K).
        TypeError: forward does not return symbolic values.
        ValueError: a captured part is not called.
    """
    compiled = _compile_module(module, key, max(batch, 1))
    # An empty batch is traced as one sample, unless the batch size is a part of what is computed.
    if batch == 0 and compiled.batch_specific:
        compiled = _compile_module(module, key, batch)
    log_compiled(type(module).__name__, key)
    return compiled


def _compile_module(module: Module, key: Key, batch: int) -> Compiled:
    ((shape, dtype),) = key.arguments
    captures = Captures(module, key.captures) if key.captures else None
    with Trace(root=module) as trace:
        if captures is not None:
            captures.watch(trace)
        y = module.trace_logits(trace.input((batch, *shape), dtype, "x"))
        single = isinstance(y, Value)
        outputs = output_values(module, y)
        several = None if single else len(outputs)
        if key.head == "softmax":
            if not single or y.ndim != 2:
                got = tuple(y.shape) if single else f"{len(outputs)} outputs"
                message = f"{type(module).__name__}: predict needs logits (N, classes), the model gives {got}"
                raise ShapeError(message)
            outputs = [functional.softmax(y)]
        if captures is not None:
            outputs = captures.extend(outputs)
    name = type(module).__name__
    program = _core.Program(trace.graph, [output.id for output in outputs], name, module._programs.plans)
    # Only what a run needs is kept: the trace refers to the module, which owns the cache.
    return Compiled(program, trace.feed([None])[1:], several, trace.batch_specific, captures)


def output_values(module: Module, y: Any) -> list[Value]:
    """Return what forward returned as a list of values.

    Raises:
        TypeError: it is something else than a value or a tuple of them.
    """
    outputs = list(y) if isinstance(y, (tuple, list)) else [y]
    if not outputs or not all(isinstance(output, Value) for output in outputs):
        message = (
            f"{type(module).__name__}: forward must return a symbolic value or a tuple of them, got {type(y).__name__}"
        )
        raise TypeError(message)
    return outputs


def log_compiled(name: str, key: Key) -> None:
    """Log what was traced anew."""
    import logging

    logging.getLogger("cnnrs").debug(
        "compiled %s%s for %s at structure epoch %d%s",
        name,
        f" + {key.head}" if key.head else "",
        ", ".join(f"{dtype} {shape}" for shape, dtype, *_ in key.arguments),
        key.epoch,
        f", capturing {', '.join(key.captures)}" if key.captures else "",
    )
