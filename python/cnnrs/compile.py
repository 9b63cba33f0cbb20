"""Plans of functions: traced once, then run without any Python of the function."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from cnnrs import _args, _core, graph
from cnnrs._value import Value
from cnnrs.graph import Root, Trace
from cnnrs.nn._cache import Compiled, Key, ProgramCache, log_compiled

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt


def compile(fn: Callable[..., Any]) -> CompiledFunction:  # noqa: A001 - the name of the contract
    """Keep the plans of a function of arrays, so that a repeated call is one native call.

    Operations of `cnnrs.functional` on arrays run one by one. A compiled function is traced instead, once for the
    shapes and dtypes of its arguments, simplified and fused as a whole, and later calls run no Python of it. If the
    first argument has a batch on axis 0, so do the others whose axis 0 is as long; a new batch size needs no new
    trace unless the function computes with it. A structural change of any module makes every plan stale.

    What the function reads beside its arguments is read when it is traced: arrays and numbers become constants.
    Parameters of modules are read at each call. Modules evaluate. The plans of the last 32 shapes are kept;
    `cnnrs.clear_cache()` drops them.

    Args:
        fn: A function of one or several symbolic values, built of `cnnrs.functional`, operators and modules, that
            returns a symbolic value or a tuple of them. May also be used as a decorator.

    Returns:
        A function of as many arrays: float32, or integers for labels (converted to int64). It returns a float32
        array, a float for a 0-d value, or a tuple of them. Called while something is traced, it is traced too.

    Raises:
        TypeError: `fn` is not callable; in a call, an argument of another type, or something else than symbolic
            values returned.

    Examples:
        >>> import numpy as np
        >>> import cnnrs
        >>> from cnnrs import functional as F
        >>> @cnnrs.compile
        ... def head(x, weight):
        ...     return F.relu(F.linear(x, weight))
        >>> head(np.ones((2, 3), np.float32), np.full((3, 1), -0.5, np.float32)).tolist()
        [[0.0], [0.0]]
    """
    if not callable(fn):
        message = f"compile: fn must be a function or a module, got {_args.show(fn)}"
        raise TypeError(message)
    return CompiledFunction(fn)


class CompiledFunction:
    """A function with its plans; made by `cnnrs.compile`."""

    __wrapped__: Callable[..., Any]

    def __init__(self, fn: Callable[..., Any]) -> None:
        functools.update_wrapper(self, fn, updated=())
        self._fn = fn
        self._name = getattr(fn, "__name__", type(fn).__name__)
        self._programs = ProgramCache()

    def __call__(self, *arguments: Any) -> Any:
        """Run on arrays, or record on symbolic values."""
        if any(isinstance(argument, Value) for argument in arguments):
            return self._fn(*arguments)
        arrays = [_array(argument, f"{self._name}: argument {index}") for index, argument in enumerate(arguments)]
        batch = arrays[0].shape[0] if arrays and arrays[0].ndim else None
        key = Key(tuple(_argument(array, batch) for array in arrays), graph.epoch())
        compiled = self._programs.get(key, batch or 0)
        if compiled is None:
            compiled = self._compile(key, batch)
            self._programs.put(key, batch or 0, compiled)
        return compiled.run(arrays)

    def _compile(self, key: Key, batch: int | None) -> Compiled:
        compiled = self._trace(key, max(batch or 1, 1))
        if batch == 0 and compiled.batch_specific:
            compiled = self._trace(key, 0)
        log_compiled(self._name, key)
        return compiled

    def _trace(self, key: Key, batch: int) -> Compiled:
        root = cast("Root", self._fn) if hasattr(self._fn, "named_modules") else None
        with Trace(root=root) as trace:
            symbols = [
                trace.input((batch, *shape) if batched else shape, dtype, f"argument {index}", batched)
                for index, (shape, dtype, batched) in enumerate(key.arguments)
            ]
            result = self._fn(*symbols)
            single = isinstance(result, Value)
            outputs = [result] if single else result
            several = isinstance(outputs, (tuple, list)) and len(outputs) > 0
            if not several or not all(isinstance(output, Value) for output in outputs):
                message = (
                    f"{self._name}: a compiled function must return a symbolic value or a tuple of them, "
                    f"got {type(result).__name__}"
                )
                raise TypeError(message)
            ids = [trace.operand(output).id for output in outputs]
        program = _core.Program(trace.graph, ids, self._name)
        met = trace.feed([None] * len(symbols))[len(symbols) :]
        return Compiled(program, met, None if single else len(ids), trace.batch_specific)

    def __repr__(self) -> str:
        """Name the function."""
        return f"<compiled {self._fn!r}>"


def _array(argument: Any, what: str) -> npt.NDArray[Any]:
    """Return an argument as a native float32 or int64 array."""
    if isinstance(argument, np.ndarray):
        if argument.dtype.char == "f":
            return argument if argument.dtype.isnative else argument.astype(np.float32)
        if argument.dtype.kind in "iu":
            return argument.astype(np.int64, copy=False)
    got = f"a {argument.dtype} array" if isinstance(argument, np.ndarray) else _args.show(argument)
    message = f"{what} must be a float32 NumPy array or one of integers, got {got}; convert with .astype(np.float32)"
    raise TypeError(message)


def _argument(array: npt.NDArray[Any], batch: int | None) -> tuple[tuple[int, ...], str, bool]:
    """Return what a plan depends on: the shape without the batch, the dtype, and whether there is a batch."""
    batched = batch is not None and array.ndim > 0 and array.shape[0] == batch
    return array.shape[1:] if batched else array.shape, str(array.dtype), batched
