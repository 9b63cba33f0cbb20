"""Which parameters are trained; see `Module.freeze`."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from cnnrs import _args, graph
from cnnrs.nn.parameter import Buffer

if TYPE_CHECKING:
    from cnnrs.nn.module import Module


def set_trainable(module: Module, pattern: str | None, trainable: bool) -> None:
    """Put the parameters that a pattern fits into training, or take them out of it.

    Raises:
        ValueError: the pattern fits no parameter.
        TypeError: it is neither a str nor None.
    """
    name = type(module).__name__
    if pattern is not None and not isinstance(pattern, str):
        message = f"{name}: pattern must be a str or None, got {_args.show(pattern)}"
        raise TypeError(message)
    chosen = [
        tensor
        for path, tensor in module._named_tensors(remove_duplicate=False)
        if pattern is None or fnmatchcase(path, pattern) or path.startswith(f"{pattern}.")
    ]
    if pattern is not None and not chosen:
        message = f"{name}: pattern {pattern!r} fits no parameter"
        raise ValueError(message)
    for tensor in chosen:
        if isinstance(tensor, Buffer):
            tensor.frozen = not trainable
        else:
            tensor.trainable = trainable
    graph.bump_epoch()
