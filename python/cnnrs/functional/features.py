"""From feature maps to rows of features, and from rows to rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from cnnrs import _args, graph
from cnnrs._value import Value
from cnnrs.functional._dispatch import Array, Tensor, apply

if TYPE_CHECKING:
    from cnnrs.nn.parameter import Parameter


def flatten(x: Tensor, order: str = "hwc") -> Tensor:
    """Turn feature maps into one row of features per image.

    Args:
        x: Feature maps (N, H, W, C).
        order: "hwc" is NumPy's order; "chw" is torch's, for linear weights that were trained there.

    Returns:
        Features (N, H * W * C).

    Raises:
        ShapeError: not four dimensions.
        TypeError: the array is not float32.
        ValueError: another order.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> x = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)
        >>> F.flatten(x, order="chw").tolist()
        [[0.0, 2.0, 4.0, 6.0, 1.0, 3.0, 5.0, 7.0]]
    """
    op = "flatten"
    return cast("Tensor", apply(op, [_args.check_array(x, op, "x", 4)], order=flatten_order(order))[0])


def flatten_order(order: object) -> str:
    """Return the order of `flatten`, checked."""
    if not isinstance(order, str) or order not in ("hwc", "chw"):
        message = f'{graph.label("flatten")}: order must be "hwc" or "chw", got {_args.show(order)}'
        raise ValueError(message)
    return order


def linear(x: Tensor, weight: Array | Value | Parameter, bias: Array | Value | Parameter | None = None) -> Tensor:
    """Compute x @ weight + bias.

    Args:
        x: Features (N, I).
        weight: Weights (I, O).
        bias: One number per output (O,), or None.

    Returns:
        Features (N, O).

    Raises:
        ShapeError: the shapes do not fit.
        TypeError: an array is not float32.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> F.linear(np.ones((1, 3), np.float32), np.ones((3, 2), np.float32)).tolist()
        [[3.0, 3.0]]
    """
    op = "linear"
    inputs = [_args.check_array(x, op, "x", 2), _args.check_array(weight, op, "weight", 2)]
    if bias is not None:
        inputs.append(_args.check_array(bias, op, "bias", 1))
    return cast("Tensor", apply(op, inputs)[0])
