"""Arithmetic with broadcasting, elementary functions and the product of matrices.

Functions of two operands take arrays, symbolic values, parameters and Python numbers, not two numbers; shapes are
broadcast as in NumPy. Symbolic values have the operators `+ - * / @` and unary `-` for them.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np

from cnnrs import _args, graph
from cnnrs._core import ShapeError
from cnnrs.functional._dispatch import AnyTensor, Operand, Tensor, apply


def _number(operand: object) -> bool:
    return isinstance(operand, (int, float, np.integer, np.floating)) and not isinstance(operand, bool)


def _operands(op: str, a: Any, b: Any) -> tuple[list[Any], list[float | None]]:
    """Return the checked operands, numbers as 0-d arrays, and the value of each that is a number."""
    if _number(a) and _number(b):
        message = f"{graph.label(op)}: a or b must be an array, got the numbers {_args.show(a)} and {_args.show(b)}"
        raise TypeError(message)
    checked: list[Any] = []
    numbers: list[float | None] = []
    for operand, name in ((a, "a"), (b, "b")):
        number = _args.float32(operand, name, op) if _number(operand) else None
        numbers.append(number)
        checked.append(_args.check_array(operand, op, name) if number is None else np.array(number, np.float32))
    return checked, numbers


def _binary(op: str, a: Any, b: Any) -> Any:
    return apply(op, _operands(op, a, b)[0])[0]


def _linear(op: str, a: Any, b: Any) -> Any:
    """Apply one of the four operations; on symbols one with a number is a linear function of the other operand.

    On arrays the number is an operand like any other, so that a number that changes meets the same plan.
    """
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return apply(op, [_args.check_array(a, op, "a"), _args.check_array(b, op, "b")])[0]
    checked, (left, right) = _operands(op, a, b)
    function: tuple[float, float] | None = None
    if (left is not None or right is not None) and graph.is_symbolic(checked):
        number = cast("float", right if left is None else left)
        match op, left is None:
            case "add", _:
                function = (1.0, number)
            case "mul", _:
                function = (number, 0.0)
            case "sub", True:
                function = (1.0, -number)
            case "sub", False:
                function = (-1.0, number)
            case "div", True if _power_of_two(number):
                function = (1.0 / number, 0.0)
    if function is None:
        return apply(op, checked)[0]
    scale, shift = function
    return apply("affine", [checked[0 if left is None else 1]], scale=scale, shift=shift)[0]


def _power_of_two(number: float) -> bool:
    """Tell whether a product with the reciprocal is the quotient, bit for bit."""
    size = math.fabs(number)
    return 2.0**-126 <= size <= 2.0**126 and math.frexp(size)[0] == 0.5


def add(a: Operand, b: Operand) -> Any:
    """Compute a + b.

    Args:
        a: Any shape, or a number.
        b: A shape that broadcasts with that of `a`, or a number.

    Returns:
        The common shape; a float for arrays that are all 0-d.

    Raises:
        ShapeError: the shapes do not broadcast.
        TypeError: an array is not float32, or both operands are numbers.
        ValueError: a number beyond float32.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> F.add(np.ones((2, 1), np.float32), np.array([1, 2, 3], np.float32)).tolist()
        [[2.0, 3.0, 4.0], [2.0, 3.0, 4.0]]
    """
    return _linear("add", a, b)


def sub(a: Operand, b: Operand) -> Any:
    """Compute a - b.

    Args:
        a: Any shape, or a number.
        b: A shape that broadcasts with that of `a`, or a number.

    Returns:
        The common shape; a float for arrays that are all 0-d.

    Raises:
        ShapeError: the shapes do not broadcast.
        TypeError: an array is not float32, or both operands are numbers.
        ValueError: a number beyond float32.
    """
    return _linear("sub", a, b)


def mul(a: Operand, b: Operand) -> Any:
    """Compute a * b.

    Args:
        a: Any shape, or a number.
        b: A shape that broadcasts with that of `a`, or a number.

    Returns:
        The common shape; a float for arrays that are all 0-d.

    Raises:
        ShapeError: the shapes do not broadcast.
        TypeError: an array is not float32, or both operands are numbers.
        ValueError: a number beyond float32.
    """
    return _linear("mul", a, b)


def div(a: Operand, b: Operand) -> Any:
    """Compute a / b, with infinities and NaN where b is 0.

    Args:
        a: Any shape, or a number.
        b: A shape that broadcasts with that of `a`, or a number.

    Returns:
        The common shape; a float for arrays that are all 0-d.

    Raises:
        ShapeError: the shapes do not broadcast.
        TypeError: an array is not float32, or both operands are numbers.
        ValueError: a number beyond float32.
    """
    return _linear("div", a, b)


def maximum(a: Operand, b: Operand) -> Any:
    """Take the larger of a and b; NaN where either is. Equal numbers share the gradient.

    Args:
        a: Any shape, or a number.
        b: A shape that broadcasts with that of `a`, or a number.

    Returns:
        The common shape; a float for arrays that are all 0-d.

    Raises:
        ShapeError: the shapes do not broadcast.
        TypeError: an array is not float32, or both operands are numbers.
        ValueError: a number beyond float32.
    """
    return _binary("maximum", a, b)


def minimum(a: Operand, b: Operand) -> Any:
    """Take the smaller of a and b; NaN where either is. Equal numbers share the gradient.

    Args:
        a: Any shape, or a number.
        b: A shape that broadcasts with that of `a`, or a number.

    Returns:
        The common shape; a float for arrays that are all 0-d.

    Raises:
        ShapeError: the shapes do not broadcast.
        TypeError: an array is not float32, or both operands are numbers.
        ValueError: a number beyond float32.
    """
    return _binary("minimum", a, b)


def neg(x: Tensor) -> Tensor:
    """Compute -x.

    Args:
        x: Any shape.

    Returns:
        The same shape.

    Raises:
        TypeError: the array is not float32.
    """
    return cast("Tensor", apply("affine", [_args.check_array(x, "neg")], scale=-1.0, shift=0.0)[0])


def exp(x: Tensor) -> Tensor:
    """Compute the exponential function; 0 where the result is below the smallest normal number.

    Args:
        x: Any shape.

    Returns:
        The same shape.

    Raises:
        TypeError: the array is not float32.
    """
    return cast("Tensor", apply("exp", [_args.check_array(x, "exp")])[0])


def log(x: Tensor) -> Tensor:
    """Compute the natural logarithm: -inf at 0, where denormal numbers count as 0, and NaN below.

    Args:
        x: Any shape.

    Returns:
        The same shape.

    Raises:
        TypeError: the array is not float32.
    """
    return cast("Tensor", apply("log", [_args.check_array(x, "log")])[0])


def sqrt(x: Tensor) -> Tensor:
    """Compute the square root: NaN below 0.

    Args:
        x: Any shape.

    Returns:
        The same shape.

    Raises:
        TypeError: the array is not float32.
    """
    return cast("Tensor", apply("sqrt", [_args.check_array(x, "sqrt")])[0])


def abs(x: Tensor) -> Tensor:
    """Compute the absolute value; the derivative at 0 is 0.

    Args:
        x: Any shape.

    Returns:
        The same shape.

    Raises:
        TypeError: the array is not float32.
    """
    return cast("Tensor", apply("abs", [_args.check_array(x, "abs")])[0])


def square(x: Tensor) -> Tensor:
    """Compute x * x.

    Args:
        x: Any shape.

    Returns:
        The same shape.

    Raises:
        TypeError: the array is not float32.
    """
    x = _args.check_array(x, "square")
    return cast("Tensor", apply("mul", [x, x])[0])


def clip(x: Tensor, low: float | None = None, high: float | None = None) -> Tensor:
    """Compute min(max(x, low), high); the derivative at the bounds is 1 and NaN stays.

    Args:
        x: Any shape.
        low: The smallest result; None for no bound.
        high: The largest result; None for no bound.

    Returns:
        The same shape.

    Raises:
        TypeError: the array is not float32, or a bound not a number.
        ValueError: a bound is NaN or beyond float32.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> F.clip(np.array([-3, 0.5, 3], np.float32), -1, 1).tolist()
        [-1.0, 0.5, 1.0]
    """
    op = "clip"
    x = _args.check_array(x, op)
    bounds = [
        default if bound is None else _args.float32(bound, name, op)
        for bound, name, default in ((low, "low", -math.inf), (high, "high", math.inf))
    ]
    if any(map(math.isnan, bounds)):
        message = f"{graph.label(op)}: low and high must not be NaN, got {low} and {high}"
        raise ValueError(message)
    return cast("Tensor", apply(op, [x], low=bounds[0], high=bounds[1])[0])


def matmul(a: AnyTensor, b: AnyTensor) -> Any:
    """Compute the product of matrices, one for each index of the leading axes.

    Args:
        a: Matrices (..., N, I).
        b: Matrices (..., I, O) with the same leading axes; they are not broadcast.

    Returns:
        Matrices (..., N, O).

    Raises:
        ShapeError: fewer than two dimensions, or shapes that do not fit.
        TypeError: an array is not float32.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> F.matmul(np.ones((5, 2, 3), np.float32), np.ones((5, 3, 4), np.float32)).shape
        (5, 2, 4)
    """
    op = "matmul"
    a, b = _args.check_array(a, op, "a"), _args.check_array(b, op, "b")
    for operand, name in ((a, "a"), (b, "b")):
        if operand.ndim < 2:
            message = f"{graph.label(op)}: {name} must have at least 2 dimensions, got shape {operand.shape}"
            raise ShapeError(message)
    left, right = _args.sizes(a), _args.sizes(b)
    if left[:-2] != right[:-2]:
        message = (
            f"{graph.label(op)}: b must have the leading axes {left[:-2]} of a {left}, got shape {right}; "
            "leading axes are not broadcast"
        )
        raise ShapeError(message)
    if left[-1] != right[-2] or 0 in right[-2:]:
        message = (
            f"{graph.label(op)}: b must have {left[-1]} rows, as many as a {left} has columns, and sizes of at "
            f"least 1, got shape {right}"
        )
        raise ShapeError(message)
    return apply("linear", [a, b])[0]
