"""From scores to a loss."""

from __future__ import annotations

from typing import Any, overload

import numpy.typing as npt

from cnnrs import _args, graph
from cnnrs._core import UnsupportedError
from cnnrs.functional._dispatch import Array, apply
from cnnrs.graph import Value


@overload
def cross_entropy(
    logits: Array,
    labels: npt.NDArray[Any],
    weight: None = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
) -> float: ...
@overload
def cross_entropy(
    logits: Value,
    labels: npt.NDArray[Any] | Value,
    weight: None = None,
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

    Args:
        logits: Scores (N, K).
        labels: Integers (N,) from 0 to K - 1.
        weight: Reserved for weights of the classes; must be None.
        label_smoothing: Reserved; must be 0.
        ignore_index: Reserved for a label to leave out; must be None.

    Returns:
        The loss, a float; a 0-d value while tracing.

    Raises:
        ShapeError: the ranks or the counts do not fit.
        TypeError: logits are not float32, or labels not integers.
        ValueError: a label is not in [0, K).
        UnsupportedError: a reserved argument is given.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> loss = F.cross_entropy(np.zeros((2, 10), np.float32), np.array([3, 7]))
        >>> round(loss, 5)
        2.30259
    """
    op = "cross_entropy"
    reserved = {"weight": weight, "label_smoothing": label_smoothing or None, "ignore_index": ignore_index}
    for name, value in reserved.items():
        if value is not None:
            message = f"{graph.label(op)}: {name} is not there yet, got {_args.show(value)}"
            raise UnsupportedError(message)
    return apply(
        op,
        [_args.check_array(logits, op, "logits", 2), _args.check_labels(labels, op)],
        label_smoothing=0.0,
        ignore_index=None,
    )[0]
