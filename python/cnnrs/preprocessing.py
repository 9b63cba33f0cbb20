"""From pictures to the uint8 batch that a network takes: resize, centre crop, RGB."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnrs import _args, _core, _decode
from cnnrs._core import DataError, ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_INTERPOLATIONS = ("bilinear", "bicubic")
_LONGEST = 1 << 20  # pixels on a side that the core resizes to
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """What is done to pictures before a network sees them, as torchvision's presets do it.

    The shorter side is resized to `resize`, the longer one in proportion, rounded down; then the middle `crop` pixels
    of both sides are taken, with black around a picture that is smaller. Resizing is Pillow's, with antialias, to the
    bit (where a picture becomes much lower but little narrower, older Pillows round in another order than version 13).

    Pictures become RGB: gray is repeated, palettes are looked up, CMYK and others are converted as Pillow does it,
    transparency is dropped, of 16 bits the upper 8 are taken. The orientation in EXIF plays no part, as in torchvision:
    where it should, pass `PIL.ImageOps.exif_transpose(picture)`.

    Args:
        resize: Pixels of the shorter side.
        crop: Pixels of both sides of the result.
        interpolation: "bilinear" or "bicubic".
        mean: Mean per channel on the scale 0 to 1, three numbers or one for all.
        std: Standard deviation per channel, likewise.

    Raises:
        ValueError: A number out of range, or another interpolation.
        TypeError: `mean` or `std` are not numbers.

    Examples:
        >>> import numpy as np
        >>> import cnnrs
        >>> preprocessing = cnnrs.Preprocessing(resize=256, crop=224)
        >>> batch = preprocessing(np.zeros((375, 500, 3), np.uint8))
        >>> batch.shape, batch.dtype
        ((1, 224, 224, 3), dtype('uint8'))
        >>> preprocessing.normalize(batch).dtype
        dtype('float32')
    """

    resize: int = 256
    crop: int = 224
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = _IMAGENET_MEAN
    std: tuple[float, ...] = _IMAGENET_STD

    def __post_init__(self) -> None:
        """Check the fields and make numbers of them."""
        op = "Preprocessing"
        for name in ("resize", "crop"):
            object.__setattr__(self, name, _args.integer(getattr(self, name), name, op, 1, _LONGEST))
        if self.interpolation not in _INTERPOLATIONS:
            shown = _args.show(self.interpolation)
            msg = f'{op}: interpolation must be "bilinear" or "bicubic", got {shown}'
            raise ValueError(msg)
        for name in ("mean", "std"):
            object.__setattr__(self, name, _channels(getattr(self, name), name, op))
        if min(self.std) <= 0:
            msg = f"{op}: std must be above 0, got {self.std}"
            raise ValueError(msg)

    def __call__(self, images: Any, threads: int | None = None) -> NDArray[np.uint8]:
        """Bring pictures to the network's size.

        Args:
            images: A path, a Pillow image, a uint8 array (H, W, 3), (H, W, 1) or (H, W), a sequence of those, which may
                differ in size, or an array (N, H, W, 3) or (N, H, W, 1).
            threads: Threads that read the pictures of a sequence; as many as compute if None. The result does not
                depend on it.

        Returns:
            uint8 (N, crop, crop, 3), N = 1 for one picture.

        Raises:
            ImportError: A path or Pillow image was passed and Pillow is not installed.
            DataError: A file is no picture, is damaged, or has more than 100 million pixels; the text names it.
            ShapeError: An array has another shape, or a picture is so long and narrow that it cannot be resized.
            TypeError: Anything else was passed, or an array is not uint8.
            OSError: A file cannot be read.
        """
        op = "Preprocessing"
        if threads is not None:
            threads = _args.integer(threads, "threads", op, 1, 256)
        if isinstance(images, np.ndarray):
            return self._fit(_batch(images, "x"), "x")
        if not isinstance(images, Sequence) or isinstance(images, (str, bytes)):
            return self._one((images, "x"))
        batch = np.empty((len(images), self.crop, self.crop, 3), np.uint8)
        items = [(image, f"x[{place}]") for place, image in enumerate(images)]
        many = min(_decode.thread_count(threads), len(items))
        for place, fitted in enumerate(_decode.map_ahead(self._one, items, many)):
            batch[place] = fitted[0]
        return batch

    def normalize(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute (x/255 - mean)/std, which a model does by itself to uint8 images with its own mean and std.

        Args:
            batch: uint8 (N, H, W, 3).

        Returns:
            float32 of the same shape.

        Raises:
            ShapeError: Another shape.
            TypeError: Another dtype.
        """
        if not isinstance(batch, np.ndarray) or batch.dtype != np.uint8:
            got = f"a {batch.dtype} array" if isinstance(batch, np.ndarray) else _args.show(batch)
            msg = f"Preprocessing.normalize: batch must be a uint8 array, got {got}"
            raise TypeError(msg)
        if batch.ndim != 4 or batch.shape[3] != 3:
            msg = f"Preprocessing.normalize: batch must have shape (N, H, W, 3), got {batch.shape}"
            raise ShapeError(msg)
        result: NDArray[np.float32] = _core.eager("normalize", [batch], {"mean": self.mean, "std": self.std})[0]
        return result

    def _one(self, item: tuple[Any, str]) -> NDArray[np.uint8]:
        """Return one picture of any accepted form as (1, crop, crop, 3)."""
        image, name = item
        if isinstance(image, np.ndarray):
            array = _batch(image, name)
            if len(array) != 1 or image.ndim == 4:
                msg = f"Preprocessing: {name} must be one image (H, W, 3), (H, W, 1) or (H, W), got shape {image.shape}"
                raise ShapeError(msg)
            return self._fit(array, name)
        if _decode.is_picture(image):
            return self._fit(_decode.rgb_of(image, f"Preprocessing: {name}")[np.newaxis], name)
        if isinstance(image, (str, os.PathLike)):
            array = _decode.read_rgb(image)
            try:
                return self._fit(array[np.newaxis], name)
            except ShapeError as error:
                msg = f"{os.fspath(image)}: {error}"
                raise DataError(msg) from error
        msg = f"Preprocessing: {name} must be a path, a Pillow image or a uint8 array, got {_args.show(image)}"
        raise TypeError(msg)

    def _fit(self, batch: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
        """Resize and crop (N, H, W, 1 or 3)."""
        height, width = batch.shape[1:3]
        short, long = sorted((height, width))
        longer = self.resize * long // short if short else _LONGEST + 1
        if longer > _LONGEST:
            msg = (
                f"Preprocessing: {name} has {height}x{width} pixels: expected at least 1x1, and at most {_LONGEST} on "
                f"the longer side once the shorter one is {self.resize}"
            )
            raise ShapeError(msg)
        size = (self.resize, longer) if height <= width else (longer, self.resize)
        (top, rows, above), (left, columns, before) = (_middle(length, self.crop) for length in size)
        if size == (height, width):
            part = batch[:, top : top + rows, left : left + columns].copy()  # never a view of the caller's array
        else:
            part = _core.resize(batch, size, (top, left, rows, columns), self.interpolation)
        if part.shape[1:] == (self.crop, self.crop, 3):
            return part
        result = np.zeros((len(batch), self.crop, self.crop, 3), np.uint8)
        result[:, above : above + rows, before : before + columns] = part
        return result


def _middle(size: int, crop: int) -> tuple[int, int, int]:
    """Return where the middle `crop` of `size` pixels starts, how many there are, and how many are missing before."""
    if size < crop:
        return 0, size, (crop - size) // 2
    return round((size - crop) / 2), crop, 0  # halves to even, as torchvision


def _batch(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Return an array of images as (N, H, W, 1 or 3)."""
    if array.dtype != np.uint8:
        msg = f"Preprocessing: {name} must be uint8, got a {array.dtype} array"
        raise TypeError(msg)
    images = array[..., np.newaxis] if array.ndim == 2 else array
    images = images[np.newaxis] if images.ndim == 3 else images
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        msg = (
            f"Preprocessing: {name} must have shape (H, W, 3), (H, W, 1), (H, W), (N, H, W, 3) or (N, H, W, 1), "
            f"got {array.shape}"
        )
        raise ShapeError(msg)
    return images


def _channels(values: Any, name: str, op: str) -> tuple[float, ...]:
    """Return per-channel numbers as three floats or one."""
    if not isinstance(values, (tuple, list, np.ndarray)):
        msg = f"{op}: {name} must be a tuple of numbers, got {_args.show(values)}"
        raise TypeError(msg)
    for value in values:
        _args.real(value, name, op)  # finite
    numbers = tuple(float(value) for value in values)
    if len(numbers) not in (1, 3):
        msg = f"{op}: {name} must have 3 numbers, or 1 for all channels, got {len(numbers)}"
        raise ValueError(msg)
    return numbers
