"""Tracing: symbolic values, the trace that records them, and the structure epoch.

A module or function called on a `Value` records nodes in the `Trace` of that value. The state of tracing is
local to a thread; traces nest.
"""

from __future__ import annotations

import itertools
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from cnnrs import _core
from cnnrs._value import Value, is_buffer, is_parameter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy.typing as npt

_epochs = itertools.count(1)
_epoch = 0


def bump_epoch() -> None:
    """Make every plan that was traced so far stale: the structure of some module changed."""
    global _epoch
    _epoch = next(_epochs)


def epoch() -> int:
    """Return the process-wide structure epoch, a part of every plan's key."""
    return _epoch


class Storage(Protocol):
    """What tracing needs from an `nn.Parameter`."""

    @property
    def _storage(self) -> _core.Parameter: ...


class Root(Protocol):
    """What tracing needs from an `nn.Module`."""

    def named_modules(self) -> Iterator[tuple[str, Any]]:
        """Yield the dotted name and the module of every part, the module itself as ""."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, Any]]:
        """Yield the dotted name and the parameter."""
        ...

    def named_buffers(self) -> Iterator[tuple[str, Any]]:
        """Yield the dotted name and the buffer."""
        ...


class _Stack(threading.local):
    """The traces that are open on this thread, innermost last."""

    def __init__(self) -> None:
        self.traces: list[Trace] = []


_stack = _Stack()


def current() -> Trace | None:
    """Return the innermost open trace of this thread, or None."""
    traces = _stack.traces
    return traces[-1] if traces else None


def label(op: str) -> str:
    """Return the op's name for an error text, led by the path of the layer that is being traced."""
    trace = current()
    return f"{trace.path}: {op}" if trace is not None and trace.path else op


class _End(BaseException):
    """Leaves the tracing of a block early; not an `Exception`, so that no forward takes it for an error."""

    def __init__(self, reached: Callable[[], bool]) -> None:
        super().__init__()
        self.reached = reached


class Trace:
    """Records what happens to symbolic values in one graph.

    ```text
    with Trace(root=module) as trace:
        x = trace.input((8, 28, 28, 1), "float32", "x")
        y = module(x)
    program = _core.Program(trace.graph, [y.id])
    ```

    Args:
        root: The module whose dotted names stand in error texts; without it, the first module called.
        training: Whether layers that behave differently in training do so.
    """

    def __init__(self, root: Root | None = None, training: bool = False) -> None:
        """Make an empty trace; it records while its `with` block is open."""
        self.graph = _core.Graph()
        self.training = training
        self._paths: list[str] = []
        self._modes: list[bool] = []
        self._names: dict[int, str] = {}
        self._parameter_names: dict[int, str] = {}
        self._adopted: list[Root] = []  # keeps the ids in the two tables valid
        self._parameters: dict[int, str] = {}
        self._watched: dict[int, list[Any]] = {}
        self._ends: list[_End] = []
        self._batch_specific = False
        self._feed: list[npt.NDArray[Any] | None] = []
        self._key: tuple[int, Value] | None = None  # place in the feed, value
        self._uses: dict[str, int] = {}
        self._states: dict[int, tuple[Storage, Value]] = {}  # what buffers become, by their id
        self._counted: list[Storage] = []
        if root is not None:
            self._adopt(root, "")

    def __enter__(self) -> Self:
        """Open the trace on this thread."""
        _stack.traces.append(self)
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the trace; its values cannot be computed with any more."""
        _stack.traces.remove(self)

    def watch(self, module: Root) -> list[Any]:
        """Return the list that will hold what each call of a part returns, in order of use."""
        return self._watched.setdefault(id(module), [])

    def returned(self, module: Root, result: Any) -> None:
        """Take note of what a part returned, if it is watched."""
        if id(module) in self._watched:
            self._watched[id(module)].append(result)
            for end in self._ends:
                if end.reached():
                    raise end

    @contextmanager
    def until(self, reached: Callable[[], bool]) -> Iterator[None]:
        """End the block as soon as a watched part has returned and `reached` says so."""
        end = _End(reached)
        self._ends.append(end)
        try:
            yield
        except _End as found:
            if found is not end:
                raise
        finally:
            self._ends.remove(end)

    def mark_batch_specific(self) -> None:
        """Say that the trace is good for its own batch size only."""
        self._batch_specific = True

    @property
    def batch_specific(self) -> bool:
        """Whether a program of the trace may run for its own batch size only.

        So it is if the traced code computed with the batch size, or if the graph does not fit other batch sizes.
        """
        return self._batch_specific or self.graph.batch_specific

    @property
    def path(self) -> str:
        """Dotted name of the layer that is being called, "" at the root."""
        return self._paths[-1] if self._paths else ""

    @contextmanager
    def scope(self, module: Root) -> Iterator[None]:
        """Let the nodes recorded inside carry the module's dotted name."""
        if id(module) not in self._names:
            outside = bool(self._paths or self._adopted)
            self._adopt(module, _join(self.path, type(module).__name__) if outside else "")
        self._paths.append(self._names[id(module)])
        self._modes.append(getattr(module, "training", True))
        try:
            yield
        finally:
            self._paths.pop()
            self._modes.pop()

    def _adopt(self, module: Root, prefix: str) -> None:
        self._adopted.append(module)
        for name, child in module.named_modules():
            self._names.setdefault(id(child), _join(prefix, name))
        for name, parameter in itertools.chain(module.named_parameters(), module.named_buffers()):
            self._parameter_names.setdefault(id(parameter), _join(prefix, name))

    def input(self, shape: tuple[int, ...], dtype: str, name: str, batched: bool = True) -> Value:
        """Add an input ("float32", "uint8" or "int64"); with `batched`, axis 0 may differ when it runs."""
        value = self.graph.input(tuple(shape), dtype, name, batched)
        self._feed.append(None)
        return Value(self, value, f"input {name}")

    def parameter(self, parameter: Storage, name: str = "") -> Value:
        """Add an `nn.Parameter` or `nn.Buffer`; the same one twice is the same value."""
        name = name or self._name_of(parameter)
        value = self.graph.parameter(parameter._storage, name)
        if not is_buffer(parameter):
            self._parameters.setdefault(value, name)
        return Value(self, value, f"parameter {name}")

    def parameters(self) -> list[tuple[int, str]]:
        """Return the id and the name of every parameter met so far, without buffers."""
        return list(self._parameters.items())

    def _name_of(self, parameter: Storage) -> str:
        return self._parameter_names.get(id(parameter), "") or _join(self.path, "parameter")

    def constant(self, array: npt.NDArray[Any]) -> Value:
        """Add an array: float32 as a constant, int64 (labels) as an input that `feed` fills in."""
        if array.dtype == np.float32:
            return Value(self, self.graph.constant(array), "a constant array")
        name = f"captured{len(self._feed)}"
        value = self.graph.input(array.shape, str(array.dtype), name, False)
        self._feed.append(array)
        return Value(self, value, "a constant array")

    def feed(self, arrays: Iterable[Any], key: npt.NDArray[np.int64] | None = None) -> list[Any]:
        """Put arrays for the inputs so far and the captured ones in the order `Program.run` wants.

        Args:
            arrays: For the calls of `input`, in order.
            key: (seed, step), for the draws of a trace that asked for `dropout_key`.
        """
        given = iter(arrays)
        fed = [next(given) if captured is None else captured for captured in self._feed]
        if self._key is not None:
            if key is None:
                message = "a program with dropout in training mode needs a key"
                raise TypeError(message)
            fed[self._key[0]] = key
        return fed

    # What training does beside computing a loss: random draws, and buffers that follow the batches.

    @property
    def layer_trains(self) -> bool:
        """Whether the layer that is being called is in training mode, and the trace as well."""
        return self.training and (not self._modes or self._modes[-1])

    def next_use(self) -> tuple[str, int]:
        """Return the path of the layer that is being called and how often this was asked there before."""
        use = self._uses.get(self.path, 0)
        self._uses[self.path] = use + 1
        return self.path, use

    def dropout_key(self) -> Value:
        """Return the input (seed, step) that whoever runs the program gives to `feed`."""
        if self._key is None:
            value = Value(self, self.graph.input((2,), "int64", "dropout key", False), "the dropout key")
            self._key = len(self._feed), value
            self._feed.append(np.zeros(2, np.int64))
        return self._key[1]

    def assign(self, buffer: Storage, value: Value) -> None:
        """Let a buffer become the value: at once for what is traced later, in memory by `write_buffers`."""
        self._states[id(buffer)] = (buffer, value)

    def count(self, buffer: Storage) -> None:
        """Let an int64 buffer grow by one when the program runs; see `write_buffers`."""
        self._counted.append(buffer)

    def write_buffers(self) -> None:
        """Record the writing of every buffer that was assigned or counted; the graph's effects run last."""
        for buffer, value in self._states.values():
            self.graph.add("assign", [self.parameter(buffer).id, value.id], {}, self._name_of(buffer))
        for buffer in self._counted:
            self.graph.add("increment", [self.parameter(buffer).id], {}, self._name_of(buffer))

    def gradients(
        self, outputs: Sequence[Value], seeds: Sequence[Value | None], wrt: Sequence[Value]
    ) -> list[Value | None]:
        """Append the backward graph: one gradient per value in `wrt`, None where no path leads to it."""
        results = self.graph.gradients(
            [value.id for value in outputs],
            [None if seed is None else seed.id for seed in seeds],
            [value.id for value in wrt],
        )
        return [None if result is None else Value(self, result, "a gradient") for result in results]

    def operand(self, operand: Any) -> Value:
        """Return the value itself, or the value of a parameter or array met while tracing.

        Raises:
            TypeError: the value belongs to another trace, or to one that has ended.
        """
        if isinstance(operand, Value):
            if operand.trace is not self or self not in _stack.traces:
                message = (
                    f"{self.path or 'the model'}: {operand!r} was kept from another trace; "
                    "do not store symbolic values outside of forward"
                )
                raise TypeError(message)
            return operand
        if id(operand) in self._states:
            return self._states[id(operand)][1]
        return self.parameter(operand) if is_parameter(operand) else self.constant(operand)


def is_symbolic(operands: Sequence[Any]) -> bool:
    """Tell whether an op on these operands is recorded (True) or run at once (False)."""
    if any(isinstance(operand, Value) for operand in operands):
        return True
    return bool(_stack.traces) and any(is_parameter(operand) for operand in operands)


def record(op: str, inputs: Sequence[Any], **attrs: Any) -> list[Value]:
    """Add a node to the trace of the inputs and return its outputs.

    Args:
        op: Name of the op in the table of the extension.
        inputs: Values, and parameters or arrays, which become parts of the graph.
        **attrs: The op's attributes.

    Raises:
        TypeError: a value belongs to another trace.
        ShapeError: the shapes do not fit; the text is led by the layer's dotted name.
    """
    owners = [operand.trace for operand in inputs if isinstance(operand, Value)]
    trace = owners[0] if owners else current()
    if trace is None:
        message = f"{op}: no trace is open on this thread"
        raise TypeError(message)
    values = [trace.operand(operand).id for operand in inputs]
    origin = f"{trace.path}: {op}" if trace.path else op
    return [Value(trace, result, origin) for result in trace.graph.add(op, values, attrs, trace.path)]


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix and name else prefix or name
