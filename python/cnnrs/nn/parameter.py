"""The tensors of a module: those that train, and those that are only kept."""

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


class Buffer:
    """A tensor that a module keeps and saves but no optimizer changes, such as running statistics.

    It stands in `state_dict` and in files, not among the parameters.

    Args:
        array: The first content, float32 or int64 of any shape; it is copied.

    Raises:
        TypeError: the array is neither float32 nor int64.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import nn
        >>> class Centred(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.mean = nn.Buffer(np.zeros(3, np.float32))
        ...     def forward(self, x):
        ...         return x
        >>> list(Centred().state_dict())
        ['mean']
    """

    def __init__(self, array: npt.NDArray[Any], frozen: bool = False) -> None:
        """Copy the array in; `frozen` says that `Module.freeze` chose it."""
        self._storage = _core.Parameter(_of_dtype(array, (np.dtype(np.float32), np.dtype(np.int64))))
        self._frozen = _args.flag(frozen, "frozen", "Buffer")

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
    def dtype(self) -> np.dtype[Any]:
        """float32 or int64, fixed for life."""
        return self.array.dtype

    @property
    def array(self) -> npt.NDArray[Any]:
        """A live read-only view: it shows later changes; `.copy()` it for a snapshot."""
        return self._storage.view()

    @property
    def frozen(self) -> bool:
        """Whether `Module.freeze` keeps layers from changing it."""
        return self._frozen

    @frozen.setter
    def frozen(self, frozen: bool) -> None:
        self._frozen = _args.flag(frozen, "frozen", "Buffer")
        graph.bump_epoch()

    def assign(self, array: npt.NDArray[Any]) -> None:
        """Copy new content in; calls that are running finish first.

        Args:
            array: Of the buffer's shape and dtype.

        Raises:
            ShapeError: the shape is another one.
            TypeError: the dtype is another one.
        """
        self._storage.assign(_of_dtype(array, (self.dtype,)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy by content."""
        return type(self), (self.array.copy(), self.frozen)

    def __repr__(self) -> str:
        """Show the shape and the dtype."""
        return f"Buffer(shape={self.shape}, dtype={self.dtype})"


def _float32(array: Any) -> npt.NDArray[np.float32]:
    """Return the array if it is a float32 NumPy array."""
    if not isinstance(array, np.ndarray):
        message = f"Parameter: array must be a float32 NumPy array, got {_args.show(array)}"
        raise TypeError(message)
    checked: npt.NDArray[np.float32] = _args.check_array(array, "Parameter", "array")
    return checked


def _of_dtype(array: Any, dtypes: tuple[np.dtype[Any], ...]) -> npt.NDArray[Any]:
    """Return the array if it is of one of the dtypes."""
    if isinstance(array, np.ndarray) and array.dtype.newbyteorder("=") in dtypes:
        return array
    got = f"a {array.dtype} array" if isinstance(array, np.ndarray) else _args.show(array)
    message = f"Buffer: array must be a {' or '.join(map(str, dtypes))} NumPy array, got {got}"
    raise TypeError(message)
