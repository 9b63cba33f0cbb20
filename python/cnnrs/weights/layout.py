"""The one place that knows how torch orders the axes of a tensor, which depends on its rank alone.

OIHW and HWIO, (out, in, kernel) and (kernel, in, out), (out, in) and (in, out); all others stay as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt

_FROM_TORCH = {4: (2, 3, 1, 0), 3: (2, 1, 0), 2: (1, 0)}
_TO_TORCH = {4: (3, 2, 0, 1), 3: (2, 1, 0), 2: (1, 0)}


def from_torch(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """View a tensor in torch's layout in this package's."""
    return array.transpose(_FROM_TORCH.get(array.ndim, range(array.ndim)))


def to_torch(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """View a tensor in this package's layout in torch's."""
    return array.transpose(_TO_TORCH.get(array.ndim, range(array.ndim)))


def shape_from_torch(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that a tensor of torch's has here."""
    return tuple(shape[axis] for axis in _FROM_TORCH.get(len(shape), range(len(shape))))
