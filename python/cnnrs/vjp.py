"""Gradients with respect to an input, for saliency maps, Grad-CAM and custom losses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from cnnrs import _args, _core
from cnnrs._core import ShapeError, UnsupportedError
from cnnrs._value import Value
from cnnrs.graph import Root, Trace

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Array = npt.NDArray[np.float32]


def vjp(fn: Callable[[Any], Any], x: Array) -> tuple[Any, Callable[[Any], Array]]:
    """Run a module or function and return its output with a function for vector-Jacobian products.

    The function is traced at each call; modules evaluate. `x` is copied, so later changes of it do not matter;
    parameters are read when the returned function is called.

    Args:
        fn: A module, or a function of a symbolic value built of modules and `cnnrs.functional`.
        x: float32 array, with the batch on axis 0.

    Returns:
        The output, a float32 array or, for a 0-d output such as a loss, a float; and a function that takes
        the gradient with respect to the output (float32 of its shape, or a number for a 0-d output) and
        returns the gradient with respect to `x`.

    Raises:
        ShapeError: shapes do not fit, in `fn` or in the gradient given.
        TypeError: `x` is not float32, or `fn` does not return a symbolic value.
        UnsupportedError: `fn` returns several values.

    Examples:
        >>> import numpy as np
        >>> import cnnrs
        >>> from cnnrs import functional as F
        >>> x = np.array([[-1, 2, 3]], np.float32)
        >>> out, pull = cnnrs.vjp(F.relu, x)
        >>> pull(np.ones_like(out)).tolist()
        [[0.0, 1.0, 1.0]]
    """
    if not callable(fn):
        message = f"vjp: fn must be a module or a function, got {_args.show(fn)}"
        raise TypeError(message)
    if isinstance(x, Value):
        message = "vjp: x must be an array; inside of a traced function the gradient is not a part of the graph"
        raise UnsupportedError(message)
    x = cast("Array", _args.check_array(x, "vjp")).copy()
    root = cast("Root", fn) if hasattr(fn, "named_modules") else None
    with Trace(root=root) as trace:
        symbol = trace.input(x.shape, "float32", "x", batched=False)  # traced for this shape alone
        out = fn(symbol)
        if isinstance(out, (tuple, list)):
            message = f"vjp: fn must return one value, got {len(out)}"
            raise UnsupportedError(message)
        if not isinstance(out, Value):
            message = f"vjp: fn must return a symbolic value computed from x, got {type(out).__name__}"
            raise TypeError(message)
        trace.operand(out)  # refuses a value that was kept from another trace
        inputs = trace.feed([x])
        program = _core.Program(trace.graph, [out.id], "vjp")
        seed = trace.input(out.shape, "float32", "grad_out", batched=False)
        (gradient,) = trace.gradients([out], [seed], [symbol])
        backward = None if gradient is None else _core.Program(trace.graph, [gradient.id], "vjp backward")
    (result,) = program.run(inputs)

    def pull(grad_out: Any) -> Array:
        """Return the gradient with respect to x for one with respect to the output."""
        given = _gradient(grad_out, out.shape)
        if backward is None:
            return np.zeros(x.shape, np.float32)
        return cast("Array", backward.run([*inputs, given])[0])

    return result, pull


def _gradient(grad_out: Any, shape: tuple[int, ...]) -> Array:
    """Return the gradient given for an output of a shape, checked."""
    if shape == () and isinstance(grad_out, (int, float, np.floating)) and not isinstance(grad_out, bool):
        grad_out = np.asarray(grad_out, np.float32)
    given = cast("Array", _args.check_array(grad_out, "vjp", "grad_out"))
    if given.shape != shape:
        message = f"vjp: grad_out must have the output's shape {shape}, got {given.shape}"
        raise ShapeError(message)
    return given
