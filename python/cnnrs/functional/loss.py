"""From scores to a loss."""

from __future__ import annotations

from typing import Any, overload

import numpy as np
import numpy.typing as npt

from cnnrs import _args, graph
from cnnrs._core import ShapeError
from cnnrs._value import Value
from cnnrs.functional._dispatch import AnyTensor, Array, apply
from cnnrs.functional.activation import softplus
from cnnrs.functional.arithmetic import abs, add, clip, mul, neg, square, sub
from cnnrs.functional.reduction import mean


@overload
def cross_entropy(
    logits: Array,
    labels: npt.NDArray[Any],
    weight: npt.NDArray[np.float32] | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
) -> float: ...
@overload
def cross_entropy(
    logits: Value,
    labels: npt.NDArray[Any] | Value,
    weight: npt.NDArray[np.float32] | Value | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
) -> Value: ...
def cross_entropy(
    logits: Any,
    labels: Any,
    weight: Any = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
) -> Any:
    """Compute the mean over the batch of -log(softmax(logits)[label]).

    With `p = softmax(logits)`, class weights `w` (1 without `weight`) and smoothing `e`, a row with label `y` counts
    `(1 - e) * w[y] * -log(p[y]) + e / K * sum(w[k] * -log(p[k]) for all classes k)`; the loss is the sum over the
    rows that are not ignored, divided by the sum of their `w[y]`. Formula: torch `cross_entropy`.

    Args:
        logits: Scores (N, K).
        labels: Integers (N,) from 0 to K - 1, or `ignore_index`.
        weight: Weight of each class (K,), without a gradient.
        label_smoothing: Part of the target that is spread evenly over all classes, in [0, 1].
        ignore_index: Label of rows that count for nothing: they have no loss and no gradient.

    Returns:
        The loss, a float; a 0-d value while tracing. NaN if every row is ignored, or there is none.

    Raises:
        ShapeError: the ranks or the counts do not fit.
        TypeError: logits or weights are not float32, labels not integers, or a number of the wrong type.
        ValueError: a label is not in [0, K) and not `ignore_index`, or a number out of range.
        UnsupportedError: a gradient by `weight` is asked for.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> loss = F.cross_entropy(np.zeros((2, 10), np.float32), np.array([3, 7]))
        >>> round(loss, 5)
        2.30259
        >>> scores = np.array([[2, 0, 0], [0, 2, 0]], np.float32)
        >>> round(F.cross_entropy(scores, np.array([0, -1]), label_smoothing=0.1, ignore_index=-1), 5)
        0.37288
    """
    op = "cross_entropy"
    operands = [_args.check_array(logits, op, "logits", 2), _args.check_labels(labels, op)]
    if weight is not None:
        operands.append(_args.check_array(weight, op, "weight", 1))
    smoothing = _args.real(label_smoothing, "label_smoothing", op)
    if not 0.0 <= smoothing <= 1.0:
        message = f"{graph.label(op)}: label_smoothing must be in [0, 1], got {_args.show(label_smoothing)}"
        raise ValueError(message)
    if ignore_index is not None:
        ignore_index = _args.integer(ignore_index, "ignore_index", op, -(2**63), 2**63 - 1)
    return apply(op, operands, label_smoothing=smoothing, ignore_index=ignore_index)[0]


def mse_loss(x: AnyTensor, target: AnyTensor) -> Any:
    """Compute the mean of (x - target)**2 over all numbers.

    Args:
        x: Predictions, any shape.
        target: The same shape; nothing is broadcast.

    Returns:
        The loss, a float; a 0-d value while tracing. NaN of nothing.

    Raises:
        ShapeError: the shapes differ.
        TypeError: an array is not float32.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> F.mse_loss(np.array([1.0, 2.0], np.float32), np.array([1.0, 4.0], np.float32))
        2.0
    """
    return mean(square(_difference("mse_loss", x, target)))


def l1_loss(x: AnyTensor, target: AnyTensor) -> Any:
    """Compute the mean of |x - target| over all numbers; the derivative where they are equal is 0.

    Args:
        x: Predictions, any shape.
        target: The same shape; nothing is broadcast.

    Returns:
        The loss, a float; a 0-d value while tracing. NaN of nothing.

    Raises:
        ShapeError: the shapes differ.
        TypeError: an array is not float32.
    """
    return mean(abs(_difference("l1_loss", x, target)))


def huber_loss(x: AnyTensor, target: AnyTensor, delta: float = 1.0) -> Any:
    """Compute the mean of the Huber loss: a parabola near the target, lines far from it.

    With `d = |x - target|` each number counts `d**2 / 2` if `d <= delta`, `delta * (d - delta / 2)` otherwise.
    Formula: torch `huber_loss`.

    Args:
        x: Predictions, any shape.
        target: The same shape; nothing is broadcast.
        delta: Where the parabola becomes a line, finite and > 0.

    Returns:
        The loss, a float; a 0-d value while tracing. NaN of nothing.

    Raises:
        ShapeError: the shapes differ.
        TypeError: an array is not float32, or `delta` not a number.
        ValueError: `delta` is out of range.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> F.huber_loss(np.array([0.0, 3.0], np.float32), np.array([1.0, 0.0], np.float32))
        1.5
    """
    op = "huber_loss"
    bound = _args.real(delta, "delta", op)
    if not bound > 0.0:
        message = f"{graph.label(op)}: delta must be > 0, got {_args.show(delta)}"
        raise ValueError(message)
    distance = abs(_difference(op, x, target))
    near = clip(distance, 0.0, bound)
    return mean(mul(near, sub(distance, mul(near, 0.5))))


def binary_cross_entropy_with_logits(x: AnyTensor, target: AnyTensor, pos_weight: Any = None) -> Any:
    """Compute the mean of -target*log(sigmoid(x)) - (1 - target)*log(1 - sigmoid(x)) over all numbers.

    Computed as `target * softplus(-x) + (1 - target) * softplus(x)`, in which nothing overflows or cancels; with
    `pos_weight` the first term is multiplied by it. Formula: torch `binary_cross_entropy_with_logits`.

    Args:
        x: Logits, any shape.
        target: The same shape, numbers in [0, 1]; nothing is broadcast.
        pos_weight: Weight of the positive term: a number, or an array that broadcasts to the shape of `x`, such as
            (K,) for logits (N, K).

    Returns:
        The loss, a float; a 0-d value while tracing. NaN of nothing.

    Raises:
        ShapeError: the shapes differ, or `pos_weight` does not broadcast.
        TypeError: an array is not float32.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> logits, target = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
        >>> round(F.binary_cross_entropy_with_logits(logits, target), 5)
        0.69315
    """
    op = "binary_cross_entropy_with_logits"
    logits, labels = _pair(op, x, target)
    positive = mul(labels, softplus(neg(logits)))
    if pos_weight is not None:
        positive = mul(positive, pos_weight)
        if positive.shape != logits.shape:
            wanted, got = logits.shape, getattr(pos_weight, "shape", ())
            message = f"{graph.label(op)}: pos_weight must broadcast to the shape of x, {wanted}, got shape {got}"
            raise ShapeError(message)
    return mean(add(positive, mul(sub(1.0, labels), softplus(logits))))


def _pair(op: str, x: Any, target: Any) -> tuple[Any, Any]:
    """Return predictions and targets of one shape."""
    x, target = _args.check_array(x, op), _args.check_array(target, op, "target")
    for operand, name in ((x, "x"), (target, "target")):
        if isinstance(operand, Value) and operand.dtype != np.float32:
            message = f"{graph.label(op)}: {name} must be float32, got a symbolic value of {operand.dtype}"
            raise TypeError(message)
    if x.shape != target.shape:
        message = f"{graph.label(op)}: target must have the shape of x, {x.shape}, got {target.shape}"
        raise ShapeError(message)
    if x.ndim == 0 and not graph.is_symbolic([x, target]):  # ops on 0-d arrays give floats, which no op takes
        return np.reshape(getattr(x, "array", x), 1), np.reshape(getattr(target, "array", target), 1)
    return x, target


def _difference(op: str, x: Any, target: Any) -> Any:
    return sub(*_pair(op, x, target))
