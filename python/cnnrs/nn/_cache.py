"""The plans of one module: tracing it into a program, and a small cache of programs."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

from cnnrs import _core, functional
from cnnrs._core import ShapeError
from cnnrs.graph import Trace, Value

if TYPE_CHECKING:
    import numpy.typing as npt

    from cnnrs.nn.module import Module

CAPACITY = 32


class Compiled(NamedTuple):
    """A traced module, ready to run on arrays."""

    program: _core.Program
    captured: list[npt.NDArray[Any]]  # arrays met while tracing that are inputs behind x
    single: bool

    def run(self, x: npt.NDArray[Any]) -> Any:
        """Run on a batch; returns an array, or a tuple of them if forward returned several values."""
        outputs = self.program.run([x, *self.captured])
        return outputs[0] if self.single else tuple(outputs)


class Key(NamedTuple):
    """What decides whether a traced program fits a call; the extension plans per batch size below it."""

    sample_shape: tuple[int, ...]
    dtype: str
    head: str
    epoch: int


class ProgramCache:
    """The programs of one module, least recently used first; lives as long as the module, is never copied.

    Attributes:
        plans: The plans of all programs together.
    """

    def __init__(self) -> None:
        """Make an empty cache."""
        self.plans = _core.PlanCache()
        self._programs: OrderedDict[Key, Compiled] = OrderedDict()
        with _guard.lock:
            _caches.add(self)

    def get(self, key: Key) -> Compiled | None:
        """Return the program for a key and mark it as used."""
        with _guard.lock:
            program = self._programs.get(key)
            if program is not None:
                self._programs.move_to_end(key)
            return program

    def put(self, key: Key, program: Compiled) -> None:
        """Keep a program; programs of older structures and beyond the capacity go."""
        with _guard.lock:
            for old in [old for old in self._programs if old.epoch != key.epoch]:
                del self._programs[old]
            self._programs[key] = program
            while len(self._programs) > CAPACITY:
                self._programs.popitem(last=False)

    def clear(self) -> None:
        """Forget every program."""
        with _guard.lock:
            self._programs.clear()

    def __len__(self) -> int:
        """Return the number of programs kept."""
        return len(self._programs)


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
    """Forget the programs of every module."""
    with _guard.lock:
        for cache in list(_caches):
            cache.clear()


def compile_module(module: Module, key: Key, batch: int) -> Compiled:
    """Trace a module in evaluation mode; `key.head` "softmax" puts a softmax behind it.

    Raises:
        ShapeError: a layer does not fit its input, or probabilities are asked of something else than (N, K).
        TypeError: forward does not return symbolic values.
    """
    with Trace(root=module) as trace:
        x = trace.input((max(batch, 1), *key.sample_shape), key.dtype, "x")
        y = module.trace_logits(x)
        single = isinstance(y, Value)
        outputs = output_values(module, y)
        if key.head == "softmax":
            if not single or y.ndim != 2:
                got = tuple(y.shape) if single else f"{len(outputs)} outputs"
                message = f"{type(module).__name__}: predict needs logits (N, classes), the model gives {got}"
                raise ShapeError(message)
            outputs = [functional.softmax(y)]
    name = type(module).__name__
    program = _core.Program(trace.graph, [output.id for output in outputs], name, module._programs.plans)
    _log(name, key)
    # Only what a run needs is kept: the trace refers to the module, which owns the cache.
    return Compiled(program, trace.feed([None])[1:], single)


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


def _log(name: str, key: Key) -> None:
    import logging

    logging.getLogger("cnnrs").debug(
        "compiled %s%s for samples %s %s at structure epoch %d",
        name,
        f" + {key.head}" if key.head else "",
        key.sample_shape,
        key.dtype,
        key.epoch,
    )
