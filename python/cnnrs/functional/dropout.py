"""Dropout: numbers, channels or images set to zero at random while training."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from cnnrs import _args, graph, random
from cnnrs._core import ShapeError
from cnnrs._value import Value
from cnnrs.functional._dispatch import Tensor, apply

_HASH_START = 0xCBF29CE484222325
_HASH_FACTOR = 0x100000001B3


def dropout(x: Tensor, p: float = 0.5, training: bool | None = None, seed: int | None = None) -> Tensor:
    """Set numbers to zero with probability p and divide the others by 1 - p.

    The draws are Philox4x32-10's (Salmon et al., 2011): the key is the seed, the counter (i // 4, step, low and high
    half of the stream), of whose four words number i takes word i % 4; a number is kept if the word's upper 24 bits,
    as a fraction of 2**24, are at least p. i is the place in C order. The stream is the 64-bit FNV-1a hash of the
    layer's path, a zero byte and the use: how many draws were made at that path before, as decimal digits. On arrays,
    path, use and step are "", 0 and 0, so that equal calls give equal results.

    Args:
        x: Any shape with at least one axis.
        p: Probability of a zero, in [0, 1].
        training: Whether to drop at all. None means True on arrays; on symbolic values it follows the mode of the
            layer that is being traced: a trainer's steps drop, `model(array)` and `vjp` do not.
        seed: From 0 to 2**64 - 1. None is the trainer's seed, with its number of updates as the step, and elsewhere
            the seed of `cnnrs.manual_seed` (0 without a call). With a seed, the draws are the same in every run.

    Returns:
        The same shape; x itself if nothing is to be dropped.

    Raises:
        ShapeError: no axis.
        TypeError: an array that is not float32, or an argument of another type.
        ValueError: `p` or `seed` out of range.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F
        >>> F.dropout(np.ones(8, np.float32), 0.5, seed=1).tolist()
        [2.0, 2.0, 2.0, 0.0, 2.0, 2.0, 2.0, 0.0]
    """
    return _drop("dropout", "element", x, p, training, seed)


def dropout2d(x: Tensor, p: float = 0.5, training: bool | None = None, seed: int | None = None) -> Tensor:
    """Set whole channels of images to zero with probability p and divide the others by 1 - p (Tompson et al., 2015).

    One draw decides about a channel of an image: i of `dropout` is n * C + c.

    Args:
        x: Feature maps (N, H, W, C).
        p: Probability of a zero, in [0, 1].
        training: As for `dropout`.
        seed: As for `dropout`.

    Returns:
        The same shape; x itself if nothing is to be dropped.

    Raises:
        ShapeError: not four dimensions.
        TypeError: an array that is not float32, or an argument of another type.
        ValueError: `p` or `seed` out of range.
    """
    return _drop("dropout2d", "channel", x, p, training, seed, rank=4)


def drop_path(x: Tensor, p: float = 0.5, training: bool | None = None, seed: int | None = None) -> Tensor:
    """Set whole images to zero with probability p and divide the others by 1 - p.

    Meant for the branch of a residual block (stochastic depth, Huang et al., 2016). One draw decides about an image:
    i of `dropout` is n.

    Args:
        x: (N, ...).
        p: Probability of a zero, in [0, 1].
        training: As for `dropout`.
        seed: As for `dropout`.

    Returns:
        The same shape; x itself if nothing is to be dropped.

    Raises:
        ShapeError: no axis.
        TypeError: an array that is not float32, or an argument of another type.
        ValueError: `p` or `seed` out of range.
    """
    return _drop("drop_path", "sample", x, p, training, seed)


def _drop(op: str, unit: str, x: Tensor, p: object, training: object, seed: object, rank: int | None = None) -> Tensor:
    """Record or run the op, unless the mode or p says that nothing happens."""
    operand = _args.check_array(x, op, "x", rank)
    if operand.ndim == 0:
        message = f"{graph.label(op)}: x must have at least one axis, got shape ()"
        raise ShapeError(message)
    p = _args.number(p, "p", op, 0.0, 1.0)
    seed = None if seed is None else _args.integer(seed, "seed", op, 0, 2**64 - 1)
    trace = _trace(operand)
    drops = (trace is None or trace.layer_trains) if training is None else _args.flag(training, "training", op)
    if not drops or p == 0:
        return x
    path, use = ("", 0) if trace is None else trace.next_use()
    key: Any
    if seed is None and trace is not None and trace.training:
        key = trace.dropout_key()
    else:
        key = np.array([random.current_seed() if seed is None else seed, 0], np.uint64).view(np.int64)
    return cast("Tensor", apply("dropout", [operand, key], p=p, unit=unit, stream=_stream(path, use))[0])


def _trace(x: Any) -> graph.Trace | None:
    """Return the trace in which an op on x is recorded, None if it runs at once."""
    if isinstance(x, Value):
        return x.trace
    return graph.current() if graph.is_symbolic([x]) else None


def _stream(path: str, use: int) -> int:
    """Return the 64-bit FNV-1a hash of a layer's path and use; it never changes, so that runs can be repeated."""
    code = _HASH_START
    for byte in f"{path}\0{use}".encode():
        code = (code ^ byte) * _HASH_FACTOR % 2**64
    return code
