"""Normalization: over the batch, over groups of channels, over whole rows, over neighbouring channels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from cnnrs import _args, graph
from cnnrs._core import ShapeError
from cnnrs._value import Value, is_buffer
from cnnrs.functional._dispatch import Array, Tensor, apply

if TYPE_CHECKING:
    from cnnrs.nn.parameter import Buffer, Parameter

    Weights = Array | Value | Parameter
    Statistics = Array | Value | Buffer


def batch_norm(
    x: Tensor,
    running_mean: Statistics | None,
    running_var: Statistics | None,
    weight: Weights | None = None,
    bias: Weights | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize every channel: (x - mean) / sqrt(var + eps) * weight + bias (Ioffe and Szegedy, 2015).

    Without `training`, mean and variance are the running ones. With it, they are those of the batch, over all axes but
    the last, with the biased variance. Arrays of running values are never changed; an `nn.Buffer` is, by the
    steps of a trainer: new = (1 - momentum) * old + momentum * batch's, with the unbiased variance. No gradient
    flows to running values.

    Args:
        x: (N, ..., C).
        running_mean: (C,); may be None with `training`.
        running_var: (C,); may be None with `training`.
        weight: (C,), None for ones.
        bias: (C,), None for zeros.
        training: Whether the batch's own statistics are taken.
        momentum: Weight of the new value, in [0, 1].
        eps: Added to the variance, >= 0.

    Returns:
        The same shape.

    Raises:
        ShapeError: fewer than two dimensions, or not C numbers.
        TypeError: an array that is not float32, or an argument of another type.
        ValueError: a number out of range, or with `training` one value per channel.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> x = np.array([[1, 10], [3, 30]], np.float32)
        >>> mean, var = np.zeros(2, np.float32), np.ones(2, np.float32)
        >>> F.batch_norm(x, mean, var, eps=0).tolist()
        [[1.0, 10.0], [3.0, 30.0]]
        >>> F.batch_norm(x, mean, var, training=True, eps=0).tolist()
        [[-1.0, -1.0], [1.0, 1.0]]
    """
    op = "batch_norm"
    images = _rows(x, op)
    training = _args.flag(training, "training", op)
    momentum = _args.number(momentum, "momentum", op, 0.0, 1.0)
    eps = _args.number(eps, "eps", op, 0.0)
    channels = (images.shape[-1],)
    operands = _affine(images, weight, bias, channels, op)
    for value, name in ((running_mean, "running_mean"), (running_var, "running_var")):
        if value is None and training:
            operands.append(np.zeros(channels, np.float32))
        else:
            operands.append(_sized(value, name, channels, op))
    if not training:
        return cast("Tensor", apply("batch_norm_infer", operands, eps=eps)[0])
    results = apply("batch_norm_train", operands, eps=eps, momentum=momentum)
    trace = results[0].trace if isinstance(results[0], Value) else None
    for buffer, value in ((running_mean, results[3]), (running_var, results[4])):
        if trace is not None and trace.training and is_buffer(buffer):
            trace.assign(cast("graph.Storage", buffer), value)
    return cast("Tensor", results[0])


def group_norm(
    x: Tensor, num_groups: int, weight: Weights | None = None, bias: Weights | None = None, eps: float = 1e-5
) -> Tensor:
    """Normalize every group of neighbouring channels of every image by itself (Wu and He, 2018).

    (x - mean) / sqrt(var + eps) * weight + bias, with mean and biased variance over all pixels and the C / num_groups
    channels of the group.

    Args:
        x: (N, ..., C).
        num_groups: Divides C.
        weight: (C,), None for ones.
        bias: (C,), None for zeros.
        eps: Added to the variance, >= 0.

    Returns:
        The same shape.

    Raises:
        ShapeError: fewer than two dimensions, not C numbers, or `num_groups` does not divide C.
        TypeError: an array that is not float32.
        ValueError: a number out of range.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> F.group_norm(np.array([[1, 3, 10, 30]], np.float32), 2, eps=0).tolist()
        [[-1.0, 1.0, -1.0, 1.0]]
    """
    op = "group_norm"
    images = _rows(x, op)
    groups, channels = _args.whole(num_groups, "num_groups", op), images.shape[-1]
    if channels % groups:
        message = f"{graph.label(op)}: num_groups={groups} must divide the {channels} channels of x {images.shape}"
        raise ShapeError(message)
    operands = _affine(images, weight, bias, (channels,), op)
    eps = _args.number(eps, "eps", op, 0.0)
    return cast("Tensor", apply("group_norm", operands, groups=groups, eps=eps)[0])


def layer_norm(
    x: Tensor,
    normalized_shape: int | tuple[int, ...],
    weight: Weights | None = None,
    bias: Weights | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize over the trailing axes (Ba, Kiros and Hinton, 2016).

    (x - mean) / sqrt(var + eps) * weight + bias, with mean and biased variance over the axes of `normalized_shape`.

    Args:
        x: (N, ..., *normalized_shape).
        normalized_shape: Sizes of the trailing axes, or that of the last one; the first axis is not among them.
        weight: Of `normalized_shape`, None for ones.
        bias: Of `normalized_shape`, None for zeros.
        eps: Added to the variance, >= 0.

    Returns:
        The same shape.

    Raises:
        ShapeError: `x` does not end in `normalized_shape`, or weight or bias have another shape.
        TypeError: an array that is not float32.
        ValueError: a number out of range.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> F.layer_norm(np.array([[1, 3], [10, 30]], np.float32), 2, eps=0).tolist()
        [[-1.0, 1.0], [-1.0, 1.0]]
    """
    op = "layer_norm"
    operand = _rows(x, op)
    shape = normalized(normalized_shape, op)
    if len(shape) >= operand.ndim or operand.shape[operand.ndim - len(shape) :] != shape:
        message = f"{graph.label(op)}: x must have shape (N, ..., {', '.join(map(str, shape))}), got {operand.shape}"
        raise ShapeError(message)
    operands = _affine(operand, weight, bias, shape, op)
    attrs = {"groups": 1, "eps": _args.number(eps, "eps", op, 0.0)}
    features = math.prod(shape)
    if graph.is_symbolic(operands):
        sizes = ([-1, features], [features], [features])
        values = [graph.record("reshape", [item], dims=dims)[0] for item, dims in zip(operands, sizes, strict=True)]
        y: Any = graph.record("group_norm", values, **attrs)[0]
        result: Any = graph.record("reshape_like", [y, operand])[0]
        return cast("Tensor", result)
    arrays: list[Any] = [item if isinstance(item, np.ndarray) else item._storage.view() for item in operands]
    rows = arrays[0].reshape(arrays[0].size // features, features)
    arrays[1:] = [array.reshape(-1) for array in arrays[1:]]
    return cast("Tensor", apply("group_norm", [rows, *arrays[1:]], **attrs)[0].reshape(arrays[0].shape))


def local_response_norm(x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """Divide by a power of the squares of neighbouring channels (Krizhevsky, Sutskever and Hinton, 2012).

    y = x / (k + alpha / size * sum of x**2)**beta, summed over the channels c - size // 2 to c + (size - 1) // 2 that
    exist.

    Args:
        x: (N, ..., C).
        size: Channels of the window.
        alpha: >= 0.
        beta: The exponent.
        k: >= 0.

    Returns:
        The same shape.

    Raises:
        ShapeError: fewer than two dimensions.
        TypeError: an array that is not float32.
        ValueError: a number out of range.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> F.local_response_norm(np.array([[1, 2, 2]], np.float32), 2, alpha=2, beta=1, k=0).tolist()
        [[1.0, 0.4000000059604645, 0.25]]
    """
    op = "local_response_norm"
    images = _rows(x, op)
    numbers = {
        "size": _args.whole(size, "size", op),
        "alpha": _args.number(alpha, "alpha", op, 0.0),
        "beta": _args.number(beta, "beta", op),
        "k": _args.number(k, "k", op, 0.0),
    }
    return cast("Tensor", apply(op, [images], **numbers)[0])


def normalized(shape: object, op: str) -> tuple[int, ...]:
    """Return the argument `normalized_shape` as a tuple of sizes.

    Raises:
        ValueError: neither an int nor a sequence of at least one, all from 1 up.
    """
    sizes = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
    if not sizes:
        message = f"{graph.label(op)}: normalized_shape must have at least one size, got {_args.show(shape)}"
        raise ValueError(message)
    return tuple(_args.whole(size, "normalized_shape", op) for size in sizes)


def _rows(x: Any, op: str) -> Any:
    """Return an operand with a batch axis and channels."""
    x = _args.check_array(x, op)
    if x.ndim < 2 or x.shape[-1] == 0:
        message = f"{graph.label(op)}: x must have at least two dimensions (N, ..., C) and a channel, got {x.shape}"
        raise ShapeError(message)
    return x


def _sized(value: Any, name: str, shape: tuple[int, ...], op: str) -> Any:
    """Return an operand of exactly that shape."""
    value = _args.check_array(value, op, name)
    if tuple(value.shape) != shape:
        message = f"{graph.label(op)}: {name} must have shape {shape}, got {tuple(value.shape)}"
        raise ShapeError(message)
    return value


def _affine(x: Any, weight: Any, bias: Any, shape: tuple[int, ...], op: str) -> list[Any]:
    """Return x, and weight and bias of a shape, which are ones and zeros for None."""
    return [
        x,
        np.ones(shape, np.float32) if weight is None else _sized(weight, "weight", shape, op),
        np.zeros(shape, np.float32) if bias is None else _sized(bias, "bias", shape, op),
    ]
