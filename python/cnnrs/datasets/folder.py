"""Pictures in folders, one folder for each class: all of them in memory, or batch by batch from the disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnrs import _args, _core, _decode
from cnnrs._core import DataError, ShapeError
from cnnrs.datasets._listing import list_pictures
from cnnrs.datasets.dataset import Dataset
from cnnrs.preprocessing import Preprocessing

Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]
_Picture = tuple[int, "NDArray[np.uint8] | None"]

_SHUFFLE_STREAM = 1 << 41  # far from the streams of initialisers and of the trainer's shuffling
_SIDE = 1 << 20


class FolderDataset(Dataset):
    """A data set from a folder, which knows what is missing in it.

    Attributes:
        skipped: The paths of the files that were no readable pictures, in order.
    """

    __slots__ = ("skipped",)

    skipped: tuple[str, ...]

    def __init__(
        self, images: NDArray[Any], labels: NDArray[Any], classes: Sequence[str] = (), skipped: Sequence[str] = ()
    ) -> None:
        """Check the arrays and keep read-only views of them; see `Dataset`."""
        super().__init__(images, labels, classes)
        object.__setattr__(self, "skipped", tuple(skipped))

    def __reduce__(self) -> tuple[Callable[..., Dataset], tuple[Any, ...]]:
        """Pickle and deepcopy by value."""
        return type(self), (self.images, self.labels, self.classes, self.skipped)


class ImageFolder:
    """The pictures below a folder, read when they are wanted: for sets that do not fit into memory.

    The folders in `path` are the classes, in the order of their names; the pictures of a class are the files below its
    folder whose names end like those of pictures, in the order of their paths. Hidden files and folders are ignored,
    links are followed, and no folder is gone through twice. The files are listed once, when the object is made.

    Args:
        path: The folder that holds the folders of the classes.
        preprocessing: Makes all pictures one size; see `cnnrs.Preprocessing`.
        size: Makes all pictures one size by stretching them, height and width or one int for both.
        interpolation: "bilinear" or "bicubic", for `size`.
        on_error: "raise" for a file that is no readable picture, or "skip".
        max_pixels: Most pixels of a picture; checked before it is decoded.
        threads: Threads that decode; as many as compute if None. Nothing depends on it but the time.

    Attributes:
        classes: The names of the labels, in order.
        paths: The files, ordered by class and path.
        labels: (N,), int64, the labels of the files.

    Raises:
        DataError: There is no class, or a class without pictures.
        ValueError: A number out of range, `preprocessing` and `size` together, or another word.
        TypeError: An argument of another type.
        OSError: The folder is missing or cannot be read.

    Examples:
        >>> folder = ImageFolder("pictures/train", preprocessing=Preprocessing())  # doctest: +SKIP
        >>> trainer.fit(folder.batches(32, shuffle=True), epochs=3)  # doctest: +SKIP
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        preprocessing: Preprocessing | None = None,
        size: int | tuple[int, int] | None = None,
        interpolation: str = "bilinear",
        on_error: str = "raise",
        max_pixels: int = _decode.MAX_PIXELS,
        threads: int | None = None,
    ) -> None:
        op = "ImageFolder"
        self._fit = _fitting(preprocessing, size, interpolation, op)
        if on_error not in ("raise", "skip"):
            msg = f'{op}: on_error must be "raise" or "skip", got {_args.show(on_error)}'
            raise ValueError(msg)
        self._skips = on_error == "skip"
        self._max_pixels = _args.integer(max_pixels, "max_pixels", op, 1, 1 << 62)
        self._threads = None if threads is None else _args.integer(threads, "threads", op, 1, 256)
        self._skipped: dict[int, None] = {}
        self.classes, self.paths, self.labels = list_pictures(Path(path))

    @property
    def skipped(self) -> tuple[str, ...]:
        """The paths of the files that were found to be no readable pictures so far, in order."""
        return tuple(self.paths[place] for place in sorted(self._skipped))

    def __len__(self) -> int:
        """Give the number of pictures, before any is skipped."""
        return len(self.paths)

    def __repr__(self) -> str:
        """Show the counts."""
        return f"ImageFolder({len(self)} pictures, {len(self.classes)} classes)"

    def batches(self, batch_size: int, shuffle: bool = False, seed: int = 0) -> FolderBatches:
        """Give batches to train on or evaluate with, which are read anew each time they are gone through.

        Args:
            batch_size: Pictures in a batch; the last one may be smaller, and one in which pictures were skipped.
            shuffle: Give each epoch an order of its own.
            seed: With the number of the epoch it decides the order.

        Returns:
            A re-iterable of (x, y): uint8 (N, H, W, 3) and int64 (N,).

        Raises:
            ValueError: A number out of range.
            TypeError: An argument of another type.
        """
        op = "ImageFolder.batches"
        batch_size = _args.integer(batch_size, "batch_size", op, 1, _args.LIMIT)
        seed = _args.integer(seed, "seed", op, 0, (1 << 64) - 1)
        return FolderBatches(self, batch_size, _args.flag(shuffle, "shuffle", op), seed)

    def load(self) -> FolderDataset:
        """Read all pictures into memory.

        Returns:
            uint8 (N, H, W, 3) and labels, ordered by class and path, and the paths that were skipped.

        Raises:
            DataError: A file is no picture or damaged and `on_error` is "raise", the sizes differ, or all were skipped.
            ImportError: Pillow is not installed.
            MemoryError: The images do not fit.
            OSError: A file cannot be read.
        """
        images: NDArray[np.uint8] | None = None
        kept: list[int] = []
        for place, image in self._read(range(len(self)), 0):
            if image is None:
                continue
            if images is None:
                images = np.empty((len(self), *image.shape), np.uint8)
            images[len(kept)] = image
            kept.append(place)
        if images is None:
            msg = f"{self.paths[0]} and all others: expected pictures, all {len(self)} were skipped"
            raise DataError(msg)
        return FolderDataset(images[: len(kept)], self.labels[kept], self.classes, self.skipped)

    def _read(
        self, order: Sequence[int] | NDArray[np.int64], ahead: int
    ) -> Generator[tuple[int, NDArray[np.uint8] | None], None, None]:
        """Yield (place, picture) in an order, some ahead of their use; None for a picture that is skipped."""
        _decode.import_pillow("ImageFolder")
        threads = min(_decode.thread_count(self._threads), len(order))
        first: tuple[str, tuple[int, ...]] | None = None
        for place, image in _decode.map_ahead(self._decode, map(int, order), threads, 2 * threads + ahead):
            if isinstance(image, Exception):
                if not self._skips:
                    raise image
                self._skipped[place] = None
                yield place, None
                continue
            path = self.paths[place]
            first = first or (path, image.shape)
            if image.shape != first[1]:
                (h, w, _), (first_h, first_w, _) = image.shape, first[1]
                msg = (
                    f"{path}: expected {first_h}x{first_w} pixels as in {first[0]}, got {h}x{w}; "
                    "preprocessing= or size= makes all pictures one size"
                )
                raise DataError(msg)
            yield place, image

    def _decode(self, place: int) -> tuple[int, NDArray[np.uint8] | Exception]:
        """Give a picture, or what is wrong with the file."""
        path = self.paths[place]
        try:
            image = _decode.read_rgb(path, max_pixels=self._max_pixels)
            try:
                return place, self._fit(image)
            except ShapeError as error:
                msg = f"{path}: {error}"
                raise DataError(msg) from error
        except (DataError, OSError) as error:
            return place, error


class FolderBatches:
    """Batches of an `ImageFolder`, for `Trainer.fit` and `evaluate`; `ImageFolder.batches` makes them.

    Each pass is one epoch. Threads that decode ahead exist during a pass only, and are gone when it ends, whether by an
    exception, by Ctrl-C or because the rest is not wanted.

    Attributes:
        epoch: Number of the next pass; set it to go on where an earlier run ended.
    """

    def __init__(self, folder: ImageFolder, batch_size: int, shuffle: bool, seed: int) -> None:
        self.epoch = 0
        self._folder = folder
        self._batch_size = batch_size
        self._shuffle = shuffle
        self._seed = seed

    def __len__(self) -> int:
        """Give the number of batches of a pass; there are fewer if all pictures of one are skipped."""
        return -(-len(self._folder) // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Begin an epoch."""
        epoch = _args.integer(self.epoch, "epoch", "FolderBatches", 0, 1 << 40)
        self.epoch = epoch + 1
        return self._pass(epoch)

    def _pass(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of one epoch."""
        folder, count = self._folder, len(self._folder)
        order: Sequence[int] | NDArray[np.int64] = range(count)
        if self._shuffle:
            order = _core.random_permutation(self._seed, _SHUFFLE_STREAM + epoch, count)
        read = folder._read(order, self._batch_size)
        try:
            while group := list(islice(read, self._batch_size)):
                kept = [(place, image) for place, image in group if image is not None]
                if kept:
                    places, images = zip(*kept, strict=True)
                    yield np.stack(images), folder.labels[list(places)]
        finally:
            read.close()  # now, also where this pass is given up


def image_folder(
    path: str | os.PathLike[str],
    *,
    preprocessing: Preprocessing | None = None,
    size: int | tuple[int, int] | None = None,
    interpolation: str = "bilinear",
    on_error: str = "raise",
    max_pixels: int = _decode.MAX_PIXELS,
    threads: int | None = None,
) -> FolderDataset:
    """Load the pictures below a folder into memory, with the folders in it as classes.

    For more pictures than fit, `ImageFolder` takes the same arguments and gives batches. What counts as a picture, and
    in which order, is said there; what becomes of colours is said at `cnnrs.Preprocessing`.

    Args:
        path: The folder that holds the folders of the classes.
        preprocessing: Makes all pictures one size; see `cnnrs.Preprocessing`.
        size: Makes all pictures one size by stretching them, height and width or one int for both.
        interpolation: "bilinear" or "bicubic", for `size`.
        on_error: "raise" for a file that is no readable picture, or "skip".
        max_pixels: Most pixels of a picture; checked before it is decoded.
        threads: Threads that decode; as many as compute if None. Nothing depends on it but the time.

    Returns:
        uint8 (N, H, W, 3) and labels, ordered by class and path; its `skipped` lists the paths that were skipped.

    Raises:
        DataError: There is no class or a class without pictures, a file is no picture or damaged, or the sizes differ;
            the text names the path.
        ImportError: Pillow is not installed.
        ValueError: A number out of range, `preprocessing` and `size` together, or another word.
        TypeError: An argument of another type.
        MemoryError: The images do not fit.
        OSError: The folder is missing, or a file cannot be read.

    Examples:
        >>> train = image_folder("pictures/train", size=64)  # doctest: +SKIP
    """
    folder = ImageFolder(
        path,
        preprocessing=preprocessing,
        size=size,
        interpolation=interpolation,
        on_error=on_error,
        max_pixels=max_pixels,
        threads=threads,
    )
    return folder.load()


def _fitting(
    preprocessing: Preprocessing | None, size: object, interpolation: object, op: str
) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """Give what brings a picture (H, W, 3) to the size that was asked for."""
    if preprocessing is not None and not isinstance(preprocessing, Preprocessing):
        msg = f"{op}: preprocessing must be a cnnrs.Preprocessing or None, got {_args.show(preprocessing)}"
        raise TypeError(msg)
    if interpolation not in ("bilinear", "bicubic"):
        msg = f'{op}: interpolation must be "bilinear" or "bicubic", got {_args.show(interpolation)}'
        raise ValueError(msg)
    if preprocessing is not None and size is not None:
        msg = f"{op}: preprocessing and size both say how large the pictures become; expected one of them"
        raise ValueError(msg)
    if preprocessing is not None:
        return partial(_apply, preprocessing)
    if size is None:
        return _keep
    height, width = _args.pair(size, "size", op)
    if max(height, width) > _SIDE:
        msg = f"{op}: size must be at most {_SIDE}, got {(height, width)}"
        raise ValueError(msg)
    return partial(_stretch, (height, width), str(interpolation))


def _apply(preprocessing: Preprocessing, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    fitted: NDArray[np.uint8] = preprocessing(image)[0]
    return fitted


def _stretch(size: tuple[int, int], interpolation: str, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    stretched: NDArray[np.uint8] = _core.resize(image[np.newaxis], size, (0, 0, *size), interpolation)[0]
    return stretched


def _keep(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image
