"""What the trainer takes as data, checked once, and the batches made of it.

Data is a `Dataset`, an (x, y) pair of arrays, or an iterable of (x, y) batches. Images are uint8 (scaled by
the model) or float32 (taken as they are); float16 and float64 are converted once. Targets are what the loss takes:
integer labels, or floats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnrs import _core
from cnnrs._args import check_images
from cnnrs._core import ShapeError

__all__ = ["ArrayBatches", "Batches", "IterableBatches", "check_batch", "images_of", "read_data", "require_images"]

Batch = tuple[NDArray[Any], NDArray[Any]]
Check = Callable[[Any, str, int], NDArray[Any]]
"""Takes targets, who asks, and the number of images; returns the targets as the loss takes them."""

_SHUFFLE_STREAM = 1 << 40  # far from the streams of initialisers, which count up from 0


def check_batch(x: Any, y: Any, op: str, check: Check) -> Batch:
    """Return a batch as native uint8 or float32 images and int64 or float32 targets.

    The range of labels is checked by the program they are given to.

    Args:
        x: (N, ...), uint8, float16, float32 or float64.
        y: (N, ...), what `check` takes.
        op: Who asks, for errors.
        check: Check of the targets.

    Raises:
        TypeError: Another dtype, or not an array.
        ShapeError: No batch axis, or not one target an image.
    """
    images = check_images(x, op)
    targets = check(y, op, len(images))
    if len(images) != len(targets):
        what = "label" if targets.dtype.kind == "i" else "target"
        msg = f"{op}: y must have one {what} an image, got {len(targets)} {what}s for {len(images)} images"
        raise ShapeError(msg)
    return images, targets


def require_images(count: int, op: str) -> None:
    """Refuse to take a mean over no images.

    Raises:
        ValueError: `count` is 0.
    """
    if not count:
        msg = f"{op}: expected at least one image, got none"
        raise ValueError(msg)


class ArrayBatches:
    """Batches cut from arrays that are in memory (or mapped).

    Args:
        x: (N, ...) checked images.
        y: (N, ...) checked targets.
    """

    def __init__(self, x: NDArray[Any], y: NDArray[Any]) -> None:
        self.x = x
        self.y = y

    def steps(self, batch_size: int) -> int | None:
        """Return the number of batches of an epoch; the last one may be smaller."""
        return -(-len(self.x) // batch_size)

    def batches(self, batch_size: int, shuffle: tuple[int, int] | None = None) -> Iterator[Batch]:
        """Yield one epoch. A batch is valid until the next one is asked for: shuffled ones share a buffer.

        Args:
            batch_size: Images in a batch.
            shuffle: (seed, epoch) for a new order, the same for the same pair; None keeps the order.
        """
        count = len(self.x)
        starts = range(0, count, batch_size)
        if shuffle is None:
            for start in starts:
                yield self.x[start : start + batch_size], self.y[start : start + batch_size]
            return
        seed, epoch = shuffle
        order = _core.random_permutation(seed, _SHUFFLE_STREAM + epoch, count)
        buffer = np.empty((min(batch_size, count), *self.x.shape[1:]), self.x.dtype)
        in_place = self.x.flags.c_contiguous  # take() would copy all of a strided array first
        for start in starts:
            index = order[start : start + batch_size]
            # Mode "clip", as every index is in range: with "raise" NumPy would write through a copy of the buffer.
            images = self.x.take(index, 0, buffer[: len(index)], "clip") if in_place else self.x[index]
            yield images, self.y[index]


class IterableBatches:
    """Batches made by somebody else, in their order and of their sizes.

    Args:
        source: Iterable of (x, y) batches.
        op: Who asks, for errors.
        check: Check of the targets.
    """

    def __init__(self, source: Iterable[Any], op: str, check: Check) -> None:
        self.source = source
        self.op = op
        self.check = check

    def steps(self, batch_size: int) -> int | None:
        """Return the number of batches if the source has a length; `batch_size` plays no part."""
        try:
            return len(self.source)  # type: ignore[arg-type]
        except TypeError:
            return None

    def batches(self, batch_size: int, shuffle: tuple[int, int] | None = None) -> Iterator[Batch]:
        """Yield the batches of the source, checked one by one; both arguments play no part."""
        for item in self.source:
            if not isinstance(item, tuple | list) or len(item) != 2:
                msg = f"{self.op}: expected (x, y) batches, got {_describe(item)}"
                raise TypeError(msg)
            yield check_batch(item[0], item[1], self.op, self.check)


Batches = ArrayBatches | IterableBatches


def read_data(data: Any, op: str, check: Check, again: bool = False) -> Batches:
    """Return data of any accepted form as batches.

    Args:
        data: Dataset, (x, y) pair of arrays, or iterable of (x, y) batches.
        op: Who asks, for errors.
        check: Check of the targets.
        again: Whether the data is gone through more than once, which an iterator cannot do.

    Raises:
        TypeError: Another type, a one-shot iterator where `again`, or arrays of a wrong dtype.
        ShapeError: Images and targets differ in number.
    """
    pair = _as_pair(data)
    if pair is not None:
        return ArrayBatches(*check_batch(pair[0], pair[1], op, check))
    if isinstance(data, np.ndarray | str | bytes) or not isinstance(data, Iterable):
        forms = "a Dataset, an (x, y) pair of arrays or an iterable of (x, y) batches"
        msg = f"{op}: expected {forms}, got {_describe(data)}"
        raise TypeError(msg)
    if again and isinstance(data, Iterator):
        msg = f"{op}: expected batches that can be gone through in every epoch, got a one-shot {type(data).__name__}"
        raise TypeError(msg)
    return IterableBatches(data, op, check)


def images_of(data: Any, batch_size: int, op: str) -> Iterator[NDArray[Any]]:
    """Yield the images of an array, a Dataset, an (x, y) pair or an iterable of batches, without the targets.

    An array is cut into batches, even an empty one into one empty batch.

    Args:
        data: The images.
        batch_size: Images in a batch cut from an array.
        op: Who asks, for errors.

    Raises:
        TypeError: Another type, or images of a wrong dtype.
    """
    pair = _as_pair(data)
    whole = data if isinstance(data, np.ndarray) else None if pair is None else pair[0]
    if whole is None:
        for images, _ in read_data(data, op, lambda _, __, rows: np.empty(rows, np.int64)).batches(batch_size):
            yield images
        return
    images = check_images(whole, op)
    for start in range(0, max(len(images), 1), batch_size):
        yield images[start : start + batch_size]


def _as_pair(data: Any) -> tuple[Any, Any] | None:
    if hasattr(data, "images") and hasattr(data, "labels"):
        return data.images, data.labels
    if isinstance(data, tuple | list) and len(data) == 2 and isinstance(data[0], np.ndarray):
        return data[0], data[1]
    return None


def _describe(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__
