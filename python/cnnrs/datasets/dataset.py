"""The container of labelled images that every data set returns and the trainer takes."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from cnnrs._core import DataError, ShapeError

Index = slice | Sequence[int] | NDArray[np.integer[Any]] | NDArray[np.bool_]


class Dataset:
    """Images with one label each, checked once and read-only from then on.

    The arrays are not copied: `images` and `labels` are read-only views of what was passed, so writing to the
    original array still shows. Slices and `take` are views too; `subset` and masks copy the chosen images.

    Attributes:
        images: `(N, H, W, C)`, uint8 (0 to 255, the model normalises them) or float32 (taken as they are).
        labels: `(N,)`, int64, each at least 0 and below `len(classes)` if `classes` is not empty.
        classes: The name of every label in order, or `()` when the labels have no names.

    Example:
        >>> import numpy as np
        >>> from cnnrs.datasets import Dataset
        >>> pictures = np.zeros((3, 28, 28, 1), np.uint8)
        >>> data = Dataset(pictures, np.array([0, 1, 1]), classes=("cat", "dog"))
        >>> data
        Dataset(images uint8 (3, 28, 28, 1), labels int64 (3,), 2 classes)
        >>> data[1:].labels
        array([1, 1])
    """

    __slots__ = ("classes", "images", "labels")

    images: NDArray[Any]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def __init__(self, images: NDArray[Any], labels: NDArray[Any], classes: Sequence[str] = ()) -> None:
        """Check the arrays and keep read-only views of them.

        Args:
            images: `(N, H, W, C)`, uint8 or float32.
            labels: `(N,)`, int64.
            classes: The name of every label in order, or `()`.

        Raises:
            TypeError: An argument is not an array of the stated dtype, or `classes` is not a sequence of texts.
            ShapeError: `images` is not of rank 4, `labels` not of rank 1, or their lengths differ.
            DataError: A label is negative, or has no name in `classes`.
        """
        images = _typed(images, "images", (np.dtype(np.uint8), np.dtype(np.float32)))
        labels = _typed(labels, "labels", (np.dtype(np.int64),))
        if images.ndim != 4:
            msg = f"images: expected 4 axes (N, H, W, C), got shape {images.shape}"
            raise ShapeError(msg)
        if labels.ndim != 1:
            msg = f"labels: expected 1 axis (N,), got shape {labels.shape}"
            raise ShapeError(msg)
        if len(images) != len(labels):
            msg = f"labels: expected one for each of the {len(images)} images, got {len(labels)}"
            raise ShapeError(msg)
        names = _names(classes)
        _check_range(labels, names)
        for name, value in (("images", _frozen(images)), ("labels", _frozen(labels)), ("classes", names)):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse: a data set does not change."""
        msg = f"Dataset is read-only, {name} cannot be set (make a new one: Dataset(images, labels, classes))"
        raise AttributeError(msg)

    def __delattr__(self, name: str) -> None:
        """Refuse: a data set does not change."""
        msg = f"Dataset is read-only, {name} cannot be deleted"
        raise AttributeError(msg)

    def __reduce__(self) -> tuple[Callable[..., "Dataset"], tuple[Any, ...]]:
        """Pickle and deepcopy by value; the copy is checked like any other data set."""
        return type(self), (self.images, self.labels, self.classes)

    def __len__(self) -> int:
        """Give the number of images."""
        return len(self.labels)

    def __repr__(self) -> str:
        """Show dtypes and shapes, never the content."""
        names = f"{len(self.classes)} classes" if self.classes else "unnamed classes"
        return f"Dataset(images {self.images.dtype} {self.images.shape}, labels int64 {self.labels.shape}, {names})"

    def __iter__(self) -> Iterator[tuple[NDArray[Any], int]]:
        """Go through all `(image, label)`."""
        return (self[place] for place in range(len(self)))

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> tuple[NDArray[Any], int]: ...
    @overload
    def __getitem__(self, index: Index) -> "Dataset": ...
    def __getitem__(self, index: int | np.integer[Any] | Index) -> "tuple[NDArray[Any], int] | Dataset":
        """Give one `(image, label)` for an int, a `Dataset` for a slice, a mask or a sequence of ints.

        Args:
            index: An int in [-N, N), a slice, N bools, or ints in [-N, N).

        Raises:
            IndexError: An index lies outside [-N, N).
            ShapeError: A mask has not exactly N entries, or the indices are not of rank 1.
            TypeError: Anything else was passed.
        """
        if isinstance(index, slice):
            return Dataset(self.images[index], self.labels[index], self.classes)
        if not isinstance(index, (int, np.integer)):
            return self.subset(index)
        if isinstance(index, bool):
            msg = "index: expected an int, got bool"
            raise TypeError(msg)
        at = _checked(int(index), len(self))
        return self.images[at], int(self.labels[at])

    def take(self, count: int) -> Self:
        """Give the first `count` images as views; all of them if there are fewer.

        Args:
            count: How many, at least 0.

        Raises:
            TypeError: `count` is not an int.
            ValueError: `count` is negative.
        """
        if not isinstance(count, (int, np.integer)) or isinstance(count, bool):
            msg = f"count: expected an int, got {type(count).__name__}"
            raise TypeError(msg)
        if count < 0:
            msg = f"count: expected at least 0, got {count}"
            raise ValueError(msg)
        end = min(int(count), len(self))
        return type(self)(self.images[:end], self.labels[:end], self.classes)

    def subset(self, indices: Sequence[int] | NDArray[Any]) -> Self:
        """Give the chosen images, in the order asked for, as a copy.

        Args:
            indices: Ints in [-N, N), repeats allowed, or N bools (True: keep).

        Raises:
            IndexError: An index lies outside [-N, N).
            ShapeError: The indices are not of rank 1, or a mask has not exactly N entries.
            TypeError: The indices are neither ints nor bools.
        """
        if not isinstance(indices, (np.ndarray, Sequence)) or isinstance(indices, (str, bytes)):
            msg = f"indices: expected a slice, ints or bools, got {type(indices).__name__}"
            raise TypeError(msg)
        chosen = np.asarray(indices) if len(indices) else np.empty(0, np.int64)
        if chosen.ndim != 1:
            msg = f"indices: expected 1 axis, got shape {chosen.shape}"
            raise ShapeError(msg)
        if chosen.dtype == np.bool_:
            if len(chosen) != len(self):
                msg = f"indices: expected {len(self)} bools, one for each image, got {len(chosen)}"
                raise ShapeError(msg)
        elif chosen.dtype.kind in "iu":
            for extreme in (chosen.min(), chosen.max()) if len(chosen) else ():
                _checked(int(extreme), len(self))
        else:
            msg = f"indices: expected ints or bools, got {chosen.dtype}"
            raise TypeError(msg)
        return type(self)(self.images[chosen], self.labels[chosen], self.classes)


def _typed(array: NDArray[Any], name: str, allowed: tuple[np.dtype[Any], ...]) -> NDArray[Any]:
    """Give `array` in native byte order if its dtype is one of `allowed`, else raise TypeError."""
    wanted = " or ".join(str(dtype) for dtype in allowed)
    if not isinstance(array, np.ndarray):
        msg = f"{name}: expected a NumPy array of {wanted}, got {type(array).__name__}"
        raise TypeError(msg)
    native = array.dtype.newbyteorder("=")
    if native not in allowed:
        msg = f"{name}: expected {wanted}, got {array.dtype} (use .astype(np.{allowed[-1]}))"
        raise TypeError(msg)
    return array if array.dtype == native else array.astype(native)


def _names(classes: Sequence[str]) -> tuple[str, ...]:
    """Give the class names as a tuple, or raise TypeError."""
    if isinstance(classes, (str, bytes)) or not isinstance(classes, Sequence):
        msg = f"classes: expected a sequence of texts, got {type(classes).__name__}"
        raise TypeError(msg)
    for place, name in enumerate(classes):
        if not isinstance(name, str):
            msg = f"classes: expected texts, got {type(name).__name__} at place {place}"
            raise TypeError(msg)
    return tuple(classes)


def _check_range(labels: NDArray[np.int64], names: tuple[str, ...]) -> None:
    """Raise DataError for the first label that is negative or, if there are names, has none."""
    wrong = (labels < 0) | (labels >= len(names)) if names else labels < 0
    if wrong.any():
        place = int(wrong.argmax())
        span = f"in [0, {len(names)}), the number of classes" if names else "at least 0"
        msg = f"labels: expected each {span}, got {labels[place]} at place {place}"
        raise DataError(msg)


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    """Give a read-only view of the same memory."""
    view = array.view()
    view.flags.writeable = False
    return view


def _checked(index: int, count: int) -> int:
    """Give `index` back if it lies in [-count, count), else raise IndexError."""
    if not -count <= index < count:
        msg = f"index: expected at least {-count} and below {count}, got {index}"
        raise IndexError(msg)
    return index
