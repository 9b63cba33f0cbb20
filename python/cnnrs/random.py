"""The stream of random numbers that initialises parameters: Philox keyed by (seed, stream)."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from cnnrs import _args, _core

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# One tuple, swapped and read as a whole, so that a seed never meets another seed's counter.
_state = (0, itertools.count())


def manual_seed(seed: int) -> None:
    """Seed the initialisation of the models made from now on, in this process.

    Every parameter drawn takes the next stream of the seed, so the same code makes the same model. Without a
    call, the seed is 0. Training has a seed of its own, the trainer's.

    Args:
        seed: From 0 to 2**64 - 1.

    Raises:
        TypeError: not an int.
        ValueError: out of range.

    Examples:
        >>> import cnnrs
        >>> from cnnrs import nn
        >>> cnnrs.manual_seed(1)
        >>> a = nn.Linear(3, 2).weight.array.copy()
        >>> cnnrs.manual_seed(1)
        >>> bool((nn.Linear(3, 2).weight.array == a).all())
        True
    """
    global _state
    _state = (_args.integer(seed, "seed", "manual_seed", 0, 2**64 - 1), itertools.count())


def current_seed() -> int:
    """Return the process-wide seed."""
    return _state[0]


def uniform(size: int, low: float = 0.0, width: float = 1.0) -> npt.NDArray[np.float32]:
    """Return `size` floats in [low, low + width) from the next stream of the process-wide seed."""
    seed, streams = _state
    return _core.random_uniform(seed, next(streams), size, low, width)


def normal(size: int, mean: float = 0.0, std: float = 1.0) -> npt.NDArray[np.float32]:
    """Return `size` normal floats from the next stream of the process-wide seed."""
    seed, streams = _state
    return _core.random_normal(seed, next(streams), size, mean, std)
