"""A trainable tensor of a module."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cnnrs import _args, _core, graph


class Parameter:
    """A float32 tensor that a module owns; its storage lives in the extension and is versioned.

    Args:
        array: The first content, float32 of any shape; it is copied.
        trainable: Whether training changes it; `Module.freeze` sets it to False.

    Raises:
        TypeError: the array is not float32.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import nn
        >>> scale = nn.Parameter(np.ones(3, np.float32))
        >>> scale.assign(np.full(3, 2, np.float32))
        >>> scale.array.tolist()
        [2.0, 2.0, 2.0]
    """

    def __init__(self, array: npt.NDArray[np.float32], trainable: bool = True) -> None:
        """Copy the array in."""
        self._storage = _core.Parameter(_float32(array))
        self._trainable = _args.flag(trainable, "trainable", "Parameter")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, fixed for life."""
        return self._storage.shape

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self._storage.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return self._storage.size

    @property
    def array(self) -> npt.NDArray[np.float32]:
        """A live read-only view: it shows later changes; `.copy()` it for a snapshot."""
        return self._storage.view()

    @property
    def trainable(self) -> bool:
        """Whether training changes the parameter."""
        return self._trainable

    @trainable.setter
    def trainable(self, trainable: bool) -> None:
        self._trainable = _args.flag(trainable, "trainable", "Parameter")
        graph.bump_epoch()

    def assign(self, array: npt.NDArray[np.float32]) -> None:
        """Copy new content in; calls that are running finish first.

        Args:
            array: float32 of the parameter's shape.

        Raises:
            ShapeError: the shape is another one.
            TypeError: the array is not float32.
        """
        self._storage.assign(_float32(array))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy by content."""
        return type(self), (self.array.copy(), self.trainable)

    def __repr__(self) -> str:
        """Show the shape and whether it is frozen."""
        return f"Parameter(shape={self.shape}{'' if self.trainable else ', trainable=False'})"


def _float32(array: Any) -> npt.NDArray[np.float32]:
    """Return the array if it is a float32 NumPy array."""
    if not isinstance(array, np.ndarray):
        message = f"Parameter: array must be a float32 NumPy array, got {_args.show(array)}"
        raise TypeError(message)
    checked: npt.NDArray[np.float32] = _args.check_array(array, "Parameter", "array")
    return checked
